"""The native Acrobot against gymnasium's own."""

import math
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from gumbelrl.envs import Acrobot, check_batched_env, make

POLICIES = {
    "random": lambda state, generator: int(generator.integers(3)),
    "against the upper link": lambda state, generator: 2 * int(state[2] < 0),
    "with the lower link": lambda state, generator: 2 * int(state[3] > 0),
    "one way": lambda state, generator: 2,
}


@pytest.mark.parametrize("policy", POLICIES)
def test_equals_gymnasium_step_by_step_in_float64(policy):
    """The same states, observations, rewards and ends over two episodes each of good, bad and random play."""
    generator = np.random.default_rng(0)
    theirs = gymnasium.make("Acrobot-v1").unwrapped
    ours = Acrobot(1, dtype=torch.float64)
    ours.max_episode_steps = None
    ours.reset([0])
    for episode in range(2):
        theirs.reset(seed=episode)
        for _ in range(150):
            before = np.asarray(theirs.state, dtype=np.float64)
            ours.state = torch.tensor(before)[None]
            action = POLICIES[policy](before, generator)
            observation, reward, terminated, _, _ = theirs.step(action)
            after, _, _ = ours.transition(ours.state, torch.tensor([action]), torch.empty(1, 0))
            np.testing.assert_allclose(after[0], theirs.state, rtol=0, atol=1e-13)
            step = ours.step(torch.tensor([action]))
            np.testing.assert_allclose(step.final_observation[0], observation, rtol=1e-6, atol=1e-6)  # float32 there
            assert (float(step.reward), bool(step.terminated)) == (reward, terminated)
            if terminated:
                break


def test_wraps_and_bounds_as_gymnasium_does_at_every_speed():
    """From states of any angle and speed, far beyond what play reaches; the largest turn is of several rounds."""
    generator = np.random.default_rng(1)
    limits = np.array([math.pi, math.pi, 4 * math.pi, 9 * math.pi])
    states, actions = generator.uniform(-limits, limits, size=(2_000, 4)), generator.integers(3, size=2_000)
    ours = Acrobot(2_000, dtype=torch.float64)
    after, reward, terminated = ours.transition(torch.tensor(states), torch.tensor(actions), torch.empty(2_000, 0))
    theirs = gymnasium.make("Acrobot-v1").unwrapped
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        theirs.reset(seed=0)
        theirs.state = state
        _, their_reward, their_end, _, _ = theirs.step(int(action))
        np.testing.assert_allclose(after[row], theirs.state, rtol=0, atol=1e-12)
        assert (float(reward[row]), bool(terminated[row])) == (their_reward, their_end)
    assert int((after[:, 2:].abs() == torch.tensor(limits[2:])).sum()) > 50
    assert terminated.any()


def test_float32_stays_near():
    one, other = Acrobot(512), Acrobot(512, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    state = other.initial_state(torch.rand(512, 4, generator=generator, dtype=torch.float64))
    for _ in range(50):
        action, noise = torch.randint(3, (512,), generator=generator), torch.empty(512, 0)
        following, _, _ = other.transition(state, action, noise)
        near, _, _ = one.transition(state.float(), action, noise)
        assert float((near - following).abs().max()) < 1e-5
        state = following


class Short(Acrobot):
    """With a limit that brings several episodes into the checks."""

    max_episode_steps = 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_contract(dtype):
    check_batched_env(Short(2, dtype=dtype), steps=50, random_steps=5_000)


def test_a_scripted_policy_gets_there():
    """Torque against the upper link's rate: -84.5 over 2,000 episodes, deviation 18.4; 5 standard errors."""
    env = Acrobot(512)
    env.reset(0)
    alive, returns = torch.ones(512, dtype=torch.bool), torch.zeros(512)
    for _ in range(500):
        step = env.step(2 * (env.state[:, 2] < 0).long())
        returns += step.reward * alive
        alive &= ~(step.terminated | step.truncated)
    assert not alive.any()
    assert float(returns.mean()) == pytest.approx(-84.5, abs=5 * 18.4 * math.sqrt(1 / 512 + 1 / 2000))
    assert env.optimal_return is None
    with pytest.raises(NotImplementedError, match="Acrobot"):
        env.optimal_probs()


def test_other_libraries_accept_it():
    env = gymnasium.make("gumbelrl/Acrobot-v1", render_mode="rgb_array").unwrapped
    check_env(env, skip_render_check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check_env_sb3(env)
    assert isinstance(make("Acrobot-v1", num_envs=1), Acrobot)


def test_refuses_bad_options():
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        Acrobot(0)
