"""Each estimator as one would write it by hand in a few lines of torch: no masks, no checks, no care at the extremes.

`PLAIN[name](logits, value)` returns the objective whose gradient is the estimate; `estimator_speed.py` compares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]


def one_hot(index: Tensor, num_choices: int) -> Tensor:
    return torch.nn.functional.one_hot(index, num_choices).float()


def sample(logits: Tensor) -> Tensor:
    noise = -torch.empty_like(logits).exponential_().log()
    return one_hot((logits + noise).argmax(-1), logits.shape[-1])


def through(path: Tensor, action: Tensor) -> Tensor:
    return action - path.detach() + path


def log_prob(logits: Tensor, action: Tensor) -> Tensor:
    return (torch.log_softmax(logits, -1) * action).sum((-2, -1))


def gumbel(logits: Tensor, value: Value, *, temperature: float = 1.0) -> Tensor:
    noise = -torch.empty_like(logits).exponential_().log()
    relaxed = torch.softmax((logits + noise) / temperature, -1)
    return value(through(relaxed, one_hot(relaxed.argmax(-1), logits.shape[-1])))


def gumbel_soft(logits: Tensor, value: Value, *, temperature: float = 1.0) -> Tensor:
    noise = -torch.empty_like(logits).exponential_().log()
    return value(torch.softmax((logits + noise) / temperature, -1))


def straight_through(logits: Tensor, value: Value) -> Tensor:
    return value(through(torch.softmax(logits, -1), sample(logits.detach())))


def softmax(logits: Tensor, value: Value, *, temperature: float = 1.0) -> Tensor:
    return value(torch.softmax(logits / temperature, -1))


def argmax_st(logits: Tensor, value: Value) -> Tensor:
    return value(through(torch.softmax(logits, -1), one_hot(logits.argmax(-1), logits.shape[-1])))


def reinforce(logits: Tensor, value: Value) -> Tensor:
    action = sample(logits.detach())
    return value(action).detach() * log_prob(logits, action)


def rloo(logits: Tensor, value: Value) -> Tensor:
    action = sample(logits.detach().expand(4, *logits.shape))
    result = value(action).detach()
    others = (result.sum(0) - result) / 3
    return ((result - others) * log_prob(logits, action)).mean(0)


def exact(logits: Tensor, value: Value) -> Tensor:
    probs = torch.softmax(logits, -1)
    if hasattr(value, "choice_values"):
        return (probs * value.choice_values).sum((-2, -1))
    choices = logits.shape[-1]  # one group
    actions = torch.eye(choices).view(choices, *[1] * (logits.dim() - 1), choices).expand(choices, *logits.shape)
    return (probs[..., 0, :] * value(actions).detach().movedim(0, -1)).sum(-1)


def conditional(logits: Tensor, action: Tensor, noise: Tensor) -> Tensor:
    """The perturbed logits given their argmax."""
    top = ((noise.log() * action).sum(-1, keepdim=True) - logits.logsumexp(-1, keepdim=True)).neg()
    return torch.where(action > 0, top, -torch.logaddexp(noise.log() - logits, -top))


def gumbel_rao(logits: Tensor, value: Value, *, temperature: float = 1.0) -> Tensor:
    action = sample(logits.detach())
    noise = torch.empty(10, *logits.shape).exponential_()
    shift = conditional(logits.detach(), action, noise) - logits.detach()
    return value(through(torch.softmax((logits + shift) / temperature, -1).mean(0), action))


def reinmax(logits: Tensor, value: Value, *, temperature: float = 1.0) -> Tensor:
    action, probs = sample(logits.detach()), torch.softmax(logits, -1)
    midpoint = (0.5 * (action + torch.softmax(logits / temperature, -1))).detach()
    first = torch.softmax((midpoint.log() - logits).detach() + logits, -1)
    return value(through(2 * first - 0.5 * probs, action))


def gapped(logits: Tensor, value: Value, *, temperature: float = 1.0) -> Tensor:
    action, held = sample(logits.detach()), logits.detach()
    top = held.amax(-1, keepdim=True)
    lift = (top - (held * action).sum(-1, keepdim=True)) * action
    drop = torch.relu(held + 1.0 - top) * (1 - action)
    return value(through(torch.softmax((logits + lift - drop) / temperature, -1), action))


def decoupled(logits: Tensor, value: Value, *, forward: float = 1.0, backward: float = 1.0) -> Tensor:
    return value(through(torch.softmax(logits / backward, -1), sample(logits.detach() / forward)))


def rebar(logits: Tensor, value: Value, *, temperature: float = 1.0, control: Value | None = None) -> Tensor:
    free = logits - torch.empty_like(logits).exponential_().log()
    action = one_hot(free.argmax(-1), logits.shape[-1])
    tied = conditional(logits, action, torch.empty_like(logits).exponential_())
    keep = control is not None

    def relaxed(scores: Tensor) -> Tensor:
        inside = torch.softmax(scores / temperature, -1)
        return value(inside) + (control(inside) if control is not None else 0.0)

    around, given = relaxed(free), relaxed(tied)
    score = log_prob(logits, action)
    slopes = [
        torch.autograd.grad(each.sum(), logits, retain_graph=True, create_graph=keep)[0]
        for each in (score, around, given)
    ]
    gradient = (value(action) - given)[..., None, None].detach() * slopes[0] + slopes[1] - slopes[2]
    objective = (gradient.detach() * logits).sum((-2, -1))
    return objective + 0.0 * gradient.square().sum((-2, -1)).detach() if keep else objective


def beam(logits: Tensor, count: int, scores_of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The best `count` joint actions, group by group; `scores_of(total, log-probabilities, score)` ranks them."""
    log_probs = torch.log_softmax(logits, -1)
    choices = logits.shape[-1]
    total = log_probs.new_zeros(1, *log_probs.shape[:-2])
    score, paths = total, []
    for group in range(logits.shape[-2]):
        child = total.unsqueeze(-1) + log_probs[..., group, :]
        ranked = scores_of(child, score.unsqueeze(-1), log_probs).movedim(0, -2).flatten(-2)
        score, index = ranked.topk(min(count, ranked.shape[-1]), -1)
        score, index = score.movedim(-1, 0), index.movedim(-1, 0)
        total = child.movedim(0, -2).flatten(-2).movedim(-1, 0).gather(0, index)
        paths = [*(path.gather(0, index // choices) for path in paths), index % choices]
    return one_hot(torch.stack(paths, -1), choices)


def gumbel_scores(child: Tensor, score: Tensor, _: Tensor) -> Tensor:
    perturbed = child - torch.empty_like(child).exponential_().log()
    gap = perturbed - perturbed.amax(-1, keepdim=True)
    shifted = score - perturbed + torch.log1p(-gap.exp())
    return score - shifted.clamp_min(0.0) - torch.log1p(torch.exp(-shifted.abs()))


@torch.no_grad()
def set_weights(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """R(S, s) and R(S without s, s') by sums over the orders in which a set can be drawn."""
    probs = log_probs.double().exp()
    count = len(probs)

    def ways(members: tuple[int, ...], gone: Tensor | float) -> Tensor:
        total = torch.zeros_like(probs[0])
        for order in itertools.permutations(members):
            way, left = torch.ones_like(probs[0]), 1.0 - gone
            for index in order:
                way, left = way * probs[index] / left, left - probs[index]
            total = total + way
        return total

    everyone = tuple(range(count))
    whole = ways(everyone, 0.0)
    single = torch.stack([ways(tuple(set(everyone) - {s}), probs[s]) / whole for s in everyone])
    pairs = torch.ones(count, count, *probs.shape[1:], dtype=torch.float64)
    for s, other in itertools.permutations(everyone, 2):
        rest = tuple(set(everyone) - {s, other})
        pairs[s, other] = ways(rest, probs[s] + probs[other]) / ways((*rest, other), probs[s])
    return single, pairs


def unordered_set(logits: Tensor, value: Value) -> Tensor:
    action = beam(logits.detach(), 4, gumbel_scores)
    result, score = value(action).detach(), log_prob(logits, action)
    single, pairs = set_weights(score.detach())
    probs = score.detach().double().exp()
    baseline = (pairs * probs * result).sum(1)
    return ((probs * single * (result - baseline)).float() * score).sum(0)


def sum_and_sample(logits: Tensor, value: Value) -> Tensor:
    held = logits.detach()
    summed = beam(held, 3, lambda child, score, _: child)
    drawn = beam(held, 4, gumbel_scores)
    known = (drawn.unsqueeze(1) == summed).all(-1).all(-1).any(1)
    index = known.int().argmin(0)
    sampled = drawn.gather(0, index[None, ..., None, None].expand(1, *held.shape))
    action = torch.cat([summed, sampled])
    result, score = value(action).detach(), log_prob(logits, action)
    probs = score.detach()[:-1].exp()
    weights = torch.cat([probs, 1 - probs.sum(0, keepdim=True)])
    return (weights * result * score).sum(0)


PLAIN: dict[str, Callable[..., Tensor]] = {
    "gumbel": gumbel,
    "gumbel-soft": gumbel_soft,
    "straight-through": straight_through,
    "softmax": softmax,
    "argmax-st": argmax_st,
    "reinforce": reinforce,
    "rloo": rloo,
    "exact": exact,
    "gumbel-rao": gumbel_rao,
    "reinmax": reinmax,
    "gapped": gapped,
    "decoupled": decoupled,
    "rebar": rebar,
    "relax": rebar,
    "unordered-set": unordered_set,
    "sum-and-sample": sum_and_sample,
}
