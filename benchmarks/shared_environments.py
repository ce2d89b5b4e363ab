"""One agent's environments in one process against the same environments in several, gradients averaged.

    python benchmarks/shared_environments.py                 # some minutes; writes results/shared_environments.json
    python benchmarks/shared_environments.py --processes 1 2 4 8

Each measurement is torchrun starting this file as so many processes, one CPU thread each. Iterations after the first
few are timed on all of them; told is the slowest process's median, and the share of the time that the first spends in
exchanges, waiting for the others included. It says what sharing gains only where there are as many idle cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provenance import provenance

from gumbelrl.agents.command_line import requested_runs
from gumbelrl.agents.distributed.group import Group, ProcessGroup, is_launched
from gumbelrl.agents.experiment import Experiment

RESULTS = Path(__file__).parent / "results"
CASES = {
    "small": ["--env", "CartPole-v1"],
    "gymnasium": ["--env", "CartPole-v1", "--no-native"],
    "images": ["--env", "gumbelrl/MinAtar-Breakout-v1", "--agent", "ppo", "--num-envs", "64"],
    "replay": ["--env", "CartPole-v1", "--agent", "sac"],
}
WARM_UP = 3


class TimedGroup(ProcessGroup):
    """Counts its exchanges and the seconds that they take."""

    seconds, count = 0.0, 0

    def _exchange(self, exchange: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        start = time.perf_counter()
        super()._exchange(exchange, *arguments, **options)
        self.seconds += time.perf_counter() - start
        self.count += 1


def measure(words: list[str], iterations: int) -> None:
    """Train a little and print what it took, on the first process."""
    group = TimedGroup() if is_launched() else Group()
    (config,) = requested_runs([*words, "--device", "cpu", "--track", "off", "--compile", "off"])
    experiment = Experiment(config, group=group)
    total = (WARM_UP + iterations) * experiment.trainer.steps_per_iteration
    experiment.trainer.total_steps = max(total, config.total_steps)
    agent = experiment.trainer.agent
    while getattr(agent, "num_updates", 1) == 0:  # until there is enough in the replay
        experiment.trainer.iterate()
    for _ in range(WARM_UP):
        experiment.trainer.iterate()
    if isinstance(group, TimedGroup):
        group.seconds, group.count = 0.0, 0
    wall, start, used = [], time.perf_counter(), time.process_time()
    for _ in range(iterations):
        before = time.perf_counter()
        experiment.trainer.iterate()
        wall.append(time.perf_counter() - before)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - used
    found = {
        "iteration_ms": round(1e3 * statistics.median(wall), 3),
        "cpu_ms": round(1e3 * cpu / iterations, 3),
        "exchanges": getattr(group, "count", 0) / iterations,
        "exchange_share": round(getattr(group, "seconds", 0.0) / elapsed, 4),
        "steps_per_iteration": experiment.trainer.steps_per_iteration,
    }
    everyone = group.gather(found)
    if group.rank == 0:
        slowest = max(each["iteration_ms"] for each in everyone)
        print(json.dumps({**found, "iteration_ms": slowest, "processes": group.size}))
    group.close()


def launch(case: str, processes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what `measure` finds with so many processes."""
    alone = [sys.executable, __file__, "--measure", case, "--iterations", str(options.iterations)]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = alone if processes == 1 else [sys.executable, *several, *alone[1:]]
    with tempfile.TemporaryDirectory() as folder:  # the one process makes a folder of the run
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "shared_environments.json")
    parser.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(CASES[options.measure], options.iterations)
        return
    found = []
    for case in options.cases:
        runs = [launch(case, count, options) for _ in range(options.repeats) for count in options.processes]
        for count in options.processes:
            own = [run for run in runs if run["processes"] == count]
            best = sorted(own, key=lambda run: run["iteration_ms"])[len(own) // 2]
            found.append({"case": case, "words": CASES[case], **best})
            print(
                f"{case:>10}, {count} processes: {best['iteration_ms']:8.1f} ms an iteration of "
                f"{best['steps_per_iteration']:,} steps, {best['exchanges']:g} exchanges, "
                f"{best['exchange_share']:.0%} of the time",
                flush=True,
            )
    asked = {"iterations": options.iterations, "repeats": options.repeats}
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({**provenance(), **asked, "measurements": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
