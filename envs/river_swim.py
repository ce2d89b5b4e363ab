"""RiverSwim: swim against the current to a large reward, or drift to a small one that is always at hand.

Six places in a river. Left always succeeds. Right: from the places between moves right with probability .35, stays with
.6 and is carried left with .05; at the left end it moves right with .6, else stays; at the right end it stays with .6,
else is carried left. Left at the left end pays .005, right at the right end 1, all else nothing. These are the numbers
of Osband, Russo & Van Roy 2013 and of Osband's TabulaRL, with its episodes of 20 steps. Strehl & Littman 2008, who
invented it, have .3, .6 and .1, ends of .3 and .7, rewards of 5 and 10,000, and a start at either of two places.

Optimum: always right. Its stationary distribution goes up by 12, 7, 7, 7 and 7/8 from place to place (what flows right
flows left: .6 : .05, .35 : .05, .35 : .4), so the average reward in the long run is 3601.5 / 8402.5 = .4286 a step. In
20 steps from the left end the best return is 3.397; that of staying there .1, and that of random play .044, which sees
the large reward in 1.8% of episodes.

What it separates: exploration. What is learned from random play is to go left, and stay.

Reference: Strehl & Littman 2008, "An analysis of model-based interval estimation for Markov decision processes";
Osband, Russo & Van Roy 2013, "(More) efficient reinforcement learning via posterior sampling".
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8

from gumbelrl.envs.drawing import BLUE, GREEN, INK, ORANGE, YELLOW, Canvas, Colour
from gumbelrl.envs.tabular import Outcome, TabularEnv, TransitionTable

WATER: Colour = (205, 225, 242)
CELL = 96  # pixels


class RiverSwim(TabularEnv):
    """State and observation: the place, from the left. Actions: left, right.

    Args:
        num_places: the length of the river.
    """

    max_episode_steps = 20

    def __init__(self, num_envs: int, *, num_places: int = 6, device: torch.device | str = "cpu") -> None:
        if num_places < 2:
            raise ValueError(f"num_places must be at least 2, got {num_places}")
        super().__init__(num_envs, table=river_table(num_places), device=device)

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        count = self.table.num_states
        canvas = Canvas(CELL * count, 2 * CELL, WATER)
        middle = CELL * 1.0
        for x in range(count - 1):  # the current
            for y in (0.25, 1.8):
                right = (x + 1.2) * CELL
                canvas.line([(right, y * CELL), (right - 0.4 * CELL, y * CELL)], BLUE, width=2)
                tip = (right - 0.5 * CELL, y * CELL)
                canvas.polygon([tip, (tip[0] + 10, tip[1] - 5), (tip[0] + 10, tip[1] + 5)], BLUE)
        for x, colour, reward in ((0, YELLOW, ".005"), (count - 1, GREEN, "1")):
            canvas.circle(((x + 0.5) * CELL, middle), 0.4 * CELL, colour)
            canvas.text(((x + 0.5) * CELL, middle + 0.55 * CELL), reward, INK, size=16)
        canvas.circle(((int(self.state[row]) + 0.5) * CELL, middle), 0.24 * CELL, ORANGE)
        return canvas.array()

    def describe(self, row: int) -> str:
        """Return the river: o where the swimmer is."""
        place = int(self.state[row])
        water = "".join("o" if x == place else "~" for x in range(self.table.num_states))
        return f".005 |{water}| 1"


@cache
def river_table(num_places: int) -> TransitionTable:
    """Return the rules; the outcomes of right are left, stay, right."""
    last = num_places - 1

    def right(place: int) -> list[Outcome]:
        if place == 0:
            return [(0.4, 0, 0.0, False), (0.6, 1, 0.0, False)]
        if place == last:
            return [(0.4, last - 1, 1.0, False), (0.6, last, 1.0, False)]
        return [(0.05, place - 1, 0.0, False), (0.6, place, 0.0, False), (0.35, place + 1, 0.0, False)]

    table = [[[(1.0, max(x - 1, 0), 0.005 if x == 0 else 0.0, False)], right(x)] for x in range(num_places)]
    return TransitionTable.from_outcomes(table, np.eye(num_places)[0])
