"""MinAtar Space Invaders: a cannon shoots aliens, which march down and drop bombs.

Rules. The aliens are a formation of 4 × 6, at first in rows 0 to 3, columns 2 to 7, marching left. They move one cell
every 12 steps, or every n where only n are left: sideways, or, where one of them is at the edge that they march to,
down, turning. The cannon, in row 9, moves left or right or fires, at most every 5 steps; its shots fly up one cell a
step. Every 10 steps the alien nearest to the cannon's column (the left one of two, the lowest of its column) drops a
bomb, which falls one cell a step. An alien where a shot is, after both have moved, is gone, and so is the shot: reward
1. The game is over when an alien or a bomb is in the cannon's cell, or when the aliens would march down from row 9.
When none is left the next wave starts where the first did; with `difficulty_ramping` each wave moves in one step fewer,
to no fewer than 6.

In a step: the cannon acts, shots fly, the bomb falls, aliens move, the bomb is dropped, aliens are shot. Everything but
the sticky actions is certain.

What it separates: a shot pays up to nine steps later and keeps the cannon from shooting for five, in a game whose
length (and so return) grows with skill without a bound: long credit under little noise.

Optimum: unknown, and unbounded but for sticky actions, for whoever dodges every bomb plays for ever. Known returns
after 5 million steps, all six actions, read off the figure of Young & Tian 2019: actor-critic with traces 185, without
147, DQN 44, DQN without replay 14; PPO in gymnax 131 (its list of trained agents).

Reference: see `minatar.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.minatar import SIZE, GameState, MinAtarGame

ROWS, COLUMNS = 4, 6  # of the formation
ALL = (1 << ROWS * COLUMNS) - 1  # every alien alive, a bit each: COLUMNS × row + column
ROW = (1 << COLUMNS) - 1
LEFT = 2  # column of the board in which the formation begins at first
WIDEST = COLUMNS - 1  # columns that an emptied formation can be beyond the left edge
PLACES = SIZE + WIDEST  # where it can begin
START = 5  # column of the cannon
RELOAD, BOMB_EVERY, MOVE_EVERY, FASTEST = 5, 10, 12, 6  # steps
GONE = -1  # row of a shot that is not there; a bomb's is SIZE
CANNON, NEW, OLD, BOMB = range(4)  # the order of `place`


class MinAtarSpaceInvaders(MinAtarGame):
    """Observation: channels cannon, alien, the same aliens by direction, shots, bomb. Actions: noop, left, right, fire.

    State, int64: `place` `[env, 2, 4]`, rows and columns of the cannon, the newer and the older shot and the bomb;
    `timers` `[env, 3]`, the steps until the cannon is loaded, a bomb is dropped and the aliens move; `formation` `[env,
    4]`, who is alive (bits, see `ALL`), how many they are, row and column in which it begins; `march` `[env, 2]`, 1 to
    the right, 0 to the left, and by how many steps waves are faster than the first.

    A shot leaves the board in the ninth step after the one in which it was fired, a bomb by the tenth: so with 5 and 10
    steps between them there are at most two shots, never in the same row, and one bomb. After a last march down rows
    count modulo 10, as the package rolls its board; the game is over then, and only the final observation shows it.
    """

    channels = ("cannon", "alien", "alien_left", "alien_right", "friendly_bullet", "enemy_bullet")
    symbols = "AM<>|*"
    useful_actions = ("noop", "left", "right", "fire")

    def __init__(self, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, **options)

        def constant(values: list) -> Tensor:
            return torch.tensor(values, device=self.device)

        def repeated(values: list) -> Tensor:
            return constant(values).expand(num_envs, *constant(values).shape).contiguous()

        self._start = {
            "place": repeated([[SIZE - 1, GONE, GONE, SIZE], [START, 0, 0, 0]]),
            "timers": repeated([0, BOMB_EVERY, MOVE_EVERY]),
            "formation": repeated([ALL, ROWS * COLUMNS, 0, LEFT]),
            "march": repeated([0, 0]),
        }
        shift = self.per_action(left=-1, right=1)
        self._shift = torch.zeros(len(shift), 2, 4, dtype=torch.int64, device=self.device)
        self._shift[:, 1, CANNON] = shift
        self._fires = self.per_action(fire=1) > 0
        self._lowest = constant([[SIZE - 1, GONE, GONE, GONE], [0, 0, 0, 0]])
        self._highest = constant([[SIZE - 1, SIZE, SIZE, SIZE], [SIZE - 1] * 4])
        self._fired = constant([CANNON, CANNON, NEW, BOMB])  # from where places come when a shot is fired
        self._flight = constant([[0, -1, -1, 1], [0, 0, 0, 0]])
        self._is_bomb = constant([0, 0, 0, 1]) > 0
        self._reset = constant([RELOAD, BOMB_EVERY])
        self._nearest = _nearest().to(self.device)
        self._alien_bits = torch.arange(ROWS * COLUMNS, device=self.device)
        self._alien_rows, self._alien_columns = self._alien_bits // COLUMNS, self._alien_bits % COLUMNS
        self._formation_rows = torch.arange(ROWS, device=self.device)
        # The channel of each of `place`.
        self._planes = constant([0, 4, 4, 5])

    def new_game(self, noise: Tensor) -> GameState:
        return {name: value.clone() for name, value in self._start.items()}

    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Tensor
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        due = state["timers"] == 0
        fires = self._fires[action] & due[:, 0]
        place = self._flown(state["place"], action, fires)
        rows, columns = place.unbind(1)
        bombed = (rows[:, BOMB] == SIZE - 1) & (columns[:, BOMB] == columns[:, CANNON])
        aliens, left_over, *_ = state["formation"].unbind(1)
        marches_right, waves = state["march"].unbind(1)
        column_bits = _column_bits(aliens)
        top, left, turns, over = _marched(state["formation"], marches_right, due[:, 2], column_bits, columns[:, CANNON])
        # Where the cannon and the shots are in the formation, as it is now.
        across = columns[:, :BOMB] - left.unsqueeze(1)
        down = _wrapped(rows[:, :BOMB].clamp_min(0) - top.unsqueeze(1)) * COLUMNS
        met = _bit((aliens.unsqueeze(1) >> down) & ROW, across) * (rows[:, :BOMB] != GONE)
        shot = met[:, NEW:]
        # Bits beside the formation are 0, so that it does not matter where they are put.
        killed = shot << (down + across)[:, NEW:].clamp(0, ROWS * COLUMNS)
        bomb = self._dropped(aliens, column_bits, top, left, across[:, CANNON])
        kills = shot.sum(1)
        every = torch.minimum(left_over, MOVE_EVERY - waves)
        formation = torch.stack((aliens - killed.sum(1), left_over - kills, top, left), dim=1)
        cleared = formation[:, 1] == 0
        if self.difficulty_ramping:
            waves = (waves + cleared).clamp_max(MOVE_EVERY - FASTEST)
        changed = torch.cat((torch.zeros_like(met[:, :1]), shot, due[:, 1:2]), dim=1) > 0
        reset = torch.cat((self._reset.expand(self.num_envs, 2), every.unsqueeze(1)), dim=1)
        restarted = torch.cat((fires.unsqueeze(1), due[:, 1:]), dim=1)
        following = {
            "place": torch.where(changed.unsqueeze(1), torch.where(self._is_bomb, bomb, GONE), place),
            "timers": (torch.where(restarted, reset, state["timers"]) - 1).clamp_min(0),
            "formation": torch.where(cleared.unsqueeze(1), self._start["formation"], formation),
            "march": torch.stack((marches_right ^ turns, waves), dim=1),
        }
        return following, kills.to(torch.float32), bombed | over | (met[:, CANNON] > 0)

    def _flown(
        self, place: Int[Tensor, "env 2 4"], action: Int[Tensor, " env"], fires: Bool[Tensor, " env"]
    ) -> Int[Tensor, "env 2 4"]:
        """Return the places after the cannon's action and a step of flight."""
        place = torch.clamp(place + self._shift[action], self._lowest, self._highest)
        place = torch.where(fires.view(-1, 1, 1), place.index_select(2, self._fired), place) + self._flight
        return torch.clamp(place, self._lowest, self._highest)

    def _dropped(
        self,
        aliens: Int[Tensor, " env"],
        column_bits: Int[Tensor, " env"],
        top: Int[Tensor, " env"],
        left: Int[Tensor, " env"],
        cannon: Int[Tensor, " env"],
    ) -> Int[Tensor, "env 2 1"]:
        """Return the place of the alien that would drop a bomb: in the column nearest to the cannon, the lowest."""
        column = self._nearest[column_bits * (PLACES + SIZE) + (cannon + SIZE)]
        there = (aliens.unsqueeze(1) >> (COLUMNS * self._formation_rows + column.unsqueeze(1))) & 1
        row = (_wrapped(top.unsqueeze(1) + self._formation_rows - SIZE) * there).amax(1)
        return torch.stack((row, left + column), dim=1).unsqueeze(2)

    def observe(self, state: GameState) -> Bool[Tensor, "env 10 10 6"]:
        aliens, _, top, left = state["formation"].unsqueeze(2).unbind(1)
        rows, columns = state["place"].unbind(1)
        places = (rows * SIZE + columns) * len(self.channels) + self._planes
        # What is not there is written where the cannon is seen already.
        cannon = places[:, :1]
        places = torch.where((rows >= 0) & (rows < SIZE), places, cannon)
        column = left + self._alien_columns
        seen = ((aliens >> self._alien_bits) & 1 > 0) & (column >= 0) & (column < SIZE)
        alien = (_wrapped(top + self._alien_rows - SIZE) * SIZE + column) * len(self.channels) + 1
        alien = torch.where(seen, alien, cannon)
        marching = torch.where(seen, alien + 1 + state["march"][:, :1], cannon)
        return self.board((places, None), (alien, None), (marching, None))

    def describe(self, row: int) -> str:
        right, waves = self.state["march"][row].tolist()
        left_over = int(self.state["formation"][row, 1])
        march = f"{left_over} aliens marching {'right' if right else 'left'}, {waves} steps faster than at first"
        return f"{super().describe(row)}\n{march}"


