"""Agents by estimators by environments: what each solves, ten seeds a cell, agents with their defaults.

    python benchmarks/matrix.py --processes 2      # hours on two cores; cells that have a result are kept
    python benchmarks/matrix.py --agents sac --envs parity
    python benchmarks/matrix.py --compile          # equal to rounding; sooner for agents with a replay
    python benchmarks/matrix.py --table            # the tables of the results at hand, as Markdown
    python benchmarks/matrix.py --page             # the same, into docs/what_decides.md

A seed has solved a cell when its policy at the end is within 5% of the way from uniform play to the optimum: greedy,
since agents hold their entropy at a target, but sampled in the corridor, whose optimum is mixed. Nothing is tuned per
cell. Agents that keep a replay get a quarter of the steps of those that do not: they learn more from each and take
longer over it. What cannot be run stays in the table, with the reason below it. Results go to
benchmarks/results/matrix.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from separation import ENOUGH, random_return
from tasks import Task, build

from gumbelrl.agents import AGENTS
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import evaluate
from gumbelrl.envs import make
from gumbelrl.policies import ESTIMATORS

from generated import write_parts

RESULTS = Path(__file__).parent / "results" / "matrix.json"
SEEDS = tuple(range(10))
WITH_REPLAY = ("sac", "td3", "ddpg")


@dataclass(frozen=True)
class Place:
    """An environment of the matrix, the critics to learn it with, and the steps of agents without a replay."""

    env: str
    critics: tuple[str, ...]
    steps: int
    greedy: bool = True
    episodes: int = 200
    options: dict[str, Any] = field(default_factory=dict)


PLACES: dict[str, Place] = {
    "cartpole": Place("CartPole-v1", ("linear", "joint", "interpolated"), 131_072, episodes=20),
    # Small enough to be solved in as many steps: with its defaults none of nine cells was.
    "multi-button": Place(
        "gumbelrl/MultiButton-v0",
        ("multilinear", "joint"),
        65_536,
        options={"num_rows": 2, "num_buttons": 3, "num_presses": 2},
    ),
    "parity": Place("gumbelrl/ParityBandit-v0", ("multilinear", "joint", "interpolated"), 65_536),
    "corridor": Place("gumbelrl/ShortCorridor-v0", ("linear",), 32_768, greedy=False, episodes=2000),
}
USUAL = ("gumbel", "gumbel-soft", "gumbel-rao", "straight-through", "reinmax", "softmax", "reinforce", "exact")


def cells(agents: list[str], policies: list[str], places: list[str]) -> list[tuple[str, str, str, str]]:
    """Return (place, critic, agent, estimator); agents that take no estimator have one cell a place."""
    found = []
    for place in places:
        for agent in agents:
            if not AGENTS[agent].uses_estimator:
                found.append((place, "", agent, ""))
                continue
            found += [(place, critic, agent, policy) for critic in PLACES[place].critics for policy in policies]
    return found


def run(cell: tuple[str, str, str, str], *, compiled: bool = False) -> tuple[str, dict[str, Any]]:
    """Return a cell's key, and the scores of its seeds or why it has none."""
    torch.set_num_threads(1)
    place_name, critic, agent, policy = cell
    place = PLACES[place_name]
    task = Task(
        place.env,
        agent,
        place.steps // 4 if agent in WITH_REPLAY else place.steps,
        0.0,
        policy=policy,
        critic=critic,
        settings={"diagnostics_interval": 0} if AGENTS[agent].uses_estimator else {},
        env_settings=place.options,
    )
    start = time.perf_counter()
    returns = []
    try:
        for seeds in (SEEDS[:5], SEEDS[5:]):  # what ten take for a step leaves the cache, where it is shared
            trainer, make_env = build(task, seeds, compiled=compiled)
            while not trainer.finished:
                trainer.iterate()
            found = evaluate(trainer.agent, make_env, seeds=seeds, episodes=place.episodes, greedy=place.greedy)
            returns.append(found.mean(1).double())
    except RunError as error:
        return "/".join(cell), {"refused": str(error)}
    scores = score(place, torch.cat(returns))
    seconds = round(time.perf_counter() - start, 1)
    return "/".join(cell), {
        "scores": [round(each, 4) for each in scores.tolist()],
        "seconds": seconds,
        "compiled": compiled,
    }


