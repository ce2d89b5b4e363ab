"""Which estimator learns with which critic: seeds that solve CartPole, and how fast. Nothing is tuned per estimator.

    python benchmarks/learning.py --processes 2      # about 25 minutes on two cores
    python benchmarks/learning.py --table            # the table of the results at hand, as Markdown

A seed has solved the task when its training return, averaged over its last 100 episodes, reaches the environment's
threshold (475) within the budget. Results go to benchmarks/results/learning_ENV.json, one entry a combination; a
combination that is there already is not run again unless --again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

from gumbelrl.agents import CRITICS
from gumbelrl.agents.compare.statistics import estimate
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.tracking.base import read_metrics
from gumbelrl.policies import ESTIMATORS

RESULTS = Path(__file__).parent / "results"


def train(config: RunConfig) -> dict[str, Any]:
    """Train all seeds of a combination in one process; return what the table needs."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        experiment = Experiment(RunConfig(**{**config.__dict__, "output": output}))
        results = experiment.run()
        curves = read_metrics(output / "metrics.jsonl")
    members = results["members"]
    after = [_after_solving(curves[m["seed"]], m["solved_at"]) for m in members]
    return {
        "policy": config.policy,
        "critic": config.critic,
        "solved_at": [m["solved_at"] for m in members],
        "training_return": [float(curves[m["seed"]]["train/return"][-1]) for m in members],
        "lowest_after_solving": after,
        "sampled_return": [m["eval/sampled_return"] for m in members],
        "greedy_return": [m["eval/greedy_return"] for m in members],
        "train_seconds": results["train_seconds"],
        "commit": provenance()["commit"],
    }


def _after_solving(curve: dict[str, np.ndarray], solved_at: int | None) -> float | None:
    return None if solved_at is None else float(curve["train/return"][curve["step"] >= solved_at].min())


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown: a row an estimator, the critics side by side."""
    combinations = results["combinations"]
    critics = list(dict.fromkeys(entry["critic"] for entry in combinations.values()))
    policies = sorted({entry["policy"] for entry in combinations.values()})
    lines = [f"| policy | {' | '.join(critics)} |", "|---|" + "---|" * len(critics)]
    for policy in policies:
        cells = [_cell(combinations.get(f"{critic}/{policy}")) for critic in critics]
        lines.append(f"| `{policy}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(entry: dict[str, Any] | None) -> str:
    """Return solved seeds, the median of the steps that they took, and the final training return."""
    if entry is None:
        return "–"
    solved = sorted(step for step in entry["solved_at"] if step)
    steps = f" in {np.median(solved) / 1000:.0f}k" if solved else ""
    middle = estimate([np.array(entry["training_return"])])
    return f"{len(solved)}/{len(entry['solved_at'])}{steps}; {middle.value:.0f} [{middle.low:.0f}, {middle.high:.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--policies", nargs="+", default=list(ESTIMATORS))
    parser.add_argument("--critics", nargs="+", default=list(CRITICS))
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--total-steps", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run combinations that have a result too")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table")
    options = parser.parse_args()

    path = RESULTS / f"learning_{options.env.replace('/', '-')}.json"
    results = json.loads(path.read_text()) if path.exists() else {"combinations": {}}
    combinations: dict[str, Any] = results["combinations"]
    if options.table:
        print(table(results))
        return
    configs = [
        RunConfig(
            env=options.env,
            policy=policy,
            critic=critic,
            seeds=tuple(range(options.num_seeds)),
            total_steps=options.total_steps,
            track="off",
        )
        for critic, policy in itertools.product(options.critics, options.policies)
        if options.again or f"{critic}/{policy}" not in combinations
    ]
    results |= {"env": options.env, "total_steps": options.total_steps, **provenance()}
    if configs:
        results["agent_config"] = asdict(configs[0].agent_config)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for entry in pool.imap(train, configs):
            combinations[f"{entry['critic']}/{entry['policy']}"] = entry
            order = [f"{critic}/{policy}" for critic in CRITICS for policy in ESTIMATORS]
            results["combinations"] = {name: combinations[name] for name in order if name in combinations}
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{entry['critic']}/{entry['policy']}: {_cell(entry)}", flush=True)


if __name__ == "__main__":
    main()
