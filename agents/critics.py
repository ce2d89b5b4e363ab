"""Critics: what an agent believes a one-hot action is worth in a state, `[*sample, member, batch]`.

The form decides what slope an estimator is given. `linear` scores each choice and sums over groups: multilinear in
the action, so its slope at a vertex is a difference between vertices. `joint` is a network of (observation, action):
it can express joint effects of factored actions, but its slope at a vertex is not a difference between vertices.
`interpolated` is a joint network that is also trained between the policy's probabilities and the action taken, so
that its slopes mean something inside the simplex (He, Mahmood & White 2025, arXiv:2506.16608, section 4).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.agents.networks import StackedMLP
from gumbelrl.policies import ActionLayout, Value
from gumbelrl.random import RandomStreams


class ChoiceValues:
    """The value function of a linear critic in given states: `choice_values` are `[member, batch, group, choice]`."""

    def __init__(self, choice_values: Float[Tensor, "member batch group choice"]) -> None:
        self.choice_values = choice_values

    def __call__(
        self, action: Float[Tensor, "*sample member batch group choice"]
    ) -> Float[Tensor, "*sample member batch"]:
        return (self.choice_values * action).sum((-2, -1))


class Critic(nn.Module):
    """`critic(observation)` is a function of the action; observations are `[member, batch, feature]` float32.

    `multilinear` says that the value is linear in each group's part of the action, so that its value at the
    probabilities is its expectation. `interpolates` says that it is trained inside the simplex as well.
    """

    multilinear = False
    interpolates = False

    @abstractmethod
    def forward(self, observation: Tensor) -> Value: ...

    def expected_value(self, value: Value, probs: Tensor, sampled: Tensor) -> Float[Tensor, "member batch"]:
        """Return the value of following the policy, `[member, batch]`.

        The value at `probs` where that means something: the exact expectation when multilinear, what was fitted when
        interpolated (arXiv:2506.16608, section 4). Elsewhere the value of one `sampled` action.
        """
        return value(probs if self.multilinear or self.interpolates else sampled)

    def training_action(self, action: Tensor, probs: Tensor, weight: Tensor) -> Tensor:
        """Return the action at which the critic is fitted to the return of the one-hot `action`.

        Args:
            action: one-hot `[member, batch, group, choice]`, the action taken.
            probs: the policy that took it, same shape.
            weight: uniform on (0, 1), `[member, batch]`.
        """
        if not self.interpolates:
            return action
        return torch.lerp(probs, action, weight[..., None, None])


class LinearCritic(Critic):
    """One value per choice, summed over groups."""

    multilinear = True

    def __init__(self, streams: RandomStreams, num_features: int, layout: ActionLayout, **network: object) -> None:
        super().__init__()
        self.shape = (layout.num_groups, layout.num_choices)
        self.network = StackedMLP(streams, num_features, self.shape[0] * self.shape[1], **network)  # type: ignore[arg-type]

    def forward(self, observation: Tensor) -> ChoiceValues:
        return ChoiceValues(self.network(observation).unflatten(-1, self.shape))


class JointCritic(Critic):
    """A network of the observation and the one-hot action side by side."""

    def __init__(self, streams: RandomStreams, num_features: int, layout: ActionLayout, **network: object) -> None:
        super().__init__()
        num_action_features = layout.num_groups * layout.num_choices
        self.network = StackedMLP(streams, num_features + num_action_features, 1, **network)  # type: ignore[arg-type]

    def forward(self, observation: Tensor) -> Value:
        def value(action: Tensor) -> Tensor:
            flat = action.flatten(-2)
            inputs = torch.cat([observation.expand(*flat.shape[:-1], -1), flat.to(observation.dtype)], dim=-1)
            return self.network(inputs).squeeze(-1)

        return value


class InterpolatedCritic(JointCritic):
    """The joint network, fitted between the policy's probabilities and the action taken."""

    interpolates = True


CRITICS: dict[str, Callable[..., Critic]] = {
    "linear": LinearCritic,
    "joint": JointCritic,
    "interpolated": InterpolatedCritic,
}


def make_critic(
    name: str, streams: RandomStreams, num_features: int, layout: ActionLayout, *, hidden: Sequence[int]
) -> Critic:
    """Return the critic called `name`, one network a member.

    Raises:
        ValueError: no critic has that name.
    """
    if name not in CRITICS:
        raise ValueError(f"unknown critic {name!r}; choose one of {', '.join(CRITICS)}")
    return CRITICS[name](streams, num_features, layout, hidden=hidden)
