"""Straight-through: the slope at the sample, the derivative of the probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, sample_one_hot
from gumbelrl.policies.temperature import check_temperature


@register(
    "straight-through",
    exact_on="multilinear",
    pathwise=True,
    one_hot=True,
    noise="sample",
    evaluations=1,
    temperature="unused",
    paper="arXiv:1308.3432",
)
def straight_through(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
) -> Estimate:
    """Sample a one-hot action; differentiate as if it were the probabilities.

    Exact for a value function that is linear in each group (multilinear); with a single group, or a sum over groups,
    without variance too. Biased otherwise. Use it with a linear critic; not to be confused with `gumbel`, whose
    backward pass keeps the noise of the sample.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a one-hot action.
        temperature: checked, not used: neither the sample nor the probabilities depend on it.
        mask: True where a choice is valid.
        generator: source of the noise.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Bengio, Léonard & Courville 2013, arXiv:1308.3432, section 4. Differs: factored categorical actions.
    """
    check_temperature(temperature)
    valid = mask_logits(logits, mask)
    return pathwise(value, sample_one_hot(valid, generator=generator), torch.softmax(valid, -1))
