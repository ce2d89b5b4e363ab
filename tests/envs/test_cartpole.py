"""The native CartPole against gymnasium's own."""

import gymnasium
import numpy as np
import torch

from gumbelrl.envs import CartPole, check_batched_env


def test_equals_gymnasium_step_by_step_in_float64():
    """The same states, actions, rewards and ends over 20 episodes of a policy that lasts and of random play."""
    generator = np.random.default_rng(0)
    theirs = gymnasium.make("CartPole-v1").unwrapped
    ours = CartPole(1, dtype=torch.float64)
    ours.max_episode_steps = None
    ours.reset([0])
    for episode in range(20):
        theirs.reset(seed=episode)
        ours.state = torch.tensor(np.asarray(theirs.state, dtype=np.float64))[None]
        for _ in range(300):
            state = np.asarray(theirs.state)
            action = int(state[2] + 0.3 * state[3] > 0) if episode % 2 else int(generator.integers(2))
            _, reward, terminated, _, _ = theirs.step(action)
            step = ours.step(torch.tensor([action]))
            np.testing.assert_allclose(step.final_observation[0], theirs.state, rtol=1e-13, atol=1e-15)
            assert step.reward.item() == reward
            assert bool(step.terminated) == terminated
            if terminated:
                break
            ours.state = torch.tensor(np.asarray(theirs.state, dtype=np.float64))[None]


def test_truncates_at_500_steps_and_starts_again():
    env = CartPole(2)
    env.reset(0)
    for t in range(1, 501):
        env.state[1] = 0.0  # held upright
        step = env.step(torch.tensor([0, 1]))
        assert not bool(step.terminated[1])
        assert bool(step.truncated[1]) == (t == 500)
    assert step.final_observation[1].abs().max() > 0.05
    assert step.observation[1].abs().max() <= 0.05
    assert torch.equal(step.observation, env.state)
    assert env.elapsed[1] == 0


def test_keeps_the_contract():
    check_batched_env(CartPole(2))


def test_the_scripted_policy_attains_the_optimum():
    env = CartPole(256)
    env.reset(0)
    for _ in range(500):
        step = env.step(env.optimal_probs()[:, 0].argmax(1))
        assert not step.terminated.any()
    assert step.truncated.all()
