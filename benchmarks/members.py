"""Ten members in one process against ten runs one after another, on one CPU thread; environments and learning included.

    python benchmarks/members.py                     # about two minutes; writes benchmarks/results/members.json

Start-up is left out on both sides, which favours the ten runs. The two sides alternate, and the ratio is that of the
medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from provenance import provenance

from gumbelrl.agents import ActorCritic, ActorCriticConfig, Trainer
from gumbelrl.envs import make
from gumbelrl.policies import ActionLayout

RESULTS = Path(__file__).parent / "results"


def train_seconds(seeds: tuple[int, ...], *, env_id: str, policy: str, iterations: int) -> float:
    """Return the seconds that `iterations` of the default agent take, after one that is not counted."""
    config = ActorCriticConfig()
    env = make(env_id, num_envs=len(seeds) * config.num_envs)
    agent = ActorCritic(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=int(env.single_observation_space.shape[0]),
        seeds=seeds,
        estimator=policy,
    )
    total = (iterations + 1) * config.num_envs * config.rollout_steps
    trainer = Trainer(agent, env, seeds=seeds, total_steps=total, temperature=lambda progress, step: 1.0)
    trainer.iterate()
    start = time.perf_counter()
    while not trainer.finished:
        trainer.iterate()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--policy", default="gumbel")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=20, help="of 2,048 steps a member")
    parser.add_argument("--repeats", type=int, default=7)
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
    result = {**provenance(), **vars(options), "together_s": together, "apart_s": apart, "ratio": round(ratio, 3)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "members.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
