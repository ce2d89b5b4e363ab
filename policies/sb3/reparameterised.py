"""Any pathwise estimator as an action that a foreign loss can differentiate through.

An estimator takes a value function; the loss of stable-baselines3's SAC and TD3 takes an action and evaluates the
critic itself. So the action is made first, and once the loss has told the critic's slope there, the estimator is run
again, with the same noise, on the linear function that has this slope. For an estimator that evaluates the value
function at one action the gradient that comes out is the same, to the last operation.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators import ESTIMATORS, Estimator


def pathwise_estimators() -> list[str]:
    """Return the names of those that can be used in this way."""
    return [name for name, entry in ESTIMATORS.items() if entry.pathwise and entry.evaluations == 1]


def pathwise_estimator(name: str) -> Estimator:
    """Return an estimator that can be used in this way.

    Raises:
        ValueError: there is none of that name, or it needs the values of actions rather than a slope.
    """
    usable = ", ".join(pathwise_estimators())
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}: inside stable-baselines3's SAC, TD3 and DDPG use {usable}")
    if name not in pathwise_estimators():
        raise ValueError(
            f"estimator {name!r} needs the values of actions, and the losses of stable-baselines3's own SAC, TD3 and "
            f"DDPG tell a policy only the critic's slope at one action: use {usable}, or GumbelSAC, GumbelTD3 and "
            "GumbelDDPG of gumbelrl.agents.sb3, which take every estimator"
        )
    return ESTIMATORS[name]


def reparameterised(
    logits: Float[Tensor, "*batch group choice"],
    estimator: Estimator,
    *,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*batch group choice"] | None = None,
) -> Float[Tensor, "*batch group choice"]:
    """Return the action that an estimator evaluates, through which a loss reaches the logits as the estimator has it.

    Noise comes from torch's global generator.

    Args:
        logits: unnormalised log-probabilities, in nats.
        estimator: one of `pathwise_estimators()`.
        temperature: of the estimator.
        mask: True where a choice is valid.
    """
    return _Reparameterised.apply(logits, estimator, temperature, mask)  # type: ignore[no-untyped-call]


def _noise_state(device: torch.device) -> Tensor:
    """Return where torch's global generator of a device is; on CUDA too it is read without waiting."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0].get_state()
    return torch.get_rng_state()


class _Reparameterised(torch.autograd.Function):
    """Forward the estimator's action; backward what the estimator makes of the slope there."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, estimator: Estimator, temperature: float, mask: Tensor | None) -> Tensor:
        ctx.noise_state = _noise_state(logits.device) if logits.requires_grad else None
        ctx.estimator, ctx.options = estimator, {"temperature": temperature, "mask": mask}
        ctx.save_for_backward(logits)
        # Which function it is does not matter here: the action does not depend on it.
        return estimator(logits.detach(), lambda action: action.sum((-2, -1)), **ctx.options).action

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        (logits,) = ctx.saved_tensors
        generator = torch.Generator(logits.device)
        generator.set_state(ctx.noise_state)
        with torch.enable_grad():
            point = logits.detach().requires_grad_()
            estimate = ctx.estimator(
                point, lambda action: (action * slope).sum((-2, -1)), generator=generator, **ctx.options
            )
            (gradient,) = torch.autograd.grad(estimate.objective.sum(), point)
        return gradient, None, None, None
