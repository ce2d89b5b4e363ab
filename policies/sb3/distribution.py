"""The policy head as a `Distribution` of stable-baselines3, for its agents with a score function: PPO, A2C, TRPO.

The policy is softmax(logits / temperature), and an action is the largest of logits / temperature + Gumbel noise, which
is an exact sample of it. `log_prob` and `entropy` are those of the policy that was sampled, so that the ratio of PPO is
1 before the first gradient step, as it must be, so long as the temperature stays the same between acting and learning.
At temperature 1 it is stable-baselines3's own policy with another stream of random numbers.

Parameters have the shapes of stable-baselines3's: weights move between its policies and ours.
"""

from __future__ import annotations

from typing import Any, Self, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int, Shaped
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
)
from torch import Tensor

from gumbelrl.policies.action_layout import ActionLayout
from gumbelrl.policies.categorical import CategoricalPolicy
from gumbelrl.policies.sampling import perturbed
from gumbelrl.policies.sb3.temperature import ScheduledTemperature
from gumbelrl.policies.temperature import tempered


def flat_layout(space: spaces.Space) -> ActionLayout:
    """Return the layout of a space that stable-baselines3's score-function agents can act in.

    Raises:
        TypeError: it is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: it has several axes.
    """
    if getattr(space, "discrete_space", None) is not None:
        raise TypeError(
            f"{space} is what OneHotActions shows: PPO and A2C act on discrete spaces themselves, so leave the "
            "wrapper away (it is for SAC, TD3 and DDPG)"
        )
    layout = ActionLayout.from_space(space)
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise TypeError(
            f"stable-baselines3 has no agent for the action space {space}: flatten it to a MultiDiscrete with a "
            "gymnasium.ActionWrapper, or train with gumbelrl's own agents, which take Tuple and Dict"
        )
    if len(space.shape or ()) > 1:
        raise ValueError(f"stable-baselines3 takes actions of one axis, got {space}: flatten it to {layout.num_groups}")
    return layout


class GumbelDistribution:
    """What the distributions below share; a subclass is also stable-baselines3's of the same kind.

    Attributes:
        policy: the `CategoricalPolicy` `[batch, group, choice]`, set by `proba_distribution`.
    """

    layout: ActionLayout
    policy: CategoricalPolicy
    _logits: Tensor
    _temperature: ScheduledTemperature

    def attach(self, layout: ActionLayout, temperature: ScheduledTemperature) -> Self:
        """Set the action space and the temperature, which is read at each use."""
        self.layout, self._temperature = layout, temperature
        start = getattr(layout.space, "start", 0)
        self._offset = torch.as_tensor(np.asarray(start, dtype=np.int64)) if np.any(start) else None
        return self

    def grouped(self, logits: Float[Tensor, "batch output"]) -> Float[Tensor, "batch group choice"]:
        """Return what the network gave as groups of choices."""
        raise NotImplementedError

    def proba_distribution(self, action_logits: Float[Tensor, "batch output"]) -> Self:
        """Set the network's output, before the temperature."""
        self._logits = tempered(action_logits, self._temperature.value)
        self.layout = self.layout.to(action_logits.device)
        self.policy = CategoricalPolicy(self.grouped(self._logits), self.layout.merge_mask(None))
        return self

    def apply_masking(self, masks: Any | None) -> None:
        """Forbid choices: True or nonzero where valid, `[batch, sum of choice_counts]` or shaped; None allows all.

        Raises:
            ValueError: a mask of another size; or, when acting, one that allows nothing. When learning they have been
                looked at before, and reading them again would wait for the device.
        """
        valid = None
        if masks is not None:
            rows, groups = self._logits.shape[0], self.layout.num_groups
            flat = torch.as_tensor(masks, device=self._logits.device)
            valid = flat.reshape(rows, 1, -1) if groups == 1 else flat.reshape(rows, -1)
        mask = self.layout.merge_mask(valid)
        if masks is not None and mask is not None and not torch.is_grad_enabled():
            self.layout.check_mask(mask)
        self.policy = CategoricalPolicy(self.grouped(self._logits), mask)

    def log_prob(self, actions: Shaped[Tensor, "batch *variable"]) -> Float[Tensor, " batch"]:
        """Return the log-probability of environment actions, in nats, summed over variables."""
        index = actions.long().view(-1, self.layout.num_groups)
        if self._offset is not None:
            index = index - self._offset.to(index.device)
        return self.policy.log_probs.gather(-1, index.unsqueeze(-1)).flatten(1).sum(1)

    def entropy(self) -> Float[Tensor, " batch"]:
        """Return the entropy in nats, summed over variables."""
        return self.policy.entropy()

    def sample(self) -> Shaped[Tensor, "batch *variable"]:
        """Return environment actions, by the Gumbel-max trick."""
        with torch.no_grad():
            return self._action(perturbed(self.policy.logits, None, None).max(-1).indices)

    def mode(self) -> Shaped[Tensor, "batch *variable"]:
        """Return the most probable action; the first of those that tie."""
        return self._action(self.policy.logits.argmax(-1))

    def _action(self, index: Int[Tensor, "batch group"]) -> Shaped[Tensor, "batch *variable"]:
        if self._offset is not None:
            index = index + self._offset.to(index.device)
        return index[:, 0] if isinstance(self.layout.space, spaces.Discrete) else index


