"""Seconds from the start of a process until CartPole-v1 is solved: ours against PPO of stable-baselines3, in one run.

    python benchmarks/time_to_solve.py          # about four minutes; writes benchmarks/results/time_to_solve.json
    python benchmarks/time_to_solve.py --repeats 1 --output /tmp/solve.json
    python benchmarks/time_to_solve.py --only preset defaults

Solved: the mean return of the last 100 training episodes is 475, sampled actions included, so that it has been held for
100 episodes. Everything counts that comes before: the interpreter, the imports, and on our side the whole of `train.py`
with its rows of metrics and checkpoints. `preset` is `--preset cartpole-fast`, `defaults` what one gets who names the
environment and the policy, `sb3-ppo` the settings of RL Baselines3 Zoo (`peers/solve_stable_baselines3.py`).

Every run is a process of one thread, bound to one core. The sides take turns, each repeat with another of the seeds 0,
1, 2 …, on which nothing was tuned, and ratios are of medians. A run that ends unsolved counts as later than all others.
One run of each side comes first and is not counted: it puts what is imported into the disk cache and writes bytecode.

How a side says so: its process prints a line with "reached 475 after N steps" the moment that it is so; the time of a
line is when it arrives here. Nothing else is asked of it, so any command can be a side.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "time_to_solve.json"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SAID = re.compile(r"reached 475 after ([\d,]+) steps")
TIMEOUT_S = 180.0
TRAIN = [sys.executable, "-u", str(HERE.parent / "train.py"), "--track", "off", "--episodes", "1"]
LONG_ENOUGH = ["--stop-at-return", "475", "--total-steps", "262144"]
SIDES: dict[str, list[str]] = {
    "preset": [*TRAIN, "--preset", "cartpole-fast", "--seeds"],
    "defaults": [*TRAIN, "--env", "CartPole-v1", "--policy", "gumbel", *LONG_ENOUGH, "--seeds"],
    "sb3-ppo": [sys.executable, "-u", str(HERE / "peers" / "solve_stable_baselines3.py"), "--seed"],
}
"""Commands that end in the option before the seed."""
REFERENCE = "sb3-ppo"


class RunFailed(Exception):
    """A process ended with an error; the message is the last thing that it said."""


def run(command: Sequence[str], *, core: int) -> dict[str, Any]:
    """Run a process until it has solved the task, and end it there.

    Returns:
        `seconds` and `cpu_seconds` (user and system) until then, and `steps`, all None where it ended unsolved.

    Raises:
        RunFailed: it ended with an error or took too long.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        settings = {**os.environ, **ONE_THREAD, "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""}
        # Whoever runs a program twice has its bytecode.
        settings.pop("PYTHONDONTWRITEBYTECODE", None)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=settings,
            cwd=folder,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        assert process.stdout is not None
        found: dict[str, Any] = {"seconds": None, "cpu_seconds": None, "steps": None}
        for line in process.stdout:
            if said := SAID.search(line):
                found |= {"seconds": time.perf_counter() - start, "steps": int(said[1].replace(",", ""))}
                process.kill()
                break
            if time.perf_counter() - start > TIMEOUT_S:
                process.kill()
                process.wait()
                raise RunFailed(f"stopped after {TIMEOUT_S:g} s")
        process.stdout.close()
        process.wait()
        if found["seconds"] is None and process.returncode:
            errors.seek(0)
            raise RunFailed((errors.read().strip().splitlines() or [f"exit status {process.returncode}"])[-1])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if found["seconds"] is not None:
        found["cpu_seconds"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found


def measure(names: Sequence[str], *, repeats: int, core: int) -> dict[str, list[dict[str, Any]]]:
    """Run the sides in turns; return their runs."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repeat in range(-1, repeats):
        for name in names if repeat % 2 else list(names)[::-1]:
            one = run([*SIDES[name], str(max(repeat, 0))], core=core)
            if repeat < 0:
                continue
            found[name].append({"seed": repeat, **one})
            what = f"{one['seconds']:5.2f} s, {one['steps']:>7,} steps" if one["seconds"] else "not solved"
            print(f"{repeat + 1}/{repeats} {name:9} {what}", flush=True)
    return found


def summarise(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return each side's medians, how many of its runs solved, and its ratio to the reference, where there is one."""
    summary: dict[str, dict[str, Any]] = {}
    for name, each in runs.items():
        late = {key: [float("inf") if run[key] is None else run[key] for run in each] for key in ("seconds", "steps")}
        medians = {key: statistics.median_high(values) for key, values in late.items()}
        summary[name] = {key: None if value == float("inf") else value for key, value in medians.items()}
        cpu = [run["cpu_seconds"] for run in each if run["cpu_seconds"] is not None]
        summary[name] |= {"cpu_seconds": statistics.median(cpu) if cpu else None, "solved": len(cpu), "runs": len(each)}
    reference = summary.get(REFERENCE, {}).get("seconds")
    for side in summary.values():
        side["ratio"] = side["seconds"] / reference if side["seconds"] is not None and reference else None
    return summary


def table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the summary as Markdown."""
    lines = ["| | solved | seconds | CPU seconds | steps | of SB3's |", "|---|--:|--:|--:|--:|--:|"]
    for name, side in summary.items():
        formats = {"seconds": ".2f", "cpu_seconds": ".2f", "steps": ",.0f", "ratio": ".2f"}
        cells = ["–" if side[key] is None else format(side[key], how) for key, how in formats.items()]
        lines.append(f"| {name} | {side['solved']} of {side['runs']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="that all runs are bound to")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    from provenance import provenance

    start = time.perf_counter()
    runs = measure(options.only, repeats=options.repeats, core=options.core)
    summary = summarise(runs)
    results = {
        **provenance(),
        "cpu_threads": 1,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "summary": summary,
        "runs": runs,
    }
    options.output.parent.mkdir(exist_ok=True, parents=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(summary))


if __name__ == "__main__":
    main()
