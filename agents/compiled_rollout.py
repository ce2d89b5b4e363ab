"""Rollouts by compiled graphs: `--compile`.

A step is two graphs. One acts, for all members: features, logits, and the choice that noise drawn before decides. The
other is the environment's own (`gumbelrl.envs.compiled`), with its autoreset, features and masks. They write what they
find into the columns of a rollout, a row a step, and change the state in place; a loop in C++ calls them in turn
(`loops.py`). Masks are looked through when the rollout is over.

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
from gumbelrl.agents.loops import Call, Loop, Take
from gumbelrl.agents.networks import FlatParameters
from gumbelrl.agents.rollout import Transition
from gumbelrl.envs import Step
from gumbelrl.envs.compiled import CompiledStep
from gumbelrl.envs.compiled import CompileError as StepError
from gumbelrl.envs.native import NativeEnv, choice_counts

SEEN = ("reward", "terminated", "truncated", "final_observation", "final_mask")
COLUMNS = ("observation", "mask", "logits", "action", *SEEN)
TRUTHS = ("mask", "terminated", "truncated", "final_mask")


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
        self.act = CompiledMethod(Actor(trainer), "act", kept=kept, in_place=True, or_eager=or_eager)
        self.steps: RolloutLoop | EagerSteps | None = None  # made for an environment as it is

    @torch.no_grad()
    def __call__(self) -> Transition:
        trainer = self.trainer
        if self.steps is None or self.steps.limit != trainer.env.max_episode_steps:
            observation, mask, layout = trainer.observation, trainer.mask, trainer.agent.layout
            example = observation.new_zeros(*observation.shape[:2], layout.num_groups, layout.num_choices)
            act = self.act.graph(example, observation, mask)
            if act is None:
                return self.collect()
            self.steps = self._steps(act)
        rollout = Transition(**self.steps(trainer.agent.rollout_noise().contiguous()))
        self._check_masks(rollout.mask)
        trainer.statistics.record(rollout.reward, rollout.terminated | rollout.truncated)
        return rollout

    def _steps(self, act: Graph) -> RolloutLoop | EagerSteps:
        """Return what acts and steps, after a warning where it cannot be compiled whole."""
        env = self.trainer.env
        if not isinstance(env, NativeEnv) or env.compile is False:
            return EagerSteps(self.trainer, act)
        try:
            return RolloutLoop(self.trainer, act)
        except StepError as error:
            if not self.or_eager:
                raise CompileError(str(error)) from error
            warnings.warn(f"{error}; its steps stay eager, which is slower", stacklevel=3)
            return EagerSteps(self.trainer, act)

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


class EagerSteps:
    """A rollout of which only the acting is compiled.

    Attributes:
        limit: the time limit of the environments.
    """

    def __init__(self, trainer: Any, act: Graph) -> None:
        self.trainer, self.act, self.limit = trainer, act, trainer.env.max_episode_steps

    def __call__(self, noise: Tensor) -> dict[str, Any]:
        """Return the columns of a rollout."""
        trainer, act, rows = self.trainer, self.act, []
        held = act.state()
        for noise_t in noise.unbind():
            observation, mask = trainer.observation, trainer.mask
            chosen = [torch.empty_like(each) for each in act.places]
            act.program([*held, *act.taken((noise_t, observation, mask)), *chosen])
            logits, one_hot, action = pytree.tree_unflatten(chosen, act.returned)
            trainer.observation, trainer.mask, seen = trainer.see(trainer.env.step(action))
            rows.append((observation, mask, logits, one_hot, *(seen[name] for name in SEEN)))
        columns = [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
        return dict(zip(COLUMNS, columns, strict=True))


class RolloutLoop:
    """A rollout by a loop of graphs that act and step native environments.

    Attributes:
        limit: the time limit of the environments.

    Raises:
        gumbelrl.envs.compiled.CompileError: steps of the environments cannot be compiled here.
    """

    def __init__(self, trainer: Any, act: Graph) -> None:
        self.trainer, self.act = trainer, act
        *_, action = pytree.tree_unflatten(act.places, act.returned)
        counts = choice_counts(trainer.env.single_action_space)
        self.step = CompiledStep(trainer.env, action, counts, report=self._report)
        masked = () if trainer.mask is None else ("mask",)
        self.following = ("observation", *masked)  # of which there is a row more
        chosen = ("logits", "action", "taken")
        reported = (*self.following, *SEEN) if masked else (*self.following, *SEEN[:-1])
        self.places = dict(zip((*chosen, *reported), (*act.places, *self.step.places), strict=True))
        self.loop, self.limit = self._steps(chosen, reported), self.step.limit

    def _report(self, step: Step) -> list[Tensor]:
        observation, mask, seen = self.trainer.see(step)
        found = [observation, mask, *(seen[name] for name in SEEN)]
        return [each.contiguous() for each in found if each is not None]

    def _steps(self, chosen: Sequence[str], reported: Sequence[str]) -> Loop:
        held = [f"held {index}" for index in range(len(self.act.held))]
        state = ["elapsed", *(f"part {index}" for index in range(self.step.num_parts))]
        columns = {name: f"{name} of all" for name in ("noise", *self.places)}
        now = ("noise", "observation", "mask")
        results = [f"{name} after" if name in self.following else name for name in reported]
        steps: list[Any] = [
            *(Take(column, name) for name, column in columns.items()),
            *(Take(columns[name], f"{name} after", 1) for name in self.following),
            Call(self.act.program, [*held, *(now[index] for index in self.act.given), *chosen]),
            Call(self.step.graph, ["key", "counter", state[0], "taken", *state[1:], *results]),
        ]
        return Loop(steps, given=[*held, "key", "counter", *state, *columns.values()])

    def __call__(self, noise: Tensor) -> dict[str, Any]:
        """Return the columns of a rollout, and leave the trainer behind its last step."""
        trainer, env, length = self.trainer, self.trainer.env, len(noise)
        state = self.step.start(env)
        filled = {
            name: torch.empty(length + (name in self.following), *place.shape, dtype=place.dtype)
            for name, place in self.places.items()
        }
        columns = {name: column.view(torch.bool) if name in TRUTHS else column for name, column in filled.items()}
        for name in self.following:
            columns[name][0] = getattr(trainer, name)
        given = [*self.act.state(), env.streams.key, env.streams.counter, *state, noise, *filled.values()]
        self.loop(length, given)
        elapsed, *parts = state
        self.step.keep(env, parts, elapsed)
        for name in self.following:
            setattr(trainer, name, columns[name][-1].clone())  # a row alone would keep all of them
            columns[name] = columns[name][:-1]
        return {name: columns.get(name) for name in COLUMNS}
