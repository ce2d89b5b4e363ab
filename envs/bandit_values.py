"""Value functions of one-step problems: differentiable in the one-hot action, with a known best action.

Each is a polynomial in the one-hot action `x [..., group, choice]` and defined everywhere, off the vertices too, so
that every estimator can be run on it directly. Drawn values are rounded to multiples of 2^-12: sums below 4,096 are
then exact in float32, whatever the order of summation, the device or the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gumbelrl.random import RandomStreams, derive_seed

RESOLUTION = 2.0**-12


class BanditValue(ABC):
    """The value of an action of `num_groups` × `num_choices`.

    Attributes:
        best: a best action, its choice in each group.
        best_value: the value of it.
    """

    num_groups: int
    num_choices: int
    best: Int[Tensor, " group"]
    best_value: float

    @abstractmethod
    def __call__(self, action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch"]:
        """Return the value of any point: a one-hot action, probabilities, a relaxed sample."""

    @abstractmethod
    def at(self, action: Int[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
        """Return the value of a vertex, by look-up; equal to the value of its one-hot form."""


class SeparableValue(BanditValue):
    """f(x) = Σ_g r_g·x_g + c Σ_g (1 − ‖x_g‖²).

    With c = 0 it is linear. The second term vanishes at every vertex, so that c changes no reward and no optimum, only
    the slopes there: ∂f/∂x_g = r_g − 2c x_g.

    Attributes:
        choice_values: r, by which a vertex is worth the sum of what it chooses; estimators that enumerate use it.
    """

    def __init__(self, rewards: Float[Tensor, "group choice"], curvature: float = 0.0) -> None:
        check_exact(rewards)
        self.num_groups, self.num_choices = rewards.shape
        self.rewards, self.choice_values, self.curvature = rewards, rewards, curvature
        self.best = rewards.argmax(-1)
        self.best_value = float(rewards.double().max(-1).values.sum())
        self._offset = torch.arange(self.num_groups, device=rewards.device) * self.num_choices
        self._flat = rewards.flatten()

    def __call__(self, action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch"]:
        value = (self.rewards * action).sum((-2, -1))
        if self.curvature == 0.0:
            return value
        return value + self.curvature * (self.num_groups - action.square().sum((-2, -1)))

    def at(self, action: Int[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
        return self._flat[action + self._offset].sum(-1)


class ParityValue(BanditValue):
    """1 where the number of ones is odd, `even_reward` elsewhere.

    Between the vertices it is the multilinear extension, the expectation under independent bits: with
    s = Π_i (x_i0 − x_i1), which is 1 for even and −1 for odd numbers, f = (1 − s)/2 + even_reward (1 + s)/2.
    """

    def __init__(self, num_bits: int, even_reward: float = 0.0, *, device: torch.device | str = "cpu") -> None:
        self.num_groups, self.num_choices, self.even_reward = num_bits, 2, even_reward
        self.best = (torch.arange(num_bits, device=device) == 0).to(torch.int64)
        self.best_value = 1.0
        self._outcomes = torch.tensor([even_reward, 1.0], device=device)

    def __call__(self, action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch"]:
        sign = (action[..., 0] - action[..., 1]).prod(-1)
        return 0.5 * (1.0 + self.even_reward) - 0.5 * (1.0 - self.even_reward) * sign

    def at(self, action: Int[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
        return self._outcomes[action.sum(-1) & 1]


class ChainValue(BanditValue):
    """f(x) = Σ_g r_g·x_g + Σ_g x_g' W_g x_{g+1}: multilinear, neighbouring groups interact.

    The best action is exact by dynamic programming along the chain (Viterbi 1967), groups × choices² operations.
    """

    def __init__(
        self, rewards: Float[Tensor, "group choice"], interactions: Float[Tensor, "link choice choice"]
    ) -> None:
        check_exact(rewards, interactions)
        self.num_groups, self.num_choices = rewards.shape
        self.rewards, self.interactions = rewards, interactions
        # A link's table takes in the reward of the choice that it leads to, the first also that of where it starts: a
        # vertex is then one look-up a link.
        links = interactions + rewards[1:].unsqueeze(1)
        links = torch.cat((links[:1] + rewards[0].unsqueeze(-1), links[1:]))
        self.best, self.best_value = best_chain(links)
        self._flat = links.flatten()
        self._offset = torch.arange(self.num_groups - 1, device=rewards.device) * self.num_choices**2

    def __call__(self, action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch"]:
        here, following = action[..., :-1, :], action[..., 1:, :]
        pulled = (here.unsqueeze(-2) @ self.interactions).squeeze(-2)
        return (self.rewards * action).sum((-2, -1)) + (pulled * following).sum((-2, -1))

    def at(self, action: Int[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
        return self._flat[action[..., :-1] * self.num_choices + action[..., 1:] + self._offset].sum(-1)


def best_chain(links: Float[Tensor, "link choice choice"]) -> tuple[Int[Tensor, " group"], float]:
    """Return the path with the largest sum of `links[g, x_g, x_{g+1}]` and that sum (Viterbi, in float64)."""
    score = links.new_zeros(links.shape[1], dtype=torch.float64)
    sources = []
    for link in links.double():
        score, source = (score.unsqueeze(-1) + link).max(0)
        sources.append(source)
    path = [score.argmax()]
    for source in reversed(sources):
        path.append(source[path[-1]])
    return torch.stack(path[::-1]), float(score.max())


def round_exactly(values: Tensor) -> Float[Tensor, "*shape"]:
    """Return float32 multiples of `RESOLUTION`."""
    return ((values / RESOLUTION).round() * RESOLUTION).to(torch.float32)


def draw_normal(seed: int, purpose: str, *shape: int) -> Float[Tensor, "*shape"]:
    """Return standard normal numbers, drawn on the CPU so that they are the same wherever they are used."""
    return RandomStreams([derive_seed(seed, "bandit", purpose)]).normal(*shape)[0]


def set_gap(rewards: Float[Tensor, "group choice"], gap: float) -> Float[Tensor, "group choice"]:
    """Return the rewards with the best choice of each group moved to `gap` above the second."""
    second = rewards.topk(2, dim=-1).values[:, 1:]
    return rewards.scatter(-1, rewards.argmax(-1, keepdim=True), second + gap)


def check_exact(*tables: Float[Tensor, "part *choice"]) -> None:
    """Check that no sum of one entry of each part can leave the range in which float32 holds every multiple.

    Raises:
        ValueError: it can.
    """
    largest = sum(float(table.flatten(1).abs().max(-1).values.sum()) for table in tables)
    if largest >= 2**24 * RESOLUTION:
        raise ValueError(
            f"the values of this bandit could sum to {largest:.0f}, and from {2**24 * RESOLUTION:.0f} on float32 is "
            "not exact: use a smaller gap or interaction, or fewer groups"
        )
