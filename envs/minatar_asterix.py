"""MinAtar Asterix: collect gold and avoid enemies, which cross the board from its sides.

Rules. Each of rows 1 to 8 holds at most one thing, gold (one in three) or an enemy. One appears at the left or right
end of an empty row, drawn at random, every 10 steps, and all move one cell every 5 steps, until they leave the board.
In a step: a thing appears, the player moves (within rows 1 to 8), what is in its cell is touched, the things move, what
is in its cell now is touched. Touching gold gives reward 1 and takes it away; touching an enemy ends the game. The
trail is the cell that a thing comes from.

With `difficulty_ramping`, after every 102nd step, up to the 918th, things appear a step more often, and after every
204th they move a step more often, until both happen in every step; a period that has begun is not cut.

What it separates: choices that mostly earn the same, and sometimes end the game: the value of an action depends on
where things will be in a few steps, so that noisy critics, and estimators that trust their slope, are found out.

Optimum: unknown. Published: PPO 15 with episodes of at most 1,000 steps (README of `gymnax`).

Reference: see `minatar.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.minatar import SIZE, GameState, MinAtarGame

START = 55  # cell of the player
SPAWN_EVERY, MOVE_EVERY = 10, 5  # steps, at first
RAMP_EVERY = 102
EMPTY, OUTSIDE = 0, 4 * SIZE + 1  # codes of a row that holds nothing, and of one that never does
KINDS = OUTSIDE + 1


class MinAtarAsterix(MinAtarGame):
    """Observation: channels player, enemy, trail, gold. Actions: noop, left, up, right, down.

    State, int64: `player` `[env]`, its cell 10 y + x; `things` `[env, 10]`, one a row, 1 + 4 column + 2 (moves right) +
    (is gold), `EMPTY` or `OUTSIDE`; `time` `[env]`, the place in the clock, which says when things appear and move.
    """

    channels = ("player", "enemy", "trail", "gold")
    symbols = "P!'$"
    useful_actions = ("noop", "left", "up", "right", "down")
    num_play_random = 3

    def __init__(self, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, **options)
        across, upright = self.per_action(left=-1, right=1).tolist(), self.per_action(up=-1, down=1).tolist()
        self._walked = _walks(across, upright).to(self.device)
        self._tick, self._spawning, self._moving = (t.to(self.device) for t in _clock(self.difficulty_ramping))
        self._moved = _moves().to(self.device)
        self._left, self._gold, self._caught = (table.to(self.device) for table in _meetings())
        self._looks = _looks(len(self.channels)).to(self.device)
        self._look_rows = KINDS * torch.arange(SIZE, device=self.device)
        # A bit for each row that is empty; those at the top and the bottom never are.
        self._lanes = torch.arange(1, SIZE + 1, device=self.device)
        self._bits = 1 << (self._lanes - 1)
        self._empty_count, self._empty_lane = (table.to(self.device) for table in _empty_rows())
        board = torch.tensor([OUTSIDE, *[EMPTY] * (SIZE - 2), OUTSIDE], device=self.device)
        self._no_things = board.repeat(num_envs, 1)

    def new_game(self, noise: Float[Tensor, "env 0"]) -> GameState:
        return {
            "player": torch.full_like(self._nothing, START),
            "things": self._no_things.clone(),
            "time": torch.zeros_like(self._nothing),
        }

    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 3"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        time = state["time"]
        things = self._spawned(state["things"], self._spawning.index_select(0, time), noise)
        player = self._walked.index_select(0, state["player"] * len(self.action_names) + action)
        # Only the thing in the player's row can be met, before its move or after.
        moving = self._moving.index_select(0, time)
        row = (player // SIZE).unsqueeze(1)
        meeting = (things.gather(1, row).squeeze(1) + KINDS * moving) * SIZE + player % SIZE
        moved = (things + (KINDS * moving).unsqueeze(1)).flatten()
        things = self._moved.index_select(0, moved).view(things.shape)
        things = things.scatter(1, row, self._left.index_select(0, meeting).unsqueeze(1))
        following = {"player": player, "things": things, "time": self._tick.index_select(0, time)}
        return following, self._gold.index_select(0, meeting), self._caught.index_select(0, meeting)

    def _spawned(
        self, things: Int[Tensor, "env 10"], spawning: Int[Tensor, " env"], noise: Float[Tensor, "env 3"]
    ) -> Int[Tensor, "env 10"]:
        """Put a thing into one of the empty rows, all equally likely; none where none is empty."""
        right, gold = noise[:, 0] < 1 / 2, noise[:, 1] < 1 / 3
        thing = 1 + (4 * (SIZE - 1)) * ~right + 2 * right + gold  # in the last column if it moves left
        empty = ((things == EMPTY) * self._bits).sum(1)
        rank = (noise[:, 2] * self._empty_count.index_select(0, empty)).to(torch.int64)  # of the row among the empty
        lane = self._empty_lane.index_select(0, torch.add(rank, empty, alpha=SIZE)) * spawning
        return things + (self._lanes == lane.unsqueeze(1)) * thing.unsqueeze(1)

    def observe(self, state: GameState) -> Bool[Tensor, "env 10 10 4"]:
        things = (state["things"] + self._look_rows)[:, 1:-1]
        places = self._looks.index_select(0, things.flatten()).view(self.num_envs, -1)
        player = (state["player"] * len(self.channels)).unsqueeze(1)
        return self.board((player, None), (places, places > 0))


def _walks(across: list[int], upright: list[int]) -> Int[Tensor, " cell_choice"]:
    """Return the player's cell after a step, in row choices × cell + choice."""
    walked = []
    for cell in range(SIZE * SIZE):
        y, x = divmod(cell, SIZE)
        for shift_x, shift_y in zip(across, upright, strict=True):
            new_y, new_x = min(max(y + shift_y, 1), SIZE - 2), min(max(x + shift_x, 0), SIZE - 1)
            walked.append(new_y * SIZE + new_x)
    return torch.tensor(walked)


