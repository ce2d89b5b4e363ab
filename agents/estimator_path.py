"""From logits to an estimate inside an agent: the temperature, the baseline and the learned control variate."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gumbelrl.agents.distributed.group import ALONE, Group
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.networks import StackedLinear, StackedMLP
from gumbelrl.policies import ActionLayout, Estimate, Estimator, LearnedTemperature, StateTemperature, Value
from gumbelrl.policies.temperature import Constant, Learned, Schedule, State
from gumbelrl.random import RandomStreams

BASELINES = ("none", "mean-action", "self-critical", "moving-mean")
CONSTANT = Constant(1.0)
MOVING_MEAN_DECAY = 0.99


class EstimatorPath(nn.Module):
    """An estimator with what it needs beside logits and value; its parameters, if any, are `[member, ...]`.

    Args:
        schedule: of the temperature; a learned one makes parameters here.
        baseline: of the score function, if the estimator takes one.
        num_samples: for each state; None is the estimator's own default.
        group: the processes over which the moving mean is taken.

    Raises:
        RunError: the temperature is to be learned, but the estimator gives it no gradient.
    """

    def __init__(
        self,
        estimator: Estimator,
        streams: RandomStreams,
        layout: ActionLayout,
        num_features: int,
        *,
        schedule: Schedule,
        baseline: str,
        num_samples: int | None,
        group: Group = ALONE,
    ) -> None:
        super().__init__()
        self.group = group
        self.estimator, self.num_samples = estimator, num_samples
        self.scheduled_temperature: float | Tensor = 1.0
        self.baseline = baseline if "baseline" in estimator.options else None
        self.moving_mean = torch.zeros(streams.rows, device=streams.device)
        self.learned: nn.Module | None = None
        if isinstance(schedule, Learned):
            if estimator.temperature != "differentiable":
                raise RunError(f"{estimator.name} gives a temperature no gradient, so that it cannot be learned")
            self.learned = _learned_temperature(schedule, streams, num_features)
        self.control: StackedMLP | None = None
        if estimator.learns:
            inputs = num_features + layout.num_groups * layout.num_choices
            self.control = StackedMLP(streams, inputs, 1, hidden=(32,), last_gain=0.01)

    @property
    def num_control_parameters(self) -> int:
        """How many parameters, the last ones, belong to the learned control variate; of all members."""
        return 0 if self.control is None else sum(parameter.numel() for parameter in self.control.parameters())

    def temperature(self, observation: Float[Tensor, "member batch feature"]) -> float | Tensor:
        """Return the temperature: a number, or a tensor that broadcasts to the logits."""
        if self.learned is None:
            return self.scheduled_temperature
        return self.learned(observation) if isinstance(self.learned, StateTemperature) else self.learned()

    def options(self, observation: Float[Tensor, "member batch feature"]) -> dict[str, Any]:
        """Return what the estimator is given beside logits, value, mask and generator."""
        options: dict[str, Any] = {"temperature": self.temperature(observation)}
        if self.num_samples is not None:
            options["num_samples"] = self.num_samples
        if self.baseline is not None:
            moving = self.baseline == "moving-mean"
            options["baseline"] = self.moving_mean.unsqueeze(1).clone() if moving else self.baseline
        control = self.control
        if control is not None:

            def evaluate(action: Tensor) -> Tensor:
                flat = action.flatten(-2)
                return control(torch.cat([observation.expand(*flat.shape[:-1], -1), flat], dim=-1)).squeeze(-1)

            options["control"] = evaluate
        return options

    def forward(
        self,
        observation: Float[Tensor, "member batch feature"],
        logits: Float[Tensor, "member batch group choice"],
        value: Value,
        mask: Bool[Tensor, "member batch group choice"] | None,
        generator: RandomStreams,
    ) -> tuple[Estimate, Float[Tensor, " member"]]:
        """Return the estimate and each member's mean temperature."""
        options = self.options(observation)
        estimate = self.estimator(logits, value, mask=mask, generator=generator, **options)
        if self.baseline == "moving-mean":
            self.moving_mean.lerp_(self.group.mean(estimate.objective.detach().mean(1)), 1.0 - MOVING_MEAN_DECAY)
        temperature = torch.as_tensor(options["temperature"], device=logits.device).detach()
        return estimate, temperature.expand(*logits.shape[:2], 1, 1).mean((1, 2, 3))


def _learned_temperature(schedule: Learned, streams: RandomStreams, num_features: int) -> nn.Module:
    initial, floor = schedule.initial, schedule.floor
    if isinstance(schedule, State):
        return StateTemperature(StackedLinear(streams, num_features, 1, gain=0.01), initial, floor=floor)
    return LearnedTemperature(initial, floor=floor, shape=(streams.rows, 1, 1, 1)).to(streams.device)
