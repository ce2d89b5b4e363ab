"""The policy against torch.distributions, masked or not, and the head."""

import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, kl_divergence

from gumbelrl.policies import ActionLayout, CategoricalPolicy, PolicyHead


@pytest.fixture
def logits():
    return torch.randn(7, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_equals_torchs_categorical(logits):
    policy, theirs = CategoricalPolicy(logits), Categorical(logits=logits)
    index = theirs.sample()
    action = torch.nn.functional.one_hot(index, 5).double()
    torch.testing.assert_close(policy.probs, theirs.probs)
    torch.testing.assert_close(policy.log_prob(action), theirs.log_prob(index).sum(-1))
    torch.testing.assert_close(policy.entropy(), theirs.entropy().sum(-1))
    other = logits.flip(-1)
    torch.testing.assert_close(
        policy.kl(CategoricalPolicy(other)), kl_divergence(theirs, Categorical(logits=other)).sum(-1)
    )
    assert torch.equal(policy.mode.argmax(-1), theirs.mode)


def test_a_mask_is_a_smaller_categorical(logits):
    """Choices 1 and 3 are masked: everything equals the distribution over the other three."""
    mask = torch.tensor([True, False, True, False, True])
    logits = logits.requires_grad_()
    policy = CategoricalPolicy(logits, mask)
    theirs = Categorical(logits=logits[..., mask])
    torch.testing.assert_close(policy.probs[..., mask], theirs.probs)
    assert (policy.probs[..., ~mask] == 0).all()
    torch.testing.assert_close(policy.entropy(), theirs.entropy().sum(-1))
    torch.testing.assert_close(policy.kl(policy), torch.zeros(7, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(
        policy.entropy().sum() + policy.kl(CategoricalPolicy(logits * 2, mask)).sum(), logits
    )
    assert (gradient[..., ~mask] == 0).all()
    assert gradient.isfinite().all()


def test_sample_frequencies():
    """θ = (0, 1, 2): .0900, .2447, .6652; six standard errors, a chance of failure below 1e-8."""
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(400_000, 1, 3)
    mean = CategoricalPolicy(logits).sample(generator=torch.Generator().manual_seed(0)).mean((0, 1))
    want = torch.tensor([0.0900, 0.2447, 0.6652])
    assert ((mean - want).abs() < 6 * (want * (1 - want) / 400_000).sqrt() + 5e-5).all()


def test_ties_give_one_action():
    policy = CategoricalPolicy(torch.zeros(4, 1, 3))
    assert (policy.mode.sum(-1) == 1).all()
    assert policy.mode[..., 0].all()


def test_the_head_starts_near_uniform_and_learns_through_any_estimator():
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2]))
    head = PolicyHead(6, layout)
    features = torch.randn(2, 9, 6)
    mask = torch.ones(2, 9, 5)
    mask[..., 1] = 0
    policy = head(features, mask)
    assert policy.probs.shape == (2, 9, 2, 3)
    torch.testing.assert_close(policy.probs[..., 0, 0], torch.full((2, 9), 0.5), atol=0.05, rtol=0)
    assert (policy.probs[..., 0, 1] == 0).all()
    estimate = policy.rsample(lambda action: action[..., 0, 2], estimator="straight-through", temperature=0.5)
    estimate.objective.sum().backward()
    assert head.linear.weight.grad.abs().sum() > 0


def test_logits_without_a_group_axis_are_refused():
    with pytest.raises(ValueError, match=r"\[..., group, choice\]"):
        CategoricalPolicy(torch.zeros(3))