class CategoricalHead(GumbelDistribution):
    """For Discrete."""

    def grouped(self, logits: Float[Tensor, "batch choice"]) -> Float[Tensor, "batch 1 choice"]:
        return logits.unsqueeze(1)

    @property
    def distribution(self) -> torch.distributions.Categorical:
        """The same as `torch.distributions` has it."""
        return torch.distributions.Categorical(logits=self.policy.log_probs[:, 0], validate_args=False)


class MultiCategoricalHead(GumbelDistribution):
    """For MultiDiscrete: all variables in one operation, the ragged end masked."""

    def grouped(self, logits: Float[Tensor, "batch total"]) -> Float[Tensor, "batch group choice"]:
        layout = self.layout
        if layout.static_mask is None:
            return logits.unflatten(-1, (layout.num_groups, layout.num_choices))
        parts = logits.split(layout.choice_counts, dim=-1)
        rows = [torch.nn.functional.pad(part, (0, layout.num_choices - part.shape[-1])) for part in parts]
        return torch.stack(rows, dim=-2)

    @property
    def distribution(self) -> list[torch.distributions.Categorical]:
        """The same as `torch.distributions` has it, one a variable."""
        variables = zip(self.policy.log_probs.unbind(1), self.layout.choice_counts, strict=True)
        return [torch.distributions.Categorical(logits=row[:, :count], validate_args=False) for row, count in variables]


class BernoulliHead(GumbelDistribution):
    """For MultiBinary: one logit a variable, that of 1 against 0, as stable-baselines3 has it."""

    def grouped(self, logits: Float[Tensor, "batch variable"]) -> Float[Tensor, "batch variable 2"]:
        return torch.stack((torch.zeros_like(logits), logits), dim=-1)

    @property
    def distribution(self) -> torch.distributions.Bernoulli:
        """The same as `torch.distributions` has it."""
        return torch.distributions.Bernoulli(logits=self._logits, validate_args=False)

    def _action(self, index: Int[Tensor, "batch variable"]) -> Float[Tensor, "batch variable"]:
        return index.to(self._logits.dtype)


class GumbelCategoricalDistribution(CategoricalHead, CategoricalDistribution):  # type: ignore[misc, override]
    """The head as `CategoricalDistribution`."""


class GumbelMultiCategoricalDistribution(  # type: ignore[misc, override]
    MultiCategoricalHead, MultiCategoricalDistribution
):
    """The head as `MultiCategoricalDistribution`."""


class GumbelBernoulliDistribution(BernoulliHead, BernoulliDistribution):  # type: ignore[misc, override]
    """The head as `BernoulliDistribution`."""


AnyGumbelDistribution: TypeAlias = (
    GumbelCategoricalDistribution | GumbelMultiCategoricalDistribution | GumbelBernoulliDistribution
)


def make_gumbel_distribution(space: spaces.Space, temperature: ScheduledTemperature) -> AnyGumbelDistribution:
    """Return the head's distribution over a discrete action space, as `make_proba_distribution` does.

    Raises:
        TypeError: the space is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: it has several axes.
    """
    layout = flat_layout(space)
    made: AnyGumbelDistribution
    if isinstance(space, spaces.Discrete):
        made = GumbelCategoricalDistribution(int(space.n))
    elif isinstance(space, spaces.MultiDiscrete):
        made = GumbelMultiCategoricalDistribution(list(layout.choice_counts))
    else:
        made = GumbelBernoulliDistribution(layout.num_groups)
    return made.attach(layout, temperature)
