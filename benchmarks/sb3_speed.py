"""Steps per second of GumbelSAC against stable-baselines3's SAC: equal networks, batches and observations, in one run.

    python benchmarks/sb3_speed.py                       # about four minutes; writes benchmarks/results/sb3_speed.json

The environment does nothing, so that what is compared is acting, replay and updates. Both have two hidden layers of 256
in actor and critics, batches of 256 and an update for each step; the action is a vector of so many numbers on one side,
so many choices on the other. The sides alternate, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from provenance import provenance
from stable_baselines3 import SAC

from gumbelrl.agents.sb3 import GumbelSAC

RESULTS = Path(__file__).parent / "results" / "sb3_speed.json"
NUM_FEATURES = 8


class Idle(gym.Env[np.ndarray, Any]):
    """Costs next to nothing: a fixed observation, episodes of 200 steps."""

    observation_space = spaces.Box(-1, 1, (NUM_FEATURES,), np.float32)

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space
        self.observation = np.linspace(-1, 1, NUM_FEATURES, dtype=np.float32)
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.count = 0
        return self.observation, {}

    def step(self, action: Any) -> Any:
        self.count += 1
        return self.observation, 1.0, self.count == 200, False, {}


def arguments() -> dict[str, Any]:
    """Return new ones for each model: SB3 adds to `policy_kwargs`."""
    return {
        "policy_kwargs": {"net_arch": [256, 256]},
        "batch_size": 256,
        "buffer_size": 10_000,
        "learning_starts": 300,
        "train_freq": 1,
        "gradient_steps": 1,
        "device": "cpu",
        "seed": 0,
    }


def make_models(num_actions: int) -> dict[str, Any]:
    box, choices = spaces.Box(-1, 1, (num_actions,), np.float32), spaces.Discrete(num_actions)
    return {
        "SAC": SAC("MlpPolicy", Idle(box), **arguments()),
        "GumbelSAC linear": GumbelSAC("MlpPolicy", Idle(choices), critic="linear", **arguments()),
        "GumbelSAC joint": GumbelSAC("MlpPolicy", Idle(choices), critic="joint", **arguments()),
    }


def measure(models: dict[str, Any], *, repeats: int, steps: int) -> dict[str, list[float]]:
    """Return steps per second of each model, one number a repeat; the first learning of each is not counted."""
    for model in models.values():
        model.learn(400)
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            start = time.perf_counter()
            model.learn(steps, reset_num_timesteps=False)
            found[name].append(steps / (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--num-actions", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    found = measure(make_models(options.num_actions), repeats=options.repeats, steps=options.steps)
    medians = {name: statistics.median(values) for name, values in found.items()}
    results = {
        "steps_per_second": {name: [round(value, 1) for value in values] for name, values in found.items()},
        "ratio_to_SAC": {name: round(value / medians["SAC"], 3) for name, value in medians.items()},
        **provenance(),
    }
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    for name, value in medians.items():
        print(f"{name:18} {value:7.0f} steps/s   {value / medians['SAC']:.2f} x SAC")


if __name__ == "__main__":
    main()
