"""The pointer head against its equations, and what holds of it however it is weighted."""

import functools
import math

import pytest
import torch
from torch import nn

from gumbelrl.agents.networks import StackedLinear
from gumbelrl.policies import ESTIMATORS, PointerHead
from gumbelrl.random import RandomStreams

ATTENTIONS = ["additive", "dot-product"]
BATCH, ITEMS, QUERY_FEATURES, ITEM_FEATURES = 5, 7, 3, 4


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(params=ATTENTIONS)
def head(request):
    torch.manual_seed(0)
    return PointerHead(QUERY_FEATURES, ITEM_FEATURES, hidden=16, attention=request.param, gain=1.0).double()


@pytest.fixture
def presented():
    """A query, items and a mask that leaves the first item at least."""
    seeded = generator()
    query = torch.randn(BATCH, QUERY_FEATURES, dtype=torch.float64, generator=seeded)
    items = torch.randn(BATCH, ITEMS, ITEM_FEATURES, dtype=torch.float64, generator=seeded)
    mask = torch.rand(BATCH, ITEMS, generator=seeded) < 0.6
    mask[:, 0] = True
    return query, items, mask


def reference(head, query, items, mask):
    """Return the probabilities, item by item: u_j = vᵀ tanh(W₁ e_j + W₂ d) or (W₁ e_j)ᵀ W₂ d/√h, p = softmax(u)."""
    probs = torch.zeros(items.shape[:-1], dtype=items.dtype)
    for row in range(len(query)):
        d = head.query.weight @ query[row] + head.query.bias
        weights = {}
        for j in range(items.shape[1]):
            e = head.item.weight @ items[row, j] + head.item.bias
            if head.score is None:
                u = sum(a * b for a, b in zip(e, d, strict=True)) / math.sqrt(len(d))
            else:
                u = sum(v * torch.tanh(a + b) for v, a, b in zip(head.score.weight[0], e, d, strict=True))
            if mask[row, j]:
                weights[j] = torch.exp(u)
        for j, weight in weights.items():
            probs[row, j] = weight / sum(weights.values())
    return probs


def test_equals_the_equations(head, presented):
    query, items, mask = presented
    for layer in (head.query, head.item):
        nn.init.normal_(layer.bias, generator=generator())
    policy = head(query, items, mask)
    assert policy.probs.shape == (BATCH, 1, ITEMS)
    torch.testing.assert_close(policy.probs[:, 0], reference(head, query, items, mask))
    everything = torch.ones_like(mask)
    torch.testing.assert_close(head(query, items).probs[:, 0], reference(head, query, items, everything))


def test_a_permutation_of_the_items_permutes_the_policy(head, presented):
    query, items, mask = presented
    order = torch.randperm(ITEMS, generator=generator())
    permuted = head(query, items[:, order], mask[:, order])
    torch.testing.assert_close(permuted.probs, head(query, items, mask).probs[..., order])


