"""Ours and its peers on CartPole-v1 in one run: training steps, updates, compilation, and the time to solve it.

    python benchmarks/peers.py                      # about 10 minutes; writes benchmarks/results/peers.json and a plot
    python benchmarks/peers.py --only sb3-ppo rejax-ppo --repeats 1
    python benchmarks/peers.py --compiled           # ours under torch.compile too: about 20 minutes
    python benchmarks/peers.py --quick --output /tmp/peers.json      # to see whether all run: about 4 minutes
    python benchmarks/peers.py --list

Each peer runs in a virtual environment of its own, which is made from `peers/NAME.txt` under --environments the first
time (some minutes each), with the settings that its authors publish; ours beside it with equal networks and as many
updates for as many steps, and once with its defaults. Every run is a process of its own, on one core: that is what all
of them are bound to, beside OMP_NUM_THREADS=1, XLA's own threads off and torch.set_num_threads(1). Sides and peers take
turns, each repeat with another seed, and ratios are of medians.

Throughput is counted from the end of the warm-up, in which whoever compiles does; "from process start" from there. Ours
is eager, or, with --compiled, beside that under torch.compile; compilers find nothing from earlier runs. Solved, as in
time_to_solve.py: the mean return of the last 100 training episodes, of each seed where there are several, is 475.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peer_cases import CASES, OURS, Case
from peer_environments import PEERS, CannotInstall, environment
from provenance import provenance

Sides = dict[str, list[str]]
RESULTS = Path(__file__).parent / "results" / "peers.json"
ENVIRONMENTS = Path(__file__).parent / ".environments"
RATES = ("steps_per_second", "steps_per_second_with_compilation")
TIMEOUT = 300  # seconds: nothing here takes a third of that
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONWARNINGS": "ignore",
}


class RunFailed(Exception):
    """A run ended without its line; the message is the last thing that it said."""


def run(command: Sequence[str], *, core: int) -> dict[str, float | None]:
    """Run a script on one core; return what its line says, in seconds from the start of the process.

    Raises:
        RunFailed: it failed or took too long.
    """
    with tempfile.TemporaryDirectory() as cache:  # compilers find nothing from before
        settings = {**os.environ, **ONE_THREAD, "TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": ""}
        start = time.time()
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=settings,
                timeout=TIMEOUT,
                cwd=cache,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        except subprocess.TimeoutExpired:
            raise RunFailed(f"stopped after {TIMEOUT} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        said = done.stderr.strip().splitlines()
        raise RunFailed(said[-1][:200] if said else f"exit status {done.returncode}")
    return measures(json.loads(lines[-1]), start)


def measures(line: dict[str, Any], start: float) -> dict[str, Any]:
    """Return the figures of a run from its line: rates of all its seeds together, and the time to solve the task."""
    members = line.get("members", 1)
    end, steps, updates = line["last"]
    if line["warm"] is None or end <= line["warm"][0]:
        raise RunFailed(f"it ended before throughput could be measured, after {steps} steps")
    since, warm_steps, warm_updates = line["warm"]
    return {
        "steps_per_second": members * (steps - warm_steps) / (end - since),
        "updates_per_second": members * (updates - warm_updates) / (end - since),
        "start_and_compile_seconds": since - start,
        "steps_per_second_with_compilation": members * steps / (end - start),
        "solved_seconds": line["solved"][0] - start if line["solved"] else None,
        "solved_steps": line["solved"][1] if line["solved"] else None,
        "versions": line["versions"],
    }


def commands(case: Case, python: Path, *, words: Sequence[str], limit: float | None, compiled: bool) -> Sides:
    """Return the commands of each side, without the seed; ours without compilation and, where asked for, with it."""
    limits = ["--limit", str(limit or case.limit), "--warm-up", str(case.warm_up), "--members", str(case.members)]
    sides = {"peer": [str(python), str(PEERS / case.script), case.case, *limits]}
    for side, mode in (("ours", "off"), ("compiled", "on")):
        if side == "ours" or compiled:
            told = [*case.ours, "--compile", mode, *words]
            sides[side] = [sys.executable, str(PEERS / "run_ours.py"), "--words", json.dumps(told), *limits]
    return sides


def measure_all(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Run everything in turns; return peer -> side -> runs, or peer -> why it was left out."""
    found: dict[str, Any] = {}
    ready: dict[str, Sides] = {}
    for name in names:
        try:
            python = environment(CASES[name].environment, options.environments)
        except CannotInstall as error:
            found[name] = {"skipped": f"cannot be installed: {error}"}
            print(f"{name}: skipped: {found[name]['skipped']}", flush=True)
            continue
        ready[name] = commands(CASES[name], python, words=options.words, limit=options.limit, compiled=options.compiled)
    for name, (_, words) in OURS.items():
        told = json.dumps([*words, *options.words])
        ready[name] = {"ours": [sys.executable, str(PEERS / "run_ours.py"), "--words", told, "--limit", "15"]}
    found |= {name: {side: [] for side in sides} for name, sides in ready.items()}
    for repeat in range(options.repeats):
        known: dict[tuple[str, ...], dict[str, Any]] = {}  # several peers are compared with the same work of ours
        for name, sides in ready.items():
            for side in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
                if "skipped" in found[name]:
                    continue
                command = (*sides[side], "--seed", str(repeat))
                try:
                    one = known[command] = known.get(command) or run(command, core=options.core)
                except RunFailed as error:
                    found[name] = {"skipped": f"{side} failed: {error}"}
                    print(f"{name}: {found[name]['skipped']}", flush=True)
                    continue
                found[name][side].append(one)
                print(f"{repeat + 1}/{options.repeats} {name:18} {side:8} {say(one)}", flush=True)
    return found


