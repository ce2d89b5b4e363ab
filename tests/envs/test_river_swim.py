"""RiverSwim: the gain in the long run, the return in an episode, and the trap."""

import numpy as np
import pytest
import torch

from gumbelrl.envs import RiverSwim, policy_values, relative_value_iteration


def test_the_gain_is_that_of_the_stationary_distribution():
    """Flow balances between neighbours: each place holds 12, 7, 7, 7 and 7/8 times what the one before holds."""
    weights = np.cumprod([1, 0.6 / 0.05, 0.35 / 0.05, 0.35 / 0.05, 0.35 / 0.05, 0.35 / 0.4])
    gain, policy = relative_value_iteration(RiverSwim(1).table)
    assert abs(gain - weights[-1] / weights.sum()) < 1e-9
    assert abs(gain - 3601.5 / 8402.5) < 1e-9
    assert round(gain, 4) == 0.4286
    assert policy.tolist() == [1] * 6


def test_the_return_of_an_episode_is_that_of_a_recursion_written_again():
    values = np.zeros(6)
    for _ in range(20):
        left = np.array([0.005, 0, 0, 0, 0, 0]) + values[[0, 0, 1, 2, 3, 4]]
        right = np.array([0.4 * values[0] + 0.6 * values[1]] + [0.0] * 4 + [1 + 0.4 * values[4] + 0.6 * values[5]])
        right[1:5] = 0.05 * values[0:4] + 0.6 * values[1:5] + 0.35 * values[2:6]
        values = np.maximum(left, right)
    assert abs(RiverSwim(1).optimal_return - values[0]) < 1e-12


def test_random_play_teaches_to_go_left_at_the_start():
    table = RiverSwim(1).table
    random = torch.full((6, 2), 0.5)
    assert round(float(policy_values(table, random, horizon=20)[0]), 3) == 0.044
    left, right = table.action_values(policy_values(table, random, horizon=19))[0]
    assert left > right


def test_a_river_needs_two_places():
    with pytest.raises(ValueError, match="num_places must be at least 2, got 1"):
        RiverSwim(1, num_places=1)
    assert RiverSwim(1, num_places=9).single_observation_space.n == 9
