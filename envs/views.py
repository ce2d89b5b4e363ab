"""A native environment as gymnasium's `Env` and `VectorEnv`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gumbelrl.envs.native import NativeEnv, choice_counts
from gumbelrl.envs.registry import ENVIRONMENTS

METADATA: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 30}


def _fresh_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(1 << 62))


def seeded(seed: int) -> np.random.Generator:
    """Return the generator that gymnasium makes of a seed."""
    return np_random(int(seed))[0]


class SingleView(gymnasium.Env[np.ndarray, Any]):
    """One environment, for `gymnasium.make`; the time limit is left to gymnasium's own wrapper.

    Args:
        refuse_masked: refuse masked actions too, not only those outside the space. Off by default, since gymnasium's
            own checks and agents without masks sample from the whole space; the rules say what a masked action does.
    """

    metadata = METADATA

    def __init__(
        self, name: str, *, render_mode: str | None = None, refuse_masked: bool = False, **options: Any
    ) -> None:
        self.render_mode = _check_render_mode(name, render_mode)
        self.env: NativeEnv = ENVIRONMENTS[name].factory(1, **options)
        self.env.max_episode_steps = None
        self.refuse_masked = refuse_masked
        self.observation_space = self.env.single_observation_space
        self.action_space = self.env.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        observation = self.env.reset([_fresh_seed(self.np_random)])
        return _numpy_row(observation), _numpy_info(self.env.info, 0)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        batched = torch.as_tensor(np.asarray(action)).unsqueeze(0)
        self.env.check_actions(batched, masks=self.refuse_masked)
        step = self.env.step(batched)
        return (
            _numpy_row(step.final_observation),
            float(step.reward[0]),
            bool(step.terminated[0]),
            bool(step.truncated[0]),
            _numpy_info(self.env.final_info(step), 0),
        )

    def action_masks(self) -> np.ndarray:
        """Return which choices are valid, as sb3-contrib's maskable agents ask for it."""
        mask = self.env.info.get("action_mask")
        if mask is None:
            return np.ones(sum(choice_counts(self.action_space)), dtype=np.bool_)
        return mask[0].cpu().numpy().copy()

    def render(self) -> Any:
        return _render(self.env, 0, self.render_mode)


class VectorView(VectorEnv[np.ndarray, Any, np.ndarray]):
    """`num_envs` environments, for `gymnasium.make_vec`; resets in the step that ends an episode."""

    metadata = {**METADATA, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's convention)

    def __init__(
        self,
        name: str,
        *,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        refuse_masked: bool = False,
        **options: Any,
    ) -> None:
        self.render_mode = _check_render_mode(name, render_mode)
        self.env: NativeEnv = ENVIRONMENTS[name].factory(num_envs, **options)
        self.refuse_masked = refuse_masked
        if max_episode_steps is not None:
            self.env.max_episode_steps = max_episode_steps
        self.num_envs = num_envs
        self.single_observation_space = self.env.single_observation_space
        self.single_action_space = self.env.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        seeds: list[int | None] = [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            # As gymnasium's own vector environments count them up.
            seeds = [int(seed) + index for index in range(self.num_envs)]
        elif seed is not None:
            seeds = list(seed)
        # One seed each: what a single environment with that seed does.
        drawn = [_fresh_seed(self.np_random if each is None else seeded(each)) for each in seeds]
        observation = self.env.reset(drawn)
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        return observation.cpu().numpy().copy(), _with_presence(self.env.info, everywhere)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        batched = torch.as_tensor(np.asarray(actions), device=self.env.device)
        self.env.check_actions(batched, masks=self.refuse_masked)
        step = self.env.step(batched)
        terminated, truncated = step.terminated.cpu().numpy(), step.truncated.cpu().numpy()
        finished = terminated | truncated
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        info = _with_presence({k: v for k, v in step.info.items() if not k.startswith("final_")}, everywhere)
        if finished.any():
            final_info = _with_presence(self.env.final_info(step), finished)
            info |= {"final_obs": step.final_observation.cpu().numpy().copy(), "_final_obs": finished}
            info |= {"final_info": final_info, "_final_info": finished}
        reward = step.reward.cpu().numpy().astype(np.float64)
        return step.observation.cpu().numpy().copy(), reward, terminated.copy(), truncated.copy(), info

    def render(self) -> tuple[Any, ...] | None:
        return tuple(_render(self.env, row, self.render_mode) for row in range(self.num_envs))


def _check_render_mode(name: str, mode: str | None) -> str | None:
    if mode not in (None, *METADATA["render_modes"]):
        raise ValueError(f"{name} has no render_mode {mode!r}; choose rgb_array or ansi")
    return mode


def _render(env: NativeEnv, row: int, mode: str | None) -> Any:
    if mode is None:
        raise ValueError("render needs a render_mode: make the environment with render_mode='rgb_array' or 'ansi'")
    return env.draw(row) if mode == "rgb_array" else env.describe(row)


def _numpy_row(observation: torch.Tensor) -> Any:
    """Return the only row as NumPy has it: an array, or a number where observations are Discrete."""
    return observation[0].cpu().numpy().copy()[()]


def _numpy_info(info: dict[str, torch.Tensor], row: int) -> dict[str, Any]:
    return {name: value[row].cpu().numpy().copy() for name, value in info.items()}


def _with_presence(info: dict[str, torch.Tensor], present: np.ndarray) -> dict[str, Any]:
    """Return the info as gymnasium's vector environments give it: beside each entry, `_name` says for whom it is."""
    arrays: dict[str, Any] = {name: value.cpu().numpy().copy() for name, value in info.items()}
    return arrays | {f"_{name}": present.copy() for name in info}


def register_all() -> None:
    """Register every native environment with gymnasium; again does nothing."""
    for name, entry in ENVIRONMENTS.items():
        if name in gymnasium.registry:
            continue
        twin = gymnasium.registry.get(entry.twin) if entry.twin else None
        gymnasium.register(
            name,
            entry_point="gumbelrl.envs.views:SingleView",
            vector_entry_point="gumbelrl.envs.views:VectorView",
            max_episode_steps=getattr(entry.factory, "max_episode_steps", None),
            reward_threshold=None if twin is None else twin.reward_threshold,
            kwargs={"name": name},
        )
