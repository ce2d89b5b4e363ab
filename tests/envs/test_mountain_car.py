"""The native MountainCar against gymnasium's own, and its shortest plans against a search without assumptions."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from gumbelrl.envs import MountainCar, check_batched_env, make

POLICIES = {
    "random": lambda state, generator: int(generator.integers(3)),
    "along the velocity": lambda state, generator: 2 * int(state[1] >= 0),
    "to the left, where the wall is": lambda state, generator: 2 * int(state[1] > 0) if state[0] > -0.9 else 0,
}


@pytest.mark.parametrize("goal_velocity", [0.0, 0.03])
@pytest.mark.parametrize("policy", POLICIES)
def test_equals_gymnasium_step_by_step_in_float64(policy, goal_velocity):
    """The same states, rewards and ends over six episodes each of random and other play."""
    generator = np.random.default_rng(0)
    theirs = gymnasium.make("MountainCar-v0", goal_velocity=goal_velocity).unwrapped
    ours = MountainCar(1, goal_velocity=goal_velocity, dtype=torch.float64)
    ours.max_episode_steps = None
    ours.reset([0])
    for episode in range(6):
        theirs.reset(seed=episode)
        for _ in range(200):
            before = np.asarray(theirs.state, dtype=np.float64)
            ours.state = torch.tensor(before)[None]
            action = POLICIES[policy](before, generator)
            _, reward, terminated, _, _ = theirs.step(action)
            step = ours.step(torch.tensor([action]))
            np.testing.assert_allclose(step.final_observation[0], theirs.state, rtol=0, atol=1e-15)
            assert (float(step.reward), bool(step.terminated)) == (reward, terminated)
            if terminated:
                break


def test_equals_gymnasium_from_any_state():
    """At the wall, at the flag and at every speed."""
    generator = np.random.default_rng(1)
    states = generator.uniform([-1.2, -0.07], [0.6, 0.07], size=(2_000, 2))
    states[:200, 0] = -1.2
    actions = generator.integers(3, size=2_000)
    ours = MountainCar(2_000, goal_velocity=0.02, dtype=torch.float64)
    after, _, terminated = ours.transition(torch.tensor(states), torch.tensor(actions), torch.empty(2_000, 0))
    theirs = gymnasium.make("MountainCar-v0", goal_velocity=0.02).unwrapped
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        theirs.reset(seed=0)
        theirs.state = tuple(state)
        theirs.step(int(action))
        np.testing.assert_allclose(after[row], theirs.state, rtol=0, atol=1e-15)
        assert bool(terminated[row]) == (theirs.state[0] >= 0.5 and theirs.state[1] >= 0.02)
    assert int((after[:, 0] == -1.2).sum()) > 100
    assert bool((after[after[:, 0] == -1.2, 1] >= 0).all())


class Short(MountainCar):
    """With a limit that brings several episodes into the checks."""

    max_episode_steps = 15


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}, {"goal_velocity": 0.02}])
def test_keeps_the_contract(options):
    check_batched_env(Short(2, **options), steps=50, random_steps=5_000)


def fewest_steps(start, cells=1_000):
    """Return the steps to the flag by a breadth-first search over all actions, one state kept in each cell."""
    env = MountainCar(1, dtype=torch.float64)
    state, seen = torch.tensor([[start, 0.0]], dtype=torch.float64), torch.zeros(cells * cells, dtype=torch.bool)
    low, extent = torch.tensor([-1.2, -0.07]), torch.tensor([1.8, 0.14])
    keeper = torch.zeros(cells * cells, dtype=torch.int64)
    for steps in range(1, 201):
        action = torch.arange(3).repeat_interleave(len(state))
        state, _, terminated = env.transition(state.repeat(3, 1), action, torch.empty(0))
        if bool(terminated.any()):
            return steps
        place = ((state - low) / extent * cells).long().clamp(0, cells - 1)
        cell = place[:, 0] * cells + place[:, 1]
        state, cell = state[~seen[cell]], cell[~seen[cell]]
        keeper[cell] = torch.arange(len(cell))
        state = state[keeper[cell] == torch.arange(len(cell))]
        seen[cell] = True
    raise AssertionError("the flag was not found")


def play(env):
    """Return the return of one episode in each environment, from the present states."""
    alive, returns = torch.ones(env.num_envs, dtype=torch.bool), torch.zeros(env.num_envs)
    while alive.any():
        step = env.step(env.optimal_probs()[:, 0].argmax(1))
        returns += step.reward * alive
        alive &= ~(step.terminated | step.truncated)
    return returns


def test_the_scripted_policy_needs_the_fewest_steps_and_attains_the_optimal_return():
    """From 40 evenly spaced starts, whose mean is near that of the uniform start."""
    env = MountainCar(40, dtype=torch.float64)
    env.reset(0)
    starts = -0.6 + 0.2 * (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    env.state = torch.stack((starts, torch.zeros(40, dtype=torch.float64)), dim=1)
    returns = play(env)
    assert float(returns.mean()) == pytest.approx(env.optimal_return, abs=0.2)
    for row in range(0, 40, 8):
        assert -float(returns[row]) == fewest_steps(float(starts[row]))


def test_the_optimal_return_is_that_of_the_plans():
    """The mean over 1,000 evenly spaced starts, in parts; the docstring's number is that over 4,000."""
    starts = -0.6 + 0.2 * (torch.arange(1_000, dtype=torch.float64) + 0.5) / 1_000
    total = 0.0
    for part in starts.split(100):
        env = MountainCar(100, dtype=torch.float64)
        env.state = torch.stack((part, torch.zeros(100, dtype=torch.float64)), dim=1)
        total += float(env.plan_steps().min(0).values.sum())
    assert total / 1_000 == pytest.approx(97.656, abs=0.02)


def test_float32_play_attains_the_optimum():
    """Random starts; 5 standard errors, so that it fails for one seed in two million."""
    env = MountainCar(64)
    env.reset(0)
    returns = play(env)
    error = float(returns.std()) / 8
    assert abs(float(returns.mean()) - env.optimal_return) < 5 * error
    assert 0.2 < error < 1.5


def test_the_policy_pushes_along_where_no_plan_helps():
    env = MountainCar(3)
    env.reset(0)
    env.state = torch.tensor([[-0.5, -0.001], [-0.5, 0.0], [-1.19, -0.07]])
    assert env.optimal_probs().shape == (3, 1, 3)
    assert env.optimal_probs()[2, 0].tolist() == [0.0, 0.0, 1.0]


def test_other_libraries_accept_it():
    env = gymnasium.make("gumbelrl/MountainCar-v0", render_mode="rgb_array").unwrapped
    check_env(env, skip_render_check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check_env_sb3(env)
    assert isinstance(make("MountainCar-v0", num_envs=1), MountainCar)


def test_refuses_bad_options():
    with pytest.raises(ValueError, match="goal_velocity must be from 0 to the speed limit"):
        MountainCar(1, goal_velocity=0.1)
    with pytest.raises(ValueError, match="goal_velocity must be from 0"):
        MountainCar(1, goal_velocity=float("nan"))
    with pytest.raises(NotImplementedError, match="goal_velocity above 0"):
        MountainCar(1, goal_velocity=0.01).optimal_probs()
    assert MountainCar(1, goal_velocity=0.01).optimal_return is None
