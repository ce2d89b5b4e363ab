"""Saving a gymnasium environment that cannot be saved: how its episode began, and what was done since."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


class Recorder(gymnasium.Wrapper):
    """Remembers the seed or the state of the random generator at the last reset, and the actions since.

    Exact for an environment whose only randomness is `np_random` and whose `reset` leaves nothing of the episode
    before; `replay` shows by its observation whether that was so.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.origin: dict[str, Any] = {}
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is None:
            self.origin = {"generator": self.env.unwrapped.np_random.bit_generator.state}
        else:
            self.origin = {"seed": seed}
        self.actions = []
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        return self.env.step(action)

    def record(self) -> dict[str, Any]:
        """Return what `replay` takes: numbers, lists and words only."""
        return {"origin": self.origin, "actions": [plain(action) for action in self.actions]}

    def replay(self, record: dict[str, Any]) -> Any:
        """Bring the environment to where `record` was taken; return the observation there."""
        origin = record["origin"]
        if "generator" in origin:
            # A first reset, since some environments make their generator only then.
            self.env.reset(seed=0)
            self.env.unwrapped.np_random.bit_generator.state = origin["generator"]
            observation, _ = self.reset()
        else:
            observation, _ = self.reset(seed=origin["seed"])
        for action in record["actions"]:
            observation, *_ = self.step(_like(action, self.action_space))
        return observation


def plain(action: Any) -> Any:
    """Return an action as numbers, lists and dictionaries."""
    if isinstance(action, dict):
        return {key: plain(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return [plain(part) for part in action]
    return action.tolist() if isinstance(action, np.ndarray | np.generic) else action


def _like(action: Any, space: gymnasium.Space) -> Any:
    """Return the plain `action` in the types of its space."""
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_like(part, child) for part, child in zip(action, space.spaces, strict=True))
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _like(action[key], child) for key, child in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.int64(action)
    return np.asarray(action, dtype=space.dtype)
