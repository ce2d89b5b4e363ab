"""CliffWalking against gymnasium's: the table, play, and the way along the edge."""

import gymnasium
import numpy as np
import pytest
import torch

from gumbelrl.envs import CliffWalking, TransitionTable, make, policy_values, value_iteration

VERSIONS = [("CliffWalking-v1", False), ("CliffWalkingSlippery-v1", True)]


@pytest.mark.parametrize(("name", "is_slippery"), VERSIONS)
def test_the_table_equals_gymnasiums(name, is_slippery):
    theirs = gymnasium.make(name).unwrapped
    table = make(name, num_envs=1).table
    expected = TransitionTable.from_outcomes(theirs.P, theirs.initial_state_distrib)
    assert table is CliffWalking(1, is_slippery=is_slippery).table
    for column in ("next_state", "probability", "reward", "terminated", "initial"):
        assert torch.equal(getattr(table, column), getattr(expected, column)), column


def test_play_equals_gymnasiums_from_every_state():
    theirs = gymnasium.make("CliffWalking-v1").unwrapped
    theirs.reset(seed=0)
    states, actions = (grid.reshape(-1) for grid in np.meshgrid(range(48), range(4)))
    ours = CliffWalking(len(states))
    ours.reset(0)
    ours.state = torch.tensor(states)
    step = ours.step(torch.tensor(actions))
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        theirs.s = int(state)
        observation, reward, terminated, truncated, _ = theirs.step(int(action))
        assert step.final_observation[row] == observation
        assert step.reward[row] == reward
        assert (bool(step.terminated[row]), bool(step.truncated[row])) == (terminated, truncated)


def test_a_fall_costs_100_and_leads_back_to_the_start():
    env = CliffWalking(1)
    env.reset(0)
    step = env.step(torch.tensor([1]))
    assert (step.reward.item(), step.final_observation.item(), step.terminated.item()) == (-100.0, 36, False)


def test_there_is_no_time_limit_as_in_gymnasium():
    for name, _ in VERSIONS:
        assert gymnasium.make(name).spec.max_episode_steps is None
        assert gymnasium.make(f"gumbelrl/{name}").spec.max_episode_steps is None
        assert make(name, num_envs=1).max_episode_steps is None


def test_the_optimal_way_is_along_the_edge_and_slippery_along_the_top():
    table = CliffWalking(1).table
    values, policy = value_iteration(table)
    assert float(values[36]) == -13.0
    assert policy[24:35].tolist() == [1] * 11  # right, just above the cliff
    values, policy = value_iteration(CliffWalking(1, is_slippery=True).table)
    assert policy[0:11].tolist() == [0] + [1] * 10  # at the top right; up in the corner, which is as good as right
    straight = torch.nn.functional.one_hot(value_iteration(table)[1], 4)
    assert policy_values(CliffWalking(1, is_slippery=True).table, straight)[36] < values[36]
