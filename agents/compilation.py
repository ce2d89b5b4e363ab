"""Whether a run's rollouts and learning are compiled: `--compile auto | off | on`."""

from __future__ import annotations

import math
from typing import Any

from gumbelrl.agents.errors import RunError

COMPILE_MODES = ("auto", "off", "on")

WORTH_COMPILING = 15_000
"""Optimiser steps of a run from which on `auto` compiles. With an empty cache compiling takes 9 to 32 s of one core of
an EPYC, and an optimiser step with its share of the rollout then 1.8 to 3.4 ms less (benchmarks/compiled.py, one
member, but for PPO's minibatches of few rows): it pays from 5,000 to 10,000 steps on, and later where
compiling is slower. What was compiled once is on the disk (inductor's cache) and takes less; but equal runs have to
decide alike."""


def compiles(mode: str, trainer: Any) -> bool:
    """Have a loop's rollouts and its agent's learning compiled, if its run asks for it; return whether they are.

    `auto` decides by the number of steps that the settings say, not by a clock: equal runs give equal results.

    Args:
        mode: one of `COMPILE_MODES`.
        trainer: before its first step.

    Raises:
        RunError: `on` was asked for, and there is an obstacle.
    """
    agent = trainer.agent
    if agent.streams.device.type == "cuda":
        return False  # there whole iterations are recorded: `cuda_graphs.captures`
    reason = obstacle(agent)
    if mode == "on" and reason:
        raise RunError(f"--compile on: {reason}")
    short = optimiser_steps(agent.config, trainer.total_steps) < WORTH_COMPILING
    if mode == "off" or reason or (mode == "auto" and short):
        return False
    from gumbelrl.agents.compiled_training import compile_training

    compile_training(trainer, or_eager=mode == "auto")
    return True


def obstacle(agent: Any) -> str | None:
    """Return why what an agent learns is not compiled, or None."""
    if agent.perception is not None and agent.perception.core is not None:
        return "a recurrent torso learns through time outside of the compiled step; leave one of the two out"
    if getattr(agent.config, "target_kl", None) is not None:
        return "--target-kl decides between minibatches who goes on; leave one of the two out"
    if agent.group.size > 1:
        return "gradients are averaged between processes outside of the compiled step; leave one of the two out"
    return None


def optimiser_steps(config: Any, total_steps: int) -> int:
    """Return the optimiser steps of each member over a run."""
    iterations = math.ceil(total_steps / (config.num_envs * config.rollout_steps))
    each = getattr(config, "epochs", 1) * getattr(config, "minibatches", 1)
    return iterations * getattr(config, "updates_per_iteration", each)
