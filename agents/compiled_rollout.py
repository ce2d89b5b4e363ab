"""Rollouts by compiled graphs: `--compile`.

A step is two graphs. One acts, for all members: features, logits, and the choice that noise drawn before decides. The
other is the environment's own (`gumbelrl.envs.compiled`), with its autoreset, features and masks. Between them Python
does nothing but hand on lists of tensors; rows are stacked when the rollout is over, and masks are looked through then.

Two, because they want different code: networks and their functions vectors, which inductor writes, the integers and
tables of a game plain loops, which the C++ compiler vectorises; and because the environment's is exact to the last bit.

An environment that is not ours, or was made not to compile, is stepped as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gumbelrl.agents.compiled_methods import CompiledMethod, CompileError, Graph
from gumbelrl.agents.networks import FlatParameters
from gumbelrl.agents.rollout import Transition
from gumbelrl.envs import Step
from gumbelrl.envs.compiled import CompiledStep
from gumbelrl.envs.compiled import CompileError as StepError
from gumbelrl.envs.native import NativeEnv, choice_counts

SEEN = ("reward", "terminated", "truncated", "final_observation", "final_mask")
COLUMNS = ("observation", "mask", "logits", "action", *SEEN)


def compile_rollout(trainer: Any, *, or_eager: bool = False) -> None:
    """Have a loop collect its rollouts by compiled graphs, which the first makes, and therefore takes seconds.

    Args:
        trainer: with an agent that `gumbelrl.agents.compilation.obstacle` finds nothing against.
        or_eager: where there turns out to be no compiler, go on eagerly with a warning instead of raising.
    """
    for name in ("record", "means"):
        setattr(trainer.statistics, name, CompiledMethod(trainer.statistics, name, or_eager=or_eager))
    trainer.collect = CompiledRollout(trainer, or_eager=or_eager)


class CompiledRollout:
    """`Trainer.collect`, by compiled graphs."""

    def __init__(self, trainer: Any, *, or_eager: bool = False) -> None:
        self.trainer, self.or_eager = trainer, or_eager
        self.collect: Callable[[], Transition] = trainer.collect
        kept = [trainer.agent.replay] if hasattr(trainer.agent, "replay") else []
        self.act = CompiledMethod(Actor(trainer), "act", kept=kept, or_eager=or_eager)
        native = isinstance(trainer.env, NativeEnv) and trainer.env.compile is not False
        self.steps: Steps | None = None if native else Steps(trainer)

    @torch.no_grad()
    def __call__(self) -> Transition:
        trainer = self.trainer
        observation, mask, layout = trainer.observation, trainer.mask, trainer.agent.layout
        example = observation.new_zeros(*observation.shape[:2], layout.num_groups, layout.num_choices)
        act = self.act.graph(example, observation, mask)
        if act is None:
            return self.collect()
        steps = self._steps(act, layout.from_one_hot(example.flatten(0, 1)))
        steps.begin()
        held, rows = act.state(), []
        for noise_t in trainer.agent.rollout_noise().contiguous().unbind():
            before = observation, mask
            chosen = act.program([*held, *act.taken((noise_t, observation, mask))])
            observation, mask, seen = steps(chosen)
            rows.append((*before, *chosen[:2], *seen))
        steps.end()
        trainer.observation, trainer.mask = observation, mask
        columns: list[Any] = [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
        rollout = Transition(**dict(zip(COLUMNS, columns, strict=True)))
        self._check_masks(rollout.mask)
        trainer.statistics.record(rollout.reward, rollout.terminated | rollout.truncated)
        return rollout

    def _steps(self, act: Graph, action: Any) -> Steps:
        """Return what steps the environments, made if need be; the action is an example."""
        trainer = self.trainer
        if self.steps is None or self.steps.limit != trainer.env.max_episode_steps:
            try:
                self.steps = CompiledSteps(trainer, action)
            except StepError as error:
                if not self.or_eager:
                    raise CompileError(str(error)) from error
                warnings.warn(f"{error}; its steps stay eager, which is slower", stacklevel=3)
                self.steps = Steps(trainer)
        self.steps.structure = act.returned
        return self.steps

    def _check_masks(self, mask: Tensor | None) -> None:
        if mask is not None and not bool(mask.any(-1).all()):
            for t, each in enumerate(mask):
                self.trainer._check_mask(each, t)


class Actor:
    """Acting, as a method of what holds the tensors that it needs."""

    def __init__(self, trainer: Any) -> None:
        # What of the trainer it takes, and not the trainer, whose environments act by a graph of their own.
        self.agent, self.choose, self.perception = trainer.agent, trainer.choose, trainer.perception
        # Where parameters are views of flat tensors, those are taken instead.
        for index, flat in enumerate(each for each in vars(trainer.agent).values() if isinstance(each, FlatParameters)):
            setattr(self, f"parameters_{index}", flat)

    def act(self, noise: Tensor, observation: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Any]:
        """Return logits, the one-hot action and what the environment takes; see `Trainer.choose`."""
        features, _ = self.perception(observation, None)
        return self.choose(features, mask, noise)


class Steps:
    """Eager steps of environments.

    Attributes:
        structure: of what `Actor.act` returns.
    """

    structure: Any = None

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.limit = trainer, trainer.env.max_episode_steps

    def begin(self) -> None:
        """Take the environments over."""

    def __call__(self, chosen: list[Tensor]) -> tuple[Tensor, Tensor | None, Sequence[Tensor | None]]:
        """Return the observation and the mask after a step, and what `SEEN` names of it.

        Args:
            chosen: what `Actor.act` returned, flat.
        """
        _, _, action = pytree.tree_unflatten(chosen, self.structure)
        observation, mask, seen = self.trainer.see(self.trainer.env.step(action))
        return observation, mask, [seen[name] for name in SEEN]

    def end(self) -> None:
        """Give them back."""


class CompiledSteps(Steps):
    """Steps of native environments by a graph, which also makes features and masks of what it sees.

    Raises:
        gumbelrl.envs.compiled.CompileError: it cannot be compiled here.
    """

    def __init__(self, trainer: Any, example: Tensor) -> None:
        super().__init__(trainer)
        self.env = trainer.env
        self.step = CompiledStep(self.env, example, choice_counts(self.env.single_action_space), report=self._report)

    def _report(self, step: Step) -> list[Tensor]:
        observation, mask, seen = self.trainer.see(step)
        found = [observation, mask, *(seen[name] for name in SEEN)]
        return [each.contiguous() for each in found if each is not None]

    def begin(self) -> None:
        self.parts, self.elapsed = self.step.parts(self.env), self.env.elapsed

    def __call__(self, chosen: list[Tensor]) -> tuple[Tensor, Tensor | None, Sequence[Tensor | None]]:
        parts = self.step.laid_out(self.parts)
        self.parts, self.elapsed, found = self.step.run(self.env, parts, self.elapsed, chosen[2])
        if len(found) > len(SEEN):  # with masks
            return found[0], found[1], found[2:]
        return found[0], None, (*found[1:], None)

    def end(self) -> None:
        self.step.keep(self.env, self.parts, self.elapsed)
