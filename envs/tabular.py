"""Finite environments as transition tables: playing them, and solving them by dynamic programming.

A table is on the CPU in float64, for planning; an environment copies what it needs for play to its device, laid out so
that a step of a whole batch is a handful of look-ups. Tables and solutions are shared: an environment builds its table
in a cached function of its options, and `solve` remembers what it has solved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.drawing import BLUE, FAINT, ORANGE, draw_grid
from gumbelrl.envs.native import NativeEnv

Outcome: TypeAlias = tuple[float, int, float, bool]
"""Probability, next state, reward, whether the episode ends: what gymnasium's `P[state][action]` lists."""

SLACK = 1e-9  # values closer than this are equal: iteration stops at 1e-12 a sweep, and changes add up


@dataclass(frozen=True, eq=False)  # hashed by identity: a table is the key of what was solved
class TransitionTable:
    """What every action does in every state; each outcome has a probability, a next state, a reward and an end.

    Attributes:
        next_state: int64.
        probability: float64, sums to 1 over outcomes; 0 for outcomes that only fill the table.
        reward: float64.
        terminated: whether the episode ends there.
        initial: float64, the distribution of the state that an episode starts in.
        valid: which actions may be taken; None where all may, always.
    """

    next_state: Int[Tensor, "state action outcome"]
    probability: Float[Tensor, "state action outcome"]
    reward: Float[Tensor, "state action outcome"]
    terminated: Bool[Tensor, "state action outcome"]
    initial: Float[Tensor, " state"]
    valid: Bool[Tensor, "state action"] | None = None

    def __post_init__(self) -> None:
        for name in ("next_state", "reward", "terminated"):
            shape = getattr(self, name).shape
            if shape != self.probability.shape:
                raise ValueError(f"{name} has the shape {tuple(shape)}, probability {tuple(self.probability.shape)}")
        total = self.probability.sum(-1)
        if float(self.probability.min()) < 0 or not torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12):
            raise ValueError("the probabilities of the outcomes of an action must be >= 0 and sum to 1 in every state")
        if int(self.next_state.min()) < 0 or int(self.next_state.max()) >= self.num_states:
            raise ValueError(f"next states must be in 0 … {self.num_states - 1}")
        if self.initial.shape != (self.num_states,) or abs(float(self.initial.sum()) - 1.0) > 1e-12:
            raise ValueError(f"the initial distribution must sum to 1 over {self.num_states} states")
        if self.valid is not None and not bool(self.valid.any(-1).all()):
            raise ValueError("every state needs a valid action")

    @classmethod
    def from_outcomes(
        cls,
        outcomes: Sequence[Sequence[Sequence[Outcome]]] | Mapping[int, Mapping[int, Sequence[Outcome]]],
        initial: Sequence[float] | np.ndarray,
        *,
        valid: Bool[Tensor, "state action"] | None = None,
    ) -> Self:
        """Return the table of `outcomes[state][action]`, lists of any length, such as gymnasium's `env.unwrapped.P`."""
        rows = [[list(outcomes[s][a]) for a in range(len(outcomes[s]))] for s in range(len(outcomes))]
        if len({len(row) for row in rows}) != 1:
            raise ValueError("every state needs the same number of actions; name those that may be taken in `valid`")
        most = max(len(each) for row in rows for each in row)
        filled = [[each + [(0.0, s, 0.0, False)] * (most - len(each)) for each in row] for s, row in enumerate(rows)]
        numbers = torch.tensor(filled, dtype=torch.float64)  # states are exact in float64
        probability, next_state, reward, terminated = numbers.unbind(-1)
        start = torch.as_tensor(np.asarray(initial), dtype=torch.float64)
        return cls(next_state.to(torch.int64), probability, reward, terminated.bool(), start, valid)

    @property
    def num_states(self) -> int:
        return self.next_state.shape[0]

    @property
    def num_actions(self) -> int:
        return self.next_state.shape[1]

    def action_values(self, values: Float[Tensor, " state"], *, discount: float = 1.0) -> Float[Tensor, "state action"]:
        """Return the expected reward and discounted value after each action (Bellman's backup); -inf where invalid."""
        following = values[self.next_state] * ~self.terminated
        expected = (self.probability * (self.reward + discount * following)).sum(-1)
        return expected if self.valid is None else expected.where(self.valid, -math.inf)


# Dynamic programming ------------------------------------------------------------------------------------------------


