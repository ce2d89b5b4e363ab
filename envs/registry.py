"""The environments by name, and `make`, which takes those names and any gymnasium id."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch

from gumbelrl.envs.base import BatchedEnv
from gumbelrl.envs.cartpole import CartPole
from gumbelrl.envs.gymnasium_adapter import GymnasiumEnv
from gumbelrl.envs.native import NativeEnv


@dataclass(frozen=True)
class EnvironmentEntry:
    """A native environment.

    Attributes:
        factory: called with `num_envs`, `device` and the environment's own options.
        twin: id of the gymnasium environment that it equals step by step, if there is one.
        separates: which estimators or agents it tells apart.
        source: where the rules come from.
    """

    factory: Callable[..., NativeEnv]
    twin: str | None
    summary: str
    separates: str
    source: str


ENVIRONMENTS: dict[str, EnvironmentEntry] = {
    "gumbelrl/CartPole-v1": EnvironmentEntry(
        CartPole,
        "CartPole-v1",
        "keep a pole upright on a cart",
        "nothing: the control that all should solve",
        "Barto, Sutton & Anderson 1983; gymnasium CartPole-v1",
    ),
}


def native_entry(env_id: str) -> EnvironmentEntry | None:
    """Return the native environment of that name, or the native twin of that gymnasium id."""
    name = env_id.removeprefix("gumbelrl.envs:")
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    return next((entry for entry in ENVIRONMENTS.values() if entry.twin == env_id), None)


def make(
    env_id: str, *, num_envs: int, device: torch.device | str = "cpu", native: bool = True, **options: Any
) -> BatchedEnv:
    """Return a batch of environments.

    Args:
        env_id: a name of `ENVIRONMENTS` or any gymnasium id, `module:id` included.
        native: use our twin of a gymnasium environment where there is one.
        options: passed to the environment.

    Raises:
        ValueError: there is no such environment (the message names the nearest), or a package that it needs is missing.
    """
    entry = native_entry(env_id)
    if entry is not None and (native or env_id in ENVIRONMENTS):
        return entry.factory(num_envs, device=device, **options)
    try:
        return GymnasiumEnv(env_id, num_envs, device=device, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        extra = "box2d" if "box2d" in str(error).lower() else None
        advice = f"pip install 'gumbelrl[{extra}]'" if extra else "install what it names"
        raise ValueError(f"{env_id} needs a package that is not installed: {advice} ({error})") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"unknown environment {env_id!r}: {_nearest(env_id)} ({error})") from error


def _nearest(env_id: str) -> str:
    known = [*ENVIRONMENTS, *gymnasium.registry]
    near = difflib.get_close_matches(env_id, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else "use a gymnasium id or one of " + ", ".join(ENVIRONMENTS)
