"""GumbelSAC, GumbelTD3 and GumbelDDPG with their defaults in stable-baselines3's loop: seeds that solve CartPole.

    python benchmarks/sb3_learning.py --processes 2      # about 40 minutes on two cores
    python benchmarks/sb3_learning.py --table            # the table of the results at hand, as Markdown

A seed has solved the task when its training return, averaged over its last 100 episodes, reaches the threshold within
the budget; it is not trained further then (`--to-the-end` does). The returns beside it are those of the last policy,
over 100 episodes. Results go to
benchmarks/results/sb3_learning.json; an algorithm that is there with as many seeds is not run again unless --again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from provenance import provenance
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from gumbelrl.agents.sb3 import GumbelDDPG, GumbelSAC, GumbelTD3
from gumbelrl.envs.sb3 import make_vec_env

RESULTS = Path(__file__).parent / "results" / "sb3_learning.json"
ALGORITHMS: dict[str, Any] = {"GumbelSAC": GumbelSAC, "GumbelTD3": GumbelTD3, "GumbelDDPG": GumbelDDPG}


class TrainingReturn(BaseCallback):
    """Notes the first step at which the mean of the last 100 episodes reaches the threshold, and the mean at intervals.

    Args:
        threshold: the return that solves the task.
        interval: steps between two points of the curve.
        to_the_end: train on after the task is solved.
    """

    def __init__(self, threshold: float, interval: int = 5000, *, to_the_end: bool = False) -> None:
        super().__init__()
        self.threshold, self.interval, self.to_the_end = threshold, interval, to_the_end
        self.solved_at: int | None = None
        self.curve: list[float] = []

    def _on_step(self) -> bool:
        returns = self.model.ep_info_buffer
        assert returns is not None
        if (
            self.locals["dones"].any()
            and self.solved_at is None
            and len(returns) == 100
            and self._mean() >= self.threshold
        ):
            self.solved_at = self.num_timesteps
        if self.num_timesteps % self.interval == 0:
            self.curve.append(round(self._mean(), 1))
        return self.to_the_end or self.solved_at is None

    def _mean(self) -> float:
        returns = self.model.ep_info_buffer
        return float(np.mean([episode["r"] for episode in returns])) if returns else 0.0


def train(job: tuple[str, int, str, int, bool]) -> dict[str, Any]:
    """Train one seed; return what the table needs."""
    name, seed, env_id, total_steps, to_the_end = job
    torch.set_num_threads(1)
    specification = gym.make(env_id).spec
    assert specification is not None
    assert specification.reward_threshold is not None
    watch = TrainingReturn(specification.reward_threshold, to_the_end=to_the_end)
    start = time.perf_counter()
    model = ALGORITHMS[name]("MlpPolicy", env_id, seed=seed, device="cpu").learn(total_steps, callback=watch)
    seconds = time.perf_counter() - start
    env = make_vec_env(env_id, n_envs=100, seed=10_000 + seed)
    greedy, sampled = (evaluate_policy(model, env, 100, deterministic=kind)[0] for kind in (True, False))
    return {
        "algorithm": name,
        "seed": seed,
        "solved_at": watch.solved_at,
        "curve": watch.curve,
        "greedy_return": float(greedy),
        "sampled_return": float(sampled),
        "seconds": round(seconds, 1),
    }


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown, a row an algorithm."""
    lines = [
        "| algorithm | solved | steps, median | greedy return, least of all seeds | seconds, median |",
        "|---|---|---|---|---|",
    ]
    for name, seeds in results["algorithms"].items():
        solved = [seed["solved_at"] for seed in seeds if seed["solved_at"]]
        steps = f"{np.median(solved):,.0f}" if solved else "–"
        least = min(seed["greedy_return"] for seed in seeds)
        seconds = np.median([seed["seconds"] for seed in seeds])
        lines.append(f"| `{name}` | {len(solved)}/{len(seeds)} | {steps} | {least:.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--algorithms", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS))
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--total-steps", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--to-the-end", action="store_true", help="train on after a seed has solved the task")
    parser.add_argument("--again", action="store_true", help="run algorithms that have a result too")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table")
    options = parser.parse_args()

    results = json.loads(options.output.read_text()) if options.output.exists() else {"algorithms": {}}
    found: dict[str, list[dict[str, Any]]] = results["algorithms"]
    if options.table:
        print(table(results))
        return
    todo = [name for name in options.algorithms if options.again or len(found.get(name, [])) != options.num_seeds]
    jobs = [
        (name, seed, options.env, options.total_steps, options.to_the_end)
        for name in todo
        for seed in range(options.num_seeds)
    ]
    results |= {"env": options.env, "total_steps": options.total_steps, **provenance()}
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for name, seeds in itertools.groupby(pool.imap(train, jobs), key=lambda seed: seed["algorithm"]):
            found[name] = []
            for seed in seeds:
                found[name].append({key: value for key, value in seed.items() if key != "algorithm"})
                print(
                    f"{name} seed {seed['seed']}: solved at {seed['solved_at']}, greedy {seed['greedy_return']:.0f}",
                    flush=True,
                )
            options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
