"""Whether a run's optimiser steps are compiled: `--compile auto | off | on`."""

from __future__ import annotations

import math
from typing import Any

from gumbelrl.agents.errors import RunError

COMPILE_MODES = ("auto", "off", "on")

WORTH_COMPILING = 20_000
"""Optimiser steps of a run from which on `auto` compiles. On one core of an EPYC compiling took 16 to 20 s, and a step
of a few layers of 64 units then 1 to 4.5 ms less (benchmarks/compiled.py): it pays from 5,000 to 20,000 steps on."""


def compiles(mode: str, agent: Any, *, total_steps: int) -> bool:
    """Have an agent's optimiser steps compiled, if its run asks for it; return whether they are.

    `auto` decides by the number of steps that the settings say, not by a clock: equal runs give equal results.

    Args:
        mode: one of `COMPILE_MODES`.
        agent: before its first step.
        total_steps: environment steps of each member over the whole run.

    Raises:
        RunError: `on` was asked for, and there is an obstacle.
    """
    reason = obstacle(agent)
    if mode == "on" and reason:
        raise RunError(f"--compile on: {reason}")
    if mode == "off" or reason or (mode == "auto" and optimiser_steps(agent.config, total_steps) < WORTH_COMPILING):
        return False
    from gumbelrl.agents.compiled_training import compile_learning

    compile_learning(agent, or_eager=mode == "auto")
    return True


def obstacle(agent: Any) -> str | None:
    """Return why an agent's optimiser steps are not compiled, or None."""
    if agent.perception is not None and agent.perception.core is not None:
        return "a recurrent torso learns through time outside of the compiled step; leave one of the two out"
    if getattr(agent.config, "target_kl", None) is not None:
        return "--target-kl decides between minibatches who goes on; leave one of the two out"
    if agent.streams.device.type != "cpu":
        return "optimiser steps are compiled on CPUs only so far; leave it out with --device cuda"
    return None


def optimiser_steps(config: Any, total_steps: int) -> int:
    """Return the optimiser steps of each member over a run."""
    iterations = math.ceil(total_steps / (config.num_envs * config.rollout_steps))
    each = getattr(config, "epochs", 1) * getattr(config, "minibatches", 1)
    return iterations * getattr(config, "updates_per_iteration", each)
