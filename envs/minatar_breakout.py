"""MinAtar Breakout: a paddle keeps a ball in play, which breaks bricks.

Rules. The wall is three rows of bricks (rows 1 to 3). The ball moves one cell diagonally in every step. At a side it
turns in x, at the top in y. At a brick it breaks it (reward 1), stays in its row and turns in y; a brick met in the
step right after another brick is flown through unharmed. Where the ball would enter the bottom row, the paddle saves
it, which has already moved: below where the ball comes from, it turns in y; below where it goes to, in both; elsewhere
the game is over. If no brick is left at that moment, the wall is built again. The trail is the ball's last cell; the
start is at the left or right end of row 3, downwards.

What it separates: an action earns its reward some ten steps later, after a flight without chance: credit that reaches
back, under little noise of the returns.

Optimum: unknown, and without bound: whoever never misses plays for ever. Published: PPO 28 with episodes of at most
1,000 steps (README of `gymnax`); the package's README gives 0.5 for random play of all six actions.

Reference: see `minatar.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.minatar import SIZE, GameState, MinAtarGame

FIRST_ROW, ROWS = 1, 3  # of bricks
WALL = (1 << ROWS * SIZE) - 1  # every brick, a bit each
PADDLE_START = 4
FROM_LEFT, FROM_RIGHT = 4 * 30 + 3, 4 * 39 + 2  # flights that a game starts with


class MinAtarBreakout(MinAtarGame):
    """Observation: channels paddle, ball, trail, brick. Actions: noop, left, right.

    State, int64 `[env]`: `paddle` (column); `flight` of the ball, 4 cell + 2 (downwards) + (to the right), where cells
    are 10 y + x; `trail` (cell); `bricks`, a bit each from the top left; and `struck` (bool), whether the last step met
    a brick.
    """

    channels = ("paddle", "ball", "trail", "brick")
    symbols = "=o'#"
    useful_actions = ("noop", "left", "right")
    num_random = 1

    def __init__(self, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, **options)
        self._shift = self.per_action(left=-1, right=1)
        self._ahead, self._back = (table.to(self.device) for table in _flights())
        above, below = FIRST_ROW * SIZE, (SIZE - FIRST_ROW - ROWS) * SIZE
        bits = [0] * above + [1 << brick for brick in range(ROWS * SIZE)] + [0] * below
        self._bit = torch.tensor(bits, device=self.device)
        self._wall = torch.tensor(WALL, device=self.device)
        # Where paddle, ball and trail are in a flat observation, apart from 4 times their column or cell; and bricks.
        self._places = torch.tensor([(SIZE - 1) * SIZE * len(self.channels), 1, 2], device=self.device)
        self._brick_bits = torch.arange(ROWS * SIZE, device=self.device)
        self._brick_places = ((self._brick_bits + FIRST_ROW * SIZE) * len(self.channels) + 3).expand(num_envs, -1)

    def new_game(self, noise: Float[Tensor, "env 1"]) -> GameState:
        flight = FROM_LEFT + (FROM_RIGHT - FROM_LEFT) * (noise[:, 0] > 0.5)
        return {
            "paddle": torch.full_like(flight, PADDLE_START),
            "flight": flight,
            "trail": flight >> 2,
            "bricks": torch.full_like(flight, WALL),
            "struck": torch.zeros_like(flight, dtype=torch.bool),
        }

    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 0"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        paddle = (state["paddle"] + self._shift.index_select(0, action)).clamp(0, SIZE - 1)
        flight, bricks = state["flight"], state["bricks"]
        ahead = self._ahead.index_select(0, flight)
        origin, cell = flight >> 2, ahead >> 2
        bit = self._bit.index_select(0, cell)
        met = (bricks & bit) != 0
        broken = met & ~state["struck"]
        bricks = bricks ^ (bit * broken)
        low = cell >= (SIZE - 1) * SIZE
        bricks = torch.where(low & (bricks == 0), self._wall, bricks)
        straight = low & (origin == paddle + (SIZE - 2) * SIZE)
        corner = (cell == paddle + (SIZE - 1) * SIZE) & ~straight
        back = broken | straight | corner
        returned = self._back.index_select(0, flight) ^ corner  # the corner turns it in x too
        following = {
            "paddle": paddle,
            "flight": torch.where(back, returned, ahead),
            "trail": origin,
            "bricks": bricks,
            "struck": met,
        }
        return following, broken.to(torch.float32), low & ~back

    def observe(self, state: GameState) -> Bool[Tensor, "env 10 10 4"]:
        bricks = ((state["bricks"].unsqueeze(1) >> self._brick_bits) & 1) > 0
        cells = torch.stack((state["paddle"], state["flight"] >> 2, state["trail"]), dim=1)
        places = cells * len(self.channels) + self._places
        return self.board((self._brick_places, bricks), (places, None))


def _flights() -> tuple[Int[Tensor, " flight"], Int[Tensor, " flight"]]:
    """Return what follows on every flight, walls included: flying on, and being sent back in y."""
    ahead, back = [], []
    for flight in range(4 * SIZE * SIZE):
        cell, down, right = flight // 4, flight // 2 % 2, flight % 2
        y, x = divmod(cell, SIZE)
        next_x, next_y = x + 2 * right - 1, y + 2 * down - 1
        if not 0 <= next_x < SIZE:
            next_x, right = x, 1 - right
        if next_y < 0:
            next_y, down = y, 1 - down
        next_y = min(next_y, SIZE - 1)  # below the board a game is over
        ahead.append(4 * (SIZE * next_y + next_x) + 2 * down + right)
        back.append(4 * (SIZE * y + next_x) + 2 * (1 - down) + right)
    return torch.tensor(ahead), torch.tensor(back)
