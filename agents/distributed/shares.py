"""What each process has of a population whose environments are divided over several, and how it becomes one again.

The networks and all that learning keeps are the same on every process, and so are the statistics of episodes. Divided
are the environments of every member, in order, what was last seen of them, and the replay of what they did. A state of
all processes together is the one that a single process with all environments would hold: what any number of them saved,
any other number can go on from.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gumbelrl.agents.checkpoint import flatten_state
from gumbelrl.agents.distributed.group import Group
from gumbelrl.agents.errors import RunError

LAST_SEEN = ("observation", "mask", "memory")  # [member, env, ...], or None
BYTES = "replay"  # of the environments of gymnasium: a JSON list, an entry an environment
COUNTS = ("position", "size", "num_rows")  # of a replay's rows


# Settings -----------------------------------------------------------------------------------------------------------


def own_settings(settings: Any, size: int) -> Any:
    """Return an agent's settings for each of `size` processes that have its environments between them.

    Raises:
        RunError: environments, batches or replay cannot be divided by so many.
    """
    if size == 1:
        return settings
    own = copy.copy(settings)
    _divide(own, "num_envs", size)
    if hasattr(settings, "batch_size"):
        _divide(own, "batch_size", size)
        if settings.replay_capacity % settings.num_envs:
            raise RunError(
                f"{size} processes share the replay: replay_capacity = {settings.replay_capacity} must be divisible "
                f"by num_envs = {settings.num_envs}"
            )
        _divide(own, "replay_capacity", size)
    minibatches = getattr(settings, "minibatches", 1)
    recurrent = getattr(settings, "torso", None) == "recurrent"
    rows = own.num_envs if recurrent else own.num_envs * own.rollout_steps
    if rows % minibatches:
        what = "num_envs" if recurrent else "num_envs x rollout_steps"
        raise RunError(
            f"{size} processes share the environments: {what} of each, {rows}, must be divisible by "
            f"minibatches = {minibatches}"
        )
    return own


def _divide(settings: Any, name: str, size: int) -> None:
    total = getattr(settings, name)
    if total % size:
        option, near = f"--{name.replace('_', '-')}", max(round(total / size), 1) * size
        raise RunError(
            f"{size} processes share the environments: {name} = {total} must be divisible by {size}, such as "
            f"{option} {near}"
        )
    object.__setattr__(settings, name, total // size)


def mean_metrics(metrics: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """Return metrics, each `[member]`, as means over processes, and `policy/probs` of all of them."""
    if group.size == 1:
        return dict(metrics)
    names = [name for name in metrics if name != "policy/probs"]
    means = group.mean(torch.stack([metrics[name].double() for name in names]))
    (probs,) = group.joined(metrics["policy/probs"], dim=1)
    return {**dict(zip(names, means, strict=True)), "policy/probs": probs}


# State --------------------------------------------------------------------------------------------------------------


def whole_state(state: dict[str, Any], group: Group) -> dict[str, Any] | None:
    """Return the state of a `Trainer` of all environments on the first process, None on the others.

    Raises:
        RunError: on the first process: what the processes should have in common differs.
    """
    if group.size == 1:
        return state
    own = {name: state[name] for name in ("environment", *LAST_SEEN)} | {"replay": state["agent"].get("replay")}
    rest = {**_without(state, own), "agent": _without(state["agent"], ("replay",))}
    found = group.collect((_on_the_host(own), _digest(rest)))
    if found is None:
        return None
    parts, digests = zip(*found, strict=True)
    if len(set(digests)) > 1:
        raise RunError("the processes of this run have drifted apart: their networks differ; nothing was saved")
    members = len(state["observation"])
    agent = dict(rest["agent"])
    if own["replay"] is not None:
        agent["replay"] = _joined_replay([part["replay"] for part in parts], num_envs=state["observation"].shape[1])
    return {
        **rest,
        "agent": agent,
        "environment": _joined_environments([part["environment"] for part in parts], members),
        **{name: _joined([part[name] for part in parts], dim=1) for name in LAST_SEEN},
    }


def own_state(state: dict[str, Any], group: Group) -> dict[str, Any]:
    """Return one process's share of a state of all environments."""
    if group.size == 1:
        return state
    members, num_envs = state["observation"].shape[:2]
    agent, environment = dict(state["agent"]), dict(state["environment"])
    if "replay" in agent:
        agent["replay"] = _own_replay(agent["replay"], num_envs, group)
    for name, column in environment.items():
        if name == BYTES:
            records = torch.arange(members * num_envs).view(members, group.size, -1)[:, group.rank].flatten()
            kept = _records(column)
            environment[name] = _as_bytes([kept[index] for index in records.tolist()])
        elif column.dim():
            environment[name] = column.unflatten(0, (members, group.size, -1))[:, group.rank].flatten(0, 1)
    seen = {
        name: None if state.get(name) is None else state[name].chunk(group.size, dim=1)[group.rank].contiguous()
        for name in LAST_SEEN
    }
    return {**state, "agent": agent, "environment": environment, **seen}


def _joined_environments(parts: Sequence[Mapping[str, Tensor]], members: int) -> dict[str, Tensor]:
    whole = {}
    for name, first in parts[0].items():
        columns = [part[name] for part in parts]
        if name == BYTES:
            records = [_records(column) for column in columns]
            count = len(records[0]) // members
            ordered = [entry for m in range(members) for each in records for entry in each[m * count : (m + 1) * count]]
            whole[name] = _as_bytes(ordered)
        elif first.dim() == 0:  # a count, the same for all environments
            whole[name] = first
        else:
            whole[name] = torch.cat([column.unflatten(0, (members, -1)) for column in columns], dim=1).flatten(0, 1)
    return whole


def _joined_replay(parts: Sequence[Mapping[str, Any]], *, num_envs: int) -> dict[str, Any]:
    """Return the ring that one process would have written: at every step, the rows of all environments in order."""
    first = parts[0]
    columns = {
        name: torch.stack([part["columns"][name].unflatten(1, (-1, num_envs)) for part in parts], dim=2).flatten(1, 3)
        for name in first["columns"]
    }
    pending = {name: torch.cat([part["pending"][name] for part in parts], dim=2) for name in first["pending"]}
    return {"columns": columns, "pending": pending, **{name: first[name] * len(parts) for name in COUNTS}}


def _own_replay(replay: Mapping[str, Any], num_envs: int, group: Group) -> dict[str, Any]:
    rank, size = group.rank, group.size
    columns = {
        name: column.unflatten(1, (-1, size, num_envs // size))[:, :, rank].flatten(1, 2)
        for name, column in replay["columns"].items()
    }
    pending = {name: column.chunk(size, dim=2)[rank].contiguous() for name, column in replay["pending"].items()}
    return {"columns": columns, "pending": pending, **{name: replay[name] // size for name in COUNTS}}


def _joined(columns: Sequence[Tensor | None], *, dim: int) -> Tensor | None:
    found = [column for column in columns if column is not None]
    return torch.cat(found, dim=dim) if found else None


def _records(column: Tensor) -> list[Any]:
    records: list[Any] = json.loads(column.cpu().numpy().tobytes())
    return records


def _as_bytes(records: list[Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(records).encode()), dtype=torch.uint8).clone()


def _without(state: Mapping[str, Any], names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in names}


def _on_the_host(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _on_the_host(value) for name, value in state.items()}
    return state.detach().cpu() if isinstance(state, Tensor) else state


def _digest(state: Mapping[str, Any]) -> str:
    tensors, rest = flatten_state(state)
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
