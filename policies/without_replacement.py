"""Joint actions without replacement, however many groups there are, and what an unordered set of them weighs."""

from __future__ import annotations

import itertools
import math
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.policies.sampling import Generator, exponential, one_hot

# A masked choice has a log-probability near −1e38; sums of this one over groups stay finite.
_NEVER = -1e30
# As much of the most probable element weighs nothing; the eighth power is still a float64.
_NEGLIGIBLE = 1e-37


def joint_log_probs(logits: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch group choice"]:
    """Return log-probabilities in float32 or wider, none below −1e30."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(wide, -1).clamp_min(_NEVER)


@torch.no_grad()
def sample_without_replacement(
    logits: Float[Tensor, "*batch group choice"], num_samples: int, *, generator: Generator = None
) -> Float[Tensor, "sample *batch group choice"]:
    """Return `num_samples` different joint actions, one-hot, in the order in which they would be drawn one by one.

    Where there are fewer joint actions than that, all of them come, and the first axis is shorter; masked ones come
    last.

    Reference: stochastic beam search, Kool, van Hoof & Welling 2019, arXiv:1903.06059, algorithm 1: Gumbel top-k over
    all joint actions without listing them, group by group.
    """
    log_probs = joint_log_probs(logits)
    groups, choices = log_probs.shape[-2:]
    first = _gumbel((1, *log_probs.shape[:-2], 1, choices), logits, generator)
    # Every path that goes on from the first group needs noise of its own.
    others = (
        _gumbel((num_samples, *log_probs.shape[:-2], groups - 1, choices), logits, generator) if groups > 1 else first
    )
    total = log_probs.new_zeros(1, *log_probs.shape[:-2])
    score = total
    steps: list[tuple[Tensor, Tensor]] = []
    for group in range(groups):
        child = total.unsqueeze(-1) + log_probs[..., group, :]
        noise = others[: len(total), ..., group - 1, :] if group else first[..., 0, :]
        perturbed = child + noise
        score = _conditioned(perturbed, score.unsqueeze(-1))
        keep = min(num_samples, len(total) * choices)
        score, index = score.movedim(0, -2).flatten(-2).topk(keep, dim=-1)
        score, index = score.movedim(-1, 0), index.movedim(-1, 0)
        total = child.movedim(0, -2).flatten(-2).movedim(-1, 0).gather(0, index)
        steps.append((index // choices, index % choices))
    return one_hot(_walked_back(steps), choices).to(logits.dtype)


def _walked_back(steps: list[tuple[Tensor, Tensor]]) -> Int[Tensor, "sample *batch group"]:
    """Return the choices of each path that is left, from the end to the start.

    Args:
        steps: of each group, for each path `[sample, *batch]`: which path of the group before it goes on with, and how.
    """
    parent, choice = steps[-1]
    path = [choice]
    for earlier, choices in reversed(steps[:-1]):
        path.append(choices.gather(0, parent))
        parent = earlier.gather(0, parent)
    return torch.stack(path[::-1], dim=-1)


def _gumbel(shape: tuple[int, ...], logits: Tensor, generator: Generator) -> Tensor:
    return -torch.log(exponential(torch.Size(shape), generator=generator, device=logits.device))


def _conditioned(perturbed: Tensor, largest: Tensor) -> Tensor:
    """Shift Gumbel scores so that their maximum over the last axis is `largest` (arXiv:1903.06059, appendix B.3)."""
    gap = perturbed - perturbed.amax(-1, keepdim=True)
    shifted = largest - perturbed + _log1mexp(gap)
    return largest - shifted.clamp_min(0.0) - torch.log1p(torch.exp(-shifted.abs()))


def _log1mexp(x: Tensor) -> Tensor:
    """Return log(1 − exp x) for x ≤ 0."""
    return torch.where(x > -math.log(2.0), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


@torch.no_grad()
def most_probable(
    logits: Float[Tensor, "*batch group choice"], count: int
) -> Float[Tensor, "sample *batch group choice"]:
    """Return the `count` most probable joint actions, one-hot, best first; fewer where there are fewer."""
    log_probs = joint_log_probs(logits)
    choices = log_probs.shape[-1]
    total = log_probs.new_zeros(1, *log_probs.shape[:-2])
    steps: list[tuple[Tensor, Tensor]] = []
    for group in range(log_probs.shape[-2]):
        child = (total.unsqueeze(-1) + log_probs[..., group, :]).movedim(0, -2).flatten(-2)
        best, index = child.topk(min(count, child.shape[-1]), dim=-1)
        total, index = best.movedim(-1, 0), index.movedim(-1, 0)
        steps.append((index // choices, index % choices))
    return one_hot(_walked_back(steps), choices).to(logits.dtype)


@torch.no_grad()
def leave_one_out_shares(log_probs: Float[Tensor, "sample *batch"]) -> Float[Tensor, "sample sample *batch"]:
    """Return p(s) R(S, s) on the diagonal and p(s') R(S without s, s') at [s, s'], for a set S without replacement.

    R(S, s) is the probability of drawing S given that s came first, over that of drawing S in any order. Elements of
    probability zero (masked ones) weigh nothing and disturb nothing.

    Args:
        log_probs: of the elements, at most 8, float64: one minus the probability of a near-certain one is needed to
            full precision.

    Reference: Kool, van Hoof & Welling 2020, arXiv:2002.06043, equations 6, 9 and 12. Here by recursion over subsets
    (2^k of them, all of one size at once) instead of permutations or quadrature.
    """
    count = len(log_probs)
    steps = _steps(count)
    # A share's numerator has one element less drawn than its denominator, so a common factor of all probabilities
    # cancels with p(s): joint actions of hundreds of groups do not underflow.
    largest = log_probs.amax(0)
    relative = (log_probs - largest).exp()
    weights = relative.clamp_min(_NEGLIGIBLE)
    ways_of = _unrolled_ways if torch.compiler.is_compiling() else _ways
    # An impossible element is drawn only when nothing else is left.
    everything = log_probs.amin(0) <= _NEVER
    ways = ways_of(steps, weights, _remaining(weights * largest.exp(), everything))
    shares = torch.stack([ways[i] for i in steps.drawn]) / torch.stack([ways[i] for i in steps.of])
    return shares.unflatten(0, (count, count)) * relative


def _ways(steps: _Steps, weights: Tensor, remaining: Tensor) -> Float[Tensor, "subset *batch"]:
    """Return the probability of drawing each subset first, in any order, from a domain without what was removed."""
    ways = weights.new_ones(steps.num_empty, *weights.shape[1:])
    for before, last, gone in _levels(len(weights), weights.device):
        ways = torch.cat([ways, (ways[before] * weights[last] / remaining[gone]).sum(1)])
    return ways


def _unrolled_ways(steps: _Steps, weights: Tensor, remaining: Tensor) -> list[Tensor]:
    """Return the same one subset at a time: elementwise, so that a compiler fuses all of it into one loop."""
    ways = [torch.ones_like(weights[0]) for _ in range(steps.num_empty)]
    for level in steps.levels:
        for before, last, gone in zip(*level, strict=True):
            terms = [
                ways[b] * weights[element] / remaining[g] for b, element, g in zip(before, last, gone, strict=True)
            ]
            ways.append(reduce(torch.add, terms))
    return ways


class _Level(NamedTuple):
    """The subsets of one size: for each and each element drawn last, where to look. Lists `[way, element]`."""

    before: list[list[int]]  # the way of drawing the others first
    last: list[list[int]]
    gone: list[list[int]]  # bits of what is no longer in the domain by then


class _Steps(NamedTuple):
    """The recursion over subsets, and where the shares are to be found in it."""

    num_empty: int
    levels: list[_Level]
    drawn: list[int]  # of each share, the numerator
    of: list[int]  # and the denominator


_LAID_OUT: dict[int, _Steps] = {}


def _steps(count: int) -> _Steps:
    """Return the recursion for sets of `count` elements; a dictionary, since functools.cache cannot be compiled."""
    if count not in _LAID_OUT:
        _LAID_OUT[count] = _lay_out(count)
    return _LAID_OUT[count]


_ON_DEVICE: dict[tuple[int, torch.device], list[tuple[Tensor, ...]]] = {}


def _levels(count: int, device: torch.device) -> list[tuple[Tensor, ...]]:
    """Return the levels of `_steps` as tensors `[subset, element drawn last]`; copied to a device only once."""
    if (count, device) not in _ON_DEVICE:
        levels = _steps(count).levels
        _ON_DEVICE[count, device] = [tuple(torch.tensor(each, device=device) for each in level) for level in levels]
    return _ON_DEVICE[count, device]


def _lay_out(count: int) -> _Steps:
    """Lay out the recursion: host integers only."""
    full = (1 << count) - 1
    singles = [1 << s for s in range(count)]
    removals = sorted({0, *singles, *(a | b for a in singles for b in singles if a != b)})
    place = {(0, removed): index for index, removed in enumerate(removals)}
    levels = []
    for size in range(1, count + 1):
        level = _Level([], [], [])
        for removed in removals:
            for drawn in (each for each in range(1, full + 1) if each.bit_count() == size and not each & removed):
                elements = [i for i in range(count) if drawn >> i & 1]
                place[drawn, removed] = len(place)
                level.before.append([place[drawn & ~(1 << i), removed] for i in elements])
                level.last.append(elements)
                level.gone.append([drawn & ~(1 << i) | removed for i in elements])
        levels.append(level)
    numerators, denominators = [], []
    for s, other in itertools.product(singles, repeat=2):
        rest = full & ~s
        numerators.append(place[rest, s] if s == other else place[rest & ~other, s | other])
        denominators.append(place[full, 0] if s == other else place[rest, s])
    return _Steps(len(removals), levels, numerators, denominators)


def _remaining(
    probs: Float[Tensor, "sample *batch"], everything: Bool[Tensor, "*batch"]
) -> Float[Tensor, "drawn *batch"]:
    """Return 1 − probability of each subset, by its bits: at least what the other elements hold, where that cancels.

    Exactly that where the set is `everything` there is.
    """
    subsets = range(1 << len(probs))
    nothing = torch.zeros_like(probs[0])
    held, others = (
        torch.stack([sum((p for i, p in enumerate(probs) if (drawn >> i & 1) == inside), nothing) for drawn in subsets])
        for inside in (1, 0)
    )
    return torch.where(everything, others, torch.maximum(1.0 - held, others))
