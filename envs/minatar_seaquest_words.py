"""Seaquest's words: what their bits stand for, and the arithmetic of masks that rules and boards are written in."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from gumbelrl.envs.minatar import SIZE

FULL_AIR, FULL_BOAT = 200, 6  # steps of oxygen, divers on board
MOVE_EVERY = 5  # steps of waiting between moves, at most

# A lane is a word of 60 bits, six to a column: of enemies that go right, bit 6 × column + 5 − wait, of those that go
# left, bit 6 × column + wait, so that in a step each moves one bit ahead.
STEPS = MOVE_EVERY + 1
LANE = (1 << SIZE * STEPS) - 1
LOWEST = sum(1 << STEPS * column for column in range(SIZE))  # of each column
HIGHEST = LOWEST << STEPS - 1

# What a lane's words tell of the enemies in it, a bit each: fish, submarine, its row (3), its gun (4: at which time of
# the clock, which counts to 11, it fires).
FISH, SUBMARINE, ROW, GUN, WORDS = 0, 1, 2, 5, 9

# A player's bullet: 16 × row + column, and 256 if it goes right; `SPENT`, a column off the board, if there is none.
WIDE, RIGHT, SPENT = 16, 256, 12
# A diver: its steps up to now (6 bits; 60 and more when it has left), whether it goes left (64), 128 × (row − 1).
CROSSING, LEFT, GONE = SIZE * STEPS, 64, 63

# Conditions are masks, int64 with all bits set or none, so that a step is of one kind of number: a C++ compiler then
# treats several environments at once, which it does not where truth values are stored between.


def if_zero(number: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return a mask where a number, none below 0, is 0."""
    return (number - 1) >> 63


def choose(
    mask: Int[Tensor, "*shape"] | int, chosen: Int[Tensor, "*shape"] | int, other: Int[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """Return `chosen` where the mask is set, else `other`."""
    return other & ~mask if isinstance(chosen, int) and chosen == 0 else ((chosen ^ other) & mask) ^ other


def bits(number: Int[Tensor, " env"], count: int) -> list[Int[Tensor, " env"]]:
    """Return masks of the lowest bits of a number."""
    return [-(number >> bit & 1) for bit in range(count)]


def differs(lane: Sequence[Tensor], row: Sequence[Tensor | int]) -> Tensor:
    """Return which enemies of a lane are in another row, given as three masks."""
    return (lane[ROW] ^ row[0]) | (lane[ROW + 1] ^ row[1]) | (lane[ROW + 2] ^ row[2])


def without(lane: list[Tensor], dead: Int[Tensor, " env"]) -> list[Tensor]:
    return [lane[FISH] & ~dead, lane[SUBMARINE] & ~dead, *lane[ROW:]]


def later(word: Tensor, lag: list[Tensor], *, to_the_right: bool) -> Tensor:
    """Return a lane's word moved `lag` steps ahead; by 1 and 2, as GCC 12 vectorises no shift that is not constant."""
    for steps, mask in zip((1, 2), lag, strict=True):
        word = choose(mask, word << steps if to_the_right else word >> steps, word)
    return word


def moved(lanes: list[list[Tensor]], lag: list[Tensor]) -> list[list[Tensor]]:
    """Return the lanes a step later; enemies that come into a column wait `lag` steps less in it."""
    right, left = [], []
    for word in lanes[0]:
        word = word << 1 & LANE
        new = word & LOWEST
        right.append(word ^ new | later(new, lag, to_the_right=True))
    for word in lanes[1]:
        word = word >> 1
        new = word & HIGHEST
        left.append(word ^ new | later(new, lag, to_the_right=False))
    return [right, left]


def columns(lane: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return the columns in which a lane has bits, each as its lowest bit."""
    lower = HIGHEST - LOWEST
    return ((lane & lower) + lower | lane) >> STEPS - 1 & LOWEST
