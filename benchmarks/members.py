"""Ten members in one process against ten runs one after another, on one CPU thread; environments and learning included.

    python benchmarks/members.py                     # under four minutes; writes benchmarks/results/members.json

Measured twice. In this process, start-up left out on both sides, which favours the ten runs; the two sides alternate,
and the ratio is that of the medians. And as a person would run them: `train.py` with ten seeds against ten `train.py`
with one, each a process of its own, by the CPU time that the system charges for them, start-up and saving included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gumbelrl.agents import ActorCritic, ActorCriticConfig, Trainer
from gumbelrl.envs import make
from gumbelrl.policies import ActionLayout

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def make_trainer(
    seeds: tuple[int, ...], *, env_id: str = "CartPole-v1", policy: str = "gumbel", iterations: int = 1, **settings: Any
) -> Trainer:
    """Return a loop of the default agent for so many iterations after one; `settings` are of the agent."""
    config = ActorCriticConfig(**settings)
    env = make(env_id, num_envs=len(seeds) * config.num_envs)
    agent = ActorCritic(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=int(env.single_observation_space.shape[0]),
        seeds=seeds,
        estimator=policy,
    )
    total = (iterations + 1) * config.num_envs * config.rollout_steps
    return Trainer(agent, env, seeds=seeds, total_steps=total, temperature=lambda progress, step: 1.0)


def train_seconds(seeds: tuple[int, ...], *, env_id: str, policy: str, iterations: int) -> float:
    """Return the seconds that `iterations` of the default agent take, after one that is not counted."""
    trainer = make_trainer(seeds, env_id=env_id, policy=policy, iterations=iterations)
    trainer.iterate()
    start = time.perf_counter()
    while not trainer.finished:
        trainer.iterate()
    return time.perf_counter() - start


def process_seconds(seeds: str, options: argparse.Namespace) -> float:
    """Return the CPU seconds, of user and system, of a run by the command line from start to end."""
    steps = options.iterations * 2048
    words = ["--env", options.env, "--policy", options.policy, "--seeds", seeds, "--total-steps", str(steps)]
    words += ["--evaluation-episodes", "1", "--track", "off", "--device", "cpu"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), *words, "--output", f"{folder}/run"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--policy", default="gumbel")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=20, help="of 2,048 steps a member")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--process-repeats", type=int, default=1, help="of the measurement by processes")
    parser.add_argument("--output", type=Path, default=RESULTS / "members.json")
    options = parser.parse_args()

    torch.set_num_threads(1)
    settings = {"env_id": options.env, "policy": options.policy, "iterations": options.iterations}
    seeds = tuple(range(options.members))
    together, apart = [], []
    for repeat in range(options.repeats):
        apart.append(sum(train_seconds((seed,), **settings) for seed in seeds))
        together.append(train_seconds(seeds, **settings))
        print(f"{repeat + 1}/{options.repeats}: together {together[-1]:.2f} s, apart {apart[-1]:.2f} s", flush=True)
    ratio = statistics.median(together) / statistics.median(apart)
    print(f"{options.members} members in one process take {ratio:.2f} of the time of {options.members} runs")
    one, many = [], []
    for _ in range(options.process_repeats):
        one.append(sum(process_seconds(str(seed), options) for seed in seeds))
        many.append(process_seconds(f"0..{options.members - 1}", options))
        print(f"CPU seconds of processes: one {many[-1]:.1f}, {options.members} apart {one[-1]:.1f}", flush=True)
    share = statistics.median(many) / statistics.median(one)
    print(f"one process takes {share:.2f} of the CPU time of {options.members} processes, start-up included")
    processes = {"one_process_cpu_s": many, "processes_cpu_s": one, "process_ratio": round(share, 3)}
    asked = vars(options) | {"output": options.output.name}
    result = {**provenance(), **asked, **processes, "together_s": together, "apart_s": apart, "ratio": round(ratio, 3)}
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
