"""Sampling joint actions without replacement, and the estimators that use it."""

import itertools
import math

import pytest
import torch

from gumbelrl.policies import ESTIMATORS
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.without_replacement import leave_one_out_shares, most_probable, sample_without_replacement


@pytest.fixture
def logits():
    return torch.tensor([[0.3, -0.4, 0.9], [0.0, 0.7, -1.0]], dtype=torch.float64)


def joint_probs(logits):
    probs = torch.softmax(logits, -1)
    return torch.einsum("i,j->ij", probs[0], probs[1]).flatten()


def number(action):
    index = action.argmax(-1)
    return index[..., 0] * 3 + index[..., 1]


def test_order_of_drawing_has_plackett_luces_probabilities(logits):
    """All 72 ordered pairs of 9 joint actions, 200,000 draws: each |z| < 5, a failure rate below 1e-4."""
    count = 200_000
    drawn = sample_without_replacement(logits.expand(count, 2, 3), 2, generator=torch.Generator().manual_seed(0))
    first, second = number(drawn)
    assert (first != second).all()
    p = joint_probs(logits)
    frequency = torch.bincount(first * 9 + second, minlength=81).double() / count
    for i, j in itertools.permutations(range(9), 2):
        want = p[i] * p[j] / (1 - p[i])
        assert abs(frequency[i * 9 + j] - want) < 5 * (want * (1 - want) / count).sqrt(), (i, j)


def test_samples_differ_and_masked_ones_come_last(logits):
    """Row 0 allows 4 joint actions, row 1 all 9."""
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[0, 0, 1] = mask[0, 1, 2] = False
    drawn = sample_without_replacement(mask_logits(logits.expand(2, 2, 3), mask), 7)
    assert drawn.shape == (7, 2, 2, 3)
    for row in range(2):
        assert len(set(number(drawn[:, row]).tolist())) == 7
    valid = ~(drawn * ~mask).any(-1).any(-1)
    assert valid[:, 0].tolist() == [True] * 4 + [False] * 3
    assert valid[:, 1].all()


def test_most_probable_is_the_sorted_list(logits):
    p = joint_probs(logits)
    assert number(most_probable(logits, 5)).tolist() == p.argsort(descending=True)[:5].tolist()
    assert len(most_probable(logits, 20)) == 9


def test_many_groups_without_listing_their_actions():
    """256 groups of 5: 5^256 joint actions."""
    logits = torch.randn(3, 256, 5, generator=torch.Generator().manual_seed(0))
    drawn = sample_without_replacement(logits, 4)
    assert drawn.shape == (4, 3, 256, 5)
    assert (drawn.sum(-1) == 1).all()
    best = most_probable(logits, 2)
    assert torch.equal(best[0].argmax(-1), logits.argmax(-1))
    assert ((best[0] != best[1]).any(-1).sum(-1) == 1).all()  # the second best differs in one group


def test_shares_equal_those_over_permutations(logits):
    p = joint_probs(logits)[[4, 0, 7, 2]]

    def chance(members, removed):
        total = 0.0
        for order in itertools.permutations(members):
            left, ways = 1.0 - p[removed].sum(), 1.0
            for i in order:
                ways, left = ways * p[i] / left, left - p[i]
            total += ways
        return total

    got = leave_one_out_shares(p.log())
    for s in range(4):
        rest = [i for i in range(4) if i != s]
        want = p[s] * chance(rest, [s]) / chance(range(4), [])
        assert got[s, s].item() == pytest.approx(want.item(), rel=1e-12)
        for other in rest:
            want = p[other] * chance([i for i in rest if i != other], [s, other]) / chance(rest, [s])
            assert got[s, other].item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize("place", [1, 3])
def test_an_impossible_element_changes_no_share(logits, place):
    p = torch.log_softmax(joint_probs(logits)[[4, 0, 7]], 0)  # impossible ones come when these are all there are
    never = torch.full((2,), -1e30, dtype=torch.float64)
    shares = leave_one_out_shares(torch.cat([p[:place], never, p[place:]]))
    others = [i for i in range(5) if not place <= i < place + 2]
    torch.testing.assert_close(shares[others][:, others], leave_one_out_shares(p))
    assert shares.isfinite().all()
    assert (shares[:, place : place + 2] == 0).all()


@pytest.mark.parametrize("log_probs", [[0.0, -1e4, -2e4], [-1e-18, -41.4, -60.0], [-1e-9, -20.7, -21.0]])
def test_weights_of_a_near_certain_policy_sum_to_one(log_probs):
    shares = leave_one_out_shares(torch.tensor(log_probs, dtype=torch.float64))
    assert shares.isfinite().all()
    assert torch.diagonal(shares).sum().item() == pytest.approx(1.0, abs=1e-3)


def test_weights_of_actions_too_rare_for_a_float():
    """1,000 uniform groups of 18: each joint action has probability e^−2890; four of them weigh a quarter each."""
    shares = leave_one_out_shares(torch.full((4,), -1000 * math.log(18.0), dtype=torch.float64))
    torch.testing.assert_close(torch.diagonal(shares), torch.full((4,), 0.25, dtype=torch.float64))


def test_compiled_shares_equal_eager_ones():
    log_probs = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(0) - 0.1
    log_probs[2, :10] = -1e30
    compiled = torch.compile(leave_one_out_shares, backend="aot_eager")
    torch.testing.assert_close(compiled(log_probs), leave_one_out_shares(log_probs))


@pytest.mark.parametrize("name", ["unordered-set", "sum-and-sample"])
@pytest.mark.parametrize("num_samples", [4, 8])
def test_exact_where_the_samples_are_all_there_are(name, num_samples):
    """Four joint actions, or three by a mask: no variance, and the value is the expectation."""
    logits = torch.tensor([[0.3, -0.4], [1.0, 0.2]]).expand(50, 2, 2).clone().requires_grad_()
    mask = torch.ones(50, 2, 2, dtype=torch.bool)

    def value(action):
        return action[..., 0, 0] * action[..., 1, 1] + 2.0 * action[..., 1, 0]

    options = {"mask": mask, "generator": torch.Generator().manual_seed(0)}
    if name == "sum-and-sample":
        num_samples += 1  # one is sampled
    estimate = ESTIMATORS[name](logits, value, num_samples=num_samples, **options)
    exact = ESTIMATORS["exact"](logits, value, mask=mask)
    torch.testing.assert_close(estimate.objective, exact.objective)
    got = torch.autograd.grad(estimate.objective.sum(), logits)[0]
    torch.testing.assert_close(got, torch.autograd.grad(exact.objective.sum(), logits)[0])


def test_the_unordered_set_varies_less_than_leave_one_out(logits):
    """The same four evaluations of the same function."""

    def value(action):
        return action[..., 0, 0] * action[..., 1, 1] + 2.0 * action[..., 1, 0]

    variance = {}
    for name in ("unordered-set", "rloo"):
        many = logits.expand(20_000, 2, 3).clone().requires_grad_()
        estimate = ESTIMATORS[name](many, value, num_samples=4, generator=torch.Generator().manual_seed(0))
        variance[name] = torch.autograd.grad(estimate.objective.sum(), many)[0].var(0).sum().item()
    assert variance["unordered-set"] < 0.8 * variance["rloo"]
