"""The unordered-set estimator: samples without replacement, weighed as a set."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, log_prob, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator
from gumbelrl.policies.temperature import check_temperature
from gumbelrl.policies.without_replacement import leave_one_out_shares, sample_without_replacement

MOST_SAMPLES = 8


@register(
    "unordered-set",
    exact_on="all",
    pathwise=False,
    one_hot=True,
    noise="relaxed",
    evaluations="k",
    temperature="unused",
    paper="arXiv:2002.06043",
)
def unordered_set(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    num_samples: int = 4,
) -> Estimate:
    """Sample different actions; weigh each by its probability and what its place in the set says.

    Unbiased for every value function, which need not be differentiable, with less variance than `rloo` for as many
    evaluations: nothing is evaluated twice. Exact where the samples are all there are. Factored actions of any number
    of groups, by stochastic beam search.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action; called once with `num_samples` one-hot actions on an axis in front.
        temperature: checked, not used.
        mask: True where a choice is valid.
        generator: source of the noise.
        num_samples: how many, 1 to 8 (the work grows as 2^k); fewer are taken where there are fewer joint actions.

    Raises:
        ValueError: the temperature is not positive or not finite, or the number of samples is out of range.

    Reference: Kool, van Hoof & Welling 2020, arXiv:2002.06043, equation 15, with the built-in baseline.
    """
    check_temperature(temperature)
    if not 1 <= num_samples <= MOST_SAMPLES:
        raise ValueError(f"num_samples must be between 1 and {MOST_SAMPLES}, got {num_samples}")
    valid = mask_logits(logits, mask)
    action = sample_without_replacement(valid, num_samples, generator=generator)
    result = value(action).detach()
    score = log_prob(valid, action)
    with torch.no_grad():
        shares = leave_one_out_shares(score.double().clamp_min(-1e30))
        weight = torch.diagonal(shares, dim1=0, dim2=1).movedim(-1, 0)
        # An action's own share of its baseline is its probability.
        own = torch.eye(len(action), device=logits.device, dtype=torch.bool).view(
            *shares.shape[:2], *[1] * (score.dim() - 1)
        )
        baseline = (torch.where(own, score.double().exp(), shares) * result).sum(1)
        scaled = (weight * (result - baseline)).to(score.dtype)
        total = (weight * result).sum(0).to(score.dtype)
    return Estimate(total + (scaled * (score - score.detach())).sum(0), action)
