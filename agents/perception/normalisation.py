"""Observations with mean 0 and variance 1, by the statistics of what each member has seen."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.agents.distributed.group import ALONE, Group

EPSILON = 1e-8
LARGEST = 10.0  # as in OpenAI's baselines and stable-baselines3


class ObservationNormaliser(nn.Module):
    """Running mean and variance of every feature, for each member from its own observations alone.

    Statistics are merged a rollout at a time by the formula of Chan, Golub & LeVeque 1983, "Algorithms for computing
    the sample variance", equation 2.1, in float64; before the first, observations pass unchanged. They change only in
    `merge`, so that evaluation, which never calls it, sees them frozen.

    Args:
        num_members: M.
        num_features: length of an observation vector.
        group: the processes whose observations count as one rollout, the same number from each.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(
        self, num_members: int, num_features: int, *, device: torch.device | str = "cpu", group: Group = ALONE
    ) -> None:
        super().__init__()
        self.group = group
        shape = (num_members, 1, num_features)
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64, device=device))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64, device=device))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64, device=device))

    def forward(self, observation: Float[Tensor, "*time member batch feature"]) -> Tensor:
        """Return (observation − mean) / deviation, cut off at ±10. A feature that never varied becomes 0."""
        mean, scale = self.mean.float(), torch.rsqrt(self.variance + EPSILON).float()
        return ((observation - mean) * scale).clamp(-LARGEST, LARGEST)

    @torch.no_grad()
    def merge(self, observation: Float[Tensor, "time member env feature"]) -> None:
        """Add the observations of a rollout to the statistics."""
        rows = observation.movedim(1, 0).flatten(1, 2).double()
        added = float(rows.shape[1] * self.group.size)
        own_mean = rows.mean(1, keepdim=True)
        mean = self.group.mean(own_mean)
        variance = self.group.mean(rows.var(1, keepdim=True, correction=0) + (own_mean - mean).square())
        total = self.count + added
        share, shift = added / total, mean - self.mean
        # Before anything was counted, share is 1: the variance of 1 that was assumed until then drops out.
        merged = self.variance * (1.0 - share) + variance * share + shift.square() * share * (1.0 - share)
        self.variance.copy_(merged)
        self.mean.add_(shift * share)
        self.count.copy_(total)
