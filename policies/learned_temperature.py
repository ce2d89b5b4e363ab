"""Temperatures that are learned: one number, or a function of the state. They stay above a floor."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gumbelrl.policies.temperature import SMALLEST


def _inverse_softplus(x: float) -> float:
    return x + math.log(-math.expm1(-x))


def _check(initial: float, floor: float) -> float:
    if not (SMALLEST <= floor < initial < math.inf):
        raise ValueError(
            f"a learned temperature needs {SMALLEST} <= floor < initial, both finite: got {floor} and {initial}"
        )
    return _inverse_softplus(initial - floor)


class LearnedTemperature(nn.Module):
    """floor + softplus(parameter): give what it returns to an estimator as its temperature.

    Args:
        initial: where it starts.
        floor: it stays above this: gradients grow as its inverse.
        shape: of the parameter; it must broadcast to the logits, `(member, 1, 1, 1)` for one a member.

    Raises:
        ValueError: not SMALLEST <= floor < initial.

    Reference: learned temperatures are discussed in Jang, Gu & Poole 2016, arXiv:1611.01144, section 2.2.
    """

    def __init__(self, initial: float = 1.0, *, floor: float = 0.1, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.floor = floor
        self.raw = nn.Parameter(torch.full(shape, _check(initial, floor)))

    def forward(self) -> Float[Tensor, "*shape"]:
        return self.floor + functional.softplus(self.raw)


class StateTemperature(nn.Module):
    """floor + softplus(network(features)), near `initial` at first.

    Args:
        network: features `[*batch, feature]` -> `[*batch, 1]`; should start near zero.

    Raises:
        ValueError: not SMALLEST <= floor < initial.
    """

    def __init__(self, network: nn.Module, initial: float = 1.0, *, floor: float = 0.1) -> None:
        super().__init__()
        self.network, self.floor, self.start = network, floor, _check(initial, floor)

    def forward(self, features: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch 1 1"]:
        return self.floor + functional.softplus(self.start + self.network(features)).unsqueeze(-1)
