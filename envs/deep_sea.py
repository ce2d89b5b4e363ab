"""DeepSea: dive for a treasure that is found only by going right at every one of N steps.

From bsuite, whose rules these are: a diver starts in the top left corner of N × N cells, sinks one row a step, and goes
left or right on the way. Right costs .01 / N; right in the last column, which only the diagonal reaches, at the last
row, pays 1. An episode has N steps. Which action means right is drawn for each cell, once, so that nothing is learned
of a cell from another; the default `mapping_seed` is that of bsuite's experiment and gives the same map. The stochastic
version, whose rewards are normal, has no table and is left out.

Optimum: right everywhere, 1 - .01 = .99. Random play finds the treasure in 2^-N of its episodes, and returns
2^-N - .005.

What it separates: exploration, as the number of episodes that undirected exploration needs is exponential in N while
the cost teaches it to keep left; a way of exploring that is worth the name needs about N² or N³.

Reference: Osband, Van Roy, Russo & Wen 2019, "Deep exploration via randomized value functions"; Osband et al. 2020,
"Behaviour suite for reinforcement learning" (bsuite).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8

from gumbelrl.envs.drawing import BLUE, ORANGE, YELLOW, Canvas, Colour
from gumbelrl.envs.tabular import TabularEnv, TransitionTable

WATER: Colour = (205, 225, 242)


class DeepSea(TabularEnv):
    """State and observation: row · size + column, or size² once the bottom is reached. Actions: 0 and 1.

    Args:
        size: the depth and width of the sea.
        move_cost: what N steps to the right cost together.
        mapping_seed: of the map from actions to directions; None for 0 left and 1 right everywhere.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        size: int = 10,
        move_cost: float = 0.01,
        mapping_seed: int | None = 42,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < 2:
            raise ValueError(f"size must be at least 2, got {size}")
        self.size = size
        super().__init__(num_envs, table=sea_table(size, move_cost, mapping_seed), device=device)

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        cell = max(4, 400 // self.size)
        side = cell * self.size
        canvas = Canvas(side, side, WATER)
        for k in range(1, self.size):
            canvas.line([(k * cell, 0), (k * cell, side)], (255, 255, 255), width=1)
            canvas.line([(0, k * cell), (side, k * cell)], (255, 255, 255), width=1)
        canvas.line([(0, 0), (side, side)], BLUE, width=1)
        canvas.circle((side - cell / 2, side - cell / 2), cell * 0.38, YELLOW)
        y, x = divmod(int(self.state[row]), self.size)
        canvas.circle(((x + 0.5) * cell, (y + 0.5) * cell), cell * 0.3, ORANGE)
        return canvas.array()

    def describe(self, row: int) -> str:
        """Return the sea: o the diver, $ the treasure."""
        cells = ["~"] * (self.size**2 - 1) + ["$", ""]
        cells[int(self.state[row])] = "o"
        return "\n".join("".join(cells[k * self.size : (k + 1) * self.size]) for k in range(self.size))


@cache
def sea_table(size: int, move_cost: float, mapping_seed: int | None) -> TransitionTable:
    """Return the rules; the last state is the end."""
    end = size * size
    row, column = np.divmod(np.arange(end), size)
    bottom = row == size - 1
    sides = np.stack((np.maximum(column - 1, 0), np.minimum(column + 1, size - 1)), axis=1)
    after = np.where(bottom[:, None], end, ((row + 1) * size)[:, None] + sides)
    reward = np.stack((np.zeros(end), (column == size - 1) - move_cost / size), axis=1)
    if mapping_seed is not None:
        right = np.random.RandomState(mapping_seed).binomial(1, 0.5, [size, size]).reshape(end, 1)
        direction = (np.arange(2) == right).astype(np.int64)
        after, reward = np.take_along_axis(after, direction, 1), np.take_along_axis(reward, direction, 1)
    next_state = torch.tensor(np.concatenate((after, np.full((1, 2), end)))).unsqueeze(-1)
    return TransitionTable(
        next_state=next_state,
        probability=torch.ones(next_state.shape, dtype=torch.float64),
        reward=torch.tensor(np.concatenate((reward, np.zeros((1, 2))))).unsqueeze(-1),
        terminated=next_state == end,
        initial=torch.eye(1, end + 1, dtype=torch.float64)[0],
    )