def value_iteration(
    table: TransitionTable, *, discount: float = 1.0, tolerance: float = 1e-12, most_sweeps: int = 100_000
) -> tuple[Float[Tensor, " state"], Int[Tensor, " state"]]:
    """Return the optimal values without a time limit, float64, and a policy that attains them.

    With a discount of 1 an action that keeps the value may still put the end off for ever (on a lake that is not
    slippery, every step that avoids a hole does); so among equals the policy takes the action that ends soonest.

    Raises:
        ValueError: it does not converge; with a discount of 1 some policy must end every episode.

    Reference: Sutton & Barto 2018, section 4.4.
    """
    values = torch.zeros(table.num_states, dtype=torch.float64)
    for _ in range(most_sweeps):
        choices = table.action_values(values, discount=discount)
        best = choices.max(-1).values
        change = float((best - values).abs().max())
        values = best
        if change < tolerance:
            equals = choices >= best.unsqueeze(-1) - SLACK
            return values, _soonest_end(table, equals) if discount == 1.0 else equals.to(torch.int64).argmax(-1)
    raise ValueError(f"value iteration has not converged in {most_sweeps} sweeps (last change {change:.2g})")


def _soonest_end(
    table: TransitionTable, allowed: Bool[Tensor, "state action"], *, most_sweeps: int = 10_000
) -> Int[Tensor, " state"]:
    """Return in each state the allowed action with the least expected time to the end, or nearly.

    Times grow from 0, so that once a sweep adds less than 1 everywhere, every step of the policy brings the expected
    end nearer and it comes with probability 1. States without an end, whose times never settle, cost the full sweeps.
    """
    times = torch.zeros(table.num_states, dtype=torch.float64)
    going_on = table.probability * ~table.terminated
    for _ in range(most_sweeps):
        choices = (1.0 + (going_on * times[table.next_state]).sum(-1)).where(allowed, math.inf)
        soonest = choices.min(-1).values
        change = float((soonest - times).max())
        times = soonest
        if change < 1e-3:
            break
    return choices.argmin(-1)


def backward_induction(
    table: TransitionTable, horizon: int, *, discount: float = 1.0
) -> tuple[Float[Tensor, " state"], Int[Tensor, "time state"]]:
    """Return the optimal values with `horizon` steps to go, float64, and the best action at each time in each state."""
    values = torch.zeros(table.num_states, dtype=torch.float64)
    policy = []
    for _ in range(horizon):
        values, best = table.action_values(values, discount=discount).max(-1)
        policy.append(best)
    return values, torch.stack(policy[::-1])


def relative_value_iteration(
    table: TransitionTable, *, tolerance: float = 1e-12, most_sweeps: int = 100_000
) -> tuple[float, Int[Tensor, " state"]]:
    """Return the gain, the greatest average reward a step in the long run, and a policy that attains it.

    Half of each step is taken, so that a periodic chain converges too (the aperiodicity transformation).

    Raises:
        ValueError: episodes end, so that there is no long run; or the gain depends on the start, or is not found.

    Reference: Puterman 1994, "Markov decision processes", sections 8.5.4-5.
    """
    if bool((table.terminated & (table.probability > 0)).any()):
        raise ValueError("the average reward is that of a task without an end, but episodes of this one terminate")
    values = torch.zeros(table.num_states, dtype=torch.float64)
    for _ in range(most_sweeps):
        choices = table.action_values(values)
        step = choices.max(-1).values - values
        if float(step.max() - step.min()) < tolerance:
            return float(step.max() + step.min()) / 2, choices.argmax(-1)
        values = values + 0.5 * (step - step[0])
    raise ValueError(f"relative value iteration has not converged in {most_sweeps} sweeps")


def policy_values(
    table: TransitionTable,
    probs: Float[Tensor, "state action"],
    *,
    horizon: int | None = None,
    discount: float = 1.0,
) -> Float[Tensor, " state"]:
    """Return the exact value of each state under a policy that depends on the state alone, float64.

    Args:
        probs: of the actions, sums to 1 in every state.
        horizon: the number of steps to go; None without a limit.

    Raises:
        ValueError: without a limit and a discount, episodes do not end from some state.
    """
    weight = probs.to(torch.float64).unsqueeze(-1) * table.probability
    reward = (weight * table.reward).sum((1, 2))
    going_on = (weight * ~table.terminated).flatten(1)
    moves = torch.zeros(table.num_states, table.num_states, dtype=torch.float64)
    moves = discount * moves.scatter_add(1, table.next_state.flatten(1), going_on)
    if horizon is not None:
        values = torch.zeros_like(reward)
        for _ in range(horizon):
            values = reward + moves @ values
        return values
    try:
        return torch.linalg.solve(torch.eye(table.num_states, dtype=torch.float64) - moves, reward)
    except RuntimeError as error:
        raise ValueError(
            "under this policy episodes do not end from some state: give a horizon or a discount"
        ) from error


