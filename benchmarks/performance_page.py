"""Writes the generated parts of docs/performance.md and its plots, from the benchmarks' JSON.

    python benchmarks/performance_page.py

A part whose benchmark has not been run says so, with the command that would.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
import gpu
import peers
import precision
import products
import roofline
import scaling
import time_to_solve
from performance_plots import peers_plot, roofline_plot, scaling_plot

from generated import DOCS, write_parts

RESULTS = Path(__file__).parent / "results"
PAGE = "performance.md"


@dataclass(frozen=True)
class Part:
    """A generated part of the page.

    Attributes:
        command: what measures it.
        minutes: that this takes, roughly.
        text: from the results, as Markdown.
        file: the results, if not named as the part.
        figure: name of its plot in docs/figures, and what is on it.
        plot: draws it.
    """

    command: str
    minutes: int
    text: Callable[[dict[str, Any]], str]
    file: str = ""
    figure: tuple[str, str] | None = None
    plot: Callable[[dict[str, Any]], Path] | None = None


def members_text(results: dict[str, Any]) -> str:
    together, apart = (statistics.median(results[name]) for name in ("together_s", "apart_s"))
    count = results["members"]
    return (
        f"{count} seeds in one process: {together:.2f} s; {count} runs one after another: {apart:.2f} s; "
        f"**{together / apart:.2f}** of the time (start-up left out on both sides).\n\n"
        f"Of the CPU time of {count} processes, start-up included, one process takes "
        f"**{results['process_ratio']:.2f}** "
        f"({results['iterations'] * 2048:,} steps a seed; repeats: {len(results['processes_cpu_s'])})."
    )


def updates_text(results: dict[str, Any]) -> str:
    rates = results["updates_per_second"]
    theirs = rates["stable-baselines3"]
    lines = ["| | updates/s, all members | of SB3's SAC |", "|---|--:|--:|"]
    lines += [f"| {name} | {rate:,.0f} | {rate / theirs:.1f}× |" for name, rate in rates.items()]
    return "\n".join(lines)


def compiled_text(results: dict[str, Any]) -> str:
    lines = ["| agent | members | eager, steps/s | compiled | ratio | to compile |", "|---|--:|--:|--:|--:|--:|"]
    for name, one in results["found"].items():
        case, _, members = name.rpartition("/")
        rates = f"{one['eager']:,.0f} | {one['compiled']:,.0f} | {one['ratio']:.1f}×"
        lines.append(f"| `{case}` | {members} | {rates} | {one['compiling']:.0f} s |")
    return "\n".join(lines)


def roofline_text(results: dict[str, Any]) -> str:
    found = results["machine"]
    return (
        f"One thread of this machine: {found['flops_per_second'] / 1e9:.0f} GFLOP/s in a product of 1,024 × 1,024 "
        f"matrices, {found['bytes_per_second'] / 1e9:.1f} GB/s in a copy of 256 MiB, "
        f"{1e6 * found['call_seconds']:.2f} µs for an operator that has nothing to do.\n\n{roofline.table(results)}"
    )


PARTS: dict[str, Part] = {
    "peers": Part(
        "python benchmarks/peers.py",
        11,
        lambda results: peers.table(results["summary"]),
        figure=("peers.svg", "Bars: training steps/s of ours over each peer's, as in the table"),
        plot=peers_plot,
    ),
    "time_to_solve": Part(
        "python benchmarks/time_to_solve.py", 4, lambda results: time_to_solve.table(results["summary"])
    ),
    "updates": Part("python benchmarks/throughput.py", 3, updates_text, file="throughput"),
    "compiled": Part("python benchmarks/compiled.py", 7, compiled_text),
    "members": Part("python benchmarks/members.py", 4, members_text),
    "scaling": Part(
        "python benchmarks/scaling.py",
        3,
        scaling.table,
        figure=("scaling.svg", "Five plots: cost against each of the sizes in the tables"),
        plot=lambda results: scaling_plot(results, scaling.LABELS),
    ),
    "roofline": Part(
        "python benchmarks/roofline.py",
        1,
        roofline_text,
        figure=("roofline.svg", "Bars: microseconds of each update, with its floor marked"),
        plot=roofline_plot,
    ),
    "products": Part("python benchmarks/products.py", 4, products.table),
    "environments": Part("python benchmarks/environments.py", 5, lambda results: environments.table(results["rows"])),
    "precision": Part("python benchmarks/precision.py", 1, precision.table),
    "gpu": Part("python benchmarks/gpu.py", 4, gpu.table),
}


def read(name: str) -> dict[str, Any] | None:
    """Return the results of a part, or None where there are none."""
    path = RESULTS / f"{PARTS[name].file or name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def provenance_line(results: dict[str, Any], command: str) -> str:
    threads = results["cpu_threads"]
    return (
        f"`{command}`, {results['date']}, commit {results['commit']}, torch {results['torch']}, Python "
        f"{results['python']}, {results['hardware']}, {threads} thread{'s' if threads != 1 else ''}."
    )


def part(name: str) -> str:
    """Return a part as Markdown."""
    which, results = PARTS[name], read(name)
    if results is None:
        return (
            f"*Not measured yet:* `{which.command}` (minutes, on a quiet machine: {which.minutes}) writes "
            f"`benchmarks/results/{which.file or name}.json`."
        )
    picture = f"![{which.figure[1]}](figures/{which.figure[0]})\n\n" if which.figure else ""
    origins = [provenance_line(results, results.get("command", which.command))]
    earlier = results.get("earlier", [])  # of rows that a later run has kept
    origins += [f"{provenance_line(each, each['command'])} ({', '.join(each['peers'])})" for each in earlier]
    return f"{picture}{which.text(results)}\n\n" + "\n\n".join(origins)


def main() -> None:
    for name, which in PARTS.items():
        results = read(name)
        if results is not None and which.plot is not None:
            which.plot(results)
    write_parts(PAGE, {name: part(name) for name in PARTS})
    print(f"wrote {DOCS / PAGE}")


if __name__ == "__main__":
    main()
