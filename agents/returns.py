"""Returns and advantages of a rollout: pure functions of tensors that lead with time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.agents.recurrences import backward_recurrence


def lambda_returns(
    r_t: Float[Tensor, "time *batch"],
    v_tp1: Float[Tensor, "time *batch"],
    terminated_t: Bool[Tensor, "time *batch"],
    truncated_t: Bool[Tensor, "time *batch"],
    *,
    discount: float | Tensor,
    trace: float | Tensor,
) -> Float[Tensor, "time *batch"]:
    """Return G_t = r_t + γ [(1 − λ) v_{t+1} + λ G_{t+1}], bootstrapped where an episode or the rollout is cut.

    Args:
        r_t: reward of step t.
        v_tp1: value of the state that step t led to, before any reset.
        terminated_t: that state ends the episode: nothing follows it.
        truncated_t: the episode was cut there: `v_tp1` stands for what would have followed.
        discount: γ.
        trace: λ; 0 is one-step, 1 is the Monte-Carlo return.

    Reference: Sutton & Barto 2018, equation 12.20, in its action-value reading.
    """
    bootstrap = discount * v_tp1 * ~terminated_t
    one_step = r_t + bootstrap
    # Where the episode goes on, λ of the bootstrap is replaced by the return that follows.
    mix = trace * (~(terminated_t | truncated_t)).to(r_t.dtype)
    return _accumulate(one_step - mix * bootstrap, discount * mix, one_step[-1])


def generalised_advantages(
    r_t: Float[Tensor, "time *batch"],
    v_t: Float[Tensor, "time *batch"],
    v_tp1: Float[Tensor, "time *batch"],
    terminated_t: Bool[Tensor, "time *batch"],
    truncated_t: Bool[Tensor, "time *batch"],
    *,
    discount: float | Tensor,
    trace: float | Tensor,
) -> Float[Tensor, "time *batch"]:
    """Return A_t = δ_t + γ λ A_{t+1} with δ_t = r_t + γ v_{t+1} − v_t; the sum ends with the episode or the rollout.

    A_t + v_t is what `lambda_returns` gives, if v_{t+1} is the next row of `v_t` wherever the episode goes on.

    Args:
        r_t: reward of step t.
        v_t: value of the state that step t was taken in.
        v_tp1: value of the state that step t led to, before any reset.
        terminated_t: that state ends the episode: nothing follows it.
        truncated_t: the episode was cut there: `v_tp1` stands for what would have followed.
        discount: γ.
        trace: λ; 0 is one-step, 1 is the Monte-Carlo return less the value.

    Reference: Schulman et al. 2016, arXiv:1506.02438, equation 16.
    """
    delta = r_t + discount * v_tp1 * ~terminated_t - v_t
    carry = discount * trace * (~(terminated_t | truncated_t)).to(r_t.dtype)
    return _accumulate(delta, carry, delta[-1])


def _accumulate(
    base: Float[Tensor, "time *batch"], carry: Float[Tensor, "time *batch"], last: Float[Tensor, "*batch"]
) -> Float[Tensor, "time *batch"]:
    """Return x with x_t = base_t + carry_t x_{t+1}, where the last row is `last`."""
    if torch.compiler.is_compiling():
        return backward_recurrence(torch.cat([base[:-1], last.unsqueeze(0)]), carry)
    rows = [last]
    for t in range(base.shape[0] - 2, -1, -1):
        rows.append(torch.addcmul(base[t], carry[t], rows[-1]))
    return torch.stack(rows[::-1])
