"""ShortCorridor: three places that look the same, one of which turns the actions round.

Sutton & Barto 2018, example 13.1: from the start, left stays and right moves on; in the second place right leads back
and left moves on; in the third left leads back and right ends the episode. Each step costs 1. All that is seen is that
the episode goes on, so that the agent has one probability p to choose, that of right.

Optimum: with q = 1 - p, the values of the places follow from
    v₁ = -1 + q v₁ + p v₂,    v₂ = -1 + p v₁ + q v₃,    v₃ = -1 + q v₂,
so v₁ = v₂ - 1/p and v₂ (1 - p - q²) = -(2 + q), with 1 - p - q² = p q:
    v₁(p) = -2 (2 - p) / (p (1 - p)),
whose derivative vanishes where p² - 4 p + 2 = 0, at p = 2 - √2 = .586 with v₁ = -(6 + 4 √2) = -11.657. Every
deterministic policy goes on for ever; with the other action at .05, right returns -44.2 and left -82.1.

The time limit of 1,000 steps is there to end the episodes of such policies. At the optimum it cuts off an episode with
probability 1e-46, so that the optimum is that without a limit. Near 0 and 1 it flatters: at p = .01 the return within
the limit is -380 for -402, at .005 -611 for -802, at 0 -1,000 for minus infinity.

What it separates: agents that can learn a stochastic policy from those that act greedily, and greedy from sampled
evaluation of the same policy; and critics on whole returns from bootstrapped ones. Only right ever ends an episode, so
one step ahead of a value that depends on nothing, right is always the better action and p goes to 1; a return has no
such bias.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gumbelrl.envs.drawing import BLUE, FAINT, GREEN, INK, ORANGE, Canvas
from gumbelrl.envs.tabular import TabularEnv, TransitionTable

END = 3
CELL = 120  # pixels


class ShortCorridor(TabularEnv):
    """State: the place, 0 to 2. Observation: always 0. Actions: left, right."""

    max_episode_steps = 1000
    optimal_return = -(6.0 + 4.0 * math.sqrt(2.0))

    def __init__(self, num_envs: int, *, device: torch.device | str = "cpu") -> None:
        super().__init__(num_envs, table=corridor_table(), device=device)
        self.single_observation_space = spaces.Discrete(1)
        right = 2.0 - math.sqrt(2.0)
        self._optimal_probs = torch.tensor([1.0 - right, right], device=self.device).expand(num_envs, 1, 2)

    def observe(self, state: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
        return torch.zeros_like(state)

    def optimal_probs(self) -> Float[Tensor, "env 1 2"]:
        """Return the best policy of one that cannot tell the places apart, the same everywhere."""
        return self._optimal_probs

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return the corridor; the arrows show where right leads."""
        canvas = Canvas(4 * CELL, 210)
        for x in range(4):
            colour = GREEN if x == END else FAINT
            canvas.rectangle(x * CELL + 3, 20, (x + 1) * CELL - 3, 20 + CELL, colour, radius=8)
        canvas.text((3.5 * CELL, 20 + CELL / 2), "end", (255, 255, 255), size=20)
        for x, way in enumerate((1, -1, 1)):
            middle, y, reach = (x + 0.5) * CELL, 162.0, way * 26
            canvas.line([(middle - reach, y), (middle + reach, y)], BLUE, width=4)
            tip = middle + reach + way * 12
            canvas.polygon([(tip, y), (tip - way * 15, y - 8), (tip - way * 15, y + 8)], BLUE)
        canvas.text((2 * CELL, 192), "where right leads", INK, size=16)
        canvas.circle(((int(self.state[row]) + 0.5) * CELL, 20 + CELL / 2), 28, ORANGE)
        return canvas.array()

    def describe(self, row: int) -> str:
        """Return the corridor: o where the agent is, arrows where right leads."""
        place = int(self.state[row])
        return "".join("[o]" if x == place else "[ ]" for x in range(3)) + " end\n >  <  >"


@cache
def corridor_table() -> TransitionTable:
    """Return the rules."""
    after = [[0, 1], [2, 0], [1, END], [END, END]]
    rows = [[[(1.0, place, -1.0, place == END)] for place in row] for row in after]
    rows[END] = [[(1.0, END, 0.0, True)]] * 2
    return TransitionTable.from_outcomes(rows, np.eye(4)[0])
