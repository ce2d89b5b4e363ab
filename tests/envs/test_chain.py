"""Chain: the rules one by one, the gain in closed form, and from which discount on it pays to go forward."""

import numpy as np
import pytest
import torch

from gumbelrl.envs import Chain, policy_values, relative_value_iteration, value_iteration


def test_rules_without_a_slip():
    env = Chain(6, slip=0.0)
    env.reset(0)
    env.state = torch.tensor([0, 3, 4, 0, 3, 4])
    step = env.step(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert step.observation.tolist() == [1, 4, 4, 0, 0, 0]
    assert step.reward.tolist() == [0.0, 0.0, 10.0, 2.0, 2.0, 2.0]
    assert not step.terminated.any()


def test_a_slip_does_the_other_thing():
    always, never = Chain(1, slip=1.0).table, Chain(1, slip=0.0).table
    sure, other = never.probability.argmax(-1, keepdim=True), always.probability.argmax(-1, keepdim=True)
    for column in ("next_state", "reward"):
        meant, done = getattr(never, column).gather(2, sure), getattr(always, column).gather(2, other)
        assert torch.equal(meant.flip(1), done)


def test_the_gain_is_ten_times_five_in_a_row_and_two_for_a_slip():
    table = Chain(1).table
    gain, policy = relative_value_iteration(table)
    assert abs(gain - (10 * 0.8**5 + 2 * 0.2)) < 1e-9
    assert policy.tolist() == [0] * 5
    backward = torch.tensor([[0.0, 1.0]]).expand(5, 2)
    long = (policy_values(table, backward, horizon=2_000) - policy_values(table, backward, horizon=1_000))[0] / 1_000
    assert abs(float(long) - (2 * 0.8 + 10 * 0.2**5)) < 1e-9


def test_the_return_of_an_episode_is_that_of_a_recursion_written_again():
    values = np.zeros(5)
    for _ in range(1_000):
        on = np.append(values[1:], 10 + values[4])
        back = 2 + values[0]
        values = np.maximum(0.8 * on + 0.2 * back, 0.2 * on + 0.8 * back)
    assert abs(Chain(1).optimal_return - values[0]) < 1e-9


@pytest.mark.parametrize(("discount", "best"), [(0.835, 1), (0.837, 0)])
def test_the_discount_decides_at_the_start(discount, best):
    assert value_iteration(Chain(1).table, discount=discount)[1][0] == best


@pytest.mark.parametrize(
    ("options", "words"),
    [({"length": 1}, "length must be at least 2, got 1"), ({"slip": 1.5}, "slip must be from 0 to 1, got 1.5")],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Chain(1, **options)
