"""The score-function estimator."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, log_prob, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, one_hot_of_largest, sample_one_hot
from gumbelrl.policies.temperature import check_temperature


@register(
    "reinforce",
    exact_on="all",
    pathwise=False,
    one_hot=True,
    noise="sample",
    evaluations=1,
    temperature="unused",
    paper="Williams 1992",
)
def reinforce(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    baseline: Tensor | Literal["none", "mean-action", "self-critical"] = "none",
) -> Estimate:
    """Sample a one-hot action; weigh the gradient of its log-probability by its value above a baseline.

    Unbiased for every value function, which need not be differentiable; its noise grows with the square of the values
    and with the square root of the number of groups.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action; called once with a one-hot action.
        temperature: checked, not used.
        mask: True where a choice is valid.
        generator: source of the noise.
        baseline: `[*batch]`, anything that does not depend on the sampled action, such as a learned state value or a
            `MovingMean`; or `mean-action`, the value function at the probabilities (with a linear critic its
            expectation); or `self-critical`, its value at the most probable action; or `none`.

    Raises:
        ValueError: the temperature is not positive or not finite, or there is no such baseline.

    Reference: Williams 1992, "Simple statistical gradient-following algorithms", equation 11; self-critical: Rennie et
    al. 2017, arXiv:1612.00563, equation 8.
    """
    check_temperature(temperature)
    valid = mask_logits(logits, mask)
    action = sample_one_hot(valid, generator=generator)
    result = value(action).detach()
    advantage = result - _baseline(baseline, valid, value)
    score = log_prob(valid, action)
    return Estimate(result + advantage * (score - score.detach()), action)


@torch.no_grad()
def _baseline(baseline: Tensor | str, valid: Tensor, value: Value) -> Tensor | float:
    if isinstance(baseline, Tensor):
        return baseline.detach()
    if baseline == "none":
        return 0.0
    if baseline == "mean-action":
        return value(torch.softmax(valid, -1))
    if baseline == "self-critical":
        return value(one_hot_of_largest(valid).to(valid.dtype))
    raise ValueError(f"unknown baseline {baseline!r}; choose none, mean-action or self-critical, or give a tensor")


class MovingMean:
    """A baseline outside of any agent: the exponential moving mean of the values seen before.

    Args:
        decay: share of the old mean that stays with each update.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        self.decay, self.total, self.weight = decay, torch.zeros(()), 0.0

    @property
    def value(self) -> Float[Tensor, ""]:
        """The mean so far, without the bias of its start; 0 before the first update."""
        return self.total / self.weight if self.weight else self.total

    def update(self, values: Tensor) -> None:
        self.total = self.decay * self.total.to(values.device) + (1 - self.decay) * values.detach().mean()
        self.weight = self.decay * self.weight + (1 - self.decay)
