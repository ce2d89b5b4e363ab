"""Sum over the most probable actions, sample from the rest."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, log_prob, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator
from gumbelrl.policies.temperature import check_temperature
from gumbelrl.policies.without_replacement import most_probable, sample_without_replacement


@register(
    "sum-and-sample",
    exact_on="all",
    pathwise=False,
    one_hot=True,
    noise="relaxed",
    evaluations="k",
    temperature="unused",
    paper="arXiv:1810.04777",
)
def sum_and_sample(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    num_samples: int = 4,
) -> Estimate:
    """Sum the score function exactly over the k − 1 most probable actions; sample one of the others.

    Unbiased for every value function, which need not be differentiable. Next to no variance where the policy is nearly
    certain, most of `reinforce`'s where it is nearly uniform over many actions. Factored actions of any number of
    groups.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action; called once with `num_samples` one-hot actions on an axis in front.
        temperature: checked, not used.
        mask: True where a choice is valid.
        generator: source of the noise.
        num_samples: k, at least 2; fewer are evaluated where there are fewer joint actions.

    Raises:
        ValueError: the temperature is not positive or not finite, or there are fewer than 2 samples.

    Reference: Liu, Regier, Tripuraneni, Jordan & McAuliffe 2019, arXiv:1810.04777, equation 7.
    """
    check_temperature(temperature)
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2 (one of them is sampled), got {num_samples}")
    valid = mask_logits(logits, mask)
    summed = most_probable(valid, num_samples - 1)
    # Of samples without replacement, the first that was not summed is distributed as the rest of the policy.
    drawn = sample_without_replacement(valid, num_samples, generator=generator)
    known = (drawn.unsqueeze(1) == summed).flatten(-2).all(-1).any(1)  # [sample, *batch]
    index = known.to(torch.uint8).argmin(0)
    sampled = drawn.gather(0, index[None, ..., None, None].expand(1, *drawn.shape[1:]))
    action = torch.cat([summed, sampled])
    result = value(action).detach()
    score = log_prob(valid, action)
    with torch.no_grad():
        probs = score[:-1].exp()
        rest = (1.0 - probs.sum(0)).clamp_min(0.0) * ~known.all(0)
        weighted = torch.cat([probs, rest.unsqueeze(0)]) * result
    return Estimate(weighted.sum(0) + (weighted * (score - score.detach())).sum(0), action)
