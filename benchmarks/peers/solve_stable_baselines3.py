"""PPO of stable-baselines3 on CartPole-v1 until it is solved, which a line tells: for `time_to_solve.py`."""

from __future__ import annotations

import argparse

import numpy as np
import torch
import zoo_settings
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

SOLVED, WINDOW = 475.0, 100


class UntilSolved(BaseCallback):
    """Ends the training once the mean return of the last episodes is high enough."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        seen = self.model.ep_info_buffer
        mean = np.mean([episode["r"] for episode in seen]) if seen and len(seen) == WINDOW else 0.0
        if mean >= SOLVED:
            print(
                f"the last {WINDOW} training episodes reached {SOLVED:g} after {self.num_timesteps} steps", flush=True
            )
            raise SystemExit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=zoo_settings.PPO_ENVS, seed=seed),
        seed=seed,
        device="cpu",
        **zoo_settings.PPO,
    )
    model.learn(zoo_settings.PPO_STEPS, callback=UntilSolved())


if __name__ == "__main__":
    main()