def say(one: dict[str, Any]) -> str:
    solved = f"solved after {one['solved_seconds']:.1f} s" if one["solved_seconds"] else "not solved"
    rates = f"{one['steps_per_second']:>9,.0f} steps/s {one['updates_per_second']:>7,.0f} updates/s"
    return f"{rates}   {one['start_and_compile_seconds']:4.1f} s to get going, {solved}"


def summarise(found: dict[str, Any]) -> dict[str, Any]:
    """Return medians of each side and the ratios of ours to the peer, by name."""
    summary: dict[str, Any] = {}
    for name, sides in found.items():
        if "skipped" in sides:
            summary[name] = sides
            continue
        medians = {side: _medians(runs) for side, runs in sides.items()}
        entry: dict[str, Any] = dict(medians)
        if "peer" in medians:
            for side, ratio in (("ours", "ratio"), ("compiled", "ratio_compiled")):
                if side in medians:
                    entry[ratio] = {key: medians[side][key] / medians["peer"][key] for key in RATES}
        summary[name] = entry
    return summary


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = [key for key in runs[0] if key.endswith(("second", "seconds", "compilation")) and "solved" not in key]
    medians: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in keys}
    solved = [run["solved_seconds"] for run in runs if run["solved_seconds"] is not None]
    # A run that did not solve the task counts as later than all that did.
    late = [float("inf")] * (len(runs) - len(solved))
    middle = statistics.median_high([*solved, *late])
    medians["solved_seconds"] = None if middle == float("inf") else middle
    return {**medians, "solved": len(solved), "runs": len(runs)}


