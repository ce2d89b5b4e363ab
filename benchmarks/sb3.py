"""The policy head inside stable-baselines3's unmodified agents: speed and learning.

    python benchmarks/sb3.py speed       # PPO with the head against its own policy; two minutes
    python benchmarks/sb3.py learning    # the same, ten seeds of both; a quarter of an hour on one core
    python benchmarks/sb3.py one-hot     # SAC on CartPole through OneHotActions, ten seeds; twenty minutes on one core

Results go to benchmarks/results/sb3_ppo_speed.json, sb3_ppo_learning.json and sb3_one_hot.json; the first two also take
`--env LunarLander-v3`, which needs box2d.

`speed` trains both in turn in one process, several times, on one CPU thread; the ratio is that of the medians, once
with stable-baselines3's loop over environments (`loop`) and once with ours, stepped together (`batch`).

`learning` gives both the settings of RL-Zoo and the same seeds. The head at temperature 1 is the same policy with
another stream of random numbers, so that what is looked for is no difference: the interval is of the mean difference of
the returns, 95%, by the bootstrap over seeds.

`one-hot` trains with what SAC has of GumbelSAC's settings until the mean of the last 100 training episodes reaches 475,
and tells when that was and the return of the greedy policy then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from provenance import provenance
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env as loop_over
from stable_baselines3.common.evaluation import evaluate_policy

from gumbelrl.envs import OneHotActions
from gumbelrl.envs.sb3 import make_vec_env
from gumbelrl.policies.sb3 import GumbelActorCriticPolicy, GumbelSACPolicy

RESULTS = Path(__file__).parent / "results"
POLICIES: dict[str, Any] = {"stock": "MlpPolicy", "head": GumbelActorCriticPolicy}
ENVIRONMENTS = {"loop": loop_over, "batch": make_vec_env}
ZOO = {"CartPole-v1": {"n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.8}}
ZOO["LunarLander-v3"] = {
    "n_envs": 16,
    "n_steps": 1024,
    "batch_size": 64,
    "n_epochs": 4,
    "gamma": 0.999,
    "gae_lambda": 0.98,
    "ent_coef": 0.01,
}


def make_ppo(policy: str, env_id: str, environments: str, seed: int) -> PPO:
    """Return stable-baselines3's PPO with the settings of RL-Zoo."""
    settings = dict(ZOO[env_id])
    env = ENVIRONMENTS[environments](env_id, n_envs=int(settings.pop("n_envs")), seed=seed)
    if env_id == "CartPole-v1":
        settings |= {"learning_rate": lambda rest: 1e-3 * rest, "clip_range": lambda rest: 0.2 * rest}
    return PPO(POLICIES[policy], env, seed=seed, device="cpu", **settings)


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Return steps per second of both policies and both kinds of environments."""
    kinds = [(policy, environments) for environments in ENVIRONMENTS for policy in POLICIES]
    models = {kind: make_ppo(kind[0], options.env, kind[1], seed=0) for kind in kinds}
    rates: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for repeat in range(options.repeats + 1):
        # Every other time the other way round, so that a machine that slows down favours nobody.
        for kind in kinds if repeat % 2 else reversed(kinds):
            before, start = models[kind].num_timesteps, time.perf_counter()
            models[kind].learn(options.total_steps, reset_num_timesteps=False)
            seconds = time.perf_counter() - start
            if repeat:  # the first is not counted
                rates[kind].append((models[kind].num_timesteps - before) / seconds)
    found: dict[str, Any] = {}
    for environments in ENVIRONMENTS:
        stock, head = (statistics.median(rates[policy, environments]) for policy in ("stock", "head"))
        found[environments] = {"stock": round(stock), "head": round(head), "ratio": round(head / stock, 3)}
        print(f"{environments:6} stock {stock:8,.0f} steps/s   head {head:8,.0f} steps/s   ratio {head / stock:.3f}")
    return found


def measure_learning(options: argparse.Namespace) -> dict[str, Any]:
    """Return the returns of both policies for each seed, and the interval of their difference."""
    returns: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for seed in range(options.seeds):
        for policy in POLICIES:
            model = make_ppo(policy, options.env, "loop", seed).learn(options.total_steps)
            env = loop_over(options.env, n_envs=8, seed=10_000 + seed)
            mean, _ = evaluate_policy(model, env, n_eval_episodes=options.episodes, deterministic=False)
            returns[policy].append(float(mean))
        print(
            f"seed {seed}: " + "   ".join(f"{policy} {values[-1]:7.1f}" for policy, values in returns.items()),
            flush=True,
        )
    difference = np.array(returns["head"]) - np.array(returns["stock"])
    drawn = np.random.default_rng(0).choice(difference, (10_000, len(difference))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    print(f"head less stock: {difference.mean():+.1f}, 95% interval {low:+.1f} … {high:+.1f}")
    return {"returns": returns, "difference": float(difference.mean()), "interval": [float(low), float(high)]}


class Solved(BaseCallback):
    """Notes when the mean return of the last 100 training episodes first reached 475, and ends the training then."""

    step: int | None = None

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if self.step is None and len(returns) == 100 and sum(returns) >= 47_500:
            self.step = self.num_timesteps
        return self.step is None


def measure_one_hot(options: argparse.Namespace) -> dict[str, Any]:
    """Return the greedy return and the step at which each seed of SAC solved CartPole-v1."""
    found: dict[str, list[Any]] = {"return": [], "solved_at": []}
    for seed in range(options.seeds):
        env = OneHotActions(gymnasium.make("CartPole-v1"))
        model = SAC(
            GumbelSACPolicy,
            env,
            target_entropy=0.15 * env.one_hot.largest_entropy,
            ent_coef="auto_0.2",
            learning_rate=lambda rest: 1e-3 * rest,
            learning_starts=1000,
            buffer_size=10_000,
            batch_size=128,
            tau=0.05,
            train_freq=4,
            n_steps=3,
            policy_kwargs={"net_arch": [64, 64]},
            seed=seed,
            device="cpu",
        )
        solved = Solved()
        model.learn(options.total_steps, callback=solved)
        mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=options.episodes)
        found["return"].append(float(mean))
        found["solved_at"].append(solved.step)
        print(f"seed {seed}: greedy return {mean:6.1f}, solved at {solved.step or 'no'} steps", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "learning", "one-hot"])
    parser.add_argument("--env", default="CartPole-v1", choices=sorted(ZOO))
    parser.add_argument("--total-steps", type=int, help="of each training: 8,192 for speed, else 100,000")
    parser.add_argument("--repeats", type=int, default=7, help="of the speed")
    parser.add_argument("--seeds", type=int, default=10, help="of the learning")
    parser.add_argument("--episodes", type=int, default=100, help="of the evaluation after learning, a seed")
    options = parser.parse_args()
    options.total_steps = options.total_steps or (8192 if options.what == "speed" else 100_000)

    torch.set_num_threads(1)
    measure, name = {
        "speed": (measure_speed, "ppo_speed"),
        "learning": (measure_learning, "ppo_learning"),
        "one-hot": (measure_one_hot, "one_hot"),
    }[options.what]
    found = measure(options)
    suffix = "" if options.env == "CartPole-v1" else f"_{options.env}"
    path = RESULTS / f"sb3_{name}{suffix}.json"
    path.write_text(json.dumps({"provenance": provenance(), "settings": vars(options), **found}, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
