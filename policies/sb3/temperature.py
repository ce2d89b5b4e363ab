"""The temperature of a policy inside stable-baselines3: saved with the weights, moved along a schedule."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gumbelrl.policies.temperature import Constant, Learned, Schedule, check_temperature, parse_temperature


class ScheduledTemperature(nn.Module):
    """A temperature as a plain number, part of the `state_dict`; weights that were saved without one are taken too.

    It is a number rather than a buffer, so that reading it never waits for the device and at 1 costs nothing.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def get_extra_state(self) -> Tensor:
        # A tensor: what stable-baselines3 loads with `weights_only`.
        return torch.tensor(self.value, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.value = float(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The weights of stable-baselines3's own policies fit ours; they have no temperature.
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.value:g}"


def parse(temperature: float | str) -> Schedule:
    """Return the schedule of a policy's argument: a number, or text as `parse_temperature` takes it.

    Raises:
        ValueError: it is not positive, not finite, not a schedule, or a schedule that learns.
    """
    if not isinstance(temperature, str):
        check_temperature(temperature)
        return Constant(float(temperature))
    schedule = parse_temperature(temperature)
    if isinstance(schedule, Learned):
        raise ValueError(
            f"temperature {temperature!r} is learned, which a policy inside stable-baselines3 cannot do: give a number "
            "or a schedule such as linear:1.0:0.1, or train with gumbelrl's own agents"
        )
    return schedule


class FollowsSchedule(nn.Module):
    """What the policies share: a schedule, and the `ScheduledTemperature`s inside that follow it."""

    schedule: Schedule
    _is_driven: bool = False
    _has_warned: bool = False

    @property
    def temperature(self) -> float:
        return next(part.value for part in self.modules() if isinstance(part, ScheduledTemperature))

    def set_temperature(self, temperature: float) -> None:
        """Set the temperature, of slow copies too.

        Raises:
            ValueError: it is not positive or not finite.
        """
        check_temperature(temperature)
        for part in self.modules():
            if isinstance(part, ScheduledTemperature):
                part.value = float(temperature)

    def follow_schedule(self, progress: float, step: int) -> None:
        """Set the temperature that the schedule has at a progress in [0, 1] and after a number of steps."""
        self._is_driven = True
        self.set_temperature(self.schedule.value(progress, step))

    def warn_if_left_alone(self) -> None:
        """Warn once where training has begun and nobody moves the temperature along its schedule."""
        if not (self._is_driven or self._has_warned or isinstance(self.schedule, Constant)):
            self._has_warned = True
            warnings.warn(
                f"the temperature stays at {self.temperature:g}: a schedule needs the callback that moves it, "
                "model.learn(..., callback=GumbelCallback())",
                stacklevel=2,
            )