def table(summary: dict[str, Any]) -> str:
    """Return the summary as Markdown."""
    lines = [
        "| peer: its settings | its steps/s | ours, same work | ratio | from process start | ours compiled | ratio "
        "| updates/s: its, ours, compiled | its time to 475 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, case in CASES.items():
        lines.append(f"| {case.title}: {case.settings} | {_cells(summary.get(name))} |")
    for name, (title, _) in OURS.items():
        if name in summary and "skipped" not in summary[name]:
            ours = summary[name]["ours"]
            lines.append(
                f"| **ours: {title}** | | {ours['steps_per_second']:,.0f} | | | | | "
                f"{ours['updates_per_second']:,.0f} | **{_solved(ours)}** |"
            )
    return "\n".join(lines)


def overview(summary: dict[str, Any]) -> str:
    """Return what was run, for a terminal; `table` is for a page."""
    lines = [f"{'':<23} {'its steps/s':>12} {'ours':>9} {'ratio':>7} {'compiled':>9} {'its time to 475':>20}"]
    for name, entry in summary.items():
        title = CASES[name].title if name in CASES else OURS[name][0].replace("`", "")
        if "skipped" in entry:
            lines.append(f"{title:<23} left out: {entry['skipped']}")
        elif "peer" in entry:
            compiled = entry.get("ratio_compiled")
            other = f"{compiled['steps_per_second']:.2f}x" if compiled else "–"
            lines.append(
                f"{title:<23} {entry['peer']['steps_per_second']:>12,.0f} {entry['ours']['steps_per_second']:>9,.0f} "
                f"{entry['ratio']['steps_per_second']:>6.2f}x {other:>9} {_solved(entry['peer']):>20}"
            )
        else:
            lines.append(f"ours: {title:<53} {_solved(entry['ours']):>26}")
    return "\n".join(lines)


def _cells(entry: dict[str, Any] | None) -> str:
    """Return a peer's cells after its name."""
    if entry is None or "skipped" in entry:
        return (entry["skipped"].replace("|", "/") if entry else "not run") + " |" * 7
    peer, ours, ratio = entry["peer"], entry["ours"], entry["ratio"]
    compiled, other = entry.get("compiled"), entry.get("ratio_compiled")
    updates = [side["updates_per_second"] for side in (peer, ours, compiled) if side]
    return " | ".join(
        [
            f"{peer['steps_per_second']:,.0f}",
            f"{ours['steps_per_second']:,.0f}",
            f"**{ratio['steps_per_second']:.2f}×**",
            f"{ratio['steps_per_second_with_compilation']:.2f}×",
            f"{compiled['steps_per_second']:,.0f}" if compiled else "–",
            f"**{other['steps_per_second']:.2f}×**" if other else "–",
            ", ".join(f"{rate:,.0f}" for rate in updates),
            _solved(peer),
        ]
    )


def _solved(side: dict[str, Any]) -> str:
    count = f"{side['solved']} of {side['runs']}"
    return f"{side['solved_seconds']:.1f} s ({count})" if side["solved_seconds"] is not None else f"– ({count})"


def command_line(options: argparse.Namespace) -> str:
    """Return the command that measures the same again."""
    words = ["python benchmarks/peers.py", f"--repeats {options.repeats}"]
    words += ["--compiled"] if options.compiled else []
    words += [f"--limit {options.limit:g}"] if options.limit else []
    words += [f"--only {' '.join(options.only)}"] if options.only != list(CASES) else []
    return " ".join([*words, *(["--words", *options.words] if options.words else [])])


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return results with those of peers that were run before and not now, and `earlier`: where these are from."""
    origin = {key: value for key, value in before.items() if key not in ("summary", "runs", "earlier")}
    kept = [name for name in before["summary"] if name not in now["summary"]]
    earlier = [
        {**each, "peers": [name for name in each["peers"] if name in kept]} for each in before.get("earlier", [])
    ]
    known = {name for each in earlier for name in each["peers"]}
    earlier.append({**origin, "peers": [name for name in kept if name not in known]})
    parts = {part: {**before[part], **now[part]} for part in ("summary", "runs")}
    return {**now, **parts, "earlier": [each for each in earlier if each["peers"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PEER", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, help="seconds of training a run; by default what a peer needs")
    parser.add_argument("--quick", action="store_true", help="one repeat of two seconds")
    parser.add_argument("--compiled", action="store_true", help="measure ours under torch.compile too: twice as long")
    parser.add_argument("--keep", action="store_true", help="keep the results of peers that are not run now")
    parser.add_argument("--words", nargs=argparse.REMAINDER, default=[], help="for our train.py, such as --compile on")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where virtual environments are kept")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="that all runs are bound to")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="say what can be run, and run nothing")
    options = parser.parse_args()

    if options.list:
        for name, case in CASES.items():
            print(f"{name:18} {case.title}: {case.settings}")
        return
    if options.quick:
        options.repeats, options.limit = 1, 2.0
    start = time.perf_counter()
    found = measure_all(options.only, options)
    results = {
        **provenance(),
        "cpu_threads": 1,
        "core": options.core,
        "command": command_line(options),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "summary": summarise(found),
        "runs": found,
    }
    if options.keep and options.output.exists():
        results = joined(json.loads(options.output.read_text()), results)
    options.output.parent.mkdir(exist_ok=True, parents=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"\n{overview(results['summary'])}\n\nsaved in {options.output}; python benchmarks/performance_page.py shows it"
    )


if __name__ == "__main__":
    main()
