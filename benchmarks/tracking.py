"""What W&B costs, as a share of training time, at the default intervals: `--track off` against `--track offline`.

    python benchmarks/tracking.py                # about four minutes; writes benchmarks/results/tracking.json
    python benchmarks/tracking.py --tensorboard  # TensorBoard beside them: half as long again

Whole runs in one process, in turn, of which only the training is counted (`train_seconds` of their results); the first
of each is left out. Each repeat gives a ratio, since a machine's speed drifts from repeat to repeat; the median counts,
with a 95% bootstrap interval. "Processor" is the same share of the processor time that the training thread used: what
others do on the machine changes it less, but it leaves out waiting. "Outside" is by how much longer whole runs take
beyond their training: starting W&B and waiting for it at the end.

On two cores W&B's process runs beside the training; with one core it takes its 0.9 s from it, at low priority.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.run_config import RunConfig

RESULTS = Path(__file__).parent / "results"
TARGET = 0.03


class TimedExperiment(Experiment):
    """Takes the processor time of the training thread as well."""

    def _train(self, stop: list[int]) -> None:
        before = time.thread_time()
        super()._train(stop)
        self.processor_seconds = time.thread_time() - before


def measure(mode: str, *, seeds: tuple[int, ...], total_steps: int) -> dict[str, float]:
    """Return the seconds of one default run on CartPole-v1: its training, that on the processor, and the rest."""
    quiet = (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()))
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        config = RunConfig(
            seeds=seeds,
            total_steps=total_steps,
            track="off" if mode == "tensorboard" else mode,
            tensorboard=mode == "tensorboard",
            output=Path(folder) / "run",
            evaluation_episodes=1,
        )
        start = time.perf_counter()
        experiment = TimedExperiment(config)
        train = float(experiment.run()["train_seconds"])
        whole = time.perf_counter() - start
    return {"train": train, "processor": experiment.processor_seconds, "outside": whole - train}


def median_interval(shares: list[float]) -> list[float]:
    """Return the 95% bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(shares, size=(10_000, len(shares)))
    return [float(bound) for bound in np.percentile(np.median(draws, axis=1), [2.5, 97.5])]


def compare(seconds: list[dict[str, float]], alone: list[dict[str, float]]) -> dict[str, Any]:
    """Return by how much the runs of a mode take longer than those without tracking, repeat by repeat."""
    pairs = list(zip(seconds, alone, strict=True))
    shares = [tracked["train"] / off["train"] - 1 for tracked, off in pairs]
    return {
        "share": statistics.median(shares),
        "interval": median_interval(shares),
        "processor_share": statistics.median(tracked["processor"] / off["processor"] - 1 for tracked, off in pairs),
        "outside_seconds": statistics.median(tracked["outside"] - off["outside"] for tracked, off in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[1], help="numbers of seeds side by side")
    parser.add_argument("--total-steps", type=int, default=RunConfig.total_steps)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--tensorboard", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS / "tracking.json")
    options = parser.parse_args()

    torch.set_num_threads(1)
    modes = ("off", "offline", "tensorboard") if options.tensorboard else ("off", "offline")
    found = {}
    for members in options.members:
        seconds: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
        for repeat in range(options.repeats + 1):
            # In turn, and from another one each time: what drifts must not look like a difference.
            for mode in modes[repeat % len(modes) :] + modes[: repeat % len(modes)]:
                taken = measure(mode, seeds=tuple(range(members)), total_steps=options.total_steps)
                if repeat:
                    seconds[mode].append(taken)
            print(f"{members} members, {repeat}/{options.repeats}", flush=True)
        costs = {mode: compare(seconds[mode], seconds["off"]) for mode in modes[1:]}
        found[members] = {"seconds": seconds, "cost": costs}
    print_table(found)
    asked = vars(options) | {"output": options.output.name}
    result = {**provenance(), **asked, "target": TARGET, "found": found}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


def print_table(found: dict[int, dict[str, Any]]) -> None:
    print(f"\n{'members':>7}  {'alone':>8}  {'':<12}{'share of training time':>24}{'processor':>11}{'outside':>12}")
    for members, each in found.items():
        alone = statistics.median(one["train"] for one in each["seconds"]["off"])
        for mode, cost in each["cost"].items():
            name = {"offline": "W&B", "tensorboard": "TensorBoard"}[mode]
            low, high = cost["interval"]
            share = f"{cost['share']:+.1%} [{low:+.1%}, {high:+.1%}]"
            rest = f"{cost['processor_share']:>+11.1%}{cost['outside_seconds']:>+10.1f} s"
            print(f"{members:>7}  {alone:>6.2f} s  {name:<12}{share:>24}{rest}")
    print(f"target for W&B: below {TARGET:.0%}")


if __name__ == "__main__":
    main()
