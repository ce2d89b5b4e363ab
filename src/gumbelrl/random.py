"""Counter-based random numbers: one independent stream per row, whatever the number of rows.

A row is a member of a population or an environment of a batch. The numbers of a row depend on its seed and on
how many draws were made, never on the other rows, the device or the thread count. So a member of a population
sees what it would see alone, a batch of environments equals a loop over single ones, and the whole state of a
generator is a seed per row and one counter. Everything is a tensor operation: it runs inside `torch.compile`
and a captured CUDA graph, where a list of `torch.Generator`s would cost one launch a row.

Several processes may divide one generator between them, each with a share of every draw: see `RandomStreams.divide`.

Reference: SplitMix64, Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators". Its state is a
counter times an odd constant, so the n-th number is computed directly. Differs: each row starts at its own place
of the 2^64 cycle, the hash of its seed; two of R rows overlap within n draws with probability below R² n / 2^63.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """Return the int64 with the same 64 bits as the unsigned `value`."""
    return value - (1 << 64) if value >> 63 else value


def _mix_int(value: int) -> int:
    """Hash one unsigned 64-bit integer; the same function as `_mix`, on the host."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _mix(value: Tensor) -> Tensor:
    """Hash int64 bit patterns elementwise and in place (torch shifts are arithmetic, hence the masks)."""
    value.bitwise_xor_((value >> 30).bitwise_and_((1 << 34) - 1)).mul_(_signed(_MIX_1))
    value.bitwise_xor_((value >> 27).bitwise_and_((1 << 37) - 1)).mul_(_signed(_MIX_2))
    return value.bitwise_xor_((value >> 31).bitwise_and_((1 << 33) - 1))


def derive_seed(seed: int, *path: int | str) -> int:
    """Return a seed for one use of `seed`, such as `derive_seed(seed, "environment", 3)`; 63 bits, not negative."""
    state = _mix_int(seed + _GOLDEN)
    for part in path:
        for word in part.encode() if isinstance(part, str) else (part,):
            state = _mix_int(state + _GOLDEN + word)
    return state >> 1


class RandomStreams:
    """Random numbers for `rows` independent streams, drawn for all rows at once as `[rows, *shape]`.

    Args:
        seeds: one integer per row; equal seeds give equal streams.
        device: where the numbers are made.
    """

    part: tuple[int, int] = (0, 1)
    """Which share of every draw is made here, of how many."""

    def __init__(self, seeds: Sequence[int], *, device: torch.device | str = "cpu") -> None:
        if len(seeds) == 0:
            raise ValueError("RandomStreams needs at least one seed, got none")
        keys = [_signed(_mix_int(int(seed) + _GOLDEN)) for seed in seeds]
        self.key: Int[Tensor, " rows"] = torch.tensor(keys, dtype=torch.int64, device=device)
        self.counter: Int[Tensor, ""] = torch.zeros((), dtype=torch.int64, device=device)

    @classmethod
    def continued(cls, key: Int[Tensor, " rows"], counter: Int[Tensor, ""]) -> Self:
        """Return streams that go on from these tensors, and count on in `counter` itself."""
        streams = cls.__new__(cls)
        streams.key, streams.counter = key, counter
        return streams

    @property
    def rows(self) -> int:
        return self.key.shape[0]

    @property
    def device(self) -> torch.device:
        return self.key.device

    def divide(self, index: int, count: int) -> None:
        """From now on make share `index` of `count` of every draw; as many generators, one of each share, make it all.

        Shapes are those of a share, and equal. Side by side along the axis `divided` of a shape, the shares are what
        one generator would draw in a shape `count` times as long there; whichever axis that is, they never overlap.
        """
        self.part = (index, count)

    def bits(self, *shape: int, divided: int = 0) -> Int[Tensor, "rows *shape"]:
        """Return 64 random bits per element as int64 (any sign)."""
        count = math.prod(shape)
        index = torch.arange(1, count + 1, device=self.device)
        share, shares = self.part
        if shares > 1:
            block = max(math.prod(shape[divided:]), 1)  # of neighbours that stay neighbours
            index += torch.arange(count, device=self.device).div_(block, rounding_mode="floor") * (block * (shares - 1))
            index += block * share
        index.add_(self.counter)
        self.counter.add_(count * shares)
        value = _mix(self.key.unsqueeze(1) + index.mul_(_signed(_GOLDEN)))
        return value.view(self.rows, *shape)

    def uniform(self, *shape: int, divided: int = 0) -> Float[Tensor, "rows *shape"]:
        """Return float32 in the open interval (0, 1): 23 bits and a half, so neither 0 nor 1 can occur."""
        bits = self.bits(*shape, divided=divided).bitwise_right_shift_(41).bitwise_and_((1 << 23) - 1)
        return bits.to(torch.float32).add_(0.5).mul_(2.0**-23)

    def uniform64(self, *shape: int) -> Float[Tensor, "rows *shape"]:
        """Return float64 in the open interval (0, 1), 52 bits."""
        bits = self.bits(*shape).bitwise_right_shift_(12).bitwise_and_((1 << 52) - 1)
        return bits.to(torch.float64).add_(0.5).mul_(2.0**-52)

    def exponential(self, *shape: int, divided: int = 0) -> Float[Tensor, "rows *shape"]:
        """Return float32 with the standard exponential distribution, finite and above zero."""
        return -torch.log(self.uniform(*shape, divided=divided))

    def normal(self, *shape: int) -> Float[Tensor, "rows *shape"]:
        """Return float32 with the standard normal distribution (Box & Muller 1958)."""
        radius = torch.sqrt(2.0 * self.exponential(*shape))
        return radius * torch.cos(2.0 * math.pi * self.uniform(*shape))

    def integers(self, high: int, *shape: int) -> Int[Tensor, "rows *shape"]:
        """Return int64 uniform on 0 … high − 1; the bias is below high · 2^−63."""
        if high < 1:
            raise ValueError(f"integers needs high >= 1, got {high}")
        return ((self.bits(*shape) >> 1) & ((1 << 62) - 1)) % high

    def permutation(self, length: int) -> Int[Tensor, "rows length"]:
        """Return a uniformly random order of 0 … length − 1 in each row."""
        return self.permutations(1, length).squeeze(1)

    def permutations(self, count: int, length: int) -> Int[Tensor, "rows count length"]:
        """Return `count` uniformly random orders of 0 … length − 1 in each row: those of as many `permutation`s."""
        return self.bits(count, length, divided=1).argsort(dim=2)

    def state_dict(self) -> dict[str, Tensor]:
        return {"key": self.key.clone(), "counter": self.counter.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state["key"].shape != self.key.shape:
            raise ValueError(f"the state holds {state['key'].numel()} streams, this generator {self.rows}")
        self.key.copy_(state["key"])
        self.counter.copy_(state["counter"])
