"""Straight-through Gumbel-softmax with its relaxation averaged given the sample."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, conditional_scores, exponential, sample_one_hot
from gumbelrl.policies.temperature import tempered


@register(
    "gumbel-rao",
    exact_on="none",
    pathwise=True,
    one_hot=True,
    noise="relaxed",
    evaluations=1,
    temperature="differentiable",
    paper="arXiv:2010.04838",
)
def gumbel_rao(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    num_relaxations: int = 10,
) -> Estimate:
    """Sample a one-hot action; differentiate the mean of relaxations that agree with it.

    The expectation of `gumbel` with less variance (Rao-Blackwell), for one evaluation of the value function however
    many relaxations. As the temperature goes to zero it becomes `reinmax` at temperature 1. Best at .1 to .5.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a one-hot action.
        temperature: of the backward pass, a number or a tensor that broadcasts to the logits.
        mask: True where a choice is valid.
        generator: source of the noise.
        num_relaxations: draws of the noise given the action.

    Raises:
        ValueError: the temperature is not positive or not finite, or there is no relaxation.

    Reference: Paulus, Maddison & Krause 2020, arXiv:2010.04838, equations 9 and 10. The conditional noise is not
    differentiated (its derivative would change the expectation).
    """
    if num_relaxations < 1:
        raise ValueError(f"num_relaxations must be at least 1, got {num_relaxations}")
    valid = mask_logits(logits, mask)
    action = sample_one_hot(valid, generator=generator)
    with torch.no_grad():
        shape = torch.Size((num_relaxations, *valid.shape))
        noise = exponential(shape, generator=generator, device=valid.device)
        shift = conditional_scores(valid, action, noise) - valid
    return pathwise(value, action, torch.softmax(tempered(valid + shift, temperature), -1).mean(0))
