"""stable-baselines3 and sb3-contrib on CartPole-v1 with the settings of RL Baselines3 Zoo.

Settings: https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/{ppo,a2c,dqn,qrdqn}.yml, CartPole-v1.
"""

from __future__ import annotations

from typing import Any

import torch
from record import options
from sb3_callback import Marks, linear
from sb3_contrib import QRDQN
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

REPLAY = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}
# Class, environments, steps in all, updates a step, settings.
CASES: dict[str, tuple[Any, int, int, float, dict[str, Any]]] = {
    "ppo": (
        PPO,
        8,
        100_000,
        20 / 256,
        {
            "n_steps": 32,
            "batch_size": 256,
            "n_epochs": 20,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "ent_coef": 0.0,
            "learning_rate": linear(0.001),
            "clip_range": linear(0.2),
        },
    ),
    "a2c": (A2C, 8, 500_000, 1 / 40, {"ent_coef": 0.0}),
    "dqn": (DQN, 1, 50_000, 128 / 256, REPLAY),
    "qrdqn": (
        QRDQN,
        1,
        50_000,
        128 / 256,
        {**REPLAY, "policy_kwargs": {"net_arch": [256, 256], "n_quantiles": 10}},
    ),
}


def main() -> None:
    words, recorder = options(list(CASES))
    torch.set_num_threads(1)
    kind, num_envs, total_steps, updates, settings = CASES[words.case]
    env = make_vec_env("CartPole-v1", n_envs=num_envs, seed=words.seed)
    model = kind("MlpPolicy", env, seed=words.seed, device="cpu", **settings)
    marks = Marks(recorder, updates_per_step=updates, learning_starts=settings.get("learning_starts", 0))
    model.learn(total_steps, callback=marks)
    recorder.finish(["stable-baselines3", "sb3-contrib", "torch", "gymnasium"])


if __name__ == "__main__":
    main()
