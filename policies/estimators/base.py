"""What an estimator is: logits and a value function of the action in, a gradient out; and the registry of them."""

from __future__ import annotations

import inspect
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
        action: `[*batch, group, choice]`, what was evaluated; detached. For `exact`, the probabilities. Where several
            samples were taken, `[sample, *batch, group, choice]`.
        auxiliary: `[*batch]`, a loss of the parameters of a learned control variate, to be minimised beside; or None.
    """

    objective: Float[Tensor, "*batch"]
    action: Float[Tensor, "*batch group choice"]
    auxiliary: Float[Tensor, "*batch"] | None = None


@dataclass(frozen=True)
class Estimator:
    """An entry of `ESTIMATORS`: a function and what is declared, and tested, of it, at temperature 1.

    Attributes:
        exact_on: the value functions for which the expected gradient equals the gradient of E[value(one-hot action)]:
            all of them, those that are quadratic as well as multilinear, the multilinear ones (linear in each group),
            the linear ones (sums over groups), or none.
        pathwise: uses the slope of the value function, which must be differentiable.
        one_hot: the value function is evaluated at vertices only.
        noise: what is random: nothing, the one-hot samples alone, or more than their choice (relaxed or conditional
            noise, or samples that depend on each other).
        evaluations: evaluations of the value function for one estimate; K for one a choice.
        temperature: not used, used, or differentiable: the objective has a gradient with respect to it, so that it can
            be learned.
        learns: has a learned control variate, the option `control`, and returns `Estimate.auxiliary`.
        options: the names of what `function` takes beside the logits and the value function; found by `register`.
        summary: one line.
        paper: where it comes from.
    """

    name: str
    function: Callable[..., Estimate]
    exact_on: Literal["all", "quadratic", "multilinear", "linear", "none"]
    pathwise: bool
    one_hot: bool
    noise: Literal["none", "sample", "relaxed"]
    evaluations: int | str
    temperature: Literal["unused", "used", "differentiable"]
    summary: str
    paper: str
    learns: bool = False
    options: frozenset[str] = frozenset()

    def __call__(self, logits: Tensor, value: Value, *, num_samples: int | None = None, **options: Any) -> Estimate:
        """Return the estimate; `num_samples` of them, averaged, where one takes a single sample.

        Raises:
            ValueError: `num_samples` is below 1.
        """
        if num_samples is None:
            return self.function(logits, value, **options)
        if "num_samples" in self.options:
            return self.function(logits, value, num_samples=num_samples, **options)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        if self.noise == "none":
            return self.function(logits, value, **options)
        estimate = self.function(logits.expand(num_samples, *logits.shape), value, **options)
        auxiliary = None if estimate.auxiliary is None else estimate.auxiliary.mean(0)
        return Estimate(estimate.objective.mean(0), estimate.action, auxiliary)


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
        options = frozenset(inspect.signature(function).parameters) - {"logits", "value"}
        _REGISTERED[name] = Estimator(name=name, function=function, summary=summary, options=options, **declared)
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
        # Of the sum, since torch compares the shape of a gradient that it is given by SymPy, .4 s of an import.
        (slope,) = torch.autograd.grad(result.sum(), point, allow_unused=True)
    return result.detach(), torch.zeros_like(action) if slope is None else slope


def from_gradient(result: Tensor, gradient: Tensor, logits: Tensor, action: Tensor) -> Estimate:
    """Return the estimate whose gradient with respect to `logits` is `gradient`, both `[*batch, group, choice]`."""
    return Estimate(_carry(logits, result.detach(), gradient.detach()), action.detach())


def log_prob(logits: Tensor, action: Tensor) -> Float[Tensor, "*batch"]:
    """Return the log-probability of a one-hot action, summed over groups."""
    return (torch.log_softmax(logits, -1) * action).sum((-2, -1))


def pathwise(value: Value, action: Tensor, path: Tensor) -> Estimate:
    """Evaluate at `action`, send the slope there back through `path`.

    Args:
        action: where the value function is evaluated, `[*batch, group, choice]`.
        path: same shape, a function of the logits; the estimate is the slope at `action` times its derivative.
    """
    result, slope = value_and_slope(value, action)
    return Estimate(_carry(path, result, slope), action.detach())


def _carry(path: Tensor, result: Tensor, slope: Tensor) -> Tensor:
    """Return `result` with `slope` for its gradient with respect to `path`."""
    if torch.compiler.is_compiling():
        # path − path is zero forward and carries the gradient back; the compiler fuses what that takes.
        return result + (slope * (path - path.detach())).sum((-2, -1))
    return _Carry.apply(path, result, slope)  # type: ignore[no-untyped-call]


class _Carry(torch.autograd.Function):
    """`result` forward; backward the slope goes to `path`: one operation where arithmetic takes four."""

    @staticmethod
    def forward(ctx: Any, path: Tensor, result: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.dtype = path.dtype
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (gradient[..., None, None] * slope).to(ctx.dtype), None, None
