"""The native CartPole against gymnasium's own."""

import gymnasium
import numpy as np
import torch

from gumbelrl.envs import CartPole


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


def test_batched_equals_looped_bit_for_bit():
    seeds = [7, 8, 9]
    batch = CartPole(3)
    singles = [CartPole(1) for _ in seeds]
    observation = batch.reset(seeds)
    assert torch.equal(observation, torch.cat([env.reset([s]) for env, s in zip(singles, seeds, strict=True)]))
    actions = torch.randint(2, (700, 3), generator=torch.Generator().manual_seed(0))
    ended = 0
    for action in actions:
        step = batch.step(action)
        alone = [env.step(action[i : i + 1]) for i, env in enumerate(singles)]
        for name in ("observation", "reward", "terminated", "truncated", "final_observation"):
            assert torch.equal(getattr(step, name), torch.cat([getattr(each, name) for each in alone])), name
        ended += int(step.terminated.sum())
    assert ended > 30


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


def test_state_resumes_bit_for_bit():
    env, other = CartPole(4), CartPole(4)
    env.reset(1)
    other.reset(2)
    actions = torch.randint(2, (200, 4), generator=torch.Generator().manual_seed(0))
    for action in actions[:100]:
        env.step(action)
    other.load_state_dict({name: value.clone() for name, value in env.state_dict().items()})
    for action in actions[100:]:
        assert torch.equal(env.step(action).observation, other.step(action).observation)
