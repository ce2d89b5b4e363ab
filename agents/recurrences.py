"""First-order linear recurrences over time, for graphs that are compiled."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def backward_recurrence(
    base: Float[Tensor, "time *batch"], carry: Float[Tensor, "time *batch"]
) -> Float[Tensor, "time *batch"]:
    """Return x with x_t = base_t + carry_t x_{t+1} and 0 beyond the end, in log2(time) passes instead of time steps.

    Each pass doubles how far ahead an element has looked. A compiler fuses a pass to a loop; unrolled, the steps of a
    long rollout would take it minutes.

    Reference: Hillis & Steele 1986, "Data parallel algorithms"; for recurrences, Blelloch 1990, "Prefix sums and their
    applications", section 1.4.
    """
    shift, time = 1, base.shape[0]
    while shift < time:
        base = torch.cat([torch.addcmul(base[:-shift], carry[:-shift], base[shift:]), base[-shift:]])
        carry = torch.cat([carry[:-shift] * carry[shift:], carry[-shift:]])
        shift *= 2
    return base
