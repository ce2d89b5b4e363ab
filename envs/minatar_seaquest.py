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

# Conditions are masks, int32 with all bits set or none, so that a step is of one kind of number: a C++ compiler then
# treats eight at once, which it does not where truth values are stored between.
NEVER = 1 << 30  # more than any difference of cells
NOBODY = (1 << 31) - 1  # the key of no thing


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
        self._arming = torch.tensor([0.0, 1 / 3], device=self.device)  # of divers and enemies
        self._new, self._periods = (table.to(self.device) for table in _levels())
        # Masks over the slots: of each diver, and of enemies.
        self._diver = [constant([-(slot == diver) for slot in range(slots)]) for diver in range(DIVERS)]
        self._divers, self._enemies = constant([-1] * DIVERS + [0] * ENEMIES), constant([0] * DIVERS + [-1] * ENEMIES)
        # Whom a bullet hits, of those in a cell: the least. Never divers; fish first, then the oldest.
        self._turn = constant([NEVER] * DIVERS + list(range((1 << FIRST) + ENEMIES, 1 << FIRST, -1)))
        # What fills the bars of oxygen, from the left, and of divers, up to column 8; and where they are.
        self._full = constant([*range(AIR_CELL, FULL_AIR + 1, AIR_CELL), *range(1, FULL_BOAT + 1)])
        bars = [(column, 7) for column in range(SIZE)] + [(SIZE - 1 - divers, 8) for divers in range(1, FULL_BOAT + 1)]
        flat = [((SIZE - 1) * SIZE + column) * len(self.channels) + channel for column, channel in bars]
        self._bars = torch.tensor(flat, device=self.device).expand(num_envs, -1)
        self._bar_of_air = constant([-1] * SIZE + [0] * FULL_BOAT)
        # The channel of things: of divers, and of fish for all enemies.
        self._channel = constant([9] * DIVERS + [5] * ENEMIES)

    def new_game(self, noise: Tensor) -> GameState:
        return {name: value.clone() for name, value in self._start.items()}

    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 5"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        player, due = state["player"], _if_zero(state["timers"])
        level = player[:, 5]
        periods = self._periods.index_select(0, level)
        things = self._arrived(state["things"], due, level, noise)
        act = self._acts.index_select(0, action)
        place = torch.clamp(player[:, :2] + act[:, :2], self._lowest, self._highest)
        heading = _choose(-(act[:, :1] & 1), act[:, :1], player[:, 2:3])
        here = (place[:, 1:] + 1) * WIDE + place[:, :1]
        fires = due[:, 2:] & -act[:, 2:]
        fired = here + ((heading + 1) << (RIGHT - 1))
        first, second = state["bullets"][:, :1], state["bullets"][:, 1:]
        bullets = [_flown(_choose(fires, fired, first)), _flown(_choose(fires, first, second))]
        cell, shot_down = self._shot(things, bullets)
        bullets = [_choose(hits, SPENT, bullet) for hits, bullet in zip(shot_down, bullets, strict=True)]
        things, boarded, rammed, crashed = self._moved(things, cell, bullets, here, player[:, 4:5], periods[:, 3:])
        bullets = [_choose(hits, SPENT, bullet) for hits, bullet in zip(rammed, bullets, strict=True)]
        income, player, suffocates = self._breathed(player, place, heading, boarded)
        restarts = torch.cat((due[:, :2], fires), dim=1)
        timers = _choose(restarts, periods[:, :3], state["timers"])
        following = {
            "player": player,
            "timers": (timers - 1).clamp_min(0),
            "bullets": torch.cat(bullets, dim=1),
            "things": things,
        }
        hits = (shot_down[0] | rammed[0]) + (shot_down[1] | rammed[1])
        return following, (income - hits).squeeze(1).to(torch.float32), (crashed | suffocates).squeeze(1) < 0

    def _arrived(
        self,
        things: Int[Tensor, "env slot"],
        due: Int[Tensor, "env 3"],
        level: Int[Tensor, " env"],
        noise: Float[Tensor, "env 5"],
    ) -> Int[Tensor, "env slot"]:
        """Let a diver and an enemy appear where they are due, the enemy unless another comes towards it."""
        left = (noise[:, :2] < 1 / 2).to(torch.int32)
        armed = (noise[:, 4:] < self._arming).to(torch.int32)
        # At the left end going right, or at the right end going left.
        edge = left * ((1 << RIGHT) - (SIZE - 1)) + (2 * WIDE + SIZE - 1)
        gun = armed * ((ENEMY_RELOAD - UNARMED) << GUN) + (UNARMED << GUN)
        row = (noise[:, 2:4] * DEPTH).to(torch.int32) * WIDE
        new = edge + gun + row + self._new.index_select(0, level)
        same_row_other_way = (things ^ new[:, 1:] ^ (1 << RIGHT)) & ((CELLS - WIDE) | (1 << RIGHT))
        free = ~_if_zero((same_row_other_way | (self._divers & NEVER)).amin(1, keepdim=True))
        older = torch.cat((new[:, :1], things[:, : DIVERS - 1], new[:, 1:], things[:, DIVERS:-1]), dim=1)
        arrives = (due[:, :1] & self._divers) | (due[:, 1:2] & free & self._enemies)
        return _choose(arrives, older, things)

    def _shot(
        self, things: Int[Tensor, "env slot"], bullets: list[Int[Tensor, "env 1"]]
    ) -> tuple[Int[Tensor, "env slot"], list[Int[Tensor, "env 1"]]]:
        """Return the cells of things after the bullets' flight, and which bullets hit an enemy."""
        cell = things & (CELLS - 1)
        key = cell * CELLS + self._turn - (~_is_armed(things) & (1 << FIRST))
        targets = [(bullet & (CELLS - 1)) * CELLS for bullet in bullets]
        firsts = [(key ^ target).amin(1, keepdim=True) for target in targets]  # below 256 where the cells are equal
        hits = [(first - CELLS) >> 31 for first in firsts]
        victims = [
            _choose(hit, first ^ target, NOBODY) for hit, first, target in zip(hits, firsts, targets, strict=True)
        ]
        dead = _if_zero(key ^ victims[0]) | _if_zero(key ^ victims[1])
        return _choose(dead, NOWHERE, cell), hits

    def _moved(
        self,
        things: Int[Tensor, "env slot"],
        cell: Int[Tensor, "env slot"],
        bullets: list[Int[Tensor, "env 1"]],
        here: Int[Tensor, "env 1"],
        aboard: Int[Tensor, "env 1"],
        wait: Int[Tensor, "env 1"],
    ) -> tuple[Int[Tensor, "env slot"], Int[Tensor, "env 1"], list[Int[Tensor, "env 1"]], Int[Tensor, "env 1"]]:
        """Let things and the bullets of enemies move, and enemies fire, also those that are hit in this very step.

        Differences of cells are exclusive ors: 0 where they are equal, so that products and minima show meetings.

        Returns:
            The things, how many divers come on board, which of the player's bullets hit, whether the player is hit.
        """
        heading = _heading(things)
        moves, loaded = _if_zero(things & (7 << WAIT)), (things - (1 << GUN)) >> 31
        goal = cell + (heading & moves)
        shot = _choose(loaded & ~_if_zero(cell ^ NOWHERE), goal, (things >> SHOT) & (CELLS - 1))
        flown = shot + heading
        near = _if_zero((cell ^ here) * (goal ^ here))
        shot_near = _if_zero((shot ^ here) * (flown ^ here))
        goal, flown = _choose(_is_off(goal), NOWHERE, goal), _choose(_is_off(flown), NOWHERE, flown)
        met = [_if_zero(goal ^ (bullet & (CELLS - 1))) for bullet in bullets]
        # How many enemies or bullets meet the player, and how many the bullets of the player, in bytes of one sum.
        counts = ((near | shot_near) & 1) | (met[0] & (1 << 8)) | (met[1] & (1 << 16))
        count = (counts & self._enemies).sum(1, keepdim=True, dtype=torch.int32)
        crashed, *rammed = (-(count & (255 << 8 * byte)) >> 31 for byte in range(3))
        # Both divers may come at once, and then there may be room for one.
        first, second = near[:, :1], near[:, 1:2]
        room = aboard - FULL_BOAT  # below 0 by what there is room for
        first = first & (room >> 31)
        second = second & ((room - first) >> 31)
        gone = ((met[0] | met[1]) & self._enemies) | (first & self._diver[0]) | (second & self._diver[1])
        again = (wait & self._enemies) | (self._divers & (MOVE_EVERY + 1 << WAIT))
        clocks = things + (moves & again) + (loaded & (ENEMY_RELOAD + 1 << GUN)) - ((1 << WAIT) + (1 << GUN))
        things = (clocks & -(1 << RIGHT)) + (flown << SHOT) + _choose(gone, NOWHERE, goal)
        return things, -(first + second), rammed, crashed

    def _breathed(
        self,
        player: Int[Tensor, "env 6"],
        place: Int[Tensor, "env 2"],
        heading: Int[Tensor, "env 1"],
        boarded: Int[Tensor, "env 1"],
    ) -> tuple[Int[Tensor, "env 1"], Int[Tensor, "env 6"], Int[Tensor, "env 1"]]:
        """Return the reward for surfacing with six divers, the player, and whether there is no air."""
        air, aboard, level = player[:, 3:4], player[:, 4:5] + boarded, player[:, 5:]
        dives = ~_if_zero(place[:, 1:])
        surfaces = ~dives & ~_if_zero(player[:, 1:2])
        breathes = surfaces & ~_if_zero(aboard.abs())
        unloads = breathes & _if_zero((aboard - FULL_BOAT).abs())
        over = _if_zero(air.clamp_min(0)) | (surfaces & ~breathes)
        income = torch.div(air, AIR_CELL, rounding_mode="floor") & unloads
        air = _choose(breathes, FULL_AIR, air + dives)
        aboard = (aboard & ~unloads) + breathes
        if self.difficulty_ramping:
            level = (level - breathes).clamp_max(LEVELS)
        return income, torch.cat((place, heading, air, aboard, level), dim=1), over

    def observe(self, state: GameState) -> Bool[Tensor, "env 10 10 10"]:
        column, row, ahead, air, aboard, _ = state["player"].split(1, dim=1)
        front = (row + 1) * WIDE + column
        things, flying = state["things"], state["bullets"] & (CELLS - 1)
        cell, shot = things & (CELLS - 1), (things >> SHOT) & (CELLS - 1)
        channel = self._channel - (_is_armed(things) & self._enemies)  # that of submarines comes after that of fish
        places = torch.cat(
            (
                _place(front, 0),
                _place(front - ahead, 1),
                _place(flying, 2),
                _place(shot, 4),
                _place(cell, channel),
                _place(cell - _heading(things), 3),
            ),
            dim=1,
        )
        bars = _choose(self._bar_of_air, air, aboard) >= self._full
        return self.board((places.to(torch.int64), places != HIDDEN), (self._bars, bars))

    def describe(self, row: int) -> str:
        *_, air, aboard, level = self.state["player"][row].tolist()
        return f"{super().describe(row)}\n{air} steps of oxygen, {aboard} divers on board, level {level}"


