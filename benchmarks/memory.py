"""Memory over a long delay: recurrent torsos with sigmoid and with discrete gates.

    python benchmarks/memory.py                      # some minutes a gate on a core of its own
    python benchmarks/memory.py --gates gumbel       # one of them
    python benchmarks/memory.py --table              # the table of the results at hand, as Markdown

Each gate learns `Memory` (envs/memory.py) with ten seeds side by side, by the same settings; `--horizon` is that of the
keep gates' initial biases, in steps. Training ends early once the last 100 episodes of every seed return .99. After it,
200 episodes a seed: with sampled actions and gates, and with greedy ones. Results go to benchmarks/results/memory.json,
one entry a gate, delay and horizon.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

from gumbelrl.agents import ActorCritic, ActorCriticConfig, Trainer, evaluate
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.envs import Memory
from gumbelrl.policies import ActionLayout
from gumbelrl.policies.gates import GATES

RESULTS = Path(__file__).parent / "results" / "memory.json"
EPISODES = 200
SOLVED = 0.99  # of the last 100 episodes in training, or of those of the evaluation
SETTINGS = ActorCriticConfig(
    torso="recurrent",
    rollout_steps=128,
    learning_rate=0.003,
    reward_scale=1.0,
    entropy_coefficient=0.01,
    diagnostics_interval=0,
)


def train(config: ActorCriticConfig, *, delay: int, num_seeds: int, total_steps: int) -> dict[str, Any]:
    """Train all seeds in one process; return what the table needs."""
    seeds = tuple(range(num_seeds))

    def make_env(num_envs: int) -> Memory:
        return Memory(num_envs, delay=delay)

    env = make_env(num_seeds * config.num_envs)
    agent = ActorCritic(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        observation_space=env.single_observation_space,
        seeds=seeds,
    )
    trainer = Trainer(agent, env, seeds=seeds, total_steps=total_steps, temperature=lambda progress, step: 1.0)
    start, curve = time.perf_counter(), []
    while not trainer.finished:
        metrics = trainer.iterate()
        curve.append([trainer.step, [round(value, 3) for value in metrics["train/return"].tolist()]])
        if len(curve) % 4 == 0:
            print(f"  step {trainer.step:,}: return {metrics['train/return'].mean().item():.2f}", flush=True)
        if (metrics["train/return"] >= SOLVED).all():
            break
    seconds = time.perf_counter() - start
    returns = {
        f"{kind}_return": evaluate(agent, make_env, seeds=seeds, episodes=EPISODES, greedy=kind == "greedy")
        .mean(1)
        .tolist()
        for kind in ("sampled", "greedy")
    }
    return {
        "gate": config.gate,
        "horizon": config.memory_horizon,
        "delay": delay,
        "total_steps": trainer.step,
        "settings": asdict(config),
        "curve": curve,
        **returns,
        "train_seconds": round(seconds, 1),
        **provenance(),
    }


def table(entries: dict[str, Any]) -> str:
    """Return the results as Markdown, a row a gate."""
    lines = [
        "| gate | horizon | steps | greedy return: seeds above .99, mean | sampled return: mean (range) |",
        "|---|---|---|---|---|",
    ]
    for entry in entries.values():
        greedy, sampled = np.array(entry["greedy_return"]), np.array(entry["sampled_return"])
        lines.append(
            f"| `{entry['gate']}` | {entry['horizon']:,} | {entry['total_steps'] // 1000}k "
            f"| {(greedy >= SOLVED).sum()}/{len(greedy)}, {greedy.mean():.2f} "
            f"| {sampled.mean():.2f} ({sampled.min():.2f}–{sampled.max():.2f}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--delay", type=int, default=100)
    parser.add_argument("--horizon", type=int, default=3000)
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--total-steps", type=int, default=250_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="run nothing, print the table")
    options = parser.parse_args()
    entries: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    torch.set_num_threads(1)
    for gate in [] if options.table else options.gates:
        name = f"{gate}/delay {options.delay}/horizon {options.horizon}"
        print(name, flush=True)
        config = ActorCriticConfig(**{**asdict(SETTINGS), "gate": gate, "memory_horizon": options.horizon})
        entries[name] = train(config, delay=options.delay, num_seeds=options.num_seeds, total_steps=options.total_steps)
        options.output.write_text(json.dumps(entries) + "\n")
    print(table(entries))


if __name__ == "__main__":
    main()
