"""Training as compiled graphs: `--compile`. See `compiled_methods.py` for how a method becomes one."""

from __future__ import annotations

from typing import Any

from gumbelrl.agents.compiled_methods import CompiledMethod, RepeatedMethod
from gumbelrl.agents.compiled_rollout import compile_rollout
from gumbelrl.agents.progress_tensors import numbers_on_the_device

LEARNING = ("rollout_noise", "_rows", "_orders", "_learn", "_step")
"""Methods that agents may have: the noise of a rollout; from it to targets; which rows are in each minibatch, where it
is not told with them; a step on some rows; a step on a batch. The last is part of the one before where an agent has
both."""


def compile_training(trainer: Any, *, or_eager: bool = False) -> None:
    """Have a loop's rollouts and what its agent learns compiled; see `compile_rollout` and `compile_learning`."""
    compile_learning(trainer.agent, or_eager=or_eager)
    compile_rollout(trainer, or_eager=or_eager)


def compile_learning(agent: Any, *, or_eager: bool = False) -> None:
    """Have an agent's learning compiled: noise, targets, minibatches, replay, losses, gradients, moments, slow copies.

    The graphs are made by the first steps, which therefore take seconds.

    Args:
        agent: one that `gumbelrl.agents.compilation.obstacle` finds nothing against.
        or_eager: where there turns out to be no compiler, go on eagerly with a warning instead of raising.
    """
    kept = [agent.replay] if hasattr(agent, "replay") else []
    names = [name for name in LEARNING if hasattr(agent, name)]
    methods = {name: CompiledMethod(agent, name, kept=kept, or_eager=or_eager) for name in names}
    if "_learn" in methods:
        del methods["_step"]
    if kept:
        methods["_draw"] = CompiledMethod(agent, "_draw", or_eager=or_eager)
        methods["replay"] = CompiledMethod(agent.replay, "_enter", or_eager=or_eager)
    load = agent.load_state_dict

    def load_anew(state: dict[str, Any]) -> None:
        """Other moments may come with a state: look for them again."""
        load(state)
        for method in methods.values():
            method.graphs.clear()

    for method in methods.values():
        setattr(method.owner, method.name, method)
    if "_learn" in methods:
        agent._learn_all = RepeatedMethod(methods["_learn"])
    agent.load_state_dict = load_anew
    numbers_on_the_device(agent)
