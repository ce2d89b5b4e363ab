"""Chain: a small reward for going back to the start, now, or a large one at the end of a chain.

Five states. Forward moves along the chain and pays nothing, but 10 at the end of it, where it stays; backward returns
to the start and pays 2. With probability .2 the action slips and the other is taken. Episodes have 1,000 steps.

This is the problem of Strens 2000, section 6.1, with his phases of 1,000 steps, as gym's former `NChain-v0` had it;
taken rather than Osband's chains, which RiverSwim and DeepSea stand for, since here both rewards are met soon and the
question is what to make of them.

Optimum: always forward. In the long run, an action pays 10 where it goes forward and so did the four before it, and 2
where it slips: 10 · .8⁵ + 2 · .2 = 3.6768 a step. From the start, 1,000 steps return 3665.83. Always backward pays
2 · .8 = 1.6 a step and a little more where it slips five times: 10 · .2⁵ = .0032.

What it separates: far-sighted agents from short-sighted ones (at the start backward is the better action for any
discount below .8359), and agents that explore on after the first reward, which is backward's.

Reference: Strens 2000, "A Bayesian framework for reinforcement learning".
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8

from gumbelrl.envs.drawing import FAINT, GREEN, INK, ORANGE, YELLOW, Canvas
from gumbelrl.envs.tabular import Outcome, TabularEnv, TransitionTable

CELL = 100  # pixels


class Chain(TabularEnv):
    """State and observation: the place in the chain. Actions: forward, backward.

    Args:
        length: the number of states.
        slip: the probability that the other action is taken.
        small: reward of backward.
        large: reward of forward at the end of the chain.
    """

    max_episode_steps = 1000

    def __init__(
        self,
        num_envs: int,
        *,
        length: int = 5,
        slip: float = 0.2,
        small: float = 2.0,
        large: float = 10.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if length < 2:
            raise ValueError(f"length must be at least 2, got {length}")
        if not 0.0 <= slip <= 1.0:
            raise ValueError(f"slip must be from 0 to 1, got {slip}")
        self._small, self._large = small, large
        super().__init__(num_envs, table=chain_table(length, slip, small, large), device=device)

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        count = self.table.num_states
        cell = min(CELL, 640 // count)
        canvas, middle = Canvas(cell * count, 2 * CELL), float(CELL)
        canvas.line([(cell / 2, middle), (cell * (count - 0.5), middle)], INK, width=3)
        for x in range(count):
            colour = YELLOW if x == 0 else GREEN if x == count - 1 else FAINT
            canvas.circle(((x + 0.5) * cell, middle), 0.34 * cell, colour, outline=INK, width=2)
        canvas.text((0.5 * cell, middle + 0.62 * CELL), f"back {self._small:g}", INK, size=16)
        canvas.text((cell * (count - 0.5), middle + 0.62 * CELL), f"{self._large:g}", INK, size=16)
        canvas.circle(((int(self.state[row]) + 0.5) * cell, middle), 0.2 * cell, ORANGE)
        return canvas.array()

    def describe(self, row: int) -> str:
        """Return the chain: o where the agent is."""
        place = int(self.state[row])
        links = "-".join("o" if x == place else "." for x in range(self.table.num_states))
        return f"back {self._small:g} <{links}> {self._large:g}"


@cache
def chain_table(length: int, slip: float, small: float, large: float) -> TransitionTable:
    """Return the rules; the outcomes of an action are what was meant and what a slip does."""

    def forward(place: int, probability: float) -> Outcome:
        end = place == length - 1
        return probability, place if end else place + 1, large if end else 0.0, False

    def backward(probability: float) -> Outcome:
        return probability, 0, small, False

    table = [
        [[forward(x, 1.0 - slip), backward(slip)], [backward(1.0 - slip), forward(x, slip)]] for x in range(length)
    ]
    return TransitionTable.from_outcomes(table, np.eye(length)[0])
