"""Checkpoints: a folder of safetensors and JSON, written whole or not at all, read without executing anything.

`tensors.safetensors` holds the tensors, `checkpoint.json` the rest, the hash of the tensor file and its own. There is
no pickle anywhere, so that nothing in a checkpoint, from wherever it came, can run.

What does not fit in memory is written by pieces (`save_columns`) and read tensor by tensor (`open_checkpoint`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import gumbelrl
from gumbelrl.agents.errors import RunError

FORMAT = "gumbelrl-checkpoint"
VERSION = 1
TENSORS, DESCRIPTION = "tensors.safetensors", "checkpoint.json"
BLOCK = 1 << 24  # bytes of a file that are looked at together
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""As safetensors calls them, in the order that it writes tensors in: wide ones first, so that all are aligned."""
_STEP = re.compile(r"step-(\d{12})")


class CheckpointError(RunError):
    """A checkpoint that is missing, damaged, foreign or newer; the message says which file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A tensor in pieces, one after another along its first axis."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[Tensor]


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
    columns = {name: Column(tensor.dtype, tuple(tensor.shape), [tensor]) for name, tensor in tensors.items()}
    return save_columns(folder, columns, metadata)


def save_columns(folder: Path, columns: Mapping[str, Column], metadata: Mapping[str, Any]) -> Path:
    """Write a checkpoint as `save_checkpoint` does, of tensors in pieces: one piece is copied at a time."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; a checkpoint is never overwritten")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        description: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "gumbelrl": gumbelrl.__version__,
            "torch": torch.__version__,
            "tensors_sha256": _write_columns(temporary / TENSORS, columns),
            "metadata": dict(metadata),
        }
        description["sha256"] = _digest(_canonical(description))
        _write(temporary / DESCRIPTION, json.dumps(description, indent=1, allow_nan=False).encode())
        _sync_folder(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(folder.parent)
    return folder


def _write_columns(path: Path, columns: Mapping[str, Column]) -> str:
    """Write a file of safetensors: the length of its header, the header, the data of one tensor after another."""
    kinds = list(DTYPES)
    names = sorted(columns, key=lambda name: (kinds.index(columns[name].dtype), name))
    header, end = {}, 0
    for name in names:
        column = columns[name]
        start, end = end, end + math.prod(column.shape) * column.dtype.itemsize
        header[name] = {"dtype": DTYPES[column.dtype], "shape": list(column.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def put(data: Any) -> None:  # bytes, or an array of them
            file.write(data)
            digest.update(data)

        put(struct.pack("<Q", len(text)))
        put(text)
        for name in names:
            for piece in columns[name].pieces:
                put(piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        if file.tell() != 8 + len(text) + end:
            raise ValueError(f"the pieces of a tensor are not of its shape: {file.tell()} bytes were written")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def load_checkpoint(folder: Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint after checking all of it.

    Raises:
        CheckpointError: a file is missing, is not expected, is damaged, foreign, or of a newer version.
    """
    with open_checkpoint(folder) as opened:
        # Copied: what is read lies in the file.
        tensors = {name: opened.get_tensor(name).to(device, copy=True) for name in list(opened.keys())}
    return Checkpoint(tensors, _read_description(folder / DESCRIPTION)["metadata"])


@contextmanager
def open_checkpoint(folder: Path) -> Iterator[Any]:
    """Open the tensors of a checkpoint after checking all of it, without having it in memory at once.

    Yields:
        A `safetensors.safe_open`: `keys()`, `get_tensor(name)`, `get_slice(name)`.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    description, digest = _check_files(folder), hashlib.sha256()
    with (folder / TENSORS).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != description["tensors_sha256"]:
        raise CheckpointError(f"{folder / TENSORS} is damaged: its checksum is not the one that was saved")
    try:
        opened = safe_open(str(folder / TENSORS), framework="pt")
    except SafetensorError as error:
        raise CheckpointError(
            f"{folder / TENSORS} is not a safetensors file ({error}); nothing was executed"
        ) from error
    with opened as tensors:
        yield tensors


def _check_files(folder: Path) -> dict[str, Any]:
    """Return the description of a checkpoint whose files are those that gumbelrl writes."""
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
    return _read_description(folder / DESCRIPTION)


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
        return self.place(step, lambda folder: save_checkpoint(folder, tensors, metadata))

    def place(self, step: int, save: Callable[[Path], object]) -> Path:
        """Save by a function that is given the folder."""
        folder = self.folder(step)
        if not folder.exists():  # a run that was stopped at a checkpoint saves the same state again
            save(folder)
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
