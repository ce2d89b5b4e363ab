"""REBAR and RELAX: the score function with a relaxed control variate that is taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators.base import Estimate, Value, from_gradient, register, value_and_slope
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, conditional_scores, exponential, one_hot_of_largest, perturbed
from gumbelrl.policies.temperature import check_temperature

Control: TypeAlias = Callable[[Tensor], Tensor]
"""A differentiable function of the relaxed action, `[*batch, group, choice] -> [*batch]`."""

_PAIR: dict[str, Any] = {"exact_on": "all", "pathwise": True, "one_hot": False, "noise": "relaxed", "evaluations": 3}


class _Scores(NamedTuple):
    """An action, the perturbed logits that it is the argmax of, and others drawn given it; no gradient."""

    action: Tensor
    free: Tensor
    tied: Tensor


def _draw(valid: Tensor, generator: Generator) -> _Scores:
    with torch.no_grad():
        free = perturbed(valid, None, generator)
        action = one_hot_of_largest(free)
        noise = exponential(valid.shape, generator=generator, device=valid.device)
        return _Scores(action, free, conditional_scores(valid, action, noise))


def _softmax_pullback(relaxed: Tensor, slope: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the slope with respect to the scores: J(relaxed) slope / temperature."""
    return relaxed * (slope - (relaxed * slope).sum(-1, keepdim=True)) / temperature


def _tied_pullback(valid: Tensor, scores: _Scores, slope: Tensor) -> Tensor:
    """Return the slope with respect to the logits of something whose slope at the tied scores is `slope`.

    From `conditional_scores`: the chosen score moves with logsumexp(logits); another one is −log(a + b) with a moved by
    its own logit and b by logsumexp(logits), in the shares w and 1 − w.
    """
    probs = torch.softmax(valid.to(slope.dtype), -1)
    # w = a / (a + b), where b = exp(−score of the chosen): one minus a ratio of exponentials of scores.
    top = (scores.action * scores.tied).sum(-1, keepdim=True)
    own = (1.0 - scores.action) * -torch.expm1(scores.tied - top)
    return own * slope + probs * ((1.0 - own) * slope).sum(-1, keepdim=True)


def _with_control_variate(
    logits: Tensor,
    value: Value,
    temperature: float | Tensor,
    mask: Tensor | None,
    generator: Generator,
    scale: float,
    control: Control | None,
) -> Estimate:
    """Return [f(D) − c(tied)] ∇log p(D) + ∇c(free) − ∇c(tied), where c = scale · value + control, at relaxed scores."""
    valid = mask_logits(logits, mask)
    held = valid.detach()
    scores = _draw(held, generator)
    action = scores.action.to(logits.dtype)
    result = value(action).detach()
    slopes, values = [], []
    for each in (scores.free, scores.tied):
        relaxed = torch.softmax(each / temperature, -1).detach()
        inside, slope = value_and_slope(value, relaxed.to(logits.dtype))
        inside, slope = scale * inside, scale * slope
        if control is not None:
            # Differentiable a second time, by the parameters of `control`.
            learned, pullback = torch.func.vjp(control, relaxed.to(logits.dtype))  # type: ignore[misc]
            inside, slope = inside + learned, slope + pullback(torch.ones_like(learned))[0]
        slopes.append(_softmax_pullback(relaxed, slope, temperature))
        values.append(inside)
    score = scores.action - torch.softmax(held, -1)
    gradient = (result - values[1])[..., None, None] * score + slopes[0] - _tied_pullback(held, scores, slopes[1])
    estimate = from_gradient(result, gradient, valid, action)
    return estimate if control is None else estimate._replace(auxiliary=gradient.square().sum((-2, -1)))


@register("rebar", **_PAIR, temperature="used", paper="arXiv:1703.07370")
def rebar(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    scale: float = 1.0,
) -> Estimate:
    """Sample a one-hot action; subtract from its score estimate that of the relaxed value, and add that back.

    Unbiased for every value function that is differentiable inside the simplex as well, at any temperature and scale.
    Its variance is low where the relaxed value resembles the real one.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called with a one-hot action and two relaxed ones.
        temperature: of the control variate, a number or a tensor that broadcasts to the logits.
        mask: True where a choice is valid.
        generator: source of the noise.
        scale: η of the control variate; 0 is `reinforce`.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Tucker, Mnih, Maddison, Lawson & Sohl-Dickstein 2017, arXiv:1703.07370, equation 7, in the categorical
    form of Grathwohl et al. 2017, arXiv:1711.00123, appendix B.
    """
    check_temperature(temperature)
    return _with_control_variate(logits, value, temperature, mask, generator, scale, None)


@register("relax", **_PAIR, temperature="used", learns=True, paper="arXiv:1711.00123")
def relax(
    logits: Float[Tensor, "*batch group choice"],
    value: Value,
    *,
    temperature: float | Tensor = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
    generator: Generator = None,
    control: Control | None = None,
) -> Estimate:
    """As `rebar`, with a learned function added to the control variate.

    Unbiased whatever `control` is. `Estimate.auxiliary` is the squared norm of the gradient estimate as a function of
    the parameters of `control`; minimising it minimises the variance. Without a `control` this is `rebar`.

    Args:
        logits: unnormalised log-probabilities, in nats.
        value: function of the action, differentiable; called with a one-hot action and two relaxed ones.
        temperature: of the control variate, a number or a tensor that broadcasts to the logits.
        mask: True where a choice is valid.
        generator: source of the noise.
        control: differentiable function `[*batch, group, choice] -> [*batch]` of the relaxed action, such as a network.

    Raises:
        ValueError: the temperature is not positive or not finite.

    Reference: Grathwohl, Choi, Wu, Roeder & Duvenaud 2017, arXiv:1711.00123, equations 7 and 8, and appendix B for
    categorical variables. Differs: the network is given the relaxed action instead of the scores, which are unbounded.
    """
    check_temperature(temperature)
    return _with_control_variate(logits, value, temperature, mask, generator, 1.0, control)
