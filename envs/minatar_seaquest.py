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

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.envs.base import Step
from gumbelrl.envs.minatar import SIZE, GameState, MinAtarGame
from gumbelrl.envs.minatar_seaquest_board import SeaquestBoard
from gumbelrl.envs.minatar_seaquest_words import (
    CROSSING,
    FISH,
    FULL_AIR,
    FULL_BOAT,
    GONE,
    GUN,
    LANE,
    LEFT,
    MOVE_EVERY,
    RIGHT,
    ROW,
    SPENT,
    STEPS,
    SUBMARINE,
    WIDE,
    WORDS,
    bits,
    choose,
    columns,
    differs,
    if_zero,
    later,
    moved,
    without,
)

DEPTH = 8  # the lowest row
ENEMY_EVERY, DIVER_EVERY = 20, 30  # steps, the first at level 0
FASTEST = 2  # steps of waiting between moves
RELOAD, ENEMY_RELOAD = 5, 10  # steps
LEVELS = ENEMY_EVERY - 1  # the highest
START = 5  # column

THINGS = 2 + 2 + 2 * WORDS + 4


class MinAtarSeaquest(MinAtarGame):
    """Observation: ten channels, see `channels`; oxygen and divers on board are bars in row 9. Actions: all six.

    State, int64, whose environments are next to one another in memory, so that a step treats several at once: `player`
    `[env, 6]`, column, row, heading (1 right, −1 left), oxygen, divers on board, level; `timers` `[env, 4]`, steps
    until a diver, an enemy, the next bullet, and the clock of the submarines' guns; `things` `[env, 26]`, two bullets
    of the player, two divers, the newest first, nine words of the lanes to the right and as many to the left, and the
    bullets of enemies, those to the right in rows 1 to 4 and 5 to 8, and those to the left: bit 6 × column + row in
    the four.

    Why a bit is enough for an enemy. One comes in a step, and each stays some steps behind those before it, since a
    change of pace never takes all of these (the tests try all ways): so no two of a lane, in whatever rows, have the
    same column and the same wait, the oldest in a cell is the furthest ahead, and at most one comes into a cell in a
    step. Two that fire in the same step are 11 steps apart or more, and so never in the same column (the tests try all
    ways). Bullets of enemies that meet go the same way: nothing tells them apart, then or later.

    Why the slots are enough. A diver leaves before the second after it comes. A bullet of the player's flies for 9
    steps, and there are 5 between two; the player is no faster, so that they are in different cells. One that is left
    after its flight is in no enemy's cell, so that only an enemy that moves can meet it. It follows that the package's
    `list.remove`, which removes the first that is equal, removes the right one.
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
    # The rules are one loop over environments, which holds what it computes in registers, not a hundred small ones.
    compile_options: ClassVar[dict[str, Any]] = {
        "max_fusion_size": 4096,
        "cpp.max_horizontal_fusion_size": 4096,
    }

    def __init__(self, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, **options)

        def constant(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=self.device)

        self._start = {
            "player": [START, 0, -1, FULL_AIR, 0, 0],
            "timers": [DIVER_EVERY, ENEMY_EVERY, 0, 0],
            "things": [SPENT, SPENT, GONE, GONE, *[0] * (THINGS - 4)],
        }
        moves = (self.per_action(left=-1, right=1), self.per_action(up=-1, down=1), self.per_action(fire=1))
        self._acts = torch.stack(moves)
        # What the six uniform numbers are compared with, to stick, for two sides and a submarine; two choose rows.
        limits = [self.sticky_action_prob, 1 / 2, 1 / 2, 0.0, 0.0, 1 / 3]
        self._limits = torch.tensor(limits, device=self.device).unsqueeze(1)
        self._is_row = constant([0, 0, 0, -1, -1, 0]).unsqueeze(1)
        self._board = SeaquestBoard(self.device)
        # By a cell, 16 × row + column: its column in a lane and its bit in a word of bullets; none at the surface.
        cells = [divmod(cell, WIDE) for cell in range(WIDE * WIDE)]
        seen = [column * STEPS if 0 < row <= DEPTH and column < SIZE else None for row, column in cells]
        self._lane_bits = constant([0 if first is None else (1 << STEPS) - 1 << first for first in seen])
        self._spots = constant(
            [0 if first is None else 1 << first + (row - 1 & 3) for first, (row, _) in zip(seen, cells, strict=True)]
        )

    def new_game(self, noise: Tensor) -> GameState:
        return {
            name: torch.tensor(values, device=self.device).unsqueeze(1).repeat(1, self.num_envs).t()
            for name, values in self._start.items()
        }

    # A step ---------------------------------------------------------------------------------------------------------

    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 5"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        never_sticks = torch.ones_like(noise[:, :1])
        following, reward, over = self.transition(
            {**state, "last_action": action}, action, torch.cat((never_sticks, noise), dim=1)
        )
        del following["last_action"]
        return following, reward, over

    def transition(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 6"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        following, action, reward, over = self._played(state, action, noise)
        return {**{name: _stacked(words) for name, words in following.items()}, "last_action": action}, reward, over < 0

    def advance(
        self, state: GameState, elapsed: Int[Tensor, " env"], action: Tensor, noise: Float[Tensor, "env 6"]
    ) -> tuple[GameState, Int[Tensor, " env"], Step]:
        """Do as that of any environment, with masks instead of truth values: `NativeEnv.advance` chooses between bytes.

        The board is chosen eight cells at a time, where it is made.
        """
        following, action, reward, over = self._played(state, action, noise)
        elapsed = elapsed + 1
        out_of_time = torch.zeros_like(over)
        if self.max_episode_steps is not None:
            out_of_time = (self.max_episode_steps - 1 - elapsed).to(torch.int64) >> 63 & ~over
        finished = over | out_of_time
        final = self._wide(following["player"], following["things"])
        first = self.first_observation.view(-1, SIZE * SIZE * len(self.channels)).view(torch.int64)
        observation = choose(finished.unsqueeze(1), first, final)
        new = {
            name: _stacked(
                [choose(finished, begin, word) for begin, word in zip(self._start[name], words, strict=True)]
            )
            for name, words in following.items()
        }
        terminated, truncated = ((-mask).to(torch.uint8).view(torch.bool) for mask in (over, out_of_time))
        step = Step(self._boards(observation), reward, terminated, truncated, self._boards(final), {})
        return {**new, "last_action": action & ~finished}, elapsed & ~finished.to(torch.int32), step

    def _played(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env 6"]
    ) -> tuple[dict[str, list[Tensor]], Int[Tensor, " env"], Float[Tensor, " env"], Int[Tensor, " env"]]:
        """Return the words of the next state, the action carried out, the reward and a mask of games that are over."""
        # As rows, one loop before the large one, in which a compiler takes no numbers that are six apart.
        below = -(noise.t() < self._limits).to(torch.int64)
        sticks, *drawn = choose(self._is_row, (noise.t() * DEPTH).to(torch.int64), below).unbind(0)
        action = choose(sticks, state["last_action"], action)
        column, row, heading, air, aboard, level = state["player"].unbind(1)
        *timers, clock = state["timers"].unbind(1)
        first, second, *words = state["things"].unbind(1)
        divers, lanes, flying = words[:2], [words[2 : 2 + WORDS], words[2 + WORDS : -4]], words[-4:]
        due = [if_zero(timer) for timer in timers]
        # Enemies
        lag = bits((level >> 1).clamp_max(MOVE_EVERY - FASTEST), 2)
        divers, lanes = self._arrived(divers, lanes, due, lag, clock, drawn)
        clock = choose(if_zero(ENEMY_RELOAD - clock), 0, clock + 1)
        # The player
        act = self._acts.index_select(1, action)
        place = [(column + act[0]).clamp(0, SIZE - 1), (row + act[1]).clamp(0, DEPTH)]
        heading = choose(-(act[0] & 1), act[0], heading)
        fires = due[2] & -act[2]
        here = place[1] * WIDE + place[0]
        bullets = [
            _flown(choose(fires, here + (heading + 1) * (RIGHT // 2), first)),
            _flown(choose(fires, first, second)),
        ]
        lanes, bullets, shot_down = self._shot(lanes, bullets)
        # The others
        divers, boarded = _boarded(divers, here, FULL_BOAT - aboard)
        near = self._at(lanes, here)
        lanes = moved(lanes, lag)
        near = near | self._at(lanes, here)
        flying, hit = _fired(lanes, clock, flying, self._spots.index_select(0, here), -((place[1] - 1) >> 2 & 1))
        over = ~if_zero(near) | hit
        lanes, bullets, rammed = self._rammed(lanes, bullets)
        # The air
        over, breathes, income, air, aboard = _breathed(over, row, place[1], air, aboard + boarded)
        periods: list[Tensor | int] = [DIVER_EVERY, ENEMY_EVERY - level, RELOAD]
        timers = [
            (choose(again, period, timer) - 1).clamp_min(0)
            for again, period, timer in zip((*due[:2], fires), periods, timers, strict=True)
        ]
        if self.difficulty_ramping:
            level = (level - breathes).clamp_max(LEVELS)
        following = {
            "player": [*place, heading, air, aboard, level],
            "timers": [*timers, clock],
            "things": [*bullets, *divers, *lanes[0], *lanes[1], *flying],
        }
        return following, action, (income + shot_down + rammed).to(torch.float32), over

    def _arrived(
        self,
        divers: list[Tensor],
        lanes: list[list[Tensor]],
        due: list[Tensor],
        lag: list[Tensor],
        clock: Int[Tensor, " env"],
        drawn: list[Tensor],
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Let a diver and an enemy appear where they are due, the enemy unless another comes towards it.

        Args:
            drawn: masks of the sides, the left where set, two rows, and a mask of a submarine.
            lag: by how many steps an enemy waits less than at the first level, two masks of bits.
        """
        diver = (drawn[2] << 7) + (LEFT & ~drawn[0])
        divers = [choose(due[0], diver, divers[0]), choose(due[0], divers[0], divers[1])]
        goes_left, row, submarine = ~drawn[1], bits(drawn[3], 3), drawn[4]
        there = [(lane[FISH] | lane[SUBMARINE]) & ~differs(lane, row) for lane in lanes]
        comes = due[1] & if_zero(choose(goes_left, *there))
        words = [~submarine, submarine, *row, *bits(clock, 4)]
        right = comes & ~goes_left & later(torch.ones_like(comes), lag, to_the_right=True)
        left = comes & goes_left & later(torch.full_like(comes, 1 << SIZE * STEPS - 1), lag, to_the_right=False)
        return divers, [
            [old | (new & word) for old, word in zip(lane, words, strict=True)]
            for lane, new in zip(lanes, (right, left), strict=True)
        ]

    def _in_cell(self, lane: list[Tensor], cell: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
        """Return the bits of a lane that are in a cell, if there is an enemy; none at the surface and off the board."""
        return self._lane_bits.index_select(0, cell & (RIGHT - 1)) & ~differs(lane, bits((cell >> 4) - 1, 3))

    def _at(self, lanes: list[list[Tensor]], cell: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
        """Return a number above 0 where an enemy is in a cell."""
        right, left = ((lane[FISH] | lane[SUBMARINE]) & self._in_cell(lane, cell) for lane in lanes)
        return right | left

    def _shot(
        self, lanes: list[list[Tensor]], bullets: list[Tensor]
    ) -> tuple[list[list[Tensor]], list[Tensor], Tensor]:
        """Let the player's bullets hit: of the fish in a cell, else of its submarines, the one that came first.

        Returns:
            The lanes and the bullets that are left, and how many hit.
        """
        left_over, count = [], torch.zeros_like(bullets[0])
        dead: list[list[Tensor]] = [[], []]
        for bullet in bullets:
            cells = [self._in_cell(lane, bullet) for lane in lanes]
            fish, submarines = ([lane[kind] & cell for lane, cell in zip(lanes, cells, strict=True)] for kind in (0, 1))
            no_fish = if_zero(fish[0] | fish[1])
            right, left = (one | (other & no_fish) for one, other in zip(fish, submarines, strict=True))
            below = right >> 1 | right >> 2  # all bits below the highest
            below = below | below >> 2
            dead[0].append(right & ~(below | below >> 2))
            dead[1].append(left & -left)
            hit = ~if_zero(right | left)
            left_over.append(choose(hit, SPENT, bullet))
            count = count - hit
        return [without(lane, one | other) for lane, (one, other) in zip(lanes, dead, strict=True)], left_over, count

    def _rammed(
        self, lanes: list[list[Tensor]], bullets: list[Tensor]
    ) -> tuple[list[list[Tensor]], list[Tensor], Tensor]:
        """Return the same where enemies have moved into the player's bullets."""
        left_over, count = [], torch.zeros_like(bullets[0])
        for bullet in bullets:
            hits = [(lane[FISH] | lane[SUBMARINE]) & self._in_cell(lane, bullet) for lane in lanes]
            lanes = [without(lane, dead) for lane, dead in zip(lanes, hits, strict=True)]
            hit = ~if_zero(hits[0] | hits[1])
            left_over.append(choose(hit, SPENT, bullet))
            count = count - hit
        return lanes, left_over, count

    # What is seen ---------------------------------------------------------------------------------------------------

    def observe(self, state: GameState) -> Bool[Tensor, "env 10 10 10"]:
        return self._boards(self._wide(state["player"].unbind(1), state["things"].unbind(1)))

    def _boards(self, wide: Int[Tensor, "env 125"]) -> Bool[Tensor, "env 10 10 10"]:
        return wide.view(torch.bool).view(self.num_envs, SIZE, SIZE, len(self.channels))

    def _wide(self, player: Sequence[Tensor], things: Sequence[Tensor]) -> Int[Tensor, "env 125"]:
        lanes = [things[first : first + GUN] for first in (4, 4 + WORDS)]
        return self._board(player, things[:2], things[2:4], lanes, things[-4:], tracing=self.tracing)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state.

        Raises:
            ValueError: it was saved by a version before enemies were bits of lanes, when a thing was a word.
        """
        saved = tuple(state["state.things"].shape)
        shape = (*saved[:1], THINGS)
        if saved != shape or state["state.things"].dtype != torch.int64:
            raise ValueError(
                f"this state of Seaquest cannot be gone on with: its things are {state['state.things'].dtype} of shape "
                f"{saved}, and this version keeps torch.int64 of shape {shape}; start a new run, or go on with the "
                "version that saved it"
            )
        super().load_state_dict(state)

    def describe(self, row: int) -> str:
        *_, air, aboard, level = self.state["player"][row].tolist()
        return f"{super().describe(row)}\n{air} steps of oxygen, {aboard} divers on board, level {level}"


# Words ---------------------------------------------------------------------------------------------------------------


def _stacked(words: Sequence[Tensor]) -> Int[Tensor, "env word"]:
    return torch.stack(list(words)).t()


def _is_off(cell: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
    """Return a mask where a cell's column is off the board."""
    return (SIZE - 1 - (cell & (WIDE - 1))) >> 63


def _flown(bullets: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
    """Return the player's bullets after a step of flight."""
    bullets = bullets + ((bullets >> 7) & 2) - 1
    return choose(_is_off(bullets), SPENT, bullets)


def _fired(
    lanes: list[list[Tensor]], clock: Int[Tensor, " env"], flying: list[Tensor], spot: Tensor, is_deep: Tensor
) -> tuple[list[Tensor], Int[Tensor, " env"]]:
    """Let submarines fire and the bullets of enemies fly, and return a mask where one meets the player."""
    shots = []
    time = bits(clock, 4)
    for lane in lanes:
        gun = lane[SUBMARINE]
        for word, bit in zip(lane[GUN:], time, strict=True):
            gun = gun & ~(word ^ bit)
        fires = columns(gun)
        low, middle, deep = (columns(gun & row) for row in lane[ROW:GUN])
        fires = (fires & ~low) | (fires & low) << 1
        middle = middle | middle << 1
        fires = (fires & ~middle) | (fires & middle) << 2
        deep = (deep << 4) - deep  # of all four rows
        shots += [fires & ~deep, fires & deep]
    shots = [one | other for one, other in zip(shots, flying, strict=True)]
    flown = [word << STEPS & LANE for word in shots[:2]] + [word >> STEPS for word in shots[2:]]
    shallow, deep = (shots[part] | shots[part + 2] | flown[part] | flown[part + 2] for part in (0, 1))
    return flown, ~if_zero(spot & choose(is_deep, deep, shallow))


def _boarded(
    divers: list[Tensor], here: Int[Tensor, " env"], room: Int[Tensor, " env"]
) -> tuple[list[Tensor], Int[Tensor, " env"]]:
    """Let divers move, and come on board from where they were or are while there is room.

    Returns:
        The divers and how many are on board.
    """
    left_over, count = [], torch.zeros_like(here)
    for diver in divers:
        after = diver + (1 & (diver & 63) - CROSSING >> 63)
        met = if_zero((_cell(diver) ^ here).abs()) | if_zero((_cell(after) ^ here).abs())
        boards = met & (count - room >> 63)
        left_over.append(after | (GONE & boards))
        count = count - boards
    return left_over, count


def _breathed(
    over: Int[Tensor, " env"], before: Tensor, row: Int[Tensor, " env"], air: Tensor, aboard: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Let the player breathe where it has come up, or run out of oxygen.

    Returns:
        Masks of games that are over and of players that breathe, the reward, oxygen, divers on board.
    """
    dives = ~if_zero(row)
    surfaces = ~dives & ~if_zero(before)
    breathes = surfaces & ~if_zero(aboard.abs())
    unloads = breathes & if_zero((aboard - FULL_BOAT).abs())
    over = over | if_zero(air.clamp_min(0)) | (surfaces & ~breathes)
    income = (air * 205 >> 12) & unloads  # a twentieth
    air = choose(breathes, FULL_AIR, air + dives)
    return over, breathes, income, air, (aboard & ~unloads) + breathes


def _cell(diver: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
    """Return a diver's cell as 16 × row + column; beside the board once it has left."""
    column = (diver & 63) * 43 >> 8  # a sixth
    column = choose(-(diver >> 6 & 1), SIZE - 1 - column, column)
    return ((diver >> 7) + 1) * WIDE + column