def _bit(bits: Int[Tensor, "*shape"], column: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return a bit of 6, or 0 for a column beside them, −10 to 53."""
    return (bits << SIZE) >> (column + SIZE) & 1


def _wrapped(row: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return `row` modulo 10, for −10 to 9; several times as fast as the remainder."""
    return torch.where(row < 0, row + SIZE, row)


def _column_bits(aliens: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
    """Return the formation's columns that have an alien, 6 bits."""
    halves = aliens | (aliens >> 2 * COLUMNS)
    return (halves | (halves >> COLUMNS)) & ROW


def _marched(
    formation: Int[Tensor, "env 4"],
    marches_right: Int[Tensor, " env"],
    moves: Bool[Tensor, " env"],
    column_bits: Int[Tensor, " env"],
    cannon: Int[Tensor, " env"],
) -> tuple[Int[Tensor, " env"], Int[Tensor, " env"], Int[Tensor, " env"], Bool[Tensor, " env"]]:
    """Return where the formation begins after the march, 1 where it turns, and whether the game is over before that."""
    aliens, _, top, left = formation.unbind(1)
    turns = _bit(column_bits, marches_right * (SIZE - 1) - left) * moves
    lowest = (aliens >> ((SIZE - 1 - top) * COLUMNS)) & ROW
    over = (_bit(lowest, cannon - left) > 0) | ((lowest * turns) > 0)
    return top + turns, left + (2 * marches_right - 1) * (moves ^ turns), turns, over


def _nearest() -> Int[Tensor, " entry"]:
    """Return the formation's column nearest to the cannon, the left one of two: by column bits, cannon − left + 10."""

    def nearest(bits: int, place: int) -> int:
        columns = [column for column in range(COLUMNS) if bits >> column & 1]
        return min(columns, key=lambda column: (abs(column - place), column), default=0)

    return torch.tensor([nearest(bits, place) for bits in range(ROW + 1) for place in range(-SIZE, PLACES)])
