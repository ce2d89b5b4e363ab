"""Any gymnasium environment as a `BatchedEnv`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from jaxtyping import Shaped
from torch import Tensor

from gumbelrl.envs.base import BatchedEnv, Step
from gumbelrl.envs.recorder import Recorder
from gumbelrl.random import derive_seed

MASK = "action_mask"
FINAL_MASK = "final_action_mask"


class GymnasiumEnv(BatchedEnv):
    """A gymnasium id, `num_envs` of it stepped one after another, or in processes.

    Observations that are not arrays (Discrete, Dict, Tuple) are flattened to float32 vectors as gymnasium does it. An
    `action_mask`, an observation of that name or an entry of `info`, becomes `info["action_mask"]`.

    Gymnasium environments cannot be saved. `state_dict` keeps how each episode began and what was done since, and
    `load_state_dict` plays that again; where what it then sees differs, it warns and starts new episodes.

    Args:
        env_id: what `gymnasium.make` takes.
        vectorization: `sync`, or `async` for a process each (whose episodes in progress cannot be saved).
        options: passed to the environment.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        *,
        device: torch.device | str = "cpu",
        vectorization: str = "sync",
        **options: Any,
    ) -> None:
        self.env_id, self.num_envs, self.device, self.vectorization = (
            env_id,
            num_envs,
            torch.device(device),
            vectorization,
        )
        self.vector: Any = gymnasium.make_vec(
            env_id,
            num_envs=num_envs,
            vectorization_mode=vectorization,
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            wrappers=[Recorder],
            **options,
        )
        self.single_action_space = self.vector.single_action_space
        raw_space = self.vector.single_observation_space
        self._space = _without_mask(raw_space)
        self._masked = self._space is not raw_space
        self._plain = isinstance(raw_space, spaces.Box)
        self.single_observation_space = (
            self._space if isinstance(self._space, spaces.Box) else spaces.flatten_space(self._space)
        )
        spec = self.vector.spec
        self.max_episode_steps = None if spec is None else spec.max_episode_steps
        self.info = {}

    def reset(self, seed: int | Sequence[int]) -> Shaped[Tensor, "env *shape"]:
        # Some environments take seeds of 32 bits only; ours have 63.
        raw, info = self.vector.reset(seed=[each % (1 << 31) for each in self.seeds(seed)])
        self.info = self._masks(raw, info)
        self._observation = self._convert(raw)
        return self._observation

    def step(self, action: Any) -> Step:
        raw, reward, terminated, truncated, info = self.vector.step(_to_numpy(action))
        self.info = self._masks(raw, info)
        self._observation = final_observation = self._convert(raw)
        finished = np.flatnonzero(terminated | truncated)
        if len(finished):
            final_observation = self._observation.clone()
            for index in finished:
                final_observation[index] = self._convert_one(info["final_obs"][index])
            if MASK in self.info:
                self.info[FINAL_MASK] = self._final_masks(info, finished)
        return Step(
            self._observation,
            torch.tensor(reward, dtype=torch.float32, device=self.device),
            torch.tensor(terminated, device=self.device),
            torch.tensor(truncated, device=self.device),
            final_observation,
            self.info,
        )

    def close(self) -> None:
        self.vector.close()

    # Observations and masks -----------------------------------------------------------------------------------------

    def _convert(self, raw: Any) -> Tensor:
        if self._plain:
            # A copy: the vector environment may write its next observation into the same memory.
            return torch.tensor(raw, dtype=torch.float32, device=self.device)
        return torch.stack([self._convert_one(row) for row in _rows(raw, self.num_envs)])

    def _convert_one(self, raw: Any) -> Tensor:
        if self._masked:
            rest = {key: part for key, part in raw.items() if key != MASK}
            raw = rest if isinstance(self._space, spaces.Dict) else next(iter(rest.values()))
        flat = raw if isinstance(self._space, spaces.Box) else spaces.flatten(self._space, raw)
        return torch.tensor(np.asarray(flat), dtype=torch.float32, device=self.device)

    def _masks(self, raw: Any, info: dict[str, Any]) -> dict[str, Tensor]:
        masks = raw[MASK] if self._masked else info.get(MASK)
        if masks is None:
            return {}
        rows = np.stack([np.asarray(mask, dtype=bool) for mask in masks])
        return {MASK: torch.tensor(rows, device=self.device)}

    def _final_masks(self, info: dict[str, Any], finished: np.ndarray) -> Tensor:
        masks = self.info[MASK].clone()
        for index in finished:
            final = info["final_obs"][index] if self._masked else _one_info(info["final_info"], index)
            masks[index] = torch.tensor(np.asarray(final[MASK], dtype=bool), device=self.device)
        return masks

    # Saving by replay -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return how each environment's episode began and its actions, as bytes of JSON, and the observation."""
        records = [env.record() for env in self.vector.envs] if self.vectorization == "sync" else []
        data = bytearray(json.dumps(records).encode())
        masks = {name: mask for name, mask in self.info.items() if name == MASK}
        return {"replay": torch.frombuffer(data, dtype=torch.uint8).clone(), "observation": self._observation, **masks}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        records = json.loads(state["replay"].cpu().numpy().tobytes())
        # Called also on a fresh instance, whose vector environment wants a reset before its first step.
        self.reset([derive_seed(index, "resumed") for index in range(self.num_envs)])
        same = len(records) == self.num_envs
        for env, record, saved in zip(self.vector.envs if same else (), records, state["observation"], strict=same):
            same = same and bool(torch.equal(self._convert_one(env.replay(record)), saved))
        if same:
            self._observation = state["observation"].clone()
            self.info = {MASK: state[MASK].clone()} if MASK in state else {}
            return
        warnings.warn(
            f"{self.env_id} cannot be brought back to where it was saved; new episodes begin instead, "
            "so the run goes on but not bit for bit",
            stacklevel=2,
        )
        self.reset([derive_seed(index, "resumed") for index in range(self.num_envs)])


def _without_mask(space: spaces.Space) -> spaces.Space:
    """Return the space less its `action_mask`, or itself where it has none."""
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces:
        return space
    rest = {key: part for key, part in space.spaces.items() if key != MASK}
    return next(iter(rest.values())) if len(rest) == 1 else spaces.Dict(rest)


def _rows(raw: Any, count: int) -> list[Any]:
    """Split a batch as gymnasium gives it (an array, or a dict or tuple of them) into one value an environment."""
    if isinstance(raw, dict):
        parts = {key: _rows(value, count) for key, value in raw.items()}
        return [{key: part[index] for key, part in parts.items()} for index in range(count)]
    if isinstance(raw, tuple) and len(raw) != count:
        columns = [_rows(value, count) for value in raw]
        return [tuple(column[index] for column in columns) for index in range(count)]
    return [raw[index] for index in range(count)]


def _one_info(info: Any, index: int) -> dict[str, Any]:
    """Return one environment's `final_info`, which gymnasium gives as a dict of arrays."""
    return {MASK: info[MASK][index]} if isinstance(info, dict) else info[index]


def _to_numpy(action: Any) -> Any:
    if isinstance(action, dict):
        return {key: _to_numpy(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple(_to_numpy(part) for part in action)
    return action.cpu().numpy()