def _clock(ramping: bool) -> tuple[Int[Tensor, " time"], Int[Tensor, " time"], Int[Tensor, " time"]]:
    """Return the following time, and whether (0 or 1) a thing appears and all move.

    The last time with ramping, when both happen, is followed by itself; without, all comes again after ten steps.
    """
    spawn_every, move_every = SPAWN_EVERY, MOVE_EVERY
    spawn_in, move_in = spawn_every, move_every
    spawning, moving = [], []
    last = (SPAWN_EVERY - 1) * RAMP_EVERY + SPAWN_EVERY if ramping else SPAWN_EVERY
    for time in range(last + 1):
        spawning.append(int(spawn_in == 0))
        moving.append(int(move_in == 0))
        spawn_in = (spawn_every if spawn_in == 0 else spawn_in) - 1
        move_in = (move_every if move_in == 0 else move_in) - 1
        ramps, left = divmod(time + 1, RAMP_EVERY)
        if ramping and left == 0:
            spawn_every = max(spawn_every - 1, 1)
            move_every = max(move_every - (ramps % 2 == 0), 1)
    again = last if ramping else last + 1 - SPAWN_EVERY
    return torch.tensor([*range(1, last + 1), again]), torch.tensor(spawning), torch.tensor(moving)


def _moves() -> Int[Tensor, " moving_kind"]:
    """Return of each kind of thing itself (EMPTY and OUTSIDE included), then itself a move later."""
    moved = list(range(KINDS))
    for kind in range(1, OUTSIDE):
        column, step = (kind - 1) // 4, 4 if (kind - 1) & 2 else -4
        moved[kind] = kind + step if 0 <= column + step // 4 < SIZE else EMPTY
    return torch.tensor([*range(KINDS), *moved])


def _empty_rows() -> tuple[Int[Tensor, " bits"], Int[Tensor, " bits_rank"]]:
    """Return how many rows are empty, and 1 + the n-th of them in row 10 bits + n; 0 where there are fewer."""
    count, lane = [], []
    for bits in range(1 << SIZE):
        empty = [row + 1 for row in range(SIZE) if bits >> row & 1]
        count.append(len(empty))
        lane.extend([*empty, *[0] * (SIZE - len(empty))])
    return torch.tensor(count), torch.tensor(lane)


def _meetings() -> tuple[Int[Tensor, " meeting"], Float[Tensor, " meeting"], Bool[Tensor, " meeting"]]:
    """Return what is left of the thing in the player's row, the gold collected, and whether an enemy was touched.

    In row 10 (KINDS moving + kind) + the player's column.
    """
    moved = _moves().tolist()
    left, gold, caught = [], [], []
    for first in range(2 * KINDS):
        moving, kind = divmod(first, KINDS)
        for x in range(SIZE):
            rest, gold_before, enemy_before = _touched(kind, x)
            rest, gold_after, enemy_after = _touched(moved[KINDS * moving + rest], x)
            left.append(rest)
            gold.append(float(gold_before or gold_after))
            caught.append(enemy_before or enemy_after)
    return torch.tensor(left), torch.tensor(gold), torch.tensor(caught)


def _touched(kind: int, x: int) -> tuple[int, bool, bool]:
    """Return what a player in column x leaves of a thing in its row, whether it was gold, and whether an enemy."""
    there = EMPTY < kind < OUTSIDE and (kind - 1) // 4 == x
    is_gold = (kind - 1) % 2 == 1
    return EMPTY if there and is_gold else kind, there and is_gold, there and not is_gold


def _looks(channels: int) -> Int[Tensor, "row_kind 2"]:
    """Return where in a flat board a thing and its trail are, by KINDS row + kind; 0 if not seen, where none is."""
    looks = torch.zeros(SIZE, KINDS, 2, dtype=torch.int64)
    for row in range(1, SIZE - 1):
        for kind in range(1, OUTSIDE):
            column, right, gold = (kind - 1) // 4, (kind - 1) & 2, (kind - 1) & 1
            looks[row, kind, 0] = (row * SIZE + column) * channels + (3 if gold else 1)
            behind = column - 1 if right else column + 1
            if 0 <= behind < SIZE:
                looks[row, kind, 1] = (row * SIZE + behind) * channels + 2
    return looks.flatten(0, 1)
