"""The score function with a leave-one-out baseline."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, log_prob, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, sample_one_hot
from gumbelrl.policies.temperature import check_temperature


@register(
    "rloo",
    exact_on="all",
    pathwise=False,
    one_hot=True,
    noise="sample",
    evaluations="k",
    temperature="unused",
    paper="arXiv:2402.14740",
)
def rloo(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    num_samples: int = 4,
) -> Estimate:
    """Sample several actions; weigh each one's score by its value above the mean of the others'.

    Unbiased for every value function, which need not be differentiable; no critic and no learned baseline needed.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action; called once with `num_samples` one-hot actions on an axis in front.
        temperature: checked, not used.
        mask: True where a choice is valid.
        generator: source of the noise.
        num_samples: how many, at least 2.

    Raises:
        ValueError: the temperature is not positive or not finite, or there are fewer than 2 samples.

    Reference: Kool, van Hoof & Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024,
    arXiv:2402.14740, section 3.
    """
    check_temperature(temperature)
    if num_samples < 2:
        raise ValueError(f"rloo compares samples with each other: num_samples must be at least 2, got {num_samples}")
    valid = mask_logits(logits, mask)
    action = sample_one_hot(valid.expand(num_samples, *valid.shape), generator=generator)
    result = value(action).detach()
    # result − mean of the others = k/(k−1) (result − mean of all)
    advantage = (result - result.mean(0)) * (num_samples / (num_samples - 1))
    score = log_prob(valid, action)
    return Estimate(result.mean(0) + (advantage * (score - score.detach())).mean(0), action)
