"""Choices that are not valid: probability exactly zero, gradient exactly zero, no NaN."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mask_logits(
    logits: Float[Tensor, "*batch group choice"], mask: Bool[Tensor, "*batch group choice"] | None
) -> Float[Tensor, "*batch group choice"]:
    """Return logits whose invalid choices (mask False) have a probability of exactly zero.

    The fill is a quarter of the smallest finite number, not −inf: p·log p is then 0 rather than NaN, forward and
    backward, and noise or a division by a temperature above 1/4 leaves it finite; it underflows to probability zero
    beside any logit that is not itself that small.
    """
    if mask is None:
        return logits
    return torch.where(mask, logits, torch.finfo(logits.dtype).min / 4)
