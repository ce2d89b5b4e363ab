"""Straight-through Gumbel-softmax."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, one_hot_of_largest, perturbed
from gumbelrl.policies.temperature import tempered


@register(
    "gumbel",
    exact_on="none",
    pathwise=True,
    one_hot=True,
    noise="relaxed",
    evaluations=1,
    temperature="differentiable",
    paper="arXiv:1611.01144",
)
def gumbel(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
) -> Estimate:
    """Sample a one-hot action by Gumbel-max; differentiate as if it were the relaxed sample.

    The critic sees vertices only. Biased for every value function, a linear one included, with a bias that goes to
    zero with the temperature and a variance that grows as its inverse. Not to be confused with `straight-through`,
    whose backward pass forgets the noise of the sample.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a one-hot action.
        temperature: of the backward pass, a number or a tensor that broadcasts to the logits; the sample does not
            depend on it.
        mask: True where a choice is valid.
        generator: source of the noise.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Jang, Gu & Poole 2016, arXiv:1611.01144, section 2.2 and equation 2.
    """
    scores = perturbed(mask_logits(logits, mask), None, generator)
    relaxed = torch.softmax(tempered(scores, temperature), -1)
    return pathwise(value, one_hot_of_largest(scores).to(logits.dtype), relaxed)
