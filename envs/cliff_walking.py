"""CliffWalking-v1 and CliffWalkingSlippery-v1: from corner to corner along the edge of a cliff.

From Sutton & Barto 2018, example 6.6, as gymnasium has it, whose transition table this equals entry by entry: each step
costs 1; a step into the cliff costs 100 and leads back to the start, and the episode goes on; only the goal ends it. On
slippery ground a step goes to either side of where it was meant to with probability 1/3 each. Walls hold.

There is no time limit, as in gymnasium, so that the first episodes of an agent may last for thousands of steps.

Optimum: the 13 steps along the edge, -13. Slippery, by value iteration: -64.71, along the top.

What it separates: on-policy agents, which learn to keep away from the edge while they explore, from off-policy ones,
which learn the value of the edge and fall (example 6.6); and critics that stand rewards of -100 from those that do not.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8

from gumbelrl.envs.drawing import FAINT, GREEN, INK, ORANGE, RED, Canvas
from gumbelrl.envs.tabular import Outcome, TabularEnv, TransitionTable

HEIGHT, WIDTH = 4, 12
START, GOAL = 36, 47
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # rows and columns: up, right, down, left
CELL = 48  # pixels


class CliffWalking(TabularEnv):
    """State and observation: row · 12 + column. Actions: up, right, down, left.

    Args:
        is_slippery: whether steps go astray.
    """

    def __init__(self, num_envs: int, *, is_slippery: bool = False, device: torch.device | str = "cpu") -> None:
        super().__init__(num_envs, table=cliff_table(is_slippery), device=device)

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        canvas = Canvas(CELL * WIDTH, CELL * HEIGHT)
        for place in range(HEIGHT * WIDTH):
            y, x = divmod(place, WIDTH)
            colour = GREEN if place == GOAL else FAINT
            canvas.rectangle(x * CELL + 1, y * CELL + 1, (x + 1) * CELL - 1, (y + 1) * CELL - 1, colour, radius=5)
        top, right = CELL * (HEIGHT - 1) + 1, CELL * (WIDTH - 1) - 1
        canvas.rectangle(CELL + 1, top, right, top + CELL - 2, RED, radius=5)
        canvas.text((CELL * WIDTH / 2, CELL * (HEIGHT - 0.5)), "cliff", (255, 255, 255), size=20)
        canvas.text((CELL * 0.5, CELL * (HEIGHT - 0.5)), "start", INK, size=13)
        canvas.text((CELL * (WIDTH - 0.5), CELL * (HEIGHT - 0.5)), "goal", (255, 255, 255), size=13)
        y, x = divmod(int(self.state[row]), WIDTH)
        canvas.circle(((x + 0.5) * CELL, (y + 0.5) * CELL), CELL * 0.27, ORANGE)
        return canvas.array()

    def describe(self, row: int) -> str:
        """Return the map: x where the agent is, C the cliff, T the goal."""
        letters = ["o"] * (GOAL - 11) + ["o"] + ["C"] * 10 + ["T"]
        letters[int(self.state[row])] = "x"
        return "\n".join(" ".join(letters[left : left + WIDTH]) for left in range(0, HEIGHT * WIDTH, WIDTH))


@cache
def cliff_table(is_slippery: bool) -> TransitionTable:
    """Return the rules; outcomes in the order of gymnasium's."""

    def step(place: int, direction: int, probability: float) -> Outcome:
        down, right = MOVES[direction % 4]
        y, x = divmod(place, WIDTH)
        after = min(max(y + down, 0), HEIGHT - 1) * WIDTH + min(max(x + right, 0), WIDTH - 1)
        fallen = START < after < GOAL
        return (probability, START, -100.0, False) if fallen else (probability, after, -1.0, after == GOAL)

    def outcomes(place: int, action: int) -> list[Outcome]:
        if not is_slippery:
            return [step(place, action, 1.0)]
        return [step(place, direction, 1.0 / 3.0) for direction in (action - 1, action, action + 1)]

    table = [[outcomes(place, action) for action in range(4)] for place in range(HEIGHT * WIDTH)]
    return TransitionTable.from_outcomes(table, np.eye(HEIGHT * WIDTH)[START])
