"""Seaquest's board: from the words of a state to a byte for each cell and channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from gumbelrl.envs.minatar import SIZE
from gumbelrl.envs.minatar_seaquest_words import (
    FISH,
    FULL_AIR,
    FULL_BOAT,
    LEFT,
    LOWEST,
    STEPS,
    SUBMARINE,
    WIDE,
    choose,
    columns,
    differs,
    if_zero,
)

AIR_CELL = FULL_AIR // SIZE  # steps of oxygen that a cell of its gauge stands for
HALF = SIZE // 2 * SIZE  # bits of half a row of a board, five cells of ten channels
BITS = SIZE * SIZE * SIZE

Halves = tuple[Tensor, Tensor]
"""The left and the right half of a row, 50 bits each: five cells of ten channels."""


class SeaquestBoard:
    """Draws boards; rows are drawn side by side in eager steps, and one after the other in a graph, as one loop."""

    def __init__(self, device: torch.device) -> None:
        def constant(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        self._submarines, self._shots, self._divers, self._airs, self._boats = (
            [constant(list(half)) for half in zip(*table, strict=True)] for table in _pictures()
        )
        self._rows = constant(list(range(1, SIZE - 1))).unsqueeze(1)
        self._spread = constant([sum((byte >> bit & 1) << 8 * bit for bit in range(8)) for byte in range(256)])

    def __call__(
        self,
        player: Sequence[Tensor],
        bullets: Sequence[Tensor],
        divers: Sequence[Tensor],
        lanes: Sequence[Sequence[Tensor]],
        flying: Sequence[Tensor],
        *,
        tracing: bool,
    ) -> Int[Tensor, "env 125"]:
        """Return boards, eight cells to a word, a byte each; the arguments are words of a state, `[env]`."""
        column, row, heading, air, aboard, _ = player
        shots = [(_looked_up(self._shots, word & 15), word >> 4 & 15) for word in bullets]
        things = [
            (_looked_up(self._submarines, column * 2 + ((heading + 1) >> 1)), row),
            *shots,
            *((_looked_up(self._divers, word & 127), (word >> 7) + 1) for word in divers),
        ]
        top = _drawn([things[0], *shots], 0)
        airs, boats = self._airs, self._boats
        bars = zip(_looked_up(airs, air.clamp(0, FULL_AIR)), _looked_up(boats, aboard.clamp(0, FULL_BOAT)), strict=True)

        def drawn(row: Tensor | int) -> Halves:
            return _drawn(things, row, _crowd(lanes, flying, row - 1))

        if tracing:
            rows = [drawn(row) for row in range(1, SIZE - 1)]
        else:
            left, right = drawn(self._rows)
            rows = list(zip(left.unbind(0), right.unbind(0), strict=True))
        halves = [*top, *(half for each in rows for half in each), *(one | other for one, other in bars)]
        return self._widened(_packed(halves), tracing)

    def _widened(self, packed: Int[Tensor, "env 16"], tracing: bool) -> Int[Tensor, "env 125"]:
        """Return a byte for each bit."""
        octets = packed.view(torch.uint8)[:, : BITS // 8]
        if not tracing:  # a look-up is faster in eager steps
            return self._spread.index_select(0, octets.flatten().to(torch.int32)).view(-1, BITS // 8)
        bits = octets.to(torch.int64)
        # Seven copies, each seven bits on, do not overlap; of each byte one bit is kept, the eighth comes by itself.
        return ((bits & 127) * 0x0002040810204081 | bits << 49) & 0x0101010101010101


def _looked_up(table: Sequence[Tensor], index: Int[Tensor, " env"]) -> Halves:
    left, right = (half.index_select(0, index) for half in table)
    return left, right


def _drawn(things: Sequence[tuple[Halves, Tensor]], row: Tensor | int, onto: Halves | None = None) -> Halves:
    """Return a row with what is in it of things, each with the row that it is in; a row a number or `[row, 1]`."""
    for picture, where in things:
        here = if_zero(where ^ row)
        left, right = (half & here for half in picture)
        onto = (left, right) if onto is None else (onto[0] | left, onto[1] | right)
    assert onto is not None
    return onto


def _crowd(lanes: Sequence[Sequence[Tensor]], flying: Sequence[Tensor], row: Tensor | int) -> Halves:
    """Return a row's enemies, their trails and bullets; row 1 is 0 here, as it is in the words."""
    number = [-(row >> bit & 1) for bit in range(3)]
    here = [~differs(lane, number) for lane in lanes]
    fish, submarines = (
        [lane[kind] & mask for lane, mask in zip(lanes, here, strict=True)] for kind in (FISH, SUBMARINE)
    )
    right, left = (columns(one | other) for one, other in zip(fish, submarines, strict=True))
    bullets = choose(number[2], flying[1] | flying[3], flying[0] | flying[2]) >> (row & 3) & LOWEST
    # Six bits a column, of which these four are used, in the order of the channels.
    seen = (right >> STEPS | left << STEPS) | bullets << 1
    seen = seen | columns(fish[0] | fish[1]) << 2 | columns(submarines[0] | submarines[1]) << 3
    return _spaced(seen & (1 << 5 * STEPS) - 1) << 3, _spaced(seen >> 5 * STEPS) << 3


def _spaced(half: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Move five fields of four bits, six apart, to ten apart."""

    def fields(*firsts: int) -> int:
        return sum(15 << first for first in firsts)

    half = half & fields(0, 6, 12, 18) | (half & fields(24)) << 16
    half = half & fields(0, 6, 40) | (half & fields(12, 18)) << 8
    return half & fields(0, 20, 40) | (half & fields(6, 26)) << 4


def _packed(halves: Sequence[Tensor]) -> Int[Tensor, "env 16"]:
    """Return boards as 1,000 bits, in the order of their cells, from their twenty half rows."""
    words = []
    for bit in range(0, BITS, 64):
        half, inside = divmod(bit, HALF)
        word = halves[half] >> inside
        for shift in range(HALF - inside, 64, HALF):
            half += 1
            if half < len(halves):
                word = word | halves[half] << shift
        words.append(word)
    return torch.stack(words).t().contiguous()


def _pictures() -> list[list[tuple[int, int]]]:
    """Return tables of what is in the left and right half of a row.

    By the submarine's column and heading, by the column of its bullet, by the steps and the side of a diver, by
    oxygen and by divers on board.
    """

    def row(*cells: tuple[int, int]) -> tuple[int, int]:
        halves = [0, 0]
        for column, channel in cells:
            if 0 <= column < SIZE:
                halves[column // 5] |= 1 << SIZE * (column % 5) + channel
        return halves[0], halves[1]

    submarines = [row((column, 0), (column - heading, 1)) for column in range(SIZE) for heading in (-1, 1)]
    shots = [row((column, 2)) for column in range(WIDE)]
    crossings = [(steps // STEPS, 1) for steps in range(LEFT)]
    crossings += [(SIZE - 1 - column, -1) for column, _ in crossings]
    divers = [
        row((column, 9), (column - heading, 3)) if 0 <= column < SIZE else (0, 0) for column, heading in crossings
    ]
    airs = [row(*((column, 7) for column in range(air // AIR_CELL))) for air in range(FULL_AIR + 1)]
    boats = [row(*((SIZE - 1 - diver, 8) for diver in range(1, aboard + 1))) for aboard in range(FULL_BOAT + 1)]
    return [submarines, shots, divers, airs, boats]
