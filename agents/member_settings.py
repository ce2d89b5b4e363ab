"""Settings of which each member of a population may have its own: a `[member]` tensor in place of a number.

    config = vary(ActorCriticConfig(), {"learning_rate": [3e-4, 1e-3, 3e-3]}, device="cpu")
    agent = ActorCritic(config, seeds=(0, 1, 2), …)

The tensors lie on the agents' device, so that a step that was recorded once follows them. A setting that all members
share stays a number, and costs nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.errors import RunError, choose
from gumbelrl.policies.temperature import Learned, Schedule

Config = TypeVar("Config")


def vary(config: Config, settings: Mapping[str, Sequence[float]], *, device: torch.device | str = "cpu") -> Config:
    """Return the settings with some of them different for each member.

    Args:
        config: what an agent's settings are where members do not differ.
        settings: name -> one value a member, in the order of their seeds.
        device: of the agent.

    Raises:
        RunError: a setting is unknown, cannot differ between members, or has a value that it cannot have; or two
            settings are given for different numbers of members.
    """
    counts = {len(values) for values in settings.values()}
    if len(counts) > 1 or 0 in counts:
        given = ", ".join(f"{len(values)} of {name}" for name, values in settings.items())
        raise RunError(f"each setting that varies needs one value a member, got {given}")
    able: tuple[str, ...] = config.per_member  # type: ignore[attr-defined]
    switches: tuple[str, ...] = getattr(config, "switched_off_by_zero", ())
    varied = copy.copy(config)
    for name, values in settings.items():
        choose("setting", name, [field.name for field in fields(config)])  # type: ignore[arg-type]
        if name not in able:
            raise RunError(
                f"{name} cannot differ between members of one process; these can: {', '.join(able)}. "
                f"Train a run for each value of {name} instead"
            )
        for value in values:
            replace(config, **{name: value})  # type: ignore[type-var]  # its own check
            if value == 0 and name in switches:
                raise RunError(f"{name} 0 turns off what members of one process share: a small number comes close")
        object.__setattr__(varied, name, torch.tensor(values, dtype=torch.float32, device=device))
    return varied


def across(setting: Any, axes: int) -> Any:
    """Return a setting as it meets a tensor that has `axes` axes after `member`: `[member, 1, …]`, or the number."""
    return setting.view(-1, *[1] * axes) if isinstance(setting, Tensor) else setting


def is_used(setting: float | Tensor) -> bool:
    """Say whether a setting that 0 turns off is on; where members differ it is."""
    return isinstance(setting, Tensor) or bool(setting)


def start_at(setting: float | Tensor, num_members: int, *, device: torch.device | str) -> Float[Tensor, " member"]:
    """Return log(setting) of each member, to go on from."""
    if isinstance(setting, Tensor):
        return setting.double().log().float()
    return torch.full((num_members,), math.log(setting), device=device)


def rate_of_rows(rate: float | Tensor, *, share: float = 1.0, repeat: int = 1) -> float | Float[Tensor, "row 1"]:
    """Return a learning rate for an optimiser of `[row, size]`, where each member has `repeat` rows in turn.

    Args:
        share: what is left of the rate so far in the run.
    """
    if isinstance(rate, Tensor):
        return (rate * share).repeat_interleave(repeat).unsqueeze(1)
    return rate * share


def fill(target: Tensor, value: float | Tensor) -> None:
    """Give a tensor that lies on the device another value, without making another tensor."""
    if isinstance(value, Tensor):
        target.copy_(value.view_as(target))
    else:
        target.fill_(value)


class MemberTemperatures:
    """A temperature schedule for each member, as `Trainer` takes one: (progress, steps) -> `[member]`.

    Always the same tensor, filled anew when a temperature has changed.

    Raises:
        RunError: one of them is learned, which is a matter of the networks and the same for all members.
    """

    def __init__(self, schedules: Sequence[Schedule], *, device: torch.device | str = "cpu") -> None:
        if any(isinstance(schedule, Learned) for schedule in schedules):
            raise RunError("a learned temperature cannot stand beside others in one process: train a run for each")
        self.distinct: list[Schedule] = []  # hundreds of members share a few
        for schedule in schedules:
            self.distinct += [schedule] * (schedule not in self.distinct)
        self.which = torch.tensor([self.distinct.index(schedule) for schedule in schedules])
        self.values = torch.ones(len(schedules), device=device)
        self.filled: list[float] = []

    def __call__(self, progress: float, step: int) -> Float[Tensor, " member"]:
        now = [schedule.value(progress, step) for schedule in self.distinct]
        if now != self.filled:
            self.filled = now
            self.values.copy_(torch.tensor(now)[self.which])
        return self.values
