"""The measurements against closed forms, and where they can be known beforehand."""

import pytest
import torch

from gumbelrl.policies import ESTIMATORS, diagnose


@pytest.fixture
def logits():
    return torch.randn(8, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def quadratic(action):
    return action.square().sum((-2, -1)) + 2.0 * action[..., 0, 0] * action[..., 1, 1]


def seeded():
    return torch.Generator().manual_seed(1)


def test_reinforces_variance_and_signal_have_a_closed_form():
    """One group, two choices, f = (1, 0): the estimate is f(D)(D − p); its mean p(1 − p)(1, −1), square 2p(1 − p)²."""
    p = torch.tensor(0.3, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()]).expand(1, 1, 2)
    found = diagnose("reinforce", logits, lambda a: a[..., 0, 0], generator=seeded(), num_estimates=400_000)
    mean_square = 2 * (p * (1 - p)) ** 2
    variance = 2 * p * (1 - p) ** 2 - mean_square
    assert found.variance.item() == pytest.approx(variance.item(), rel=0.01)
    assert found.gradient_norm.item() == pytest.approx(mean_square.sqrt().item())
    assert found.signal_to_noise.item() == pytest.approx((mean_square / variance).sqrt().item(), rel=0.02)
    assert found.bias.item() < 0.005
    assert found.reference == "enumerated"


def test_the_bias_of_straight_through_has_a_closed_form(logits):
    """For a function of one group, Σ_i x_i², the slope at a vertex is 2D: the expected estimate is 2 J(p) p, not 0."""
    found = diagnose(
        "straight-through", logits[:, :1], lambda a: a.square().sum((-2, -1)), num_estimates=4000, generator=seeded()
    )
    probs = logits[:, :1].softmax(-1)
    bias = 2 * probs * (probs - probs.square().sum(-1, keepdim=True))
    assert found.bias.item() == pytest.approx(bias.square().sum((-2, -1)).mean().sqrt().item(), rel=0.05)
    assert found.gradient_norm.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_declared_is_what_is_measured(name, logits):
    """Bias on a quadratic function over the gradient: below .2 (noise) where declared exact, above .5 elsewhere."""
    found = diagnose(name, logits, quadratic, generator=seeded(), num_estimates=20_000)
    relative = (found.bias / found.gradient_norm).item()
    if ESTIMATORS[name].exact_on in ("all", "quadratic"):
        assert relative < 0.2
    else:
        assert relative > 0.5
    if ESTIMATORS[name].noise == "none":
        assert found.variance.item() == 0
        assert found.signal_to_noise.isinf()
    else:
        assert found.variance.item() > 0
    assert -1 <= found.cosine.item() <= 1


def test_the_gap_between_soft_and_hard_values(logits):
    """For Σ x² the soft value is below 1 a group and the hard one 1: softmax's gap is known, a vertex has none."""
    value = lambda action: action.square().sum((-2, -1))  # noqa: E731
    found = diagnose("softmax", logits, value)
    want = (logits.softmax(-1).square().sum((-2, -1)) - 2).mean()
    torch.testing.assert_close(found.soft_hard_gap, want)
    assert diagnose("gumbel", logits, value, generator=seeded()).soft_hard_gap.abs() < 1e-12
    assert diagnose("gumbel-soft", logits, value, generator=seeded()).soft_hard_gap < -0.1


def test_leading_axes_are_kept_apart_and_masks_hold(logits):
    both = torch.stack([logits, 2 * logits])
    mask = torch.ones_like(both, dtype=torch.bool)
    mask[..., 0, 2] = False
    found = diagnose("exact", both, quadratic, mask=mask)
    assert found.bias.shape == found.cosine.shape == (2,)
    alone = diagnose("exact", both[1], quadratic, mask=mask[1])
    torch.testing.assert_close(found.gradient_norm[1], alone.gradient_norm)
    torch.testing.assert_close(found.cosine, torch.ones(2, dtype=torch.float64))


def test_too_many_actions_are_averaged_and_said_to_be():
    """12 groups of 4, a sum over groups: its exact gradient is known, and straight-through has it without noise."""
    logits = torch.randn(4, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = diagnose("straight-through", logits, lambda a: (a * weight).sum((-2, -1)), generator=seeded())
    assert found.reference == "average"
    probs = logits.softmax(-1)
    gradient = probs * (weight - (probs * weight).sum(-1, keepdim=True))
    exact_norm = gradient.square().sum((-2, -1)).mean().sqrt()
    assert found.gradient_norm.item() == pytest.approx(exact_norm.item(), rel=0.05)
    assert (found.bias / found.gradient_norm).item() < 0.1
    assert found.cosine.item() > 0.97


def test_at_least_two_estimates(logits):
    with pytest.raises(ValueError, match="num_estimates must be at least 2"):
        diagnose("gumbel", logits, quadratic, num_estimates=1)
