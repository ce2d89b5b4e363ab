"""Finite environments as transition tables: playing them, and solving them by dynamic programming."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.native import NativeEnv


@dataclass(frozen=True)
class TransitionTable:
    """What every action does in every state; each outcome has a probability, a next state, a reward and an end.

    Attributes:
        next_state: int64.
        probability: float64, sums to 1 over outcomes; 0 for outcomes that only fill the table.
        reward: float64.
        terminated: whether the episode ends there.
        initial: float64, the distribution of the state that an episode starts in.
    """

    next_state: Int[Tensor, "state action outcome"]
    probability: Float[Tensor, "state action outcome"]
    reward: Float[Tensor, "state action outcome"]
    terminated: Bool[Tensor, "state action outcome"]
    initial: Float[Tensor, " state"]

    def __post_init__(self) -> None:
        total = self.probability.sum(-1)
        if not torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12):
            raise ValueError("the probabilities of the outcomes of an action must sum to 1 in every state")
        if abs(float(self.initial.sum()) - 1.0) > 1e-12:
            raise ValueError(f"the initial distribution must sum to 1, got {float(self.initial.sum())}")

    @property
    def num_states(self) -> int:
        return self.next_state.shape[0]

    @property
    def num_actions(self) -> int:
        return self.next_state.shape[1]

    def action_values(self, values: Float[Tensor, " state"], *, discount: float = 1.0) -> Float[Tensor, "state action"]:
        """Return the expected reward and discounted value after each action (Bellman's backup)."""
        following = values[self.next_state] * ~self.terminated
        return (self.probability * (self.reward + discount * following)).sum(-1)


def value_iteration(
    table: TransitionTable, *, discount: float = 1.0, tolerance: float = 1e-12, most_sweeps: int = 100_000
) -> tuple[Float[Tensor, " state"], Int[Tensor, " state"]]:
    """Return the optimal values without a time limit, float64, and a policy that attains them.

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
            # Among equals the action that is first better by more than rounding.
            return values, (choices >= best.unsqueeze(-1) - 1e-9).to(torch.int64).argmax(-1)
    raise ValueError(f"value iteration has not converged in {most_sweeps} sweeps (last change {change:.2g})")


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


class TabularEnv(NativeEnv[Tensor]):
    """An environment whose rules are a table and whose observation is the state, int64 `[env]`.

    Args:
        table: the rules.
    """

    def __init__(self, num_envs: int, table: TransitionTable, *, device: torch.device | str = "cpu") -> None:
        super().__init__(num_envs, device=device)
        self.table = table
        self.single_observation_space = spaces.Discrete(table.num_states)
        self.single_action_space = spaces.Discrete(table.num_actions)
        # One row for each pair of state and action, so that a step is one look-up.
        self._next, self._reward, self._terminated = (
            column.flatten(0, 1).to(self.device, dtype)
            for column, dtype in (
                (table.next_state, torch.int64),
                (table.reward, torch.float32),
                (table.terminated, torch.bool),
            )
        )
        self._cumulative = table.probability.flatten(0, 1).cumsum(-1)[:, :-1].float().to(self.device)
        self._start = table.initial.cumsum(0)[:-1].float().to(self.device)
        self._only_start = int(table.initial.argmax())
        self.num_random = int(float(table.initial.max()) < 1.0)
        self.num_step_random = int(table.next_state.shape[2] > 1)

    def initial_state(self, noise: Tensor) -> Tensor:
        if self.num_random == 0:
            return torch.full((self.num_envs,), self._only_start, device=self.device)
        return torch.searchsorted(self._start, noise[:, 0].contiguous(), right=True)

    def transition(self, state: Tensor, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pair = state * self.table.num_actions + action
        if self.num_step_random == 0:
            return self._next[pair, 0], self._reward[pair, 0], self._terminated[pair, 0]
        outcome = (noise >= self._cumulative[pair]).sum(-1)
        return self._next[pair, outcome], self._reward[pair, outcome], self._terminated[pair, outcome]

    def observe(self, state: Tensor) -> Tensor:
        return state

    # Optimum --------------------------------------------------------------------------------------------------------

    @cached_property
    def _solution(self) -> tuple[Tensor, Tensor]:
        """Return values at the start and the policy by time; without a time limit the policy has one row."""
        if self.max_episode_steps is None:
            values, policy = value_iteration(self.table)
            return values, policy.unsqueeze(0)
        return backward_induction(self.table, self.max_episode_steps)

    @property
    def optimal_return(self) -> float:  # type: ignore[override]
        values, _ = self._solution
        return float((self.table.initial * values).sum())

    def optimal_probs(self) -> Float[Tensor, "env group choice"]:
        """Return the best action under the time limit, which depends on the time left."""
        _, policy = self._solution
        time = self.elapsed.long().clamp_max(len(policy) - 1)
        best = policy.to(self.device)[time, self.state]
        return functional.one_hot(best, self.table.num_actions).float().unsqueeze(1)
