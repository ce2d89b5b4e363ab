"""Stock stable-baselines3 PPO trains on views of native environments."""

import gymnasium
import pytest

from gumbelrl.envs import register_all

ppo = pytest.importorskip("stable_baselines3").PPO
register_all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "steps", "settings", "share"),
    [
        ("gumbelrl/Bandit-v0", {}, 4096, {"n_steps": 128}, 0.9),
        ("gumbelrl/FactoredBandit-v0", {"num_groups": 4}, 8192, {"n_steps": 128}, 0.8),
        ("gumbelrl/FrozenLake-v1", {"is_slippery": False}, 12_288, {"n_steps": 512, "ent_coef": 0.05}, 0.9),
    ],
)
def test_ppo_comes_near_the_optimum(name, options, steps, settings, share):
    """Seeded, and far from the margin: a share of the way from nothing to the optimum, greedy."""
    env = gymnasium.make(name, **options)
    model = ppo("MlpPolicy", env, seed=0, learning_rate=1e-3, verbose=0, device="cpu", **settings).learn(steps)
    observation, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
        over = terminated or truncated
    assert total >= share * env.unwrapped.env.optimal_return