def _if_zero(number: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return a mask where a number, none below 0, is 0."""
    return (number - 1) >> 31


def _choose(
    mask: Int[Tensor, "*shape"], chosen: Int[Tensor, "*shape"] | int, other: Int[Tensor, "*shape"] | int
) -> Int[Tensor, "*shape"]:
    """Return `chosen` where the mask is set, else `other`."""
    return ((chosen ^ other) & mask) ^ other


def _is_off(cell: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return a mask where a cell's column is off the board; that of `NOWHERE`, `SPENT` and what is beside them is."""
    return (SIZE - 1 - (cell & (WIDE - 1))) >> 31


def _is_armed(things: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return a mask of submarines, among enemies."""
    return (things - ((ENEMY_RELOAD + 1) << GUN)) >> 31


def _heading(words: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return 1 where something goes right, −1 where it goes left."""
    return ((words >> (RIGHT - 1)) & 2) - 1


def _flown(bullets: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return the player's bullets after a step of flight."""
    bullets = bullets + _heading(bullets)
    return _choose(_is_off(bullets), SPENT, bullets)


def _place(cell: Int[Tensor, "*shape"], channel: Int[Tensor, "*shape"] | int) -> Int[Tensor, "*shape"]:
    """Return where in a flat board of ten channels a cell is, `HIDDEN` if off it."""
    row = (cell >> 4) - 1
    return _choose(_is_off(cell), HIDDEN, (cell - WIDE - (WIDE - SIZE) * row) * 10 + channel)


def _levels() -> tuple[Int[Tensor, "level 2"], Int[Tensor, "level 4"]]:
    """Return tables by level: what words of a diver and an enemy start with; the timers, and what a move adds.

    What a move adds is an enemy's wait and the step that is taken off it at once.
    """
    enemy = [max(FASTEST, MOVE_EVERY - level // 2) for level in range(LEVELS + 1)]
    new = [[(NOWHERE << SHOT) + (wait << WAIT) for wait in (MOVE_EVERY, each)] for each in enemy]
    periods = [[DIVER_EVERY, ENEMY_EVERY - level, RELOAD, wait + 1 << WAIT] for level, wait in enumerate(enemy)]
    return torch.tensor(new, dtype=torch.int32), torch.tensor(periods, dtype=torch.int32)
