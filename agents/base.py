"""What the loop and the evaluation ask of an agent, whatever it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.agents.distributed.group import Group
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ActionLayout, CategoricalPolicy
from gumbelrl.policies.temperature import Schedule


class AgentConfig(Protocol):
    """What the settings of every agent have; a frozen dataclass with defaults for all fields."""

    @property
    def num_envs(self) -> int:
        """Environments of each member."""

    @property
    def rollout_steps(self) -> int:
        """Steps of each environment between updates."""

    @property
    def diagnostics_interval(self) -> int:
        """Rollouts between calls of `diagnose`; 0 for none."""


class Agent(Protocol):
    """M members that learn side by side. Every tensor leads with `member`, rollouts with `time` and then `member`."""

    @property
    def config(self) -> AgentConfig:
        """Settings, the same for all members."""

    @property
    def layout(self) -> ActionLayout:
        """The action space."""

    @property
    def perception(self) -> Perception | None:
        """What the loop puts observations through before `policy`: normalisation, memory; None for nothing."""

    def policy(
        self,
        observation: Float[Tensor, "member batch feature"],
        mask: Bool[Tensor, "member batch group choice"] | None,
    ) -> CategoricalPolicy:
        """Return the policy in given states: what acts in training and what is evaluated, sampled or greedy."""

    def rollout_noise(self) -> Float[Tensor, "time member env group choice"]:
        """Return what is added to the logits of a rollout before the largest is taken: Gumbel noise, to sample.

        Exploration beyond sampling is part of it: noise so large that logits do not matter chooses uniformly.
        """

    def set_progress(self, progress: float, *, temperature: float | Tensor) -> None:
        """Set, before each rollout, what depends on how much of the run, from 0 to 1, is over.

        Args:
            temperature: of all members, or `[member]`.
        """

    def update(self, rollout: Transition) -> dict[str, Tensor]:
        """Learn from a rollout; return metrics on the device, each `[member]`.

        The same names at every call, `policy/probs` `[member, batch, group, choice]` among them; NaN where there is
        nothing to say yet. Fixed shapes and no host synchronisation.
        """

    def diagnose(self, rollout: Transition) -> dict[str, Tensor]:
        """Measure, without changing what is learned, how the policy's gradient is estimated; metrics, each `[member]`.

        An agent that has nothing to measure returns nothing.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly from here: nested dictionaries of tensors and of what JSON takes.

        Its tensors may be those that the agent goes on changing.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, bit for bit."""


class AgentFactory(Protocol):
    """How an agent is made; an entry of `AGENTS` holds one, usually the class itself."""

    def __call__(
        self,
        config: Any,
        *,
        layout: ActionLayout,
        num_features: int,
        seeds: Sequence[int],
        estimator: str,
        critic: str,
        temperature: Schedule,
        observation_space: spaces.Space | None,
        device: torch.device | str,
        group: Group,
    ) -> Agent:
        """Return the agent.

        Args:
            config: its settings.
            layout: the action space.
            num_features: length of an observation vector.
            seeds: one a member; decides its initial weights and all its noise.
            estimator: a name in `gumbelrl.policies.ESTIMATORS`.
            critic: a name in `gumbelrl.agents.critics.CRITICS`.
            temperature: a schedule; of a learned one the agent makes the parameters.
            observation_space: of one environment, for networks that see its shape and replay that keeps its dtype.
            device: where everything lives.
            group: the processes that have the environments of every member between them; `config` is of this one's.
                What the agent learns from is averaged over them, so that all have the same networks.
        """
