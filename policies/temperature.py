"""Temperature schedules: the temperature as a function of how much of the training is over.

A schedule is written as text (`1.0`, `linear:1.0:0.1`), which is what a configuration and a checkpoint hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Protocol

from torch import Tensor

SMALLEST = 1e-3


class Schedule(Protocol):
    """The temperature at a progress in [0, 1] and after a number of environment steps."""

    def value(self, progress: float, step: int) -> float: ...


def check_temperature(temperature: float | Tensor) -> None:
    """Check a temperature; a tensor is taken as it is, since reading it would wait for the device.

    Raises:
        ValueError: it is below `SMALLEST`, infinite or not a number.
    """
    if isinstance(temperature, Tensor):
        return
    if not (math.isfinite(temperature) and temperature >= SMALLEST):
        raise ValueError(f"a temperature must be finite and at least {SMALLEST}, got {temperature}")


def tempered(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return logits / temperature, checked; at the plain number 1, which is the default, the logits themselves.

    Raises:
        ValueError: as `check_temperature`.
    """
    check_temperature(temperature)
    if not isinstance(temperature, Tensor) and temperature == 1.0:
        return logits
    return logits / temperature


@dataclass(frozen=True)
class Constant:
    """Always `temperature`."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def value(self, progress: float, step: int) -> float:
        return self.temperature


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in a straight line over the training."""

    start: float
    end: float

    def __post_init__(self) -> None:
        check_temperature(self.start)
        check_temperature(self.end)

    def value(self, progress: float, step: int) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Exponential:
    """start · (end / start)^progress; with `gumbel` this is TAGS (arXiv:2302.11793)."""

    start: float
    end: float

    def __post_init__(self) -> None:
        check_temperature(self.start)
        check_temperature(self.end)

    def value(self, progress: float, step: int) -> float:
        return self.start * (self.end / self.start) ** progress


@dataclass(frozen=True)
class Jang:
    """max(floor, exp(−rate · step)): Jang, Gu & Poole 2016, arXiv:1611.01144, section 4.2."""

    rate: float
    floor: float = 0.5

    def __post_init__(self) -> None:
        check_temperature(self.floor)
        if not 0 <= self.rate < math.inf:
            raise ValueError(f"Jang's rate must be finite and not negative, got {self.rate}")

    def value(self, progress: float, step: int) -> float:
        return max(self.floor, math.exp(-self.rate * step))


@dataclass(frozen=True)
class Learned:
    """One temperature, learned with the policy from `initial`, above `floor`; see `LearnedTemperature`."""

    initial: float = 1.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        check_temperature(self.floor)
        check_temperature(self.initial)
        if self.initial <= self.floor:
            raise ValueError(f"a learned temperature must start above its floor, got {self.initial} and {self.floor}")

    def value(self, progress: float, step: int) -> float:
        return self.initial


@dataclass(frozen=True)
class State(Learned):
    """A learned function of the state; see `StateTemperature`."""


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "linear": Linear,
    "exponential": Exponential,
    "tags": Exponential,
    "jang": Jang,
    "learned": Learned,
    "state": State,
}


def parse_temperature(text: str) -> Schedule:
    """Return the schedule that `text` names: a number, or `name:number:…` such as `linear:1.0:0.1`.

    Raises:
        ValueError: no schedule has that name, or a number is missing, not positive or not finite.
    """
    name, *words = text.split(":")
    if not words and _is_number(name):
        name, words = "constant", [text]
    if name not in SCHEDULES:
        raise ValueError(f"{text!r} is neither a number nor a schedule; schedules are {', '.join(SCHEDULES)}")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{text!r}: {':'.join(words)} should be numbers, as in linear:1.0:0.1") from None
    try:
        return SCHEDULES[name](*numbers)
    except TypeError:
        raise ValueError(
            f"{text!r} has {len(numbers)} numbers; write for example linear:1.0:0.1, jang:1e-5 or learned:1.0"
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def format_temperature(schedule: Schedule) -> str:
    """Return the text that `parse_temperature` reads back."""
    name = next(name for name, kind in SCHEDULES.items() if type(schedule) is kind)
    return ":".join([name, *(repr(number) for number in astuple(schedule))])  # type: ignore[call-overload]
