"""Rollouts by compiled graphs: `--compile`.

A step is two graphs. One acts, for all members: features, logits, and the choice that noise drawn before decides. The
other is the environment's own (`gumbelrl.envs.compiled`), with its autoreset, features and masks. After the
first rollout, which shows how large everything is, a loop in C++ calls them in turn and fills the columns (`loops.py`);
masks are looked through when the rollout is over.

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
from gumbelrl.agents.loops import Call, Keep, Loop, Take, Truths, available
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
    trainer.statistics.record = CompiledMethod(trainer.statistics, "record", or_eager=or_eager)
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
        self.loop: RolloutLoop | None = None

    @torch.no_grad()
    def __call__(self) -> Transition:
        trainer = self.trainer
        if self.loop is not None and self.loop.steps.limit == trainer.env.max_episode_steps:
            columns = self.loop(trainer.agent.rollout_noise().contiguous())
        else:
            observation, mask, layout = trainer.observation, trainer.mask, trainer.agent.layout
            example = observation.new_zeros(*observation.shape[:2], layout.num_groups, layout.num_choices)
            act = self.act.graph(example, observation, mask)
            if act is None:
                return self.collect()
            steps = self._steps(act, layout.from_one_hot(example.flatten(0, 1)))
            columns, as_kept = self._by_python(act, steps, trainer.agent.rollout_noise().contiguous())
            self.loop = rollout_loop(act, steps, columns) if as_kept else None
        rollout = Transition(**columns)
        self._check_masks(rollout.mask)
        trainer.statistics.record(rollout.reward, rollout.terminated | rollout.truncated)
        return rollout

    def _by_python(self, act: Graph, steps: Steps, noise: Tensor) -> tuple[dict[str, Any], bool]:
        """Return the columns of a rollout, by a loop in Python, and whether rows are contiguous, as columns are."""
        trainer, held, rows = self.trainer, act.state(), []
        observation, mask = trainer.observation, trainer.mask
        steps.begin()
        for noise_t in noise.unbind():
            before = observation, mask
            chosen = act.program([*held, *act.taken((noise_t, observation, mask))])
            observation, mask, seen = steps(chosen)
            rows.append((*before, *chosen[:2], *seen))
        steps.end()
        trainer.observation, trainer.mask = observation, mask
        columns: list[Any] = [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
        as_kept = all(each.is_contiguous() for each in rows[-1] if each is not None)
        return dict(zip(COLUMNS, columns, strict=True)), as_kept

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
        logits, action, taken = self.choose(features, mask, noise)
        return logits.contiguous(), action.contiguous(), taken


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


def rollout_loop(act: Graph, steps: Steps, columns: dict[str, Any]) -> RolloutLoop | None:
    """Return a rollout without Python between its steps, or None where that cannot be.

    Args:
        act: of `Actor.act`.
        columns: of a rollout, with which those of later ones are equal in shape.
    """
    if not isinstance(steps, CompiledSteps) or None in (act.program.entry, steps.step.graph.entry):
        return None
    as_taken = [part.stride() for part in steps.parts] == steps.step.strides
    return RolloutLoop(act, steps, columns) if as_taken and available() else None


class RolloutLoop:
    """A rollout by a loop in C++ that acts and steps: see `rollout_loop`."""

    def __init__(self, act: Graph, steps: CompiledSteps, columns: dict[str, Any]) -> None:
        self.act, self.steps, self.trainer = act, steps, steps.trainer
        self.kinds = {name: (each.shape, each.dtype) for name, each in columns.items() if each is not None}
        row_bytes = {name: each[0].nbytes for name, each in columns.items() if each is not None}

        def keep(name: str) -> Keep:
            return Keep(name, _column(name), row_bytes[name])

        masked = ("mask",) if "mask" in self.kinds else ()
        held = [f"held {i}" for i in range(len(act.held))]
        self.state = [*(f"part {i}" for i in range(len(steps.parts))), "elapsed", "observation", *masked]
        reported = [*self.state, *(name for name in SEEN if name in self.kinds)]
        chosen = ["logits", "action", "taken", *(f"output {i}" for i in range(3, act.num_outputs))]
        now = ("noise", "observation", "mask")
        code: list[Any] = [
            *(keep(name) for name in ("observation", *masked)),
            Take("noise of all", "noise"),
            Call(act.program, [*held, *(now[index] for index in act.given)], chosen),
            Call(steps.step.graph, ["key", "counter", "elapsed", "taken", *self.state[: len(steps.parts)]], reported),
            *(Truths(reported[index]) for index in steps.step.truths if index < len(self.state)),
            *(keep(name) for name in self.kinds if name not in self.state),
        ]
        given = [*held, "noise of all", "key", "counter", *self.state, *map(_column, self.kinds)]
        self.run = Loop(code, given=given, returned=self.state)

    def __call__(self, noise: Tensor) -> dict[str, Any]:
        """Return the columns of a rollout, and leave the loop behind its last step."""
        trainer, steps = self.trainer, self.steps
        steps.begin()
        columns = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in self.kinds.items()}
        now = [each.contiguous() for each in (trainer.observation, trainer.mask) if each is not None]
        streams = steps.env.streams
        state = [*steps.parts, steps.elapsed, *now]
        given = [*self.act.state(), noise, streams.key, streams.counter, *state, *columns.values()]
        found = dict(zip(self.state, self.run(len(noise), given), strict=True))
        trainer.observation, trainer.mask = found.pop("observation"), found.pop("mask", None)
        *steps.parts, steps.elapsed = found.values()
        steps.end()
        return dict.fromkeys(COLUMNS) | columns


def _column(name: str) -> str:
    return f"{name} of all"
