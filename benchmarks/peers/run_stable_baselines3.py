"""stable-baselines3 and sb3-contrib on CartPole-v1 with the settings of RL Baselines3 Zoo."""

from __future__ import annotations

from typing import Any

import torch
import zoo_settings
from record import options
from sb3_callback import Marks
from sb3_contrib import QRDQN
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

# Class, environments, steps in all, updates a step, settings.
CASES: dict[str, tuple[Any, int, int, float, dict[str, Any]]] = {
    "ppo": (PPO, zoo_settings.PPO_ENVS, zoo_settings.PPO_STEPS, zoo_settings.PPO_UPDATES, zoo_settings.PPO),
    "ppo-wide": (
        PPO,
        zoo_settings.WIDE_PPO_ENVS,
        zoo_settings.WIDE_PPO_STEPS,
        zoo_settings.WIDE_PPO_UPDATES,
        zoo_settings.WIDE_PPO,
    ),
    "a2c": (A2C, zoo_settings.A2C_ENVS, zoo_settings.A2C_STEPS, zoo_settings.A2C_UPDATES, zoo_settings.A2C),
    "dqn": (DQN, 1, zoo_settings.DQN_STEPS, zoo_settings.DQN_UPDATES, zoo_settings.DQN),
    "qrdqn": (QRDQN, 1, zoo_settings.DQN_STEPS, zoo_settings.DQN_UPDATES, zoo_settings.QRDQN),
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
