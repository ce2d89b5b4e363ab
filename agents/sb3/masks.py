"""Action masks as SB3's users write them: `action_masks()` of the environment, or `action_mask` in the observation."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

MASK = "action_mask"
UNKNOWN_LAST_MASK = (
    "an episode was cut off and info['action_mask'] does not say which actions were valid in its last state, which "
    "counts as terminal instead: use make_vec_env(..., wrapper_class=gumbelrl.agents.sb3.ReportMasks)"
)
MaskSource: TypeAlias = Literal["observation", "environment"]


def check_action_space(space: spaces.Space) -> None:
    """Refuse action spaces that the algorithms here cannot take.

    Raises:
        ValueError: with what to do instead.
    """
    if isinstance(space, spaces.Box):
        raise ValueError(
            f"the action space {space} is continuous, and these algorithms are for discrete ones: use "
            "stable-baselines3's own SAC, TD3 or DDPG, or discretise the actions with a gymnasium wrapper"
        )
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ValueError(
            f"the action space {space} is not one that stable-baselines3 stores: flatten it to Discrete, MultiDiscrete "
            "or MultiBinary in a gymnasium wrapper, or train with gumbelrl's own agents, which take Tuple and Dict"
        )
    axes = len(space.shape or ())
    if axes > 1:
        raise ValueError(
            f"the action space {space} has {axes} axes, and stable-baselines3 stores actions as vectors: "
            "flatten it to one axis in a gymnasium wrapper"
        )


class ReportMasks(gym.Wrapper):
    """Puts the mask of the state that a step led to into `info["action_mask"]`.

    An SB3 `VecEnv` resets an environment before anyone can ask it for the mask of its last state. Where an episode is
    cut off by a time limit that mask decides what the last state is worth, so it travels in `info`. The algorithms here
    wrap a single environment themselves; for several use `make_vec_env(..., wrapper_class=ReportMasks)`.
    """

    def action_masks(self) -> np.ndarray:
        return np.asarray(self.env.get_wrapper_attr("action_masks")())

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, MASK: self.action_masks()}


def report_masks(env: Any) -> Any:
    """Return a single environment that has masks with `ReportMasks` around it; anything else as it is."""
    if isinstance(env, gym.Env) and not isinstance(env, ReportMasks) and env.has_wrapper_attr("action_masks"):
        return ReportMasks(env)
    return env


def find_masks(env: VecEnv) -> MaskSource | None:
    """Return where an environment has its masks.

    Raises:
        ValueError: the masks would be normalised by `VecNormalize`, which makes them meaningless.
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict) and MASK in space.spaces:
        inner: Any = env
        while hasattr(inner, "venv"):
            if isinstance(inner, VecNormalize) and inner.norm_obs and MASK in (inner.norm_obs_keys or ()):
                raise ValueError(
                    f"VecNormalize would normalise {MASK!r}, which then says nothing about validity: give it "
                    f"norm_obs_keys without {MASK!r}"
                )
            inner = inner.venv
        return "observation"
    return "environment" if env.has_attr("action_masks") else None


def masks_after(
    masks: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]], *, ends: bool
) -> tuple[np.ndarray, list[dict[str, Any]], bool]:
    """Return the masks of what a step led to, before any reset; the infos to store; whether a needed mask was missing.

    Args:
        masks: after any reset, `[env, sum of choices]`.
        dones: which episodes ended.
        infos: of the step.
        ends: an episode that was cut off in a state whose mask nobody tells counts as terminated: that state has no
            value without it. So did SB3 count every such episode before 1.0.
    """
    after, infos, was_unknown = masks.copy(), list(infos), False
    for row in np.flatnonzero(dones):
        found = infos[row].get(MASK)
        after[row] = True if found is None else np.asarray(found, dtype=bool).reshape(-1)
        if found is None and ends and infos[row].get("TimeLimit.truncated", False):
            infos[row] = {**infos[row], "TimeLimit.truncated": False}
            was_unknown = True
    return after, infos, was_unknown
