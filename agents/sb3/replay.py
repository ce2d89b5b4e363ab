"""SB3's replay buffers with masks beside each transition: where the environment says them, and not the observation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor

from gumbelrl.agents.sb3.masks import MASK

Masks = Bool[np.ndarray, "env total"]


class MaskedSamples(NamedTuple):
    """SB3's `ReplayBufferSamples` and masks `[batch, sum of choices]`."""

    observations: Tensor | TensorDict
    actions: Tensor
    next_observations: Tensor | TensorDict
    dones: Tensor
    rewards: Tensor
    discounts: Tensor | None
    masks: Tensor
    next_masks: Tensor


class MaskedReplayBuffer(ReplayBuffer):
    """`ReplayBuffer` and `NStepReplayBuffer` in one, with the masks of a transition's start and end.

    Set `pending` to both masks before each `add`.

    Args:
        num_mask: length of a mask, the sum of the numbers of choices.
        n_steps: n of the n-step returns.
        gamma: γ of the n-step returns.
    """

    pending: tuple[Masks, Masks]

    def __init__(self, *args: Any, num_mask: int, n_steps: int = 1, gamma: float = 0.99, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if n_steps > 1 and self.optimize_memory_usage:
            raise ValueError("n_steps > 1 needs optimize_memory_usage=False, as in SB3's NStepReplayBuffer")
        self.n_steps, self.gamma = n_steps, gamma
        self.masks = np.ones((self.buffer_size, self.n_envs, num_mask), dtype=bool)
        self.next_masks = np.ones((self.buffer_size, self.n_envs, num_mask), dtype=bool)

    def add(self, *args: Any, **kwargs: Any) -> None:
        position = self.pos
        super().add(*args, **kwargs)
        self.masks[position], self.next_masks[position] = self.pending

    def _get_samples(  # type: ignore[override]
        self, batch_inds: Int[np.ndarray, " batch"], env: VecNormalize | None = None
    ) -> MaskedSamples:
        envs = np.random.randint(0, self.n_envs, size=len(batch_inds))  # noqa: NPY002 — SB3's `seed` seeds this one
        last, reward, discount = self._span(batch_inds, envs, env)
        if self.optimize_memory_usage:
            following = self.observations[(last + 1) % self.buffer_size, envs]
        else:
            following = self.next_observations[last, envs]
        terminated = self.dones[last, envs] * (1.0 - self.timeouts[last, envs])
        return MaskedSamples(
            observations=self.to_torch(self._normalize_obs(self.observations[batch_inds, envs], env)),  # type: ignore[arg-type]
            actions=self.to_torch(self.actions[batch_inds, envs]),
            next_observations=self.to_torch(self._normalize_obs(following, env)),  # type: ignore[arg-type]
            dones=self.to_torch(terminated.reshape(-1, 1)),
            rewards=self.to_torch(reward.reshape(-1, 1)),
            discounts=None if discount is None else self.to_torch(discount.reshape(-1, 1)),
            masks=self.to_torch(self.masks[batch_inds, envs]),
            next_masks=self.to_torch(self.next_masks[last, envs]),
        )

    def _span(
        self, start: Int[np.ndarray, " batch"], envs: Int[np.ndarray, " batch"], env: VecNormalize | None
    ) -> tuple[Int[np.ndarray, " batch"], Float[np.ndarray, " batch"], Float[np.ndarray, " batch"] | None]:
        """Return the last row of each transition, its discounted reward, and γ to its number of steps."""
        if self.n_steps == 1:
            return start, self._normalize_reward(self.rewards[start, envs], env), None
        steps = np.arange(self.n_steps)
        rows = (start[:, None] + steps) % self.buffer_size
        ended = (self.dones[rows, envs[:, None]] > 0) | (rows == (self.pos - 1) % self.buffer_size)
        count = np.where(ended.any(1), ended.argmax(1) + 1, self.n_steps)
        reward = self._normalize_reward(self.rewards[rows, envs[:, None]], env)
        weight = np.where(steps < count[:, None], self.gamma**steps, 0.0)
        summed = (reward * weight).sum(1).astype(np.float32)
        return (start + count - 1) % self.buffer_size, summed, (self.gamma**count).astype(np.float32)


class MaskedDictReplayBuffer(DictReplayBuffer):
    """`DictReplayBuffer` whose observations hold `action_mask` as well; set `pending` before each `add`.

    Args:
        num_mask: length of a mask, the sum of the numbers of choices.
    """

    pending: tuple[Masks, Masks]

    def __init__(
        self, buffer_size: int, observation_space: spaces.Dict, *args: Any, num_mask: int, **kwargs: Any
    ) -> None:
        extended = spaces.Dict({**observation_space.spaces, MASK: spaces.MultiBinary(num_mask)})
        super().__init__(buffer_size, extended, *args, **kwargs)

    def add(  # type: ignore[override]
        self, obs: dict[str, np.ndarray], next_obs: dict[str, np.ndarray], *args: Any, **kwargs: Any
    ) -> None:
        mask, next_mask = self.pending
        super().add({**obs, MASK: mask}, {**next_obs, MASK: next_mask}, *args, **kwargs)


class MaskedHerReplayBuffer(MaskedDictReplayBuffer, HerReplayBuffer):
    """`HerReplayBuffer` whose observations hold `action_mask` as well."""


MASKED: dict[type[ReplayBuffer] | None, type[ReplayBuffer]] = {
    ReplayBuffer: MaskedReplayBuffer,
    NStepReplayBuffer: MaskedReplayBuffer,
    DictReplayBuffer: MaskedDictReplayBuffer,
    HerReplayBuffer: MaskedHerReplayBuffer,
}


def masked_class(given: type[ReplayBuffer] | None, observation_space: spaces.Space) -> type[ReplayBuffer]:
    """Return the buffer with masks that does what the `given` one does; None is SB3's own choice.

    Raises:
        ValueError: nothing is known of the given buffer.
    """
    if given is None:
        return MaskedDictReplayBuffer if isinstance(observation_space, spaces.Dict) else MaskedReplayBuffer
    if given in MASKED.values():
        return given
    if given not in MASKED:
        raise ValueError(
            f"the environment has action_masks(), which {given.__name__} does not store: put the mask into a Dict "
            f"observation under {MASK!r}, which every buffer for Dict observations stores, or subclass "
            "MaskedReplayBuffer"
        )
    return MASKED[given]
