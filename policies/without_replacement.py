"""Joint actions without replacement, however many groups there are, and what an unordered set of them weighs."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gumbelrl.policies.sampling import Generator, exponential, one_hot

# A masked choice has a log-probability near −1e38; sums of this one over groups stay finite.
_NEVER = -1e30


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
    noise = -torch.log(
        exponential(torch.Size((num_samples, *log_probs.shape)), generator=generator, device=logits.device)
    )
    total = log_probs.new_zeros(1, *log_probs.shape[:-2])
    score = total
    paths: list[Int[Tensor, "sample *batch"]] = []
    for group in range(groups):
        child = total.unsqueeze(-1) + log_probs[..., group, :]
        perturbed = child + noise[: len(total), ..., group, :]
        score = _conditioned(perturbed, score.unsqueeze(-1))
        keep = min(num_samples, len(total) * choices)
        score, index = score.movedim(0, -2).flatten(-2).topk(keep, dim=-1)
        score, index = score.movedim(-1, 0), index.movedim(-1, 0)
        total = child.movedim(0, -2).flatten(-2).movedim(-1, 0).gather(0, index)
        parent, choice = index // choices, index % choices
        paths = [*(path.gather(0, parent) for path in paths), choice]
    return one_hot(torch.stack(paths, dim=-1), choices).to(logits.dtype)


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
    paths: list[Int[Tensor, "sample *batch"]] = []
    for group in range(log_probs.shape[-2]):
        child = (total.unsqueeze(-1) + log_probs[..., group, :]).movedim(0, -2).flatten(-2)
        best, index = child.topk(min(count, child.shape[-1]), dim=-1)
        total, index = best.movedim(-1, 0), index.movedim(-1, 0)
        paths = [*(path.gather(0, index // choices) for path in paths), index % choices]
    return one_hot(torch.stack(paths, dim=-1), choices).to(logits.dtype)


@torch.no_grad()
def leave_one_out_ratios(log_probs: Float[Tensor, "sample *batch"]) -> Float[Tensor, "sample sample *batch"]:
    """Return R(S, s) on the diagonal and R(S without s, s') at [s, s'], for a set S drawn without replacement.

    R(S, s) is the probability of drawing S given that s came first, over that of drawing S in any order. Elements of
    probability zero (masked ones, which come last) weigh nothing and disturb nothing.

    Reference: Kool, van Hoof & Welling 2020, arXiv:2002.06043, equations 6, 9 and 12. Here by recursion over subsets
    (2^k of them) instead of permutations or quadrature.
    """
    count = len(log_probs)
    table: dict[tuple[int, int], Tensor] = {}
    full = (1 << count) - 1

    def log_ways(drawn: int, removed: int) -> Tensor:
        """Log-probability of drawing the subset `drawn` first, in any order, from a domain without `removed`."""
        if drawn == 0:
            return torch.zeros_like(log_probs[0])
        if (drawn, removed) not in table:
            ways = []
            for last in range(count):
                if not drawn >> last & 1:
                    continue
                before = drawn & ~(1 << last)
                step = log_probs[last] - _log_remaining(log_probs, before | removed)
                # An impossible element is put in last place, with certainty, so that it changes no ratio.
                earlier = (1 << last) - 1 & ~removed
                placed = 0.0 if before & earlier == earlier and before >> last == 0 else -math.inf
                step = torch.where(log_probs[last] <= _NEVER, placed, step)
                ways.append(log_ways(before, removed) + step)
            table[drawn, removed] = torch.logsumexp(torch.stack(ways), dim=0)
        return table[drawn, removed]

    rows = []
    for s, other in itertools.product(range(count), repeat=2):
        rest = full & ~(1 << s)
        if s == other:
            rows.append((log_ways(rest, 1 << s) - log_ways(full, 0)).exp())
        else:
            rows.append((log_ways(rest & ~(1 << other), 1 << s | 1 << other) - log_ways(rest, 1 << s)).exp())
    return torch.stack(rows).unflatten(0, (count, count))


def _log_remaining(log_probs: Float[Tensor, "sample *batch"], drawn: int) -> Float[Tensor, "*batch"]:
    """Return log(1 − probability of the elements in `drawn`), at least what the other elements hold."""
    inside = [log_probs[i] for i in range(len(log_probs)) if drawn >> i & 1]
    outside = [log_probs[i] for i in range(len(log_probs)) if not drawn >> i & 1]
    if not inside:
        return torch.zeros_like(log_probs[0])
    left = _log1mexp(torch.logsumexp(torch.stack(inside), dim=0).clamp_max(0.0))
    # Where the difference cancels, the elements at hand are a lower bound of what is left.
    return torch.maximum(left, torch.logsumexp(torch.stack(outside), dim=0)) if outside else left
