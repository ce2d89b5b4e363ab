"""What an estimator is: logits and a value function of the action in, a gradient out; and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Value: TypeAlias = Callable[[Tensor], Tensor]
"""A differentiable function of the action, `[*sample, *batch, group, choice] -> [*sample, *batch]`.

It takes extra axes in front of the batch. Where it has an attribute `choice_values` `[*batch, group, choice]`, its
value is the sum over groups of the values chosen, and estimators may use that.
"""


class Estimate(NamedTuple):
    """An estimate of E[value(action)] and of its gradient.

    Attributes:
        objective: `[*batch]`, to be maximised; its gradient with respect to the logits is the estimate.
        action: `[*batch, group, choice]`, what was evaluated; detached. For `exact`, the probabilities.
    """

    objective: Float[Tensor, "*batch"]
    action: Float[Tensor, "*batch group choice"]


@dataclass(frozen=True)
class Estimator:
    """An entry of `ESTIMATORS`: a function and what is declared, and tested, of it.

    Attributes:
        exact_on: the value functions for which the expected gradient equals the gradient of E[value(one-hot action)]:
            all of them, the multilinear ones (linear in each group), those that are quadratic as well, or none.
        pathwise: uses the slope of the value function.
        one_hot: the value function is evaluated at vertices only.
        evaluations: evaluations of the value function for one estimate; K for one a choice.
        summary: one line.
        paper: where it comes from.
    """

    name: str
    function: Callable[..., Estimate]
    exact_on: Literal["all", "quadratic", "multilinear", "none"]
    pathwise: bool
    one_hot: bool
    evaluations: int | str
    summary: str
    paper: str

    def __call__(self, logits: Tensor, value: Value, **options: Any) -> Estimate:
        return self.function(logits, value, **options)


_REGISTERED: dict[str, Estimator] = {}
ESTIMATORS: Mapping[str, Estimator] = _REGISTERED


def register(name: str, **declared: Any) -> Callable[[Callable[..., Estimate]], Callable[..., Estimate]]:
    """Register the decorated function as the estimator `name`; see `Estimator` for what to declare.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(function: Callable[..., Estimate]) -> Callable[..., Estimate]:
        if name in _REGISTERED:
            raise ValueError(f"an estimator {name!r} is registered already")
        summary = (function.__doc__ or name).strip().splitlines()[0]
        _REGISTERED[name] = Estimator(name=name, function=function, summary=summary, **declared)
        return function

    return decorate


@contextmanager
def temporary_registration() -> Iterator[None]:
    """Forget, at the end, what was registered inside."""
    before = dict(_REGISTERED)
    try:
        yield
    finally:
        _REGISTERED.clear()
        _REGISTERED.update(before)


def value_and_slope(value: Value, action: Tensor) -> tuple[Tensor, Tensor]:
    """Return value(action) and its slope there, both detached: nothing flows into the parameters of `value`."""
    point = action.detach()
    if torch.compiler.is_compiling():
        result, pullback = torch.func.vjp(value, point)  # type: ignore[misc]
        (slope,) = pullback(torch.ones_like(result))
        return result.detach(), slope.detach()
    with torch.enable_grad():
        point = point.requires_grad_()
        result = value(point)
        (slope,) = torch.autograd.grad(result.sum(), point, allow_unused=True)
    return result.detach(), torch.zeros_like(action) if slope is None else slope


def pathwise(value: Value, action: Tensor, path: Tensor) -> Estimate:
    """Evaluate at `action`, send the slope there back through `path`.

    Args:
        action: where the value function is evaluated, `[*batch, group, choice]`.
        path: same shape, a function of the logits; the estimate is the slope at `action` times its derivative.
    """
    result, slope = value_and_slope(value, action)
    # path − path is zero forward and carries the gradient back.
    objective = result + (slope * (path - path.detach())).sum((-2, -1))
    return Estimate(objective, action.detach())
