"""FrozenLake-v1 and FrozenLake8x8-v1: cross a frozen lake without falling into a hole.

From gymnasium, whose transition table this equals entry by entry, for every map and option. A move goes where it was
meant to with probability `success_rate` and to either side of that with half the rest; walls hold. The goal and the
holes end the episode; the reward is 1 at the goal and 0 elsewhere.

Optimum, by dynamic programming over the table (success rate 1/3). The first column ends at the time limit and the best
policy counts steps; the second is the best that was found for an agent that sees only its place (the policies that are
optimal for some discount, within the limit); the third has no limit:

    4x4, 100 steps    .7442    .7402    14/17 = .8235
    8x8, 200 steps    .9132    .8936    1

What it separates: agents that keep exploring from those that give up, as nothing is learned before the first reward,
which random play meets in 1.4% of its episodes on the small lake and in 0.2% on the large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8

from gumbelrl.envs.drawing import GREEN, INK, ORANGE, Canvas, Colour
from gumbelrl.envs.tabular import Outcome, TabularEnv, TransitionTable

MAPS: dict[str, tuple[str, ...]] = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # rows and columns: left, down, right, up
ICE: Colour = (219, 234, 245)
WATER: Colour = (44, 82, 130)


class FrozenLake(TabularEnv):
    """State and observation: row · columns + column. Actions: left, down, right, up.

    Args:
        map_name: `4x4` or `8x8`.
        desc: the map itself, rows of `S` (start; several are equally likely), `F` (ice), `H` (hole) and `G` (goal);
            comes before `map_name`.
        is_slippery: whether moves go astray.
        success_rate: the probability that a slippery move goes where it was meant to.
        reward_schedule: for reaching the goal, a hole and ice.

    The time limit is 100 steps, whatever the map, as in gymnasium.
    """

    max_episode_steps = 100

    def __init__(
        self,
        num_envs: int,
        *,
        map_name: str = "4x4",
        desc: Sequence[str] | None = None,
        is_slippery: bool = True,
        success_rate: float = 1.0 / 3.0,
        reward_schedule: tuple[float, float, float] = (1.0, 0.0, 0.0),
        device: torch.device | str = "cpu",
    ) -> None:
        if desc is None and map_name not in MAPS:
            raise ValueError(f"there is no map {map_name!r}: use {' or '.join(MAPS)}, or give the rows as desc")
        self.rows = MAPS[map_name] if desc is None else tuple(desc)
        _check(self.rows, success_rate, reward_schedule)
        table = lake_table(self.rows, success_rate if is_slippery else 1.0, is_slippery, tuple(reward_schedule))
        super().__init__(num_envs, table=table, device=device)

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        height, width = len(self.rows), len(self.rows[0])
        cell = 400 // max(height, width, 4)
        canvas = Canvas(cell * width, cell * height)
        for y, line in enumerate(self.rows):
            for x, letter in enumerate(line):
                left, top, gap = x * cell, y * cell, 1.5
                canvas.rectangle(left + gap, top + gap, left + cell - gap, top + cell - gap, ICE, radius=cell / 10)
                if letter == "H":
                    canvas.circle((left + cell / 2, top + cell / 2), cell * 0.36, WATER)
                elif letter == "G":
                    _flag(canvas, left, top, cell)
                elif letter == "S":
                    canvas.text((left + cell * 0.16, top + cell * 0.18), "S", INK, size=cell * 0.22)
        y, x = divmod(int(self.state[row]), width)
        canvas.circle(((x + 0.5) * cell, (y + 0.5) * cell), cell * 0.22, ORANGE)
        return canvas.array()

    def describe(self, row: int) -> str:
        """Return the map, brackets around where the agent is."""
        here = divmod(int(self.state[row]), len(self.rows[0]))
        return "\n".join(
            "".join(f"[{letter}]" if (y, x) == here else f" {letter} " for x, letter in enumerate(line))
            for y, line in enumerate(self.rows)
        )


class FrozenLake8x8(FrozenLake):
    """The larger lake, with a time limit of 200 steps."""

    max_episode_steps = 200

    def __init__(
        self,
        num_envs: int,
        *,
        map_name: str = "8x8",
        desc: Sequence[str] | None = None,
        is_slippery: bool = True,
        success_rate: float = 1.0 / 3.0,
        reward_schedule: tuple[float, float, float] = (1.0, 0.0, 0.0),
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            num_envs,
            map_name=map_name,
            desc=desc,
            is_slippery=is_slippery,
            success_rate=success_rate,
            reward_schedule=reward_schedule,
            device=device,
        )


@cache
def lake_table(
    rows: tuple[str, ...], success_rate: float, is_slippery: bool, reward_schedule: tuple[float, ...]
) -> TransitionTable:
    """Return the rules of a lake; outcomes in the order of gymnasium's."""
    height, width = len(rows), len(rows[0])
    astray = (1.0 - success_rate) / 2.0

    def move(y: int, x: int, direction: int, probability: float) -> Outcome:
        down, right = MOVES[direction]
        y, x = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
        letter = rows[y][x]
        reward = reward_schedule["GHF".index(letter if letter in "GH" else "F")]
        return probability, y * width + x, reward, letter in "GH"

    def outcomes(y: int, x: int, action: int) -> list[Outcome]:
        if rows[y][x] in "GH":
            return [(1.0, y * width + x, 0.0, True)]
        if not is_slippery:
            return [move(y, x, action, 1.0)]
        chances = ((action - 1, astray), (action, success_rate), (action + 1, astray))
        return [move(y, x, direction % 4, probability) for direction, probability in chances]

    table = [[outcomes(y, x, action) for action in range(4)] for y in range(height) for x in range(width)]
    starts = np.array([letter == "S" for line in rows for letter in line], dtype=np.float64)
    return TransitionTable.from_outcomes(table, starts / starts.sum())


def _check(rows: tuple[str, ...], success_rate: float, reward_schedule: Sequence[float]) -> None:
    if len({len(line) for line in rows}) != 1 or not set("".join(rows)) <= set("SFHG") or "S" not in "".join(rows):
        raise ValueError(f"desc must be rows of equal length made of S, F, H and G, with a start S; got {list(rows)}")
    if not 0.0 <= success_rate <= 1.0:
        raise ValueError(f"success_rate must be from 0 to 1, got {success_rate}")
    if len(reward_schedule) != 3:
        raise ValueError(f"reward_schedule has a reward for the goal, a hole and ice; got {reward_schedule}")


def _flag(canvas: Canvas, left: float, top: float, cell: float) -> None:
    pole = left + cell * 0.36
    canvas.line([(pole, top + cell * 0.18), (pole, top + cell * 0.82)], INK, width=cell / 24)
    canvas.polygon(
        [(pole, top + cell * 0.18), (pole + cell * 0.38, top + cell * 0.31), (pole, top + cell * 0.44)], GREEN
    )
