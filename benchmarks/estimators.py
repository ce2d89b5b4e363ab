"""What the estimators do on problems with known answers: every one of the registry, on each problem.

    python benchmarks/estimators.py                    # all of it, under 10 minutes on two cores
    python benchmarks/estimators.py --only curvature   # some: quadratic curvature factored parity arms polynomial
    python benchmarks/estimators.py --policies gumbel  # some estimators, keeping the others' results
    python benchmarks/estimators.py --docs             # write docs/estimators.md's tables and plots, run nothing

The problems are in benchmarks/estimator_problems, one a file; results go to benchmarks/results/estimators.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gumbelrl.policies import ESTIMATORS

from estimator_problems import PROBLEMS

RESULTS = Path(__file__).parent / "results" / "estimators.json"


def names() -> list[str]:
    return list(ESTIMATORS)


def measure(task: tuple[str, str]) -> tuple[str, str, Any, float]:
    problem, name = task
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = PROBLEMS[problem].measure(name)
    return problem, name, found, round(time.perf_counter() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--policies", nargs="+", choices=names(), default=names(), metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--docs", action="store_true", help="run nothing, write the tables and plots")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not options.docs:
        start = time.perf_counter()
        _run(options, results)
        print(f"took {(time.perf_counter() - start) / 60:.1f} minutes")
    from estimator_pages import write_pages

    write_pages(results)


def _run(options: argparse.Namespace, results: dict[str, Any]) -> None:
    # The longest first, so that no process is left alone with one at the end.
    tasks = [(problem, name) for problem in reversed(options.only) for name in options.policies]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for problem, name, found, seconds in pool.imap_unordered(measure, tasks):
            entry = results.setdefault(problem, {"found": {}, "seconds": {}})
            entry["found"][name], entry["seconds"][name] = found, seconds
            entry |= provenance()
            for part in ("found", "seconds"):
                entry[part] = {each: entry[part][each] for each in ESTIMATORS if each in entry[part]}
            print(f"{problem:12} {name:18} {seconds:6.1f} s  {json.dumps(found)[:90]}", flush=True)
            ordered = {each: results[each] for each in PROBLEMS if each in results}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main()
