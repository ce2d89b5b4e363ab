"""ReinMax: straight-through of second order."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, sample_one_hot
from gumbelrl.policies.temperature import tempered


@register(
    "reinmax",
    exact_on="quadratic",
    pathwise=True,
    one_hot=True,
    noise="sample",
    evaluations=1,
    temperature="used",
    paper="arXiv:2304.08612",
)
def reinmax(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
) -> Estimate:
    """Sample a one-hot action; differentiate by Heun's rule, from the sample's slope, to second order.

    2 J(½ (softmax(θ/τ) + D)) − ½ J(softmax θ), applied to the slope. At temperature 1 exact for value functions that
    are quadratic in each group, where `straight-through` is biased; more variance than that. Temperatures above 1 trade
    bias for variance.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a one-hot action.
        temperature: of the midpoint, any that is positive (the authors' package refuses those below 1).
        mask: True where a choice is valid.
        generator: source of the noise.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Liu, Dong, Liu, Yu & Gao 2023, arXiv:2304.08612, equation 7 and algorithm 2.
    """
    valid = mask_logits(logits, mask)
    action = sample_one_hot(valid, generator=generator)
    probs = torch.softmax(valid, -1)
    with torch.no_grad():
        midpoint = 0.5 * (torch.softmax(tempered(valid, temperature), -1) + action)
    # A path whose derivative is J(midpoint): midpoint∘θ − midpoint (midpoint·θ), with the outer factors held.
    centred = valid - (midpoint * valid).sum(-1, keepdim=True)
    return pathwise(value, action, 2.0 * midpoint * centred - 0.5 * probs)
