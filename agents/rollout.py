"""What an on-policy agent learns from: the last few steps of every environment."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.random import RandomStreams


@dataclass(frozen=True)
class Transition:
    """One step of every environment, `[member, env, ...]`; a rollout is the same with `time` in front.

    `final_observation` is what the step led to before any reset, `final_mask` the choices that were valid there.
    `logits` are those of the policy that acted. Masks are None where every choice is always valid. `memory`, of an
    agent that remembers, is what it remembered before the observation, `gate_noise` the noise of its discrete gates.
    """

    observation: Float[Tensor, "*time member env feature"]
    logits: Float[Tensor, "*time member env group choice"]
    action: Float[Tensor, "*time member env group choice"]
    reward: Float[Tensor, "*time member env"]
    terminated: Bool[Tensor, "*time member env"]
    truncated: Bool[Tensor, "*time member env"]
    final_observation: Float[Tensor, "*time member env feature"]
    mask: Bool[Tensor, "*time member env group choice"] | None = None
    final_mask: Bool[Tensor, "*time member env group choice"] | None = None
    memory: Float[Tensor, "*time member env unit"] | None = None
    gate_noise: Float[Tensor, "*time member env gate"] | None = None

    def at(self, time: int, most: int) -> Transition:
        """Return one step of a rollout, of `most` environments of each member."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        some: dict[str, Any] = {name: None if x is None else x[time, :, :most] for name, x in columns.items()}
        return Transition(**some)


def stack_rollout(transitions: list[Transition]) -> Transition:
    """Return the transitions as one, with a leading time axis."""
    columns = {name: [getattr(step, name) for step in transitions] for name in Transition.__dataclass_fields__}
    stacked: dict[str, Any] = {name: None if rows[0] is None else torch.stack(rows) for name, rows in columns.items()}
    return Transition(**stacked)


def minibatches(streams: RandomStreams, length: int, count: int, *, passes: int) -> Int[Tensor, "minibatch member row"]:
    """Return which of `length` rows are in each minibatch of `passes` passes, by each member's own random orders.

    Args:
        count: minibatches of a pass.
    """
    orders = streams.permutations(passes, length).unflatten(2, (count, -1))  # [member, pass, minibatch, row]
    return orders.permute(1, 2, 0, 3).flatten(0, 1).contiguous()


def take(columns: dict[str, Tensor], rows: Int[Tensor, "member row"]) -> dict[str, Tensor]:
    """Return some rows of columns `[member, row, ...]`, each member's own."""
    member = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1)
    return {name: column[member, rows] for name, column in columns.items()}


class MinibatchLearner:
    """An agent that learns in passes of minibatches over each rollout."""

    def _learn_all(self, data: dict[str, Tensor], orders: Int[Tensor, "minibatch member row"]) -> dict[str, Tensor]:
        """Make an optimiser step on each minibatch; return the metrics of the last."""
        metrics: dict[str, Tensor] = {}
        for rows in orders.unbind():
            metrics = self._learn(data, rows)
        return metrics

    @abstractmethod
    def _learn(self, data: dict[str, Tensor], rows: Int[Tensor, "member row"]) -> dict[str, Tensor]:
        """Make one optimiser step on some of the rows; return metrics."""
