"""Returns and advantages: by hand, against each other, and against stable-baselines3's own rollout buffer."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from gumbelrl.agents.returns import generalised_advantages, lambda_returns

TIME, ENVS = 40, 30


def random_rollout(seed=0, *, time=TIME, envs=ENVS, ending=0.2):
    """Rewards, values, values of what followed, and ends; the values agree where an episode goes on. In float64."""
    generator = torch.Generator().manual_seed(seed)
    r_t, v_t, other = torch.randn(3, time, envs, generator=generator, dtype=torch.float64)
    chance = torch.rand(time, envs, generator=generator)
    terminated, truncated = chance < ending, (chance > 1 - ending) | (chance < ending / 4)  # some are both
    ended = terminated | truncated
    follows = torch.cat([v_t[1:], other[-1:]])
    return r_t, v_t, torch.where(ended, other, follows), terminated, truncated


def their_advantages(r_t, v_t, v_tp1, terminated, truncated, *, discount, trace):
    """What stable-baselines3 computes; it counts a truncation by adding γ V to the last reward."""
    time, envs = r_t.shape
    box = spaces.Box(-1.0, 1.0, (1,))
    buffer = RolloutBuffer(time, box, spaces.Discrete(2), gae_lambda=trace, gamma=discount, n_envs=envs, device="cpu")
    ended = (terminated | truncated).numpy()
    buffer.rewards = (r_t + discount * v_tp1 * (truncated & ~terminated)).numpy()
    buffer.values = v_t.numpy()
    buffer.episode_starts = np.concatenate([np.ones((1, envs)), ended[:-1]])
    buffer.advantages = np.zeros((time, envs))  # its own are float32
    buffer.compute_returns_and_advantage(v_tp1[-1], ended[-1])
    return torch.from_numpy(buffer.advantages), torch.from_numpy(buffer.returns)


@pytest.mark.parametrize("trace", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("discount", [0.97, 1.0])
def test_advantages_are_stable_baselines3s(discount, trace):
    rollout = random_rollout()
    ours = generalised_advantages(*rollout, discount=discount, trace=trace)
    theirs, returns = their_advantages(*rollout, discount=discount, trace=trace)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    r_t, v_t, *rest = rollout
    torch.testing.assert_close(lambda_returns(r_t, *rest, discount=discount, trace=trace), returns, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours + v_t, returns, rtol=0, atol=1e-12)


def test_advantages_by_hand():
    """γ = ½, λ = ½; column 0 goes on, 1 terminates at t = 0, 2 is truncated there."""
    r = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    v = torch.tensor([[3.0, 3.0, 3.0], [4.0, 4.0, 4.0]])
    v_next = torch.tensor([[4.0, 8.0, 8.0], [6.0, 6.0, 6.0]])
    no = torch.tensor([[False] * 3] * 2)
    terminated, truncated = no.clone(), no.clone()
    terminated[0, 1] = truncated[0, 2] = True
    got = generalised_advantages(r, v, v_next, terminated, truncated, discount=0.5, trace=0.5)
    last = 2 + 0.5 * 6 - 4  # δ_1 = 1
    first = [(1 + 0.5 * 4 - 3) + 0.25 * last, 1 - 3, 1 + 0.5 * 8 - 3]
    torch.testing.assert_close(got, torch.tensor([first, [last] * 3]))


def test_one_step():
    r_t, v_t, v_tp1, terminated, truncated = (column[:1] for column in random_rollout())
    got = generalised_advantages(r_t, v_t, v_tp1, terminated, truncated, discount=0.9, trace=0.8)
    torch.testing.assert_close(got, r_t + 0.9 * v_tp1 * ~terminated - v_t)
