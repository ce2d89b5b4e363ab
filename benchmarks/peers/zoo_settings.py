"""Settings of RL Baselines3 Zoo for CartPole-v1, for stable-baselines3, sb3-contrib and SBX.

Source: https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/{ppo,a2c,dqn,qrdqn}.yml.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def linear(first: float) -> Callable[[float], float]:
    """Return a schedule from `first` to zero, of the share of the run that is left."""
    return lambda left: left * first


PPO_ENVS, PPO_STEPS = 8, 100_000
PPO: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "ent_coef": 0.0,
    "learning_rate": linear(0.001),
    "clip_range": linear(0.2),
}
PPO_UPDATES = PPO["n_epochs"] / PPO["batch_size"]
"""Optimiser steps for each environment step."""

# The same with more environments, larger minibatches and fewer passes; not of the Zoo.
WIDE_PPO_ENVS, WIDE_PPO_STEPS = 64, 1_000_000
WIDE_PPO: dict[str, Any] = {**PPO, "batch_size": 512, "n_epochs": 4}
WIDE_PPO_UPDATES = WIDE_PPO["n_epochs"] / WIDE_PPO["batch_size"]

A2C_ENVS, A2C_STEPS = 8, 500_000
A2C: dict[str, Any] = {"ent_coef": 0.0}
A2C_UPDATES = 1 / (A2C_ENVS * 5)

DQN_STEPS = 50_000
DQN: dict[str, Any] = {
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
DQN_UPDATES = DQN["gradient_steps"] / DQN["train_freq"]
QRDQN: dict[str, Any] = {**DQN, "policy_kwargs": {"net_arch": [256, 256], "n_quantiles": 10}}
