"""The deterministic softmax with a temperature."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, pathwise, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator
from gumbelrl.policies.temperature import tempered


@register(
    "softmax",
    exact_on="multilinear",
    pathwise=True,
    one_hot=False,
    noise="none",
    evaluations=1,
    temperature="differentiable",
    paper="arXiv:2506.16608",
)
def softmax(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
) -> Estimate:
    """Evaluate at the probabilities softmax(logits / temperature), without noise.

    At temperature 1 exact for a value function that is linear in each group (multilinear), and always without
    variance. For others the objective is another one: the value of the mean action instead of the mean value of the
    actions. With an `interpolated` critic this is "distributions as actions".

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called once with the probabilities.
        temperature: divides the logits, a number or a tensor that broadcasts to them.
        mask: True where a choice is valid.
        generator: not used: there is no noise.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: He, Mahmood & White 2025, arXiv:2506.16608, for the critic on probabilities; Lowe et al. 2017,
    arXiv:1706.02275, for its use in actor-critic.
    """
    probs = torch.softmax(tempered(mask_logits(logits, mask), temperature), -1)
    return pathwise(value, probs, probs)