def score(place: Place, returns: torch.Tensor) -> torch.Tensor:
    """Return how much of the way from uniform play to the optimum was made; in the corridor, its loss as a share."""
    env = make(place.env, num_envs=1000, **place.options)
    best = env.optimal_return
    if place.env == "gumbelrl/ShortCorridor-v0":  # uniform play is good there
        return 1.0 - (best - returns) / abs(best)
    random = random_return(env)
    return (returns - random) / (best - random)


def table(found: dict[str, dict[str, Any]], place: str) -> str:
    """Return a place's seeds solved of ten: rows of agents and critics, columns of estimators.

    The column `returns` is of agents that take none, nor a critic of actions. A dash says that a cell was not run.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for key, entry in found.items():
        where, critic, agent, policy = key.split("/")
        if where == place:
            solved = "refused" if "refused" in entry else str(sum(each >= ENOUGH for each in entry["scores"]))
            rows.setdefault((agent, critic), {})[policy] = solved
    policies = [name for name in ["", *ESTIMATORS] if any(name in row for row in rows.values())]
    lines = ["| agent | critic | " + " | ".join(f"`{name}`" if name else "returns" for name in policies) + " |"]
    lines.append("|---|---|" + "---|" * len(policies))
    order = list(AGENTS)
    for (agent, critic), row in sorted(rows.items(), key=lambda item: (item[0][1], order.index(item[0][0]))):
        entries = [row.get(name, "" if bool(name) != bool(critic) else "–") for name in policies]
        lines.append(f"| `{agent}` | {critic or 'none'} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def totals(found: dict[str, dict[str, Any]]) -> str:
    """Return the seeds solved of thirty by the three agents with a replay: rows of places and critics."""
    policies = [name for name in ESTIMATORS if name in USUAL]
    lines = [
        "| | critic | " + " | ".join(f"`{name}`" for name in policies) + " |",
        "|---|---|" + "---|" * len(policies),
    ]
    for name, place in PLACES.items():
        for critic in place.critics:
            entries = []
            for policy in policies:
                three = [found.get(f"{name}/{critic}/{agent}/{policy}", {}).get("scores") for agent in WITH_REPLAY]
                scores = [score for each in three if each for score in each]
                entries.append(str(sum(each >= ENOUGH for each in scores)) if all(three) else "–")
            lines.append(f"| {place.env.removeprefix('gumbelrl/')} | {critic} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def refusals(found: dict[str, dict[str, Any]]) -> str:
    """Return why cells could not be run, each reason once."""
    reasons: dict[str, list[str]] = {}
    for key, entry in found.items():
        if "refused" in entry:
            reasons.setdefault(entry["refused"], []).append(key)
    return "\n".join(f"- {reason} ({len(keys)} cells, such as {keys[0]})" for reason, keys in reasons.items())


def page(found: dict[str, dict[str, Any]]) -> str:
    """Return the tables of all places that have results, and what was refused."""
    parts = []
    for name, place in PLACES.items():
        if any(key.startswith(f"{name}/") for key in found):
            steps = f"{place.steps:,} steps, {place.steps // 4:,} with a replay"
            kind = "greedy" if place.greedy else "sampled"
            options = "".join(f" {key}={value}" for key, value in place.options.items())
            parts.append(f"**{place.env}**{options}, {steps}; {kind}:\n\n{table(found, name)}")
    return "\n\n".join([*parts, refusals(found)]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS), default=list(AGENTS), metavar="NAME")
    parser.add_argument("--policies", nargs="+", choices=list(ESTIMATORS), default=list(USUAL), metavar="NAME")
    parser.add_argument("--envs", nargs="+", choices=list(PLACES), default=list(PLACES), metavar="NAME")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--compile", action="store_true", help="compile the agents' steps")
    parser.add_argument("--again", action="store_true", help="run cells that have a result too")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables")
    parser.add_argument("--page", action="store_true", help="run nothing, write the tables into docs/what_decides.md")
    options = parser.parse_args()
    results = json.loads(options.output.read_text()) if options.output.exists() else {"found": {}}
    if not (options.table or options.page):
        chosen = cells(options.agents, options.policies, options.envs)
        todo = [cell for cell in chosen if options.again or "/".join(cell) not in results["found"]]
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            for key, entry in pool.imap_unordered(partial(run, compiled=options.compile), todo):
                results["found"][key] = entry
                results |= provenance()
                print(key, entry, flush=True)
                options.output.write_text(json.dumps(results) + "\n")
    if options.page:
        write_parts("what_decides.md", {"matrix": page(results["found"]), "totals": totals(results["found"])})
    else:
        print(page(results["found"]))


if __name__ == "__main__":
    main()
