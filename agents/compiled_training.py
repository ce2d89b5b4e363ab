"""Training as compiled graphs: `--compile`. See `compiled_methods.py` for how a method becomes one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gumbelrl.agents.compiled_methods import CompiledMethod
from gumbelrl.agents.compiled_rollout import compile_rollout

LEARNING = ("_rows", "_learn", "_step")
"""Methods that agents may have: from a rollout to targets; a step on some of its rows; a step on a batch. The last is
part of the one before where an agent has both."""


def compile_training(trainer: Any, *, or_eager: bool = False) -> None:
    """Have a loop's rollouts and what its agent learns compiled; see `compile_rollout` and `compile_learning`."""
    compile_learning(trainer.agent, or_eager=or_eager)
    compile_rollout(trainer, or_eager=or_eager)


def compile_learning(agent: Any, *, or_eager: bool = False) -> None:
    """Have an agent's learning compiled: targets, minibatches, losses, gradients, moments, coefficients, slow copies.

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
    set_progress, load = agent.set_progress, agent.load_state_dict
    numbers: dict[str, Tensor] = {}

    def on_the_device(name: str, number: float | Tensor) -> Tensor:
        if isinstance(number, Tensor):
            return number
        numbers.setdefault(name, torch.zeros((), device=agent.streams.device)).fill_(number)
        return numbers[name]

    def set_progress_by_tensors(progress: float, *, temperature: float | Tensor) -> None:
        """A graph holds numbers as they were when it was traced, and follows tensors."""
        set_progress(progress, temperature=temperature)
        if hasattr(agent, "path"):
            agent.path.scheduled_temperature = on_the_device("temperature", agent.path.scheduled_temperature)
        for index, group in enumerate(agent.optimizer.param_groups):
            group["lr"] = on_the_device(f"rate {index}", group["lr"])

    def load_anew(state: dict[str, Any]) -> None:
        """Other moments may come with a state: look for them again."""
        load(state)
        for method in methods.values():
            method.graphs.clear()

    for name, method in methods.items():
        setattr(agent, name, method)
    agent.set_progress, agent.load_state_dict = set_progress_by_tensors, load_anew
