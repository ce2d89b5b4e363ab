"""An environment of ours: plain rules in a subclass; seeding, time limits, autoreset and checks imposed here, once.

A step has fixed shapes, no host synchronisation and no branch on data.
"""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, Self, TypeAlias, TypeVar, cast

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from gumbelrl.envs.base import BatchedEnv, Step
from gumbelrl.envs.compiled import PATIENCE_S, CompiledStep, CompileError
from gumbelrl.random import RandomStreams

State: TypeAlias = Tensor | dict[str, Tensor]
"""`[env, *shape]`, or several of them by name."""

StateT = TypeVar("StateT", Tensor, dict[str, Tensor])


class NativeEnv(BatchedEnv, Generic[StateT]):
    """The rules of an environment, batched.

    A subclass sets the spaces, `max_episode_steps`, `num_random` (uniform numbers that a new episode takes),
    `num_step_random` (that a transition takes) and `optimal_return`, and writes `initial_state`, `transition` and
    `observe`; where choices can be invalid, `action_mask`; `optimal_probs` if an optimal policy can be written down;
    and `draw` and `describe` for people.

    Rules return new tensors and never write into the state that they are given.

    Attributes:
        optimal_return: expected undiscounted return of the best policy that sees only observations, from a fresh
            episode to its end or time limit; None where nobody knows.
        compile: whether `step` is one compiled graph, which takes seconds to make; "auto" makes it once eager steps
            have taken as long (`PATIENCE_S`), on a CPU, where its results are equal bit for bit. Where it cannot be
            made, steps stay eager, with a warning. It takes an action outside the space for the nearest in it.
        compile_options: of inductor, besides those that all have (`compiled.OPTIONS`).
        tracing: whether rules are run to be compiled.
    """

    max_episode_steps: int | None = None
    num_random: int = 0
    num_step_random: int = 0
    optimal_return: float | None = None
    compile: bool | Literal["auto"] = False
    compile_options: ClassVar[dict[str, Any]] = {}
    tracing: bool = False
    state: StateT
    _options: dict[str, Any]  # what it was made with, for `resized`
    _compiled: CompiledStep | None = None
    _eager_s: float = 0.0  # that steps have taken

    def __new__(cls, num_envs: int, **options: Any) -> Self:
        env = super().__new__(cls)
        env._options = options
        return env

    def __init__(
        self, num_envs: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs, self.device, self.dtype = num_envs, torch.device(device), dtype
        self.info = {}

    def resized(self, num_envs: int) -> Self:
        """Return another batch of the same environment, of `num_envs`, with eager steps."""
        return type(self)(num_envs, **self._options)

    # Rules ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def initial_state(self, noise: Float[Tensor, "env random"]) -> StateT:
        """Return the state that an episode starts in, from `num_random` uniform numbers in (0, 1)."""

    @abstractmethod
    def transition(
        self, state: StateT, action: Tensor, noise: Float[Tensor, "env random"]
    ) -> tuple[StateT, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        """Return the next state, the reward and whether the episode has terminated.

        Args:
            state: of every environment.
            action: int64; `[env]` for Discrete, `[env, variable]` for MultiDiscrete and MultiBinary.
            noise: `num_step_random` uniform numbers in (0, 1).
        """

    @abstractmethod
    def observe(self, state: StateT) -> Shaped[Tensor, "env *shape"]:
        """Return what is seen of a state."""

    def action_mask(self, state: StateT) -> Bool[Tensor, "env total"] | None:
        """Return which choices are valid, all variables side by side; None where all are, always."""
        return None

    def optimal_probs(self) -> Float[Tensor, "env group choice"]:
        """Return an optimal policy in the current states, which it may read in full; its return is `optimal_return`.

        Raises:
            NotImplementedError: none is known.
        """
        raise NotImplementedError(f"no optimal policy of {type(self).__name__} is known")

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture of environment `row`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be drawn")

    def describe(self, row: int) -> str:
        """Return environment `row` as text, a few lines."""
        raise NotImplementedError(f"{type(self).__name__} has no text form")

    # Imposed --------------------------------------------------------------------------------------------------------

    def reset(self, seed: int | Sequence[int]) -> Shaped[Tensor, "env *shape"]:
        self.streams = RandomStreams(self.seeds(seed), device=self.device)
        self.elapsed: Int[Tensor, " env"] = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
        self.state = self.initial_state(self._uniform(self.num_random))
        self.info = self._masks(self.state, None)
        return self.observe(self.state)

    def step(self, action: Tensor) -> Step:
        if not hasattr(self, "state"):
            raise RuntimeError("step was called before reset: call reset(seed) first")
        compiled = self._compiled_step(action)
        if compiled is not None:
            state, self.elapsed, step = compiled(self, action)
            self.state = cast(StateT, state)
        else:
            start = time.perf_counter()
            noise = self._uniform(self.num_random + self.num_step_random)
            self.state, self.elapsed, step = self.advance(self.state, self.elapsed, action, noise)
            self._eager_s += time.perf_counter() - start
        self.info = step.info
        return step

    def advance(
        self, state: StateT, elapsed: Int[Tensor, " env"], action: Tensor, noise: Float[Tensor, "env random"]
    ) -> tuple[StateT, Int[Tensor, " env"], Step]:
        """Return the state and the time after a step with its autoreset, and the step; pure, as the rules are.

        Args:
            state: of every environment.
            elapsed: int32, steps since the episode began.
            action: as `step` takes it.
            noise: `num_random + num_step_random` uniform numbers.
        """
        following, reward, terminated = self.transition(state, action, noise[:, self.num_random :])
        elapsed = elapsed + 1
        if self.max_episode_steps is None:
            truncated = torch.zeros_like(terminated)
        else:
            truncated = (elapsed >= self.max_episode_steps) & ~terminated
        finished = terminated | truncated
        fresh = self.initial_state(noise[:, : self.num_random])
        state = cast(StateT, select(finished, fresh, following))
        info = self._masks(state, following)
        final = self.observe(following)
        if self.num_random == 0:  # episodes all begin alike, so that half of the work is known
            observation = where_rows(finished, self.first_observation, final)
        else:
            observation = self.observe(state)
        step = Step(observation, reward, terminated, truncated, final, info)
        return state, elapsed * ~finished, step

    @cached_property
    def first_observation(self) -> Shaped[Tensor, "env *shape"]:
        """What is seen at the start of every episode, of an environment that draws no numbers for it.

        One row where all are alike, since a row stays in the processor's cache and a batch does not.
        """
        with torch.no_grad():
            observation = self.observe(self.initial_state(torch.empty(self.num_envs, 0, device=self.device)))
        alike = bool((observation == observation[:1]).all())
        return observation[:1].clone() if alike else observation

    def _compiled_step(self, action: Tensor) -> CompiledStep | None:
        """Return the compiled step, making it if need be; None to step eagerly."""
        if self.compile is False or torch.compiler.is_compiling():
            return None
        if self.compile == "auto" and (self._eager_s < PATIENCE_S or self.device.type != "cpu"):
            return None
        if self._compiled is None or self._compiled.limit != self.max_episode_steps:
            try:
                self._compiled = CompiledStep(self, action, choice_counts(self.single_action_space))
            except CompileError as error:
                self.compile = False
                warnings.warn(f"{error}; its steps stay eager, which is slower", RuntimeWarning, stacklevel=3)
                return None
        return self._compiled

    def draw_noise(self, streams: RandomStreams, count: int) -> Float[Tensor, "env random"]:
        """Draw in the width of the state, so that a float64 environment starts anywhere that gymnasium's would."""
        if count == 0:
            return torch.empty(self.num_envs, 0, device=self.device)
        return streams.uniform64(count) if self.dtype == torch.float64 else streams.uniform(count)

    def _uniform(self, count: int) -> Float[Tensor, "env random"]:
        return self.draw_noise(self.streams, count)

    def _masks(self, state: StateT, final: StateT | None) -> dict[str, Tensor]:
        mask = self.action_mask(state)
        if mask is None:
            return {}
        info = {"action_mask": mask}
        if final is not None:
            final_mask = self.action_mask(final)
            assert final_mask is not None
            info["final_action_mask"] = final_mask
        return info

    @staticmethod
    def final_info(step: Step) -> dict[str, Tensor]:
        """Return the info that belongs to `final_observation`."""
        final = {k.removeprefix("final_"): v for k, v in step.info.items() if k.startswith("final_")}
        return {k: final.get(k, v) for k, v in step.info.items() if not k.startswith("final_")}

    def check_actions(self, action: Tensor, *, masks: bool = True) -> None:
        """Refuse actions that are outside the space or masked; reads them on the host, so not for training.

        Args:
            action: as `step` takes it.
            masks: refuse masked actions; without, only those outside the space.

        Raises:
            ValueError: the message names the environment row, the variable and the choice.
        """
        counts = torch.tensor(choice_counts(self.single_action_space), device=self.device)
        chosen = action.view(self.num_envs, -1).to(torch.int64)
        if chosen.shape[1] != len(counts):
            raise ValueError(f"actions have the shape {tuple(action.shape)}, {self.single_action_space} needs another")
        outside = (chosen < 0) | (chosen >= counts)
        _refuse(outside, chosen, f"is not in {self.single_action_space}")
        if masks and "action_mask" in self.info:
            index = chosen + torch.cumsum(counts, 0) - counts
            _refuse(~self.info["action_mask"].gather(1, index), chosen, "is masked in this state")

    # Saving ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"state": self.state} if isinstance(self.state, Tensor) else _prefixed(self.state)
        return {**parts, "elapsed": self.elapsed, **self.streams.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.streams.load_state_dict({name: state[name] for name in ("key", "counter")})
        self.elapsed = state["elapsed"].clone()
        parts = {k.removeprefix("state."): v.clone() for k, v in state.items() if k.startswith("state.")}
        self.state = cast(StateT, parts or state["state"].clone())
        self.info = self._masks(self.state, None)


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"state.{name}": value for name, value in state.items()}


def select(condition: Bool[Tensor, " env"], chosen: State, other: State) -> State:
    """Return the state `chosen` in the rows where `condition` holds, `other` elsewhere."""
    if isinstance(chosen, dict):
        assert isinstance(other, dict)
        return {name: where_rows(condition, value, other[name]) for name, value in chosen.items()}
    assert isinstance(other, Tensor)
    return where_rows(condition, chosen, other)


def where_rows(condition: Bool[Tensor, " env"], chosen: Tensor, other: Tensor) -> Tensor:
    """Return `torch.where` with the condition broadcast over all but the first axis."""
    condition = condition.view(-1, *[1] * (other.dim() - 1))
    if other.dtype is not torch.bool:
        return torch.where(condition, chosen, other)
    # Bytes, not truth values, which a C++ compiler does not choose between many at a time.
    bytes_chosen, bytes_other, mask = chosen.view(torch.uint8), other.view(torch.uint8), -condition.to(torch.uint8)
    return (bytes_other ^ ((bytes_other ^ bytes_chosen) & mask)).view(torch.bool)


def choice_counts(space: spaces.Space) -> list[int]:
    """Return the number of choices of each variable of a discrete action space."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.reshape(-1)]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    raise TypeError(f"a native environment's actions are Discrete, MultiDiscrete or MultiBinary, got {space}")


def _refuse(wrong: Bool[Tensor, "env variable"], chosen: Int[Tensor, "env variable"], why: str) -> None:
    if bool(wrong.any()):
        row, variable = (int(i) for i in wrong.nonzero()[0])
        name = f"action {int(chosen[row, variable])}" + (f" (variable {variable})" if chosen.shape[1] > 1 else "")
        raise ValueError(f"{name} of environment {row} {why}")
