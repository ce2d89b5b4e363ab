"""What `--precision bf16` is worth on a CPU: an iteration of ppo by the width of its layers.

    python benchmarks/precision.py        # about a minute; writes benchmarks/results/precision.json

On one thread, both sides in turns, by the CPU time of this process; figures are medians. For a GPU: benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from tasks import Task, build

from gumbelrl.agents.precision import set_precision

RESULTS = Path(__file__).parent / "results" / "precision.json"
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "CartPole-v1, 2 × 64 units": ("CartPole-v1", {"num_envs": 64, "rollout_steps": 32, "hidden": (64, 64)}),
    "CartPole-v1, 2 × 256 units": ("CartPole-v1", {"num_envs": 64, "rollout_steps": 32, "hidden": (256, 256)}),
    "CartPole-v1, 2 × 1,024 units": ("CartPole-v1", {"num_envs": 64, "rollout_steps": 32, "hidden": (1024, 1024)}),
    "MinAtar/Breakout-v1, convolution and 128 units": (
        "MinAtar/Breakout-v1",
        {"num_envs": 64, "rollout_steps": 8, "hidden": (128,)},
    ),
}


def measure(env: str, settings: dict[str, Any], *, repeats: int) -> dict[str, float]:
    """Return the milliseconds of an iteration in each precision."""
    trainers = {}
    for precision in ("float32", "bf16"):
        trainers[precision], _ = build(Task(env, "ppo", 2**40, 0.0, settings=settings), (0,))
        set_precision(precision, trainers[precision].agent, torch.device("cpu"))
    taken: dict[str, list[float]] = {precision: [] for precision in trainers}
    for repeat in range(repeats + 1):
        for precision, trainer in list(trainers.items())[:: 1 if repeat % 2 else -1]:
            start = time.process_time()
            trainer.iterate()
            if repeat:  # the first is not counted
                taken[precision].append(1e3 * (time.process_time() - start))
    return {precision: statistics.median(times) for precision, times in taken.items()}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["| `ppo` on a CPU | `float32`, ms an iteration | `bf16` | ratio |", "|---|--:|--:|--:|"]
    for name, found in results["found"].items():
        ratio = found["bf16"] / found["float32"]
        lines.append(f"| {name} | {found['float32']:.1f} | {found['bf16']:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that narrow layers are slower is what is measured
    found = {}
    for name, (env, settings) in SIZES.items():
        found[name] = {
            precision: round(value, 2) for precision, value in measure(env, settings, repeats=options.repeats).items()
        }
        print(f"{name}: {found[name]}", flush=True)
    options.output.write_text(json.dumps({**provenance(), "found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
