"""How good a gradient estimate is: its bias, variance and direction, against the exact gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators import ESTIMATORS, Estimator, Value
from gumbelrl.policies.sampling import Generator

MOST_ENUMERATED = 1024  # joint actions
REFERENCE_SAMPLES = 2048  # of the unbiased average, where there are more


@dataclass(frozen=True)
class Diagnostics:
    """What `diagnose` found; each is `[*lead]`, over the states of a batch.

    Attributes:
        bias: root mean square, over states, of |E[estimate] − exact gradient|; what sampling alone would show is taken
            off, so that it may be 0.
        variance: of one estimate, summed over logits, mean over states.
        gradient_norm: root mean square of |exact gradient|.
        signal_to_noise: |E[estimate]| (root mean square) over the square root of the variance; infinite without noise.
        cosine: between the exact gradient of the whole batch and an estimate of it, one a state: what one update sees.
        soft_hard_gap: mean value where the estimator evaluated, less the mean value of a one-hot sample.
        reference: `enumerated`, or `average` of many unbiased estimates where there are too many joint actions.
    """

    bias: Float[Tensor, "*lead"]
    variance: Float[Tensor, "*lead"]
    gradient_norm: Float[Tensor, "*lead"]
    signal_to_noise: Float[Tensor, "*lead"]
    cosine: Float[Tensor, "*lead"]
    soft_hard_gap: Float[Tensor, "*lead"]
    reference: str


def diagnose(
    estimator: Estimator | str,
    logits: Float[Tensor, "*lead batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*lead batch group choice"] | None = None,
    generator: Generator = None,
    num_estimates: int = 256,
    **options: Any,
) -> Diagnostics:
    """Measure an estimator in given states, for a given value function.

    Args:
        estimator: or its name.
        logits: the policy in `batch` states; no gradient flows into them.
        value: function of the action, as for the estimator; it is called with more axes in front.
        num_estimates: estimates a state, at least 2; they give bias and variance.
        options: passed to the estimator.

    Raises:
        ValueError: there are fewer than 2 estimates.
    """
    entry = ESTIMATORS[estimator] if isinstance(estimator, str) else estimator
    if num_estimates < 2:
        raise ValueError(f"num_estimates must be at least 2, got {num_estimates}")
    common: dict[str, Any] = {"mask": mask, "generator": generator}
    exact, expected_value, noise, reference = _reference(logits, value, **common)
    many = logits.detach().expand(num_estimates, *logits.shape).clone().requires_grad_()
    objective = entry(many, value, temperature=_held(temperature), **common, **options).objective
    (estimates,) = torch.autograd.grad(objective.sum(), many)
    mean = estimates.mean(0)
    variance = estimates.var(0).sum((-2, -1))  # [*lead, batch]
    # The mean of n estimates is off by variance / n even where there is no bias.
    error = (mean - exact).square().sum((-2, -1)) - variance / num_estimates - noise
    exact_square = exact.square().sum((-2, -1)).mean(-1)
    mean_square = (mean.square().sum((-2, -1)) - variance / num_estimates).mean(-1).clamp_min(0.0)
    flat, target = estimates.flatten(-3), exact.flatten(-3)
    return Diagnostics(
        bias=error.mean(-1).clamp_min(0.0).sqrt(),
        variance=variance.mean(-1),
        gradient_norm=exact_square.sqrt(),
        signal_to_noise=(mean_square / variance.mean(-1)).sqrt(),
        cosine=torch.cosine_similarity(flat, target.expand_as(flat), dim=-1).mean(0).clamp(-1.0, 1.0),
        soft_hard_gap=(objective.detach().mean(0) - expected_value).mean(-1),
        reference=reference,
    )


def _held(temperature: float | Tensor) -> float | Tensor:
    return temperature.detach() if isinstance(temperature, Tensor) else temperature


def _reference(logits: Tensor, value: Value, **common: Any) -> tuple[Tensor, Tensor, Tensor | float, str]:
    """Return the gradient of E[value(one-hot action)], that expectation, the square error of the first, and how."""
    point = logits.detach().clone().requires_grad_()
    groups, choices = logits.shape[-2:]
    if hasattr(value, "choice_values") or choices**groups <= MOST_ENUMERATED:
        objective = ESTIMATORS["exact"](point, value, **common).objective
        return torch.autograd.grad(objective.sum(), point)[0], objective.detach(), 0.0, "enumerated"
    # Two halves, so that their difference tells the error of their mean.
    halves, values = [], []
    for _ in range(2):
        objective = ESTIMATORS["rloo"](point, value, num_samples=REFERENCE_SAMPLES // 2, **common).objective
        halves.append(torch.autograd.grad(objective.sum(), point)[0])
        values.append(objective.detach())
    noise = (halves[0] - halves[1]).square().sum((-2, -1)) / 4.0
    return (halves[0] + halves[1]) / 2.0, (values[0] + values[1]) / 2.0, noise, "average"
