"""Returns of a rollout: pure functions of tensors that lead with time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def lambda_returns(
    r_t: Float[Tensor, "time *batch"],
    v_tp1: Float[Tensor, "time *batch"],
    terminated_t: Bool[Tensor, "time *batch"],
    truncated_t: Bool[Tensor, "time *batch"],
    *,
    discount: float,
    trace: float,
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
    mix = trace * ~(terminated_t | truncated_t)
    base, carry = one_step - mix * bootstrap, discount * mix
    returns = [one_step[-1]]
    for t in range(r_t.shape[0] - 2, -1, -1):
        returns.append(torch.addcmul(base[t], carry[t], returns[-1]))
    return torch.stack(returns[::-1])
