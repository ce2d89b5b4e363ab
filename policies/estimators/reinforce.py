"""The score-function estimator."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, sample_one_hot
from gumbelrl.policies.temperature import check_temperature


@register("reinforce", exact_on="all", pathwise=False, one_hot=True, evaluations=1, paper="Williams 1992")
def reinforce(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    baseline: Tensor | None = None,
) -> Estimate:
    """Sample a one-hot action; weigh the gradient of its log-probability by its value above a baseline.

    Unbiased for every value function, which need not be differentiable; its noise grows with the square of the values
    and with the square root of the number of groups.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action; called once with a one-hot action.
        temperature: checked, not used.
        mask: True where a choice is valid.
        generator: source of the noise.
        baseline: `[*batch]`, anything that does not depend on the sampled action.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Williams 1992, "Simple statistical gradient-following algorithms", equation 11.
    """
    check_temperature(temperature)
    valid = mask_logits(logits, mask)
    action = sample_one_hot(valid, generator=generator)
    result = value(action).detach()
    advantage = result if baseline is None else result - baseline.detach()
    log_prob = (torch.log_softmax(valid, -1) * action).sum((-2, -1))
    return Estimate(result + advantage * (log_prob - log_prob.detach()), action)
