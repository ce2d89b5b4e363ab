"""A batch of environments as tensors on one device.

An environment states its rules (`initial_state`, `transition`, `observe`); seeding, time limits and same-step autoreset
are imposed here, once. A step has fixed shapes, no host synchronisation and no branch on data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from gumbelrl.random import RandomStreams, derive_seed


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
        single_observation_space: of one environment.
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


class NativeEnv(BatchedEnv):
    """An environment of ours: the rules in a subclass, everything else here.

    A subclass sets the spaces, `max_episode_steps`, `num_random` (uniform numbers that a new state takes) and
    `num_step_random` (that a transition takes), and writes the three rules.
    """

    num_random: int = 0
    num_step_random: int = 0

    def __init__(
        self, num_envs: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs, self.device, self.dtype = num_envs, torch.device(device), dtype
        self.info = {}
        self.state: Tensor | None = None

    # Rules ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def initial_state(self, noise: Float[Tensor, "env random"]) -> Shaped[Tensor, "env *state"]:
        """Return the state that an episode starts in, from uniform numbers in (0, 1)."""

    @abstractmethod
    def transition(
        self, state: Shaped[Tensor, "env *state"], action: Tensor, noise: Float[Tensor, "env random"]
    ) -> tuple[Shaped[Tensor, "env *state"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        """Return the next state, the reward and whether the episode has terminated."""

    @abstractmethod
    def observe(self, state: Shaped[Tensor, "env *state"]) -> Shaped[Tensor, "env *shape"]:
        """Return what is seen of a state."""

    # Imposed --------------------------------------------------------------------------------------------------------

    def reset(self, seed: int | Sequence[int]) -> Shaped[Tensor, "env *shape"]:
        self.streams = RandomStreams(self.seeds(seed), device=self.device)
        self.elapsed: Int[Tensor, " env"] = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
        self.state = self.initial_state(self._uniform(self.num_random))
        return self.observe(self.state)

    def step(self, action: Tensor) -> Step:
        if self.state is None:
            raise RuntimeError("step was called before reset: call reset(seed) first")
        noise = self._uniform(self.num_random + self.num_step_random)
        state, reward, terminated = self.transition(self.state, action, noise[:, self.num_random :])
        self.elapsed = self.elapsed + 1
        if self.max_episode_steps is None:
            truncated = torch.zeros_like(terminated)
        else:
            truncated = (self.elapsed >= self.max_episode_steps) & ~terminated
        finished = terminated | truncated
        final_observation = self.observe(state)
        fresh = self.initial_state(noise[:, : self.num_random])
        self.state = torch.where(finished.view(-1, *[1] * (state.dim() - 1)), fresh, state)
        self.elapsed = self.elapsed * ~finished
        return Step(self.observe(self.state), reward, terminated, truncated, final_observation, self.info)

    def _uniform(self, count: int) -> Float[Tensor, "env random"]:
        """Draw in the width of the state, so that a float64 environment starts anywhere that gymnasium's would."""
        if count == 0:
            return torch.empty(self.num_envs, 0, device=self.device)
        return self.streams.uniform64(count) if self.dtype == torch.float64 else self.streams.uniform(count)

    def state_dict(self) -> dict[str, Tensor]:
        assert self.state is not None
        return {"state": self.state, "elapsed": self.elapsed, **self.streams.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.streams.load_state_dict({name: state[name] for name in ("key", "counter")})
        self.state, self.elapsed = state["state"].clone(), state["elapsed"].clone()
