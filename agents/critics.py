"""Critics: what an agent believes a one-hot action is worth in a state, `[*sample, member, batch]`.

The form decides what slope an estimator is given. `linear` scores each choice and sums over groups: multilinear in
the action, so its slope at a vertex is a difference between vertices. `multilinear` multiplies over groups: joint
effects of factored actions, and still linear in each group. `joint` is a network of (observation, action): it can
express any joint effect, but its slope at a vertex is not a difference between vertices.
`interpolated` is a joint network that is also trained between the policy's probabilities and the action taken, so
that its slopes mean something inside the simplex (He, Mahmood & White 2025, arXiv:2506.16608, section 4).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.agents.networks import StackedMLP
from gumbelrl.agents.perception.torsos import make_encoder, make_torso
from gumbelrl.policies import ActionLayout, CategoricalPolicy, Value
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

    def __init__(self, streams: RandomStreams, num_features: int, layout: ActionLayout, **network: Any) -> None:
        super().__init__()
        self.shape = (layout.num_groups, layout.num_choices)
        self.network = make_torso(streams, num_features, self.shape[0] * self.shape[1], **network)

    def forward(self, observation: Tensor) -> ChoiceValues:
        return ChoiceValues(self.network(observation).unflatten(-1, self.shape))


class MultilinearCritic(Critic):
    """A sum of `rank` products over groups: Σ_r w_r(s) Π_g u_rg(s)·a_g.

    The factors u start around 1, so that neither the values nor their slopes vanish with the number of groups.
    """

    multilinear = True
    rank = 8

    def __init__(self, streams: RandomStreams, num_features: int, layout: ActionLayout, **network: Any) -> None:
        super().__init__()
        self.shape = (self.rank, layout.num_groups, layout.num_choices)
        outputs = self.rank * (1 + layout.num_groups * layout.num_choices)
        self.network = make_torso(streams, num_features, outputs, **network)

    def forward(self, observation: Tensor) -> Value:
        outputs = self.network(observation)
        weight = outputs[..., : self.rank] * self.rank**-0.5
        factors = 1.0 + outputs[..., self.rank :].unflatten(-1, self.shape) * self.shape[1] ** -0.5

        def value(action: Tensor) -> Tensor:
            chosen = (factors * action.unsqueeze(-3)).sum(-1)  # [*sample, member, batch, rank, group]
            return (weight * _product(chosen)).sum(-1)

        return value


def _product(x: Float[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
    """Return the product over the last axis; the backward pass of `torch.prod` looks for zeros on the host."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = torch.cat([x[..., :half] * x[..., half : 2 * half], x[..., 2 * half :]], dim=-1)
    return x.squeeze(-1)


class JointCritic(Critic):
    """A network of the observation and the one-hot action side by side."""

    def __init__(self, streams: RandomStreams, num_features: int, layout: ActionLayout, **network: Any) -> None:
        super().__init__()
        self.encoder, num_seen = make_encoder(streams, num_features, **network)
        rest = {name: option for name, option in network.items() if name not in ("torso", "space", "normalised")}
        self.network = StackedMLP(streams, num_seen + layout.num_groups * layout.num_choices, 1, **rest)

    def forward(self, observation: Tensor) -> Value:
        seen = self.encoder(observation)

        def value(action: Tensor) -> Tensor:
            flat = action.flatten(-2)
            inputs = torch.cat([seen.expand(*flat.shape[:-1], -1), flat.to(seen.dtype)], dim=-1)
            return self.network(inputs).squeeze(-1)

        return value


class InterpolatedCritic(JointCritic):
    """The joint network, fitted between the policy's probabilities and the action taken."""

    interpolates = True


CRITICS: dict[str, Callable[..., Critic]] = {
    "linear": LinearCritic,
    "multilinear": MultilinearCritic,
    "joint": JointCritic,
    "interpolated": InterpolatedCritic,
}


