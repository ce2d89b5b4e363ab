"""Critics: linear in what they say they are linear in, joint where they say they are; and ensembles of them."""

import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents.critics import CRITICS, ChoiceValues, Ensemble, EnsembleValue, _product, make_critic
from gumbelrl.policies import ESTIMATORS, ActionLayout, CategoricalPolicy
from gumbelrl.random import RandomStreams

LAYOUT = ActionLayout.from_space(spaces.MultiDiscrete([3, 2, 3]))
FACTORED = [name for name in CRITICS if name in ("linear", "multilinear")]


def observations(members=2, batch=5):
    return torch.randn(members, batch, 4, generator=torch.Generator().manual_seed(0))


def policy_of(batch=5, members=2, layout=LAYOUT):
    shape = (members, batch, layout.num_groups, layout.num_choices)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return CategoricalPolicy(logits, layout.merge_mask(None))


@pytest.mark.parametrize("name", CRITICS)
def test_multilinear_is_said_of_those_whose_value_at_the_probabilities_is_its_mean(name):
    critic = make_critic(name, RandomStreams([0, 1]), 4, LAYOUT, hidden=(16,))
    value, policy = critic(observations()), policy_of()
    actions = LAYOUT.enumerate_actions()[:, None, None].expand(-1, 2, 5, 3, 3)
    mean = (policy.log_prob(actions).exp() * value(actions)).sum(0)
    assert torch.allclose(value(policy.probs), mean, atol=1e-5) == critic.multilinear


@pytest.mark.parametrize("name", FACTORED)
def test_straight_through_is_exact_for_a_multilinear_critic(name):
    """Its mean over all joint actions, weighted by their probability, is the gradient of the exact expectation."""
    critic = make_critic(name, RandomStreams([0, 1]), 4, LAYOUT, hidden=(16,))
    value = critic(observations())
    logits = policy_of().logits.detach().requires_grad_()
    exact = ESTIMATORS["exact"](logits, value).objective
    (wanted,) = torch.autograd.grad(exact.sum(), logits)
    probs = logits.softmax(-1)
    actions = LAYOUT.enumerate_actions()[:, None, None].expand(-1, 2, 5, 3, 3).clone().requires_grad_()
    (slopes,) = torch.autograd.grad(value(actions).sum(), actions)
    weight = CategoricalPolicy(logits).log_prob(actions).exp()[..., None, None].detach()
    (got,) = torch.autograd.grad(((weight * slopes).sum(0) * probs).sum(), logits)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CRITICS)
def test_parity_is_learned_by_all_but_the_sum_over_groups(name):
    """Four bits, 1 for an odd number of ones: the best sum over groups is ½ everywhere, a squared error of ¼."""
    layout = ActionLayout.from_space(spaces.MultiBinary(4))
    actions = layout.enumerate_actions().unsqueeze(0)
    target = actions[..., 1].sum(-1) % 2
    critic = make_critic(name, RandomStreams([0]), 1, layout, hidden=(32,))
    optimizer = torch.optim.Adam(critic.parameters(), 3e-2, fused=True)
    for _ in range(300):
        error = (critic(torch.ones(1, 16, 1))(actions) - target).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert error.item() == pytest.approx(0.25, abs=1e-3) if name == "linear" else error.item() < 1e-3


def test_a_multilinear_critic_of_many_groups_neither_vanishes_nor_explodes():
    spread = []
    for groups in (1, 4, 16, 64):
        layout = ActionLayout.from_space(spaces.MultiDiscrete([5] * groups))
        critic = make_critic("multilinear", RandomStreams([0]), 4, layout, hidden=(32,))
        action = torch.eye(5)[torch.randint(5, (1, 200, groups), generator=torch.Generator().manual_seed(2))]
        spread.append(critic(observations(1, 200))(action).std().item())
    assert min(spread) > 0.02
    assert max(spread) < 2


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13])
def test_product(length):
    x = torch.randn(3, length, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(_product(x), x.prod(-1))
    assert torch.autograd.gradcheck(_product, (x,))


@pytest.mark.parametrize("name", CRITICS)
def test_an_ensemble_is_critics_side_by_side(name):
    """One critic with the weights of each is what each of the ensemble's says; `lowest` and `first` follow."""
    ensemble = Ensemble(name, RandomStreams(range(6)), 4, LAYOUT, size=3, hidden=(16,))
    value, policy = ensemble(observations()), policy_of()
    action = policy.sample(generator=torch.Generator().manual_seed(3))
    alone = []
    for index in range(3):
        single = make_critic(name, RandomStreams([index, 3 + index]), 4, LAYOUT, hidden=(16,))
        alone.append(single(observations()))
    expected = torch.stack([each(action) for each in alone], dim=1)
    torch.testing.assert_close(value.all(action), expected)
    torch.testing.assert_close(value.first()(action), expected[:, 0])
    sampled = torch.stack([action, policy.probs])
    torch.testing.assert_close(value.all(sampled)[0], expected)
    if name == "linear":
        means = torch.stack([each(policy.probs) for each in alone], dim=1)
        lowest = expected.gather(1, means.argmin(1, keepdim=True)).squeeze(1)
    else:
        lowest = expected.amin(1)
    torch.testing.assert_close(value.lowest(policy.probs)(action), lowest)


def test_with_one_group_the_lower_value_is_taken_choice_by_choice():
    layout = ActionLayout.from_space(spaces.Discrete(4))
    ensemble = Ensemble("linear", RandomStreams(range(4)), 4, layout, size=2, hidden=(16,))
    value, policy = ensemble(observations()), policy_of(layout=layout)
    values = value.choice_values.amin(1)
    torch.testing.assert_close(value.lowest(policy.probs).choice_values, values)
    expected = (policy.probs * values).sum((-2, -1))
    torch.testing.assert_close(value.expected_lowest(policy, RandomStreams([0, 1])), expected)


@pytest.mark.parametrize("name", CRITICS)
def test_an_action_is_drawn_only_where_there_is_no_expectation(name):
    streams = RandomStreams([0, 1])
    ensemble = Ensemble(name, RandomStreams(range(4)), 4, LAYOUT, size=2, hidden=(16,))
    value, policy = ensemble(observations()), policy_of()
    got = value.expected_lowest(policy, streams)
    assert (int(streams.counter) > 0) == (name == "joint")
    if name != "joint":
        torch.testing.assert_close(got, value.all(policy.probs).amin(1))


def test_no_gradient_reaches_the_critics_through_the_lowest():
    choice_values = torch.randn(4, 5, 3, 3, requires_grad=True)
    critic = make_critic("linear", RandomStreams(range(4)), 4, LAYOUT, hidden=(16,))
    value = EnsembleValue(critic, ChoiceValues(choice_values), 2)
    logits = policy_of().logits.detach().requires_grad_()
    lowest = value.lowest(logits.softmax(-1))
    for estimator in ("exact", "gumbel", "straight-through"):
        objective = ESTIMATORS[estimator](logits, lowest, generator=RandomStreams([0, 1])).objective
        gradients = torch.autograd.grad(objective.sum(), [logits, choice_values], allow_unused=True)
        assert gradients[0].abs().sum() > 0
        assert gradients[1] is None
