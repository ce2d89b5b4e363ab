"""The exact expectation over all actions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, register
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, one_hot
from gumbelrl.policies.temperature import check_temperature

MOST_EVALUATIONS = 4096


@register(
    "exact",
    exact_on="all",
    pathwise=False,
    one_hot=True,
    noise="none",
    evaluations="K",
    temperature="unused",
    paper="arXiv:1910.07207",
)
def exact(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
) -> Estimate:
    """Sum over all actions of probability times value: no bias, no variance.

    One evaluation a joint action, K^groups of them, in one call with a leading axis; none where the value function
    tells its `choice_values`, which also makes it exact for any number of groups.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action; called once with all one-hot actions, `[action, *batch, group, choice]`.
        temperature: checked, not used.
        mask: True where a choice is valid; an invalid one is evaluated and has no weight.
        generator: not used: there is no noise.

    Raises:
        ValueError: the temperature is not positive or not finite, or there are more than `MOST_EVALUATIONS` actions.

    Reference: Christodoulou 2019, arXiv:1910.07207, equation 12; all-action policy gradient, Sutton et al. 2000.
    """
    check_temperature(temperature)
    probs = torch.softmax(mask_logits(logits, mask), -1)
    choice_values = getattr(value, "choice_values", None)
    if choice_values is not None:
        return Estimate((probs * choice_values.detach()).sum((-2, -1)), probs.detach())
    values = value(_all_actions(logits)).detach()
    # The probabilities of all joint actions, in the order of itertools.product, by one group after another.
    weights = probs[..., 0, :]
    for group in range(1, probs.shape[-2]):
        weights = (weights.unsqueeze(-1) * probs[..., group, None, :]).flatten(-2)
    return Estimate((weights * values.movedim(0, -1)).sum(-1), probs.detach())


def _all_actions(logits: Tensor) -> Float[Tensor, "action *batch group choice"]:
    """Return every joint action for each state, one-hot."""
    *batch, groups, choices = logits.shape
    count = choices**groups
    if count > MOST_EVALUATIONS:
        raise ValueError(
            f"exact would evaluate {choices}^{groups} = {float(count):.3g} joint actions; use a linear critic, "
            "whose values add up over groups, or a sampling estimator such as gumbel or straight-through"
        )
    # By arithmetic: numbers from the host would wait for the device, and a CUDA graph could not hold them.
    places = choices ** torch.arange(groups - 1, -1, -1, device=logits.device)
    index = torch.arange(count, device=logits.device).unsqueeze(1) // places % choices
    actions = one_hot(index, choices).to(logits.dtype)
    return actions.view(count, *[1] * len(batch), groups, choices).expand(count, *logits.shape)
