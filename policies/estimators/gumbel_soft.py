"""The relaxed Gumbel-softmax, also called the Concrete distribution."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, perturbed
from gumbelrl.policies.temperature import tempered


@register(
    "gumbel-soft",
    exact_on="none",
    pathwise=True,
    one_hot=False,
    noise="relaxed",
    evaluations=1,
    temperature="differentiable",
    paper="arXiv:1611.00712",
)
def gumbel_soft(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
) -> Estimate:
    """Evaluate at a relaxed Gumbel-softmax sample, inside the simplex, and differentiate through it.

    The gradient is right for the relaxed objective E[value(relaxed sample)], which is not E[value(one-hot action)].
    The critic sees points that no environment ever answered for.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with a point inside the simplex.
        temperature: of the relaxation, a number or a tensor that broadcasts to the logits.
        mask: True where a choice is valid.
        generator: source of the noise.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Maddison, Mnih & Teh 2016, arXiv:1611.00712, equation 10; Jang et al. 2016, arXiv:1611.01144, equation 2.
    """
    scores = perturbed(mask_logits(logits, mask), None, generator)
    relaxed = torch.softmax(tempered(scores, temperature), -1).to(logits.dtype)
    return pathwise(value, relaxed, relaxed)
