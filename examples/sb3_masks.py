"""Actions that are not always possible, in three ways: MaskablePPO, stock PPO, and stock SAC.

    pip install sb3-contrib
    python examples/sb3_masks.py

The task: two to four items are shown, and the one that is worth most must be pointed at; the mask says which rows hold
an item. Pointing at random returns 0, at best .41 on average. sb3-contrib's MaskablePPO asks the environment for its
`action_masks()`. stable-baselines3's own agents know no masks, but the policies here read an `action_mask` out of dict
observations, in acting and learning alike.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env as loop_over
from stable_baselines3.common.evaluation import evaluate_policy

from gumbelrl.envs import OneHotActions
from gumbelrl.envs.sb3 import make_vec_env
from gumbelrl.policies.sb3 import GumbelActorCriticMultiInputPolicy, GumbelSACMultiInputPolicy

ENV, OPTIONS = "gumbelrl/Pointer-v0", {"max_items": 4, "reward": "linear"}


class MaskInObservation(gymnasium.ObservationWrapper):
    """Shows the mask beside the observation, for agents that do not ask for it."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        mask = spaces.Box(0, 1, env.get_wrapper_attr("action_masks")().shape, np.int8)
        self.observation_space = spaces.Dict({"shown": env.observation_space, "action_mask": mask})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"shown": observation, "action_mask": self.env.get_wrapper_attr("action_masks")().astype(np.int8)}


def make_env() -> gymnasium.Env:
    return MaskInObservation(gymnasium.make(ENV, refuse_masked=True, **OPTIONS))  # a masked action would be an error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-steps", type=int, default=10_000, help="of each PPO; SAC makes an eighth of them")
    options = parser.parse_args()
    rollout = {"n_steps": 64, "batch_size": 128, "learning_rate": 1e-3, "seed": 0, "device": "cpu"}

    try:
        from sb3_contrib import MaskablePPO
        from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked

        from gumbelrl.policies.sb3.maskable import GumbelMaskableActorCriticPolicy
    except ImportError:
        print("MaskablePPO is left out: pip install sb3-contrib")
    else:
        asked = make_vec_env(ENV, n_envs=8, seed=0, **OPTIONS)
        maskable = MaskablePPO(GumbelMaskableActorCriticPolicy, asked, **rollout).learn(options.total_steps)
        print(f"MaskablePPO  return {evaluate_masked(maskable, asked, 100)[0]:.2f}")

    env = loop_over(make_env, n_envs=8, seed=0)
    ppo = PPO(GumbelActorCriticMultiInputPolicy, env, **rollout).learn(options.total_steps)
    print(f"PPO          return {evaluate_policy(ppo, env, 100)[0]:.2f}")

    one_hot = OneHotActions(make_env())
    sac = SAC(
        GumbelSACMultiInputPolicy,
        one_hot,
        learning_starts=0,  # the random first actions of SAC would know no mask
        learning_rate=1e-3,
        target_entropy=0.1 * one_hot.action_space.largest_entropy,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    ).learn(options.total_steps // 8)
    print(f"SAC          return {evaluate_policy(sac, sac.get_env(), 100)[0]:.2f}")


if __name__ == "__main__":
    main()
