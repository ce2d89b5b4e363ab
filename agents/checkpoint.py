"""Checkpoints: a folder of safetensors and JSON, written whole or not at all, read without executing anything.

`tensors.safetensors` holds the tensors, `checkpoint.json` the rest, the hash of the tensor file and its own. There is
no pickle anywhere, so that nothing in a checkpoint, from wherever it came, can run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import gumbelrl
from gumbelrl.agents.errors import RunError

FORMAT = "gumbelrl-checkpoint"
VERSION = 1
TENSORS, DESCRIPTION = "tensors.safetensors", "checkpoint.json"
_STEP = re.compile(r"step-(\d{12})")


class CheckpointError(RunError):
    """A checkpoint that is missing, damaged, foreign or newer; the message says which file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


# Nested state <-> tensors and JSON --------------------------------------------------------------------------------


def flatten_state(state: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split nested dictionaries into tensors, named `a/b/c`, and the rest, which must be JSON."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for name, value in state.items():
        if "/" in name:
            raise ValueError(f"a name in a state must not hold a slash, got {name!r}")
        if isinstance(value, Mapping):
            inner, plain = flatten_state(value, f"{prefix}{name}/")
            tensors |= inner
            rest[name] = {"dict": plain}
        elif isinstance(value, Tensor):
            tensors[prefix + name] = value
            rest[name] = {"tensor": prefix + name}
        else:
            rest[name] = {"value": value}
    return tensors, rest


def unflatten_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flatten_state`."""
    state: dict[str, Any] = {}
    for name, entry in rest.items():
        if "dict" in entry:
            state[name] = unflatten_state(tensors, entry["dict"])
        elif "tensor" in entry:
            state[name] = tensors[entry["tensor"]]
        else:
            state[name] = entry["value"]
    return state


# One checkpoint -----------------------------------------------------------------------------------------------------


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(description: Mapping[str, Any]) -> bytes:
    """The bytes that the description's own hash is over: all of it but that hash."""
    rest = {name: value for name, value in description.items() if name != "sha256"}
    return json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write a checkpoint into `folder`, which must not exist; it appears whole or not at all.

    Raises:
        FileExistsError: the folder exists; nothing is overwritten.
        ValueError: the metadata are not JSON, or hold a number that is not finite.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; a checkpoint is never overwritten")
    # Cloned: safetensors refuses tensors that share memory, as views of one flat parameter do.
    data = save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    description: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "gumbelrl": gumbelrl.__version__,
        "torch": torch.__version__,
        "tensors_sha256": _digest(data),
        "metadata": dict(metadata),
    }
    description["sha256"] = _digest(_canonical(description))
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write(temporary / TENSORS, data)
        _write(temporary / DESCRIPTION, json.dumps(description, indent=1, allow_nan=False).encode())
        _sync_folder(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(folder.parent)
    return folder


def load_checkpoint(folder: Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint after checking all of it.

    Raises:
        CheckpointError: a file is missing, is not expected, is damaged, foreign, or of a newer version.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint at {folder}")
    names = {path.name for path in folder.iterdir()}
    if missing := sorted({TENSORS, DESCRIPTION} - names):
        raise CheckpointError(f"the checkpoint {folder} is not whole: {missing[0]} is missing")
    if extra := sorted(names - {TENSORS, DESCRIPTION}):
        raise CheckpointError(
            f"the checkpoint {folder} holds {extra[0]}, which gumbelrl never writes; it was not opened and nothing in "
            "it was executed: remove it only if you know where it came from"
        )
    description = _read_description(folder / DESCRIPTION)
    data = (folder / TENSORS).read_bytes()
    if _digest(data) != description["tensors_sha256"]:
        raise CheckpointError(f"{folder / TENSORS} is damaged: its checksum is not the one that was saved")
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / TENSORS} is not a safetensors file ({error}); nothing was executed"
        ) from error
    return Checkpoint({name: tensor.to(device) for name, tensor in tensors.items()}, description["metadata"])


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not describe a gumbelrl checkpoint")
    version = description.get("version")
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(
            f"{path} is of checkpoint version {version}, newer than the {VERSION} that gumbelrl "
            f"{gumbelrl.__version__} reads: upgrade gumbelrl"
        )
    try:
        right = description["sha256"] == _digest(_canonical(description))
    except (KeyError, ValueError):
        right = False
    if not right or version != VERSION or not isinstance(description.get("metadata"), dict):
        raise CheckpointError(f"{path} is damaged: its checksum is not the one that was saved")
    return description


# A run's checkpoints ------------------------------------------------------------------------------------------------


class CheckpointStore:
    """The checkpoints of a run, `root/step-000000131072`; the newest `keep` of them stay."""

    def __init__(self, root: Path, *, keep: int = 2) -> None:
        self.root, self.keep = root, keep

    def steps(self) -> list[int]:
        """Return the steps of the finished checkpoints, oldest first; what a killed process left is not counted."""
        if not self.root.is_dir():
            return []
        matches = (_STEP.fullmatch(path.name) for path in self.root.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in matches if match)

    def folder(self, step: int) -> Path:
        return self.root / f"step-{step:012d}"

    def metadata(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint says beside its tensors, which are not read.

        Raises:
            CheckpointError: it is damaged, foreign or newer.
            OSError: it cannot be read.
        """
        metadata: dict[str, Any] = _read_description(self.folder(step) / DESCRIPTION)["metadata"]
        return metadata

    def save(self, step: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Save; older checkpoints go only after the new one is in place."""
        folder = self.folder(step)
        if not folder.exists():  # a run that was stopped at a checkpoint saves the same state again
            save_checkpoint(folder, tensors, metadata)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder(old))
        for partial in self.root.glob(".step-*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def latest(self, *, device: torch.device | str = "cpu") -> Checkpoint:
        """Return the newest finished checkpoint.

        Raises:
            CheckpointError: there is none, or the newest cannot be used; an older one that can is named.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"there is no finished checkpoint in {self.root}")
        try:
            return load_checkpoint(self.folder(steps[-1]), device=device)
        except CheckpointError as error:
            raise CheckpointError(f"{error}{self._older(steps[:-1])}") from error

    def _older(self, steps: list[int]) -> str:
        for step in reversed(steps):
            try:
                load_checkpoint(self.folder(step))
            except CheckpointError:
                continue
            newest = self.folder(self.steps()[-1])
            return f". The one before, {self.folder(step)}, is whole: to go on from it, move {newest} away"
        return ""
