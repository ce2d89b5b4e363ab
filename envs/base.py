"""A batch of environments as tensors on one device: what agents, views and checks rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from gumbelrl.random import derive_seed


class Step(NamedTuple):
    """What a step gives, `[env, ...]`.

    Attributes:
        observation: after the step, or the first of the next episode where this one ended.
        reward: float32.
        terminated: the task ended; nothing follows.
        truncated: the episode was cut, by the time limit for one; bootstrap from `final_observation`.
        final_observation: after the step, before any reset; equal to `observation` where the episode goes on.
        info: tensors `[env, ...]`; `action_mask` (True where valid) belongs to `observation`, and
            `final_action_mask` to `final_observation`.
    """

    observation: Shaped[Tensor, "env *shape"]
    reward: Float[Tensor, " env"]
    terminated: Bool[Tensor, " env"]
    truncated: Bool[Tensor, " env"]
    final_observation: Shaped[Tensor, "env *shape"]
    info: dict[str, Tensor]


class BatchedEnv(ABC):
    """`num_envs` environments stepped together.

    Attributes:
        num_envs: how many.
        device: where every tensor is.
        single_observation_space: of one environment; `Box`, or `Discrete` (observations are then int64 `[env]`).
        single_action_space: of one environment.
        max_episode_steps: the time limit, None without one.
        info: that of the last `reset` or `step`.
    """

    num_envs: int
    device: torch.device
    single_observation_space: spaces.Space
    single_action_space: spaces.Space
    max_episode_steps: int | None
    info: dict[str, Tensor]

    @abstractmethod
    def reset(self, seed: int | Sequence[int]) -> Shaped[Tensor, "env *shape"]:
        """Start every environment anew and return the observations.

        Args:
            seed: one an environment, or one from which a seed for each is derived. Environment i with seed s does what
                a single environment with seed s does.
        """

    @abstractmethod
    def step(self, action: Any) -> Step:
        """Act in every environment; those whose episode ends start another in the same step."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return all that is needed to go on exactly from here."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """Let go of what is held outside Python."""

    def seeds(self, seed: int | Sequence[int]) -> list[int]:
        """Return one seed an environment.

        Raises:
            ValueError: a sequence of another length.
        """
        if isinstance(seed, int):
            return [derive_seed(seed, index) for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"reset needs one seed or {self.num_envs} of them, got {len(seed)}")
        return [int(each) for each in seed]