@pytest.mark.parametrize("filling", [0.0, 1e6, math.inf, math.nan])
def test_padding_changes_nothing_whatever_it_holds(head, presented, filling):
    """Probabilities and gradients equal those without padding, and padding has the probability and gradient 0."""
    query, items, mask = presented
    weights = list(head.parameters())
    value = torch.randn(BATCH, ITEMS, dtype=torch.float64, generator=generator())
    short = head(query, items, mask)
    want = torch.autograd.grad((short.probs[:, 0] * value).sum() + short.entropy().sum(), weights)

    padding = torch.full((BATCH, 4, ITEM_FEATURES), filling, dtype=torch.float64)
    padded = torch.cat((items, padding), dim=1).requires_grad_()
    valid = torch.cat((mask, torch.zeros(BATCH, 4, dtype=torch.bool)), dim=1)
    policy = head(query, padded, valid)
    torch.testing.assert_close(policy.probs[..., :ITEMS], short.probs)
    assert (policy.probs[:, 0][~valid] == 0).all()
    objective = (policy.probs[:, 0, :ITEMS] * value).sum() + policy.entropy().sum()
    got = torch.autograd.grad(objective, [*weights, padded])
    for ours, theirs in zip(got[:-1], want, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (got[-1][~valid] == 0).all()
    assert (got[-1][valid] != 0).any()


def test_takes_any_number_of_items_and_any_batch(head):
    for shape in [(), (3,), (2, 3), (0,)]:
        for count in (1, 2, 50):
            query = torch.randn(*shape, QUERY_FEATURES, dtype=torch.float64)
            items = torch.randn(*shape, count, ITEM_FEATURES, dtype=torch.float64)
            policy = head(query, items, torch.ones(*shape, count))
            assert policy.probs.shape == (*shape, 1, count)
            torch.testing.assert_close(policy.probs.sum(-1), torch.ones(*shape, 1, dtype=torch.float64))


def test_masked_items_are_never_sampled(head, presented):
    query, items, mask = presented
    policy = head(query.expand(2_000, -1, -1), items.expand(2_000, -1, -1, -1), mask.expand(2_000, -1, -1))
    assert not policy.sample(generator=generator())[:, :, 0][:, ~mask].any()
    assert policy.mode[:, :, 0][:, mask].any()


def test_the_gradient_goes_through_an_estimator(head, presented):
    """For a value linear in the action the mean of `gumbel` nears the exact gradient as the temperature falls."""
    query, items, mask = presented
    worth = torch.randn(BATCH, 1, ITEMS, dtype=torch.float64, generator=generator())

    def value(action):
        return (action * worth).sum((-2, -1))

    def gradient(name, **options):
        policy = head(query, items, mask)
        estimate = ESTIMATORS[name](policy.logits, value, mask=policy.mask, generator=generator(), **options)
        return torch.cat([g.flatten() for g in torch.autograd.grad(estimate.objective.sum(), list(head.parameters()))])

    exact = gradient("exact", temperature=1.0)
    assert exact.abs().max() > 0.01
    assert head(query, items, mask).rsample(value, estimator="gumbel").objective.shape == (BATCH,)
    estimated = gradient("gumbel", temperature=0.1, num_samples=20_000)
    assert torch.nn.functional.cosine_similarity(estimated, exact, dim=0) > 0.99
    assert abs(float(estimated.norm() / exact.norm()) - 1.0) < 0.1


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_starts_near_uniform(attention):
    head = PointerHead(QUERY_FEATURES, ITEM_FEATURES, attention=attention)
    items = torch.randn(100, ITEMS, ITEM_FEATURES, generator=generator())
    probs = head(torch.randn(100, QUERY_FEATURES, generator=generator()), items).probs
    torch.testing.assert_close(probs, torch.full_like(probs, 1 / ITEMS), atol=0.02, rtol=0)


def test_learns_with_few_items_and_picks_from_many():
    """A bilinear score learns the nearest of up to 6 unit vectors, and finds that of 40 as well."""
    torch.manual_seed(0)
    seeded = generator()
    head = PointerHead(4, 4, hidden=16, attention="dot-product")
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)

    def present(count):
        query, items = torch.randn(256, 4, generator=seeded), torch.randn(256, count, 4, generator=seeded)
        query, items = nn.functional.normalize(query, dim=-1), nn.functional.normalize(items, dim=-1)
        return query, items, (items * query.unsqueeze(1)).sum(-1)

    for _ in range(150):
        query, items, cosine = present(6)
        mask = torch.arange(6) < torch.randint(2, 7, (256, 1), generator=seeded)
        policy = head(query, items, mask)
        estimate = policy.rsample(
            lambda action, cosine=cosine: (action[..., 0, :] * cosine).sum(-1), estimator="gumbel", generator=seeded
        )
        optimizer.zero_grad()
        (-estimate.objective.mean()).backward()
        optimizer.step()
    query, items, cosine = present(40)
    picked = (head(query, items).mode[:, 0] * cosine).sum(-1)
    assert picked.mean() > 0.97 * cosine.max(-1).values.mean()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_members_do_what_each_does_alone(attention):
    """With weights a member, in one call, also with an axis of samples in front."""
    head = PointerHead(
        QUERY_FEATURES,
        ITEM_FEATURES,
        hidden=8,
        attention=attention,
        gain=1.0,
        linear=functools.partial(StackedLinear, RandomStreams([1, 2, 3], device="cpu")),
    )
    query = torch.randn(2, 3, BATCH, QUERY_FEATURES, generator=generator())
    items = torch.randn(2, 3, BATCH, ITEMS, ITEM_FEATURES, generator=generator())
    mask = torch.arange(ITEMS) < 4
    together = head(query, items, mask.expand(2, 3, BATCH, ITEMS)).probs
    assert together.shape == (2, 3, BATCH, 1, ITEMS)
    torch.testing.assert_close(head(query[0], items[0], mask.expand(3, BATCH, ITEMS)).probs, together[0])
    for member in range(3):
        alone = PointerHead(QUERY_FEATURES, ITEM_FEATURES, hidden=8, attention=attention)
        stacked = dict(head.named_parameters())
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                parameter.copy_(stacked[name][member].T if name.endswith("weight") else stacked[name][member, 0])
        torch.testing.assert_close(alone(query[:, member], items[:, member], mask).probs, together[:, member])


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="choose one of dot-product, additive"):
        PointerHead(2, 2, attention="cosine")