def make_critic(
    name: str,
    streams: RandomStreams,
    num_features: int,
    layout: ActionLayout,
    *,
    hidden: Sequence[int],
    **network: Any,
) -> Critic:
    """Return the critic called `name`, one network a member; `network` are further options of `make_torso`.

    Raises:
        ValueError: no critic has that name.
    """
    if name not in CRITICS:
        raise ValueError(f"unknown critic {name!r}; choose one of {', '.join(CRITICS)}")
    return CRITICS[name](streams, num_features, layout, hidden=hidden, **network)


class Ensemble(nn.Module):
    """`size` critics of one form for each member, stacked so that together they cost one kernel a layer.

    Args:
        name: in `CRITICS`.
        streams: one a critic: those of the first member, then those of the second, …
        network: options of `make_torso`.
    """

    def __init__(
        self,
        name: str,
        streams: RandomStreams,
        num_features: int,
        layout: ActionLayout,
        *,
        size: int,
        hidden: Sequence[int],
        **network: Any,
    ) -> None:
        super().__init__()
        self.size = size
        self.critic = make_critic(name, streams, num_features, layout, hidden=hidden, **network)

    def forward(self, observation: Float[Tensor, "member batch feature"]) -> EnsembleValue:
        return EnsembleValue(self.critic, self.critic(_repeat(observation, self.size)), self.size)


class EnsembleValue:
    """The value functions of an ensemble in given states: all of them, the first, or the lowest."""

    def __init__(self, critic: Critic, value: Value, size: int) -> None:
        self.critic, self.value, self.size = critic, value, size
        values = getattr(value, "choice_values", None)
        self.choice_values = None if values is None else values.unflatten(0, (-1, size))

    def all(
        self, action: Float[Tensor, "*sample member batch group choice"]
    ) -> Float[Tensor, "*sample member critic batch"]:
        if self.choice_values is not None:
            return (self.choice_values * action.unsqueeze(-4)).sum((-2, -1))
        repeated = _repeat(action, self.size, axis=-4)
        return self.value(repeated).unflatten(-2, (-1, self.size))

    def first(self) -> Value:
        """Return the value function of each member's first critic."""
        if self.choice_values is not None:
            return ChoiceValues(self.choice_values[:, 0])
        return lambda action: self.all(action)[..., 0, :]

    def lowest(self, probs: Float[Tensor, "member batch group choice"]) -> Value:
        """Return the lower of the value functions (Fujimoto et al. 2018, arXiv:1802.09477, equation 10).

        Where they are sums over several groups, their minimum is not such a sum, and could not be averaged over all
        actions; there it is, in each state, the one with the lower mean under `probs`.
        """
        if self.size == 1:
            return self.first()
        values = self.choice_values
        if values is None:
            return lambda action: self.all(action).amin(-2)
        if values.shape[-2] == 1:
            return ChoiceValues(values.amin(1))
        with torch.no_grad():
            lowest = self.all(probs).argmin(1)[:, None, :, None, None].expand(-1, 1, -1, *values.shape[-2:])
        return ChoiceValues(values.gather(1, lowest).squeeze(1))

    def expected_lowest(self, policy: CategoricalPolicy, generator: RandomStreams) -> Float[Tensor, "member batch"]:
        """Return the lower of the values of following `policy`; see `lowest` and `Critic.expected_value`.

        An action is drawn only where the critics are neither multilinear nor interpolated.
        """
        if self.choice_values is not None and self.choice_values.shape[-2] == 1:
            return (self.choice_values.amin(1) * policy.probs).sum((-2, -1))
        vertices_only = not (self.critic.multilinear or self.critic.interpolates)
        return self.all(policy.sample(generator=generator) if vertices_only else policy.probs).amin(-2)


def _repeat(x: Tensor, size: int, *, axis: int = 0) -> Tensor:
    """Return `x` with each entry of `axis` `size` times in a row."""
    if size == 1:
        return x
    axis %= x.dim()
    copies = x.unsqueeze(axis + 1)
    return copies.expand(*copies.shape[: axis + 1], size, *copies.shape[axis + 2 :]).flatten(axis, axis + 1)
