"""Straight-through at the most probable action: no sampling."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, one_hot_of_largest
from gumbelrl.policies.temperature import check_temperature


@register(
    "argmax-st",
    exact_on="linear",
    pathwise=True,
    one_hot=True,
    noise="none",
    evaluations=1,
    temperature="unused",
    paper="arXiv:1308.3432",
)
def argmax_st(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
) -> Estimate:
    """Take the most probable action; differentiate as if it were the probabilities.

    No noise, so that an agent needs exploration from elsewhere. Exact for sums over groups of linear functions; biased
    for everything else, multilinear functions included: the other groups stay at their modes. Not to be confused with
    `straight-through`, which samples.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a one-hot action.
        temperature: checked, not used.
        mask: True where a choice is valid.
        generator: not used: there is no noise.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Bengio, Léonard & Courville 2013, arXiv:1308.3432, section 4, at the mode instead of a sample.
    """
    check_temperature(temperature)
    valid = mask_logits(logits, mask)
    action = one_hot_of_largest(valid).to(logits.dtype)
    return pathwise(value, action, torch.softmax(valid, -1))
