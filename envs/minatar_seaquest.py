"""MinAtar Seaquest: a submarine shoots fish and submarines, rescues divers, and must come up for air.

Rules. The player's submarine moves in rows 0 (the surface) to 8 or fires ahead, at most every 5 steps; its bullets fly
one cell a step. Every 20 steps less one a level, an enemy appears at the left or right end of one of rows 1 to 8, a
submarine (one in three) or a fish, unless another in that row goes the other way; every 30 steps a diver does. Enemies
move one cell every 6 steps, from level 2 every 5, from 4 every 4, from 6 every 3; divers every 6. Enemy submarines fire
ahead every 11 steps, bullets that fly one cell a step. An enemy in a bullet's cell is gone, and so is the bullet:
reward 1. Divers in the player's cell come on board, six at most.

Oxygen lasts for 200 steps under water. To surface costs a diver and fills it up; with six on board all leave, and each
full twentieth of the oxygen that was left gives reward 1. With `difficulty_ramping` the level rises by one each time,
to 19 at most. The game is over when an enemy or its bullet is in the player's cell, when oxygen is used up, and when
the player surfaces without a diver. As in the package, surfacing with six takes one diver too many: the count becomes
−1, with which, as with all below 0, surfacing is allowed.

In a step: enemies and divers appear, the player acts, its bullets fly, divers move, enemies move and fire, their
bullets fly, the player breathes. Bullets hit fish before submarines, and of each kind those that came first.

What it separates: reward is rare until shooting is learnt, and to go on after 200 steps takes a plan (a diver, then the
surface) that pays nothing itself: exploration and long credit, in a game with many more things than actions.

Optimum: unknown. Known returns after 5 million steps, read off the figure of Young & Tian 2019 (package before 1.0.11,
whose oxygen gauge was wrong for a step): DQN 20, actor-critic with traces 16, without 7, DQN without replay 0.4.

Reference: see `minatar.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.minatar import SIZE, GameState, MinAtarGame

DEPTH = 8  # the lowest row
FULL_AIR, FULL_BOAT = 200, 6
AIR_CELL = FULL_AIR // SIZE  # steps of oxygen that a cell of its gauge stands for
ENEMY_EVERY, DIVER_EVERY = 20, 30  # steps, the first at level 0
MOVE_EVERY, FASTEST = 5, 2  # steps of waiting between moves
RELOAD, ENEMY_RELOAD = 5, 10  # steps
LEVELS = ENEMY_EVERY - 1  # the highest
START = 5  # column

# A cell is 16 × (row + 1) + column, so that a column off the board (−1, 10) shows in the last four bits. What is not
# there has a cell of its own, beside which is nothing either; bullets of the player another than things, so as not to
# meet.
WIDE = 16
NOWHERE, SPENT = 15 * WIDE + 12, 14 * WIDE + 12
CELLS = WIDE * WIDE
HIDDEN = (SIZE - 1) * SIZE * 10  # a place in a flat board where nothing ever is: the player's submarine in row 9

# A thing is a word of 32 bits: its cell, the cell of its bullet (8 bits each), whether it goes right (1), the steps
# until it moves (3), the steps until it fires (the rest). Fish and divers, which never fire, start with more than they
# live. To choose between the things of 1,024 games takes a tenth of the time that five numbers each would take.
SHOT, RIGHT, WAIT, GUN = 8, 16, 17, 20  # the first bit of each
UNARMED = 127
FIRST = 5  # the bit of a turn that fish do not have
DIVERS, ENEMIES = 2, 30  # slots, the newest first


class MinAtarSeaquest(MinAtarGame):
    """Observation: ten channels, see `channels`; oxygen and divers on board are bars in row 9. Actions: all six.

    State, int32: `player` `[env, 6]`, column, row, heading (1 right, −1 left), oxygen, divers on board, level; `timers`
    `[env, 3]`, steps until a diver, an enemy, the next bullet; `bullets` `[env, 2]` of the player, and `things` `[env,
    32]`, two divers and thirty enemies, as words whose bits are told above.

    Why the slots are enough. A diver leaves before the second after it comes. A bullet of the player's flies for 9
    steps, and there are 5 between two; the player is no faster, so that they are in different cells. Of enemies at most
    thirty come while one is there (the tests try all ways to surface): at level 19 one a step, and each stays for 30. A
    submarine's bullet flies for at most 10 steps of 11, ahead of it and faster, so that there is one, which is gone
    before its submarine would have been; it outlives a submarine that is shot.

    Why their order hardly matters. Enemies in a row go one way at one pace, each some steps behind those before it, and
    a change of pace never takes all of these (the tests try all ways): so no two have the same cell and the same wait,
    and at most one comes into a cell in a step. It follows that the package's `list.remove`, which removes the first
    that is equal, removes the right one. Bullets of enemies can meet, but nothing tells them apart. A bullet of the
    player's that is left after its flight is in no enemy's cell, so that only an enemy that moves can meet it.
    """

    channels = (
        "sub_front",
        "sub_back",
        "friendly_bullet",
        "trail",
        "enemy_bullet",
        "enemy_fish",
        "enemy_sub",
        "oxygen_gauge",
        "diver_gauge",
        "diver",
    )
    symbols = "Pp-'*FSodD"
    useful_actions = ("noop", "left", "up", "right", "down", "fire")
    num_play_random = 5

    def __init__(self, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, **options)

        def constant(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=self.device)

        slots = DIVERS + ENEMIES
        start = {
            "player": constant([START, 0, -1, FULL_AIR, 0, 0]),
            "timers": constant([DIVER_EVERY, ENEMY_EVERY, 0]),
            "bullets": constant([SPENT, SPENT]),
            "things": constant([NOWHERE + (NOWHERE << SHOT) + (UNARMED << GUN)] * slots),
        }
        self._start = {name: value.expand(num_envs, *value.shape).contiguous() for name, value in start.items()}
        moves = (self.per_action(left=-1, right=1), self.per_action(up=-1, down=1), self.per_action(fire=1))
        self._acts = torch.stack(moves, dim=1).to(torch.int32)
        self._lowest, self._highest = constant([0, 0]), constant([SIZE - 1, DEPTH])
        top = 2 * WIDE  # row 1
        self._from_left, self._from_right = constant([top + (1 << RIGHT), top + SIZE - 1])
        self._armed, self._unarmed = constant([ENEMY_RELOAD << GUN, UNARMED << GUN])
        self._first, self._again = constant([1 << FIRST, ENEMY_RELOAD + 1 << GUN])
        self._next_channel = constant(CELLS)
        self._arming = torch.tensor([0.0, 1 / 3], device=self.device)  # of divers and enemies
        # Whom a bullet hits, of those in a cell: the least. Never divers; fish first, then the oldest.
        self._turn = constant([1 << 30] * DIVERS + list(range((1 << FIRST) + ENEMIES, 1 << FIRST, -1)))
        self._waits, self._new, self._periods = (table.to(self.device) for table in _levels())
        self._places = _places(len(self.channels)).to(self.device)
        # What fills the bars of oxygen, from the left, and of divers, up to column 8; and where they are.
        self._air, self._divers = constant(range(AIR_CELL, FULL_AIR + 1, AIR_CELL)), constant(range(1, FULL_BOAT + 1))
        bars = [(column, 7) for column in range(SIZE)] + [(SIZE - 1 - divers, 8) for divers in range(1, FULL_BOAT + 1)]
        flat = [((SIZE - 1) * SIZE + column) * len(self.channels) + channel for column, channel in bars]
        self._bars = torch.tensor(flat, device=self.device).expand(num_envs, -1)
        # The channel of each cell that `observe` collects, that of fish for all enemies.
        channel = [0, 1] + [2] * 2 + [4] * slots + [9] * DIVERS + [5] * ENEMIES + [3] * slots
        self._channel = constant(channel) * CELLS

    def new_game(self, noise: Tensor) -> GameState:
        return {name: value.clone() for name, value in self._start.items()}

    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 5"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        player, due = state["player"], state["timers"] == 0
        level = player[:, 5]
        things = self._arrived(state["things"], due, level, noise)
        act = self._acts.index_select(0, action)
        place = torch.clamp(player[:, :2] + act[:, :2], self._lowest, self._highest)
        heading = torch.where(act[:, 0] != 0, act[:, 0], player[:, 2])
        here = (place[:, 1:] + 1) * WIDE + place[:, :1]
        fires = (act[:, 2:] > 0) & due[:, 2:]
        bullets = _flown(state["bullets"], here + ((heading.unsqueeze(1) + 1) << (RIGHT - 1)), fires)
        cell, shot_down = self._shot(things, bullets & (CELLS - 1))
        bullets = torch.where(shot_down, SPENT, bullets)
        again = self._waits.index_select(0, level)
        things, boards, rammed, crashed = self._moved(things, cell, bullets & (CELLS - 1), here, player[:, 4:5], again)
        income, player, suffocates = self._breathed(player, place, heading, boards.sum(1, dtype=torch.int32))
        restarts = torch.cat((due[:, :2], fires), dim=1)
        timers = torch.where(restarts, self._periods.index_select(0, level), state["timers"])
        following = {
            "player": player,
            "timers": (timers - 1).clamp_min(0),
            "bullets": torch.where(rammed, SPENT, bullets),
            "things": things,
        }
        return following, ((shot_down | rammed).sum(1) + income).to(torch.float32), crashed | suffocates

    def _arrived(
        self,
        things: Int[Tensor, "env slot"],
        due: Bool[Tensor, "env 3"],
        level: Int[Tensor, " env"],
        noise: Float[Tensor, "env 5"],
    ) -> Int[Tensor, "env slot"]:
        """Let a diver and an enemy appear where they are due, the enemy unless another comes towards it."""
        edge = torch.where(noise[:, :2] < 1 / 2, self._from_left, self._from_right)
        gun = torch.where(noise[:, 4:] < self._arming, self._armed, self._unarmed)
        row = (noise[:, 2:4] * DEPTH).to(torch.int32) * WIDE
        new = edge + gun + row + self._new.index_select(0, level)
        same_row_other_way = (things ^ new[:, 1:] ^ (1 << RIGHT)) & ((CELLS - WIDE) | (1 << RIGHT))
        free = same_row_other_way[:, DIVERS:].amin(1, keepdim=True) > 0
        older = torch.cat((new[:, :1], things[:, : DIVERS - 1], new[:, 1:], things[:, DIVERS:-1]), dim=1)
        arrives = torch.cat((due[:, :1].expand(-1, DIVERS), (due[:, 1:2] & free).expand(-1, ENEMIES)), dim=1)
        return torch.where(arrives, older, things)

    def _shot(
        self, things: Int[Tensor, "env slot"], flying: Int[Tensor, "env 2"]
    ) -> tuple[Int[Tensor, "env slot"], Bool[Tensor, "env 2"]]:
        """Return the cells of things after the bullets' flight, and which bullets hit an enemy."""
        cell = things & (CELLS - 1)
        fish = things >= (ENEMY_RELOAD + 1) << GUN
        key = cell * CELLS + self._turn - fish * self._first
        target = flying * CELLS
        first = (key.unsqueeze(1) ^ target.unsqueeze(2)).amin(2)  # below 256 where the cells are equal
        hits = first < CELLS
        victim = torch.where(hits, first ^ target, -1)
        dead = (key == victim[:, :1]) | (key == victim[:, 1:])
        return torch.where(dead, NOWHERE, cell), hits

    def _moved(
        self,
        things: Int[Tensor, "env slot"],
        cell: Int[Tensor, "env slot"],
        flying: Int[Tensor, "env 2"],
        here: Int[Tensor, "env 1"],
        aboard: Int[Tensor, "env 1"],
        again: Int[Tensor, "env slot"],
    ) -> tuple[Int[Tensor, "env slot"], Bool[Tensor, "env 2"], Bool[Tensor, "env 2"], Bool[Tensor, " env"]]:
        """Let things and the bullets of enemies move, and enemies fire, also those that are hit in this very step.

        Differences of cells are exclusive ors: 0 where they are equal, so that products and minima show meetings.

        Returns:
            The things, which divers come on board, which of the player's bullets hit, whether the player is hit.
        """
        heading = _heading(things)
        moves, loaded = (things & (7 << WAIT)) == 0, things < 1 << GUN
        goal = cell + heading * moves
        shot = torch.where(loaded & (cell != NOWHERE), goal, (things >> SHOT) & (CELLS - 1))
        flown = shot + heading
        near = (cell ^ here) * (goal ^ here)
        crashed = torch.minimum(near, (shot ^ here) * (flown ^ here))[:, DIVERS:].amin(1) == 0
        goal = torch.where(_is_off(goal), NOWHERE, goal)
        flown = torch.where(_is_off(flown), NOWHERE, flown)
        apart = goal[:, DIVERS:].unsqueeze(1) ^ flying.unsqueeze(2)
        boards = near[:, :DIVERS] == 0
        boards = boards & (aboard + boards.cumsum(1) <= FULL_BOAT)
        gone = torch.cat((boards, apart[:, 0] * apart[:, 1] == 0), dim=1)
        clocks = things + moves * again + loaded * self._again - ((1 << WAIT) + (1 << GUN))
        things = (clocks & -(1 << RIGHT)) + (flown << SHOT) + torch.where(gone, NOWHERE, goal)
        return things, boards, apart.amin(2) == 0, crashed

    def _breathed(
        self,
        player: Int[Tensor, "env 6"],
        place: Int[Tensor, "env 2"],
        heading: Int[Tensor, " env"],
        boarded: Int[Tensor, " env"],
    ) -> tuple[Int[Tensor, " env"], Int[Tensor, "env 6"], Bool[Tensor, " env"]]:
        """Return the reward for surfacing with six divers, the player, and whether there is no air."""
        air, aboard, level = player[:, 3:].unbind(1)
        aboard = aboard + boarded
        dives = place[:, 1] > 0
        surfaces = ~dives & (player[:, 1] > 0)
        breathes = surfaces & (aboard != 0)
        unloads = breathes & (aboard == FULL_BOAT)
        over = (air <= 0) | (surfaces & ~breathes)
        income = air // AIR_CELL * unloads
        air = torch.where(breathes, FULL_AIR, air - dives.to(torch.int32))
        aboard = aboard * ~unloads - breathes.to(torch.int32)
        if self.difficulty_ramping:
            level = (level + breathes).clamp_max(LEVELS)
        return income, torch.cat((place, torch.stack((heading, air, aboard, level), dim=1)), dim=1), over

    def observe(self, state: GameState) -> Bool[Tensor, "env 10 10 10"]:
        column, row, ahead, air, aboard, _ = state["player"].unsqueeze(2).unbind(1)
        front = (row + 1) * WIDE + column
        things = state["things"]
        cell, shot = things & (CELLS - 1), (things >> SHOT) & (CELLS - 1)
        submarine = (things < (ENEMY_RELOAD + 1) << GUN) * self._next_channel  # the channel after that of fish
        parts = (front, front - ahead, state["bullets"] & (CELLS - 1), shot, cell + submarine, cell - _heading(things))
        codes = torch.cat(parts, dim=1) + self._channel
        places = self._places.index_select(0, codes.flatten()).view(codes.shape)
        bars = torch.cat((air >= self._air, aboard >= self._divers), dim=1)
        return self.board((places, places != HIDDEN), (self._bars, bars))

    def describe(self, row: int) -> str:
        *_, air, aboard, level = self.state["player"][row].tolist()
        return f"{super().describe(row)}\n{air} steps of oxygen, {aboard} divers on board, level {level}"