@lru_cache(maxsize=64)
def solve(table: TransitionTable, horizon: int | None, device: torch.device) -> tuple[float, Int[Tensor, "time state"]]:
    """Return the optimal return from a fresh episode, and the best action by time; one row without a time limit."""
    if horizon is None:
        values, stationary = value_iteration(table)
        policy = stationary.unsqueeze(0)
    else:
        values, policy = backward_induction(table, horizon)
    return float((table.initial * values).sum()), policy.to(device)


# Playing ------------------------------------------------------------------------------------------------------------


class TabularEnv(NativeEnv[Tensor]):
    """An environment whose rules are a table and whose observation is the state, int64 `[env]`.

    Where other things are seen, a subclass sets `single_observation_space` and overrides `observe`.

    Args:
        table: the rules; `TransitionTable.from_outcomes` makes one.
    """

    def __init__(self, num_envs: int, *, table: TransitionTable, device: torch.device | str = "cpu") -> None:
        super().__init__(num_envs, device=device)
        self.table = table
        self.single_observation_space = spaces.Discrete(table.num_states)
        self.single_action_space = spaces.Discrete(table.num_actions)
        probability, columns = table.probability, [table.next_state, table.reward, table.terminated]
        if bool((probability.max(-1).values == 1.0).all()):  # nothing is random: keep the outcome that happens
            sure = probability.argmax(-1, keepdim=True)
            probability, columns = probability.gather(2, sure), [column.gather(2, sure) for column in columns]
        # Flat, by state, action and outcome, so that a step is one look-up in each.
        next_state, reward, terminated = (column.flatten().to(self.device) for column in columns)
        self._next_state, self._reward, self._terminated = next_state, reward.to(torch.float32), terminated
        self._num_outcomes = probability.shape[2]
        self._cumulative = probability.flatten(0, 1).cumsum(-1)[:, :-1].to(self.device, torch.float32).contiguous()
        self._start = table.initial.cumsum(0)[:-1].to(self.device, torch.float32)
        self._only_start = torch.full((num_envs,), int(table.initial.argmax()), device=self.device)
        self._valid = None if table.valid is None else table.valid.to(self.device)
        self.num_random = int(float(table.initial.max()) < 1.0)
        self.num_step_random = int(self._num_outcomes > 1)

    def initial_state(self, noise: Float[Tensor, "env random"]) -> Int[Tensor, " env"]:
        if self.num_random == 0:
            return self._only_start.clone()
        return torch.searchsorted(self._start, noise[:, 0].contiguous(), right=True)

    def transition(
        self, state: Int[Tensor, " env"], action: Int[Tensor, " env"], noise: Float[Tensor, "env random"]
    ) -> tuple[Int[Tensor, " env"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        index = torch.add(action, state, alpha=self.table.num_actions)
        if self.num_step_random:
            outcome = (noise >= self._cumulative.index_select(0, index)).sum(1)
            index = torch.add(outcome, index, alpha=self._num_outcomes)
        return (
            self._next_state.index_select(0, index),
            self._reward.index_select(0, index),
            self._terminated.index_select(0, index),
        )

    def observe(self, state: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
        return state

    def action_mask(self, state: Int[Tensor, " env"]) -> Bool[Tensor, "env action"] | None:
        return None if self._valid is None else self._valid.index_select(0, state)

    # Optimum --------------------------------------------------------------------------------------------------------

    @property
    def optimal_return(self) -> float:  # type: ignore[override]
        """That of the best policy under the time limit, which may count steps (a memory is enough for that)."""
        return solve(self.table, self.max_episode_steps, self.device)[0]

    def optimal_probs(self) -> Float[Tensor, "env 1 action"]:
        """Return the best action under the time limit, which depends on the time left."""
        _, policy = solve(self.table, self.max_episode_steps, self.device)
        time = self.elapsed.to(torch.int64).clamp_max(len(policy) - 1)
        return functional.one_hot(policy[time, self.state], self.table.num_actions).float().unsqueeze(1)

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return the states as squares, the current one marked."""
        count = self.table.num_states
        columns = math.ceil(math.sqrt(count))
        colours = [[BLUE if left + x < count else FAINT for x in range(columns)] for left in range(0, count, columns)]
        y, x = divmod(int(self.state[row]), columns)
        colours[y][x] = ORANGE
        return draw_grid(colours, cell=max(4, 480 // columns))

    def describe(self, row: int) -> str:
        return f"state {int(self.state[row])} of {self.table.num_states}, after {int(self.elapsed[row])} steps"
