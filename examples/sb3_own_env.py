"""An environment of one's own with several discrete actions at once, in stable-baselines3's own SAC.

    python examples/sb3_own_env.py

stable-baselines3's SAC is for continuous actions. `OneHotActions` shows it the three choices of this environment as a
vector of ones and zeros, and `GumbelSACPolicy` samples such vectors, with a gradient.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy

from gumbelrl.envs import OneHotActions
from gumbelrl.policies.sb3 import GumbelCallback, GumbelSACPolicy


class Mixer(gymnasium.Env):
    """Three valves of four positions each; their sum must follow a level that drifts. At best a reward of 0 a step."""

    observation_space = spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = spaces.MultiDiscrete([4, 4, 4])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.level, self.time = int(self.np_random.integers(0, 10)), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = -abs(int(np.sum(action)) - self.level)
        self.level = int(np.clip(self.level + self.np_random.integers(-2, 3), 0, 9))
        self.time += 1
        return self._observe(), float(reward), False, self.time >= 50, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.level], dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-steps", type=int, default=6_000)
    parser.add_argument("--estimator", default="reinmax", help="how the critic's gradient passes the sample")
    options = parser.parse_args()

    env = OneHotActions(Mixer())
    model = SAC(
        GumbelSACPolicy,
        env,
        learning_rate=1e-3,
        gamma=0.5,
        target_entropy=0.1 * env.action_space.largest_entropy,
        # What one valve is worth depends on the others, which a value for each choice cannot say: a joint critic.
        policy_kwargs={"net_arch": [64, 64], "estimator": options.estimator, "critic": "joint"},
        seed=0,
        device="cpu",
        verbose=1,
    )
    model.learn(options.total_steps, callback=GumbelCallback(), log_interval=20)
    mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=20)
    print(f"return of the most probable actions, 20 episodes of 50 steps: {mean:.1f} ± {deviation:.1f}; at random -146")


if __name__ == "__main__":
    main()
