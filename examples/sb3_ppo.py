"""stable-baselines3's own PPO with the policy head, and a temperature that falls while it learns.

    python examples/sb3_ppo.py

Three lines differ from the script that one has: the policy, its temperature and the callback that moves it. At the
constant temperature 1, which is the default, the head is stable-baselines3's own policy.
"""

from __future__ import annotations

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from gumbelrl.envs.sb3 import make_vec_env
from gumbelrl.policies.sb3 import GumbelActorCriticPolicy, GumbelCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="any gymnasium id with discrete actions")
    parser.add_argument("--total-steps", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    # Ours: all eight in one tensor operation. stable-baselines3's own make_vec_env does as well.
    env = make_vec_env(options.env, n_envs=8, seed=options.seed)
    model = PPO(
        GumbelActorCriticPolicy,
        env,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=lambda remaining: 1e-3 * remaining,
        clip_range=lambda remaining: 0.2 * remaining,
        policy_kwargs={"temperature": "linear:2.0:1.0"},
        seed=options.seed,
        device="cpu",
        verbose=1,
    )
    model.learn(options.total_steps, callback=GumbelCallback(), log_interval=20)
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=20)
    print(f"return of the most probable actions, 20 episodes: {mean:.1f} ± {deviation:.1f}")


if __name__ == "__main__":
    main()
