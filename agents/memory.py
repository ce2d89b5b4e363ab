"""What a population takes of the memory, told before it trains and checked against what there is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.replay import Replay, n_step_transitions
from gumbelrl.agents.rollout import Transition
from gumbelrl.agents.training import Trainer
from gumbelrl.random import RandomStreams

PROCESS = 512 * 2**20  # of PyTorch itself, and what an update needs beside what is listed here
SHARE = 0.9  # of the memory that is available, for members: others take some of it while they train


@dataclass(frozen=True)
class Memory:
    """Bytes of one member.

    Attributes:
        parameters: of all networks, targets included.
        optimiser: its moments and one gradient.
        replay: when it is full.
        rollout: of one, and what is kept between rollouts.
        environment: the state of all environments of the member, where it is tensors.
    """

    parameters: int
    optimiser: int
    replay: int
    rollout: int
    environment: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def describe(self, num_members: int) -> str:
        """Return it as a line."""
        largest = max(fields(self), key=lambda field: getattr(self, field.name)).name
        part = f"{largest} {format_bytes(getattr(self, largest))}"
        if num_members == 1:
            return f"memory: {format_bytes(self.total)} ({part})"
        return f"memory: {format_bytes(self.total)} a member ({part}), {format_bytes(self.total * num_members)} in all"


def memory_of(trainer: Trainer) -> Memory:
    """Return what each member will take, from the tensors that there are and the shapes of those to come.

    Nothing is allocated: a rollout and a replay are looked at on PyTorch's `meta` device.
    """
    agent: Any = trainer.agent
    members, config = trainer.num_members, agent.config
    optimiser = agent.optimizer
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = [each for parameter in trained for each in optimiser.initial(parameter.detach().to("meta")).values()]
    replay = getattr(agent, "replay", None)
    step = _steps(trainer, time=1, members=members, envs=config.num_envs, device="meta")
    columns = [getattr(step, field.name) for field in fields(step)]
    return Memory(
        parameters=num_bytes(_tensors(agent.state_dict()["parameters"])) // members,
        optimiser=num_bytes([*moments, *trained]) // members,
        replay=0 if replay is None else _replay_row(replay, trainer) * replay.capacity,
        rollout=num_bytes(column for column in columns if column is not None) * config.rollout_steps // members
        + num_bytes(_tensors({"observation": trainer.observation, "mask": trainer.mask, "memory": trainer.memory}))
        // members,
        environment=num_bytes(_tensors(trainer.env.state_dict())) // members,
    )


def check_memory(memory: Memory, num_members: int, *, device: torch.device, limit: int | None = None) -> str:
    """Return what to say of a population's memory; refuse one that the device cannot hold.

    Args:
        limit: bytes that were said to be the most.

    Raises:
        RunError: it is too large; the message says how many members would fit.
    """
    allowed = allowed_bytes(device, limit)
    if allowed is None or memory.total * num_members + PROCESS <= allowed:
        return memory.describe(num_members)
    fitting = int((allowed - PROCESS) // memory.total)
    advice = (
        f"{fitting} fit: --chunk-size {fitting} trains so many at a time"
        if fitting >= 1
        else "not one fits: a smaller --replay-capacity, fewer --num-envs or smaller --hidden would help"
    )
    raise RunError(f"{describe_need(memory, num_members, device=device, limit=limit)}; {advice}")


def fitting_members(memory: Memory, *, device: torch.device, limit: int | None = None) -> int | None:
    """Return how many members to train at once, with some room where nobody said how much; None: it is not known."""
    allowed = allowed_bytes(device, limit)
    if allowed is None:
        return None
    share = 1.0 if allowed == limit else SHARE
    return max(0, int((share * allowed - PROCESS) // memory.total))


def describe_need(memory: Memory, num_members: int, *, device: torch.device, limit: int | None) -> str:
    """Return what a population needs and what there is."""
    allowed = allowed_bytes(device, limit)
    needs = f"{num_members} members need {format_bytes(memory.total * num_members)} ({format_bytes(memory.total)} each)"
    there_is = "" if allowed is None else f", but {format_bytes(allowed)} are "
    there_is += "" if allowed is None else "allowed by --memory-limit" if allowed == limit else "available"
    return f"{needs} and the process {format_bytes(PROCESS)}{there_is}"


def allowed_bytes(device: torch.device, limit: int | None) -> int | None:
    """Return the bytes that one process may take: what is available, which those of a machine share, or less."""
    found = available_bytes(device)
    if found is not None and device.type != "cuda":
        found //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min((each for each in (found, limit) if each is not None), default=None)


def parse_bytes(text: str) -> int:
    """`"2GB"`, `"1.5 GiB"`, `"800000"` -> bytes.

    Raises:
        RunError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(?:([kmgt])(i?)b?|b)?\s*", text.lower())
    if found is None:
        raise RunError(f"{text!r} is no number of bytes: write 500MB, 2GB or 1.5GiB")
    number, unit, binary = found.groups()
    return round(float(number) * (1024 if binary else 1000) ** ("kmgt".index(unit) + 1 if unit else 0))


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be taken on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    entries = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    found = [int(entries["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in entries else []
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        found += [int(limit) - int(used)] if limit != "max" else []
    except (OSError, ValueError):
        pass  # not in a control group of the second version
    return min(found, default=None)


def num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def format_bytes(count: float) -> str:
    """Return a number of bytes as a person would say it, in thousands: 3.1 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _tensors(state: Any) -> list[Tensor]:
    """Return all tensors in nested dictionaries."""
    if isinstance(state, Mapping):
        return [tensor for each in state.values() for tensor in _tensors(each)]
    return [state] if isinstance(state, Tensor) else []


def _steps(trainer: Trainer, *, time: int, members: int, envs: int, device: str) -> Transition:
    """Return steps of a rollout, zero in everything; on `meta` they have shapes and types, but no memory."""
    layout, dtype = trainer.agent.layout, torch.get_default_dtype()

    def empty(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.zeros(time, members, envs, *shape, dtype=kind, device=device)

    features, action = trainer.observation.shape[2:], (layout.num_groups, layout.num_choices)
    masked = trainer.mask is not None
    streams = RandomStreams([0] * trainer.num_members, device=trainer.observation.device)  # not those of training
    noise = trainer.perception.noise(1, 1, generator=streams)
    return Transition(
        observation=empty(*features),
        logits=empty(*action),
        action=empty(*action),
        reward=empty(),
        terminated=empty(kind=torch.bool),
        truncated=empty(kind=torch.bool),
        final_observation=empty(*features),
        mask=empty(*action, kind=torch.bool) if masked else None,
        final_mask=empty(*action, kind=torch.bool) if masked else None,
        memory=None if trainer.memory is None else empty(*trainer.memory.shape[2:]),
        gate_noise=None if noise is None else empty(*noise.shape[3:]),
    )


def _replay_row(replay: Replay, trainer: Trainer) -> int:
    """Return the bytes of one transition: of a real one, since `argmax` of a shape alone imports SymPy."""
    steps = _steps(trainer, time=replay.return_steps, members=1, envs=1, device="cpu")
    return num_bytes(n_step_transitions(replay._steps(steps), replay.return_steps, 0.99).values())
