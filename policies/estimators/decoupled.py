"""Straight-through with a temperature of its own for each direction."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, sample_one_hot
from gumbelrl.policies.temperature import tempered


@register(
    "decoupled",
    exact_on="multilinear",
    pathwise=True,
    one_hot=True,
    noise="sample",
    evaluations=1,
    temperature="differentiable",
    paper="arXiv:2410.13331",
)
def decoupled(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    forward_temperature: float | Tensor = 1.0,
) -> Estimate:
    """Sample from softmax(logits / forward_temperature); differentiate softmax(logits / temperature).

    With both temperatures at 1 this is `straight-through`, and exact where that is. A forward temperature other than 1
    samples from another policy than the one that acts; a backward one spreads the gradient over more choices
    (above 1) or fewer (below), and is a bias either way.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a one-hot action.
        temperature: of the backward pass, a number or a tensor that broadcasts to the logits.
        mask: True where a choice is valid.
        generator: source of the noise.
        forward_temperature: of the sample.

    Raises:
        ValueError: a temperature is not positive or not finite.

    Reference: Shah, Yan, Mozer & Liu 2024, arXiv:2410.13331, version 2, section 3.
    """
    valid = mask_logits(logits, mask)
    action = sample_one_hot(tempered(valid, forward_temperature), generator=generator).to(logits.dtype)
    return pathwise(value, action, torch.softmax(tempered(valid, temperature), -1))