def _is_off(cell: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Return whether a cell's column is off the board; true of `NOWHERE`, `SPENT` and what is beside them."""
    return (cell & (WIDE - 1)) >= SIZE


def _heading(words: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return 1 where something goes right, −1 where it goes left."""
    return ((words >> (RIGHT - 1)) & 2) - 1


def _flown(bullets: Int[Tensor, "env 2"], new: Int[Tensor, "env 1"], fires: Bool[Tensor, "env 1"]) -> Tensor:
    """Return the player's bullets, int32 `[env, 2]`, after a new one that may be fired and a step of flight."""
    bullets = torch.where(fires, torch.cat((new, bullets[:, :1]), dim=1), bullets)
    bullets = bullets + _heading(bullets)
    return torch.where(_is_off(bullets), SPENT, bullets)


def _levels() -> tuple[Int[Tensor, "level slot"], Int[Tensor, "level 2"], Int[Tensor, "level 3"]]:
    """Return tables by level: what a move adds to a word, what words of a diver and an enemy start with, timers.

    What a move adds is the wait and the step that is taken off it at once.
    """
    enemy = [max(FASTEST, MOVE_EVERY - level // 2) for level in range(LEVELS + 1)]
    waits = [[MOVE_EVERY + 1] * DIVERS + [wait + 1] * ENEMIES for wait in enemy]
    new = [[(NOWHERE << SHOT) + (wait << WAIT) for wait in (MOVE_EVERY, each)] for each in enemy]
    periods = [[DIVER_EVERY, ENEMY_EVERY - level, RELOAD] for level in range(LEVELS + 1)]
    tables = [torch.tensor(table, dtype=torch.int32) for table in (waits, new, periods)]
    return tables[0] << WAIT, tables[1], tables[2]


def _places(channels: int) -> Int[Tensor, " code"]:
    """Return where in a flat board a cell is, by 256 × channel + cell; `HIDDEN` if off it.

    One channel more than there are, for divers gone so long that they count as armed; these are off the board.
    """
    places = []
    for channel in range(channels + 1):
        for cell in range(CELLS):
            row, column = cell // WIDE - 1, cell % WIDE
            seen = 0 <= row <= DEPTH and column < SIZE
            places.append((row * SIZE + column) * channels + channel if seen else HIDDEN)
    return torch.tensor(places)
