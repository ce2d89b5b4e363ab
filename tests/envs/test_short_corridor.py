"""ShortCorridor: Sutton & Barto's numbers, and the return of any memoryless policy in closed form."""

import math

import pytest
import torch

from gumbelrl.envs import ShortCorridor, policy_values


def value(right, horizon=None):
    probs = torch.tensor([[1.0 - right, right]], dtype=torch.float64).expand(4, 2)
    return float(policy_values(ShortCorridor(1).table, probs, horizon=horizon)[0])


def test_the_rules():
    env = ShortCorridor(6)
    assert env.reset(0).tolist() == [0] * 6
    env.state = torch.tensor([0, 1, 2, 0, 1, 2])
    step = env.step(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert env.state.tolist() == [0, 2, 1, 1, 0, 0]
    assert step.reward.tolist() == [-1.0] * 6
    assert step.terminated.tolist() == [False] * 5 + [True]
    assert step.observation.tolist() == step.final_observation.tolist() == [0] * 6


@pytest.mark.parametrize("right", [0.05, 0.3, 0.5, 0.59, 0.8, 0.95])
def test_the_return_of_a_policy_in_closed_form(right):
    assert abs(value(right) + 2 * (2 - right) / (right * (1 - right))) < 1e-10


def test_the_best_is_two_less_the_root_of_two():
    env = ShortCorridor(2)
    env.reset(0)
    best = 2 - math.sqrt(2)
    assert env.optimal_probs().shape == (2, 1, 2)
    assert abs(float(env.optimal_probs()[1, 0, 1]) - best) < 1e-6
    assert abs(env.optimal_return - value(best)) < 1e-10
    grid = [value(k / 1_000) for k in range(1, 1_000)]
    assert max(grid) <= env.optimal_return
    assert abs((1 + grid.index(max(grid))) / 1_000 - best) < 1e-3
    assert round(env.optimal_return, 3) == -11.657


def test_the_book():
    """Example 13.1: with the other action at .05, less than -44 with right as the greedy action, -82 with left."""
    assert round(value(0.95)) == -44
    assert round(value(0.05)) == -82


def test_the_time_limit_takes_nothing_from_the_optimum_and_flatters_the_extremes():
    env = ShortCorridor(1)
    best = 2 - math.sqrt(2)
    assert abs(value(best, env.max_episode_steps) - value(best)) < 1e-10
    assert round(value(0.01, env.max_episode_steps)) == -380
    assert round(value(0.005, env.max_episode_steps)) == -611
    assert value(0.0, env.max_episode_steps) == -1_000


def test_a_value_of_nothing_but_the_time_prefers_right():
    """One step ahead of a constant value below 0, right is better wherever the agent may be: only it can end."""
    table = ShortCorridor(1).table
    values = table.action_values(torch.full((4,), -11.657, dtype=torch.float64))[:3]
    assert (values[:, 1] >= values[:, 0]).all()
    assert values[2, 1] > values[2, 0]
