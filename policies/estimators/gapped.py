"""The gapped straight-through estimator."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, sample_one_hot
from gumbelrl.policies.temperature import tempered


@register(
    "gapped",
    exact_on="none",
    pathwise=True,
    one_hot=True,
    noise="sample",
    evaluations=1,
    temperature="differentiable",
    paper="arXiv:2206.07235",
)
def gapped(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    gap: float = 1.0,
) -> Estimate:
    """Sample a one-hot action; differentiate a softmax of logits moved so that the sample leads by a gap.

    Keeps what makes `gumbel` work (the backward pass agrees with the sample) without noise in the backward pass. Biased
    for every value function, like `gumbel`.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a one-hot action.
        temperature: of the backward pass, a number or a tensor that broadcasts to the logits; .5 to 1 in the paper.
        mask: True where a choice is valid.
        generator: source of the noise.
        gap: least lead of the sampled choice over every other, in nats.

    Raises:
        ValueError: the temperature is not positive or not finite, or the gap is negative.

    Reference: Fan, Chi, Rudnicky & Ramadge 2022, arXiv:2206.07235, equations 5 to 7 and algorithm 1.
    """
    if not gap >= 0:
        raise ValueError(f"the gap must not be negative, got {gap}")
    valid = mask_logits(logits, mask)
    action = sample_one_hot(valid, generator=generator)
    with torch.no_grad():
        chosen = action > 0
        top = valid.amax(-1, keepdim=True)
        lift = torch.where(chosen, top - valid, 0.0)  # the sample to the top
        drop = torch.where(chosen, 0.0, (valid + gap - top).clamp_min(0.0))  # the others to a gap below it
    return pathwise(value, action, torch.softmax(tempered(valid + lift - drop, temperature), -1))
