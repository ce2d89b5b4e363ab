"""A batch of environments as stable-baselines3's `VecEnv`; imports stable-baselines3."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Shaped
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from gumbelrl.envs.base import BatchedEnv
from gumbelrl.envs.native import NativeEnv, choice_counts
from gumbelrl.envs.one_hot_actions import OneHotActions, OneHotBox
from gumbelrl.envs.registry import make
from gumbelrl.envs.views import seeded

__all__ = ["OneHotActions", "OneHotBox", "VecEnvView", "make_vec_env"]

MASK, FINAL_MASK = "action_mask", "final_action_mask"
OF_THE_BATCH = ("reset", "step", "state_dict", "load_state_dict", "close", "seeds")


class VecEnvView(VecEnv):
    """Any `BatchedEnv` for stable-baselines3's agents: observations cross to NumPy once a step, all rows together.

    Masks are there as sb3-contrib's MaskablePPO asks for them (`env_method("action_masks")`) and in `info`.

    Args:
        env: a batch of environments, ours or a `GymnasiumEnv`.
        render_mode: `rgb_array` for pictures, where the environment can be drawn.
        refuse_masked: refuse masked actions too, not only those outside the space. Off by default, since agents without
            masks sample from the whole space; the rules say what a masked action does.
    """

    def __init__(self, env: BatchedEnv, *, render_mode: str | None = None, refuse_masked: bool = False) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"a VecEnvView has no render_mode {render_mode!r}; choose rgb_array or None")
        if not isinstance(env, BatchedEnv):
            raise TypeError(
                f"VecEnvView shows a BatchedEnv, got {type(env).__name__}: write make_vec_env(env_id, n_envs), or "
                "VecEnvView(gumbelrl.envs.make(env_id, num_envs=n))"
            )
        self.env, self.refuse_masked = env, refuse_masked
        self._counts = np.asarray(choice_counts(env.single_action_space))
        self._start = np.asarray(getattr(env.single_action_space, "start", 0)).reshape(-1)
        self._rows = [Row(self, index, render_mode) for index in range(env.num_envs)]
        self._generators = [np.random.default_rng() for _ in range(env.num_envs)]
        self._masks: Bool[np.ndarray, "env total"] | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Shaped[np.ndarray, "env *shape"]:
        """Start every environment anew, from the seeds that `seed` set for this one time, else from fresh ones."""
        if any(self._options):
            raise ValueError(f"{type(self.env).__name__} takes no options at reset; give them to its constructor")
        for index, seed in enumerate(self._seeds):
            if seed is not None:
                self._generators[index] = seeded(seed)
        # As `SingleView` draws it: environment i with seed s then begins as a single one with seed s does.
        observation = self.env.reset([int(generator.integers(1 << 62)) for generator in self._generators])
        self._reset_seeds()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._keep_masks(self.reset_infos)
        return observation.cpu().numpy().copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of all environments.

        Raises:
            ValueError: one is outside the space, or masked with `refuse_masked`.
        """
        chosen = np.asarray(actions).reshape(self.num_envs, -1).astype(np.int64)
        self._check(chosen)
        shape = (self.num_envs, *(self.action_space.shape or ()))
        self._actions = torch.from_numpy(chosen.reshape(shape)).to(self.env.device)

    def step_wait(self) -> VecEnvStepReturn:
        step = self.env.step(self._actions)
        terminated, truncated = step.terminated.cpu().numpy(), step.truncated.cpu().numpy()
        finished = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        if not finished.any():
            self._keep_masks(infos)
        else:
            self._end_episodes(infos, finished, truncated & ~terminated, step.final_observation, step.info)
        return step.observation.cpu().numpy().copy(), step.reward.cpu().numpy().copy(), finished, infos

    def _end_episodes(
        self,
        infos: list[dict[str, Any]],
        finished: Bool[np.ndarray, " env"],
        truncated: Bool[np.ndarray, " env"],
        final: torch.Tensor,
        info: dict[str, torch.Tensor],
    ) -> None:
        """Tell of the episodes that ended: their last observation and mask; those of the next are in `reset_infos`."""
        final_observation = final.cpu().numpy()
        final_masks = info[FINAL_MASK].cpu().numpy() if FINAL_MASK in info else None
        fresh: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._keep_masks(fresh)
        for index, kept in enumerate(fresh):
            if not finished[index]:
                infos[index].update(kept)
                continue
            self.reset_infos[index] = kept
            infos[index]["TimeLimit.truncated"] = bool(truncated[index])
            infos[index]["terminal_observation"] = final_observation[index].copy()[()]
            if final_masks is not None:
                infos[index][MASK] = final_masks[index].copy()

    def _keep_masks(self, infos: list[dict[str, Any]]) -> None:
        """Bring the masks over, for `action_masks` and `infos`."""
        masks = self.env.info.get(MASK)
        if masks is None:
            return
        self._masks = masks.cpu().numpy().copy()
        for info, mask in zip(infos, self._masks, strict=True):
            info[MASK] = mask.copy()

    def _check(self, chosen: np.ndarray) -> None:
        if chosen.shape[1] != len(self._counts):
            raise ValueError(
                f"actions of {self.action_space} were expected, {chosen.shape[1]} numbers an environment given"
            )
        index = chosen - self._start
        outside = (index < 0) | (index >= self._counts)
        if outside.any():
            row, variable = np.argwhere(outside)[0]
            raise ValueError(f"the action of environment {row}, {chosen[row, variable]}, is not in {self.action_space}")
        if self.refuse_masked and self._masks is not None:
            places = index + np.cumsum(self._counts) - self._counts
            masked = ~np.take_along_axis(self._masks, places, axis=1)
            if masked.any():
                row, variable = np.argwhere(masked)[0]
                raise ValueError(f"the action of environment {row}, {chosen[row, variable]}, is masked in this state")

    def close(self) -> None:
        self.env.close()

    # One environment of the batch -----------------------------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self._rows[index], attr_name) for index in self._indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the batch.

        Raises:
            ValueError: of some environments only, which share one object.
        """
        if sorted(self._indices(indices)) != list(range(self.num_envs)):
            raise ValueError(f"the environments are one batch: set {attr_name} for all of them, without indices")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        rows = [self._rows[index] for index in self._indices(indices)]
        return [getattr(row, method_name)(*method_args, **kwargs) for row in rows]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Say no: a batch has no wrappers; `VecMonitor` around it does what `Monitor` would."""
        return [False for _ in self._indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        return [row.render() for row in self._rows]

    def _indices(self, indices: VecEnvIndices) -> Iterable[int]:
        return list(self._get_indices(indices))


class Row:
    """One environment of a batch, as far as it can be told apart; what it has not is asked of the batch."""

    def __init__(self, view: VecEnvView, index: int, render_mode: str | None) -> None:
        self._view, self._index, self.render_mode = view, index, render_mode

    @property
    def unwrapped(self) -> Row:
        return self

    @property
    def observation_space(self) -> spaces.Space:
        return self._view.env.single_observation_space

    @property
    def action_space(self) -> spaces.Space:
        return self._view.env.single_action_space

    def action_masks(self) -> Bool[np.ndarray, " total"]:
        """Return which choices are valid, all variables side by side."""
        masks = self._view._masks
        return np.ones(int(self._view._counts.sum()), dtype=np.bool_) if masks is None else masks[self._index].copy()

    def render(self) -> np.ndarray | None:
        """Return a picture; None without a render mode."""
        if self.render_mode is None:
            return None
        if not isinstance(self._view.env, NativeEnv):
            raise NotImplementedError(f"a batch of {type(self._view.env).__name__} cannot be drawn: use DummyVecEnv")
        return self._view.env.draw(self._index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in OF_THE_BATCH:
            raise AttributeError(f"environment of a batch has no attribute {name!r} of its own: ask the VecEnv")
        return getattr(self._view.env, name)


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    *,
    monitor: bool = True,
    render_mode: str | None = None,
    **options: Any,
) -> VecEnv:
    """Return environments stepped together, as stable-baselines3's function of this name does with a loop over them.

    Args:
        env_id: a native environment, a gymnasium id with a native twin, or any other gymnasium id.
        n_envs: how many.
        seed: of the next reset.
        monitor: tell episodes' returns and lengths, which agents log.
        render_mode: `rgb_array` for pictures.
        options: passed to the environment.
    """
    view = VecEnvView(make(env_id, num_envs=n_envs, **options), render_mode=render_mode)
    view.seed(seed)
    return VecMonitor(view) if monitor else view
