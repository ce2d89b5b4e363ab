"""Where the members are in the tensors of a checkpoint: populations joined, and members taken out of one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gumbelrl.agents.checkpoint import Checkpoint, CheckpointStore, Column, open_checkpoint
from gumbelrl.agents.errors import RunError

SECOND_AXIS = ("statistics/running", "statistics/window", "agent/replay/pending/")  # where `member` is not the first
GYMNASIUM = "environment/replay"  # bytes of a JSON list, an entry an environment


# Joining ------------------------------------------------------------------------------------------------------------


def join_columns(parts: Sequence[Any]) -> dict[str, Column]:
    """Return the state of a population from those of its parts, as `open_checkpoint` gives them."""
    names = list(parts[0].keys())
    if any(sorted(part.keys()) != sorted(names) for part in parts):
        raise RunError("the parts of this run hold different states and cannot be joined")
    columns = {}
    for name in names:
        shapes = [part.get_slice(name).get_shape() for part in parts]
        if name == GYMNASIUM or not shapes[0] or name.startswith(SECOND_AXIS):
            whole = _join_small(name, [part.get_tensor(name) for part in parts])
            columns[name] = Column(whole.dtype, tuple(whole.shape), [whole])
        else:
            shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            columns[name] = Column(parts[0].get_tensor(name).dtype, shape, _pieces(name, parts))
    return columns


def _pieces(name: str, parts: Sequence[Any]) -> Iterator[Tensor]:
    return (part.get_tensor(name) for part in parts)


def _join_small(name: str, columns: Sequence[Tensor]) -> Tensor:
    """Return what members have together, or not along the first axis."""
    if name == GYMNASIUM:
        return _to_bytes([entry for column in columns for entry in json.loads(column.numpy().tobytes())])
    if columns[0].dim():
        return torch.cat(list(columns), dim=1)
    if not all(torch.equal(column, columns[0]) for column in columns):  # a count, the same for all members
        raise RunError(f"the parts of this run are not at the same step: {name} differs")
    return columns[0]


def _to_bytes(records: list[Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(records).encode()), dtype=torch.uint8).clone()


# Taking -------------------------------------------------------------------------------------------------------------


def latest_members(store: CheckpointStore, members: slice, *, device: torch.device | str) -> Checkpoint:
    """Return the newest checkpoint as it would be of some neighbouring members alone, who alone are read.

    Raises:
        CheckpointError: there is none, or it cannot be used.
    """
    steps = store.steps()
    if not steps:
        return store.latest()  # its error
    metadata = store.metadata(steps[-1])
    count = len(metadata["run"]["seeds"])
    with open_checkpoint(store.folder(steps[-1])) as whole:
        names = list(whole.keys())
        tensors = {name: take_members(whole, name, members, count).to(device) for name in names}
    run = {
        name: value[members] if name in ("seeds", "variations") else value for name, value in metadata["run"].items()
    }
    own = {name: metadata[name][members] for name in ("run_ids", "solved_at")}
    return Checkpoint(tensors, {**metadata, **own, "run": run})


def take_members(whole: Any, name: str, members: slice, count: int) -> Tensor:
    """Return what a tensor holds of some of `count` members."""
    column = whole.get_slice(name)
    shape = column.get_shape()
    tensor: Tensor
    if name == GYMNASIUM:
        records = json.loads(whole.get_tensor(name).numpy().tobytes())
        return _to_bytes(records[_rows(members, len(records) // count)])
    if not shape:
        tensor = whole.get_tensor(name)
        return tensor
    if name.startswith(SECOND_AXIS):
        tensor = column[:, _rows(members, shape[1] // count)]
    else:
        tensor = column[_rows(members, shape[0] // count)]
    return tensor.clone()  # not a view of the file


def _rows(members: slice, each: int) -> slice:
    return slice(members.start * each, members.stop * each)
