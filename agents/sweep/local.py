"""A sweep on this machine: its configurations trained one after another, gone on with after a kill, and ranked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gumbelrl.agents.compare.run_set import RunSet
from gumbelrl.agents.compare.runs import Run, read_run
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.progress import format_spread
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.run_folder import write_whole
from gumbelrl.agents.sweep.file import Sweep, configurations, option_words, read_sweep

STATE, RANKING = "sweep.json", "ranking.json"
BuildRuns = Callable[[Sequence[str]], Sequence[RunConfig]]


@dataclass(frozen=True)
class Place:
    """A configuration and what came of it.

    Attributes:
        value: the metric, a mean over seeds; NaN of a run that failed or lacks it.
        status: as `compare.runs.Run` has it.
    """

    folder: Path
    parameters: Mapping[str, Any]
    value: float
    spread: float
    status: str


class LocalSweep:
    """A sweep in a folder: `sweep.json` says what it is, each configuration is a run below it."""

    def __init__(self, sweep: Sweep, runs: RunSet, parameters: Sequence[Mapping[str, Any]]) -> None:
        self.sweep, self.runs, self.parameters = sweep, runs, parameters

    @classmethod
    def open(
        cls, path: Path, *, build: BuildRuns, words: Sequence[str], folder: Path | None, count: int | None, seed: int
    ) -> LocalSweep:
        """Return the sweep of a file, begun or gone on with.

        Args:
            build: words of a command line -> runs.
            words: options that hold for every configuration unless the sweep sets them.
            folder: `runs/sweep_NAME` by default, so that the same command goes on.
            count: the most configurations.
            seed: of random search.

        Raises:
            RunError: the file or a configuration cannot be, or the folder holds something else.
        """
        sweep = read_sweep(path)
        chosen = configurations(sweep, count=count, seed=seed)
        folder = folder or Path("runs") / f"sweep_{path.stem}"
        fixed = [*sweep.words, *without_options(words, ("--sweep", "--count", "--output"))]
        state = {"metric": sweep.metric, "maximise": sweep.maximise, "words": fixed, "parameters": chosen}
        if (folder / STATE).exists():
            held = json.loads((folder / STATE).read_text(encoding="utf-8"))
            if held != json.loads(json.dumps(state)):
                raise RunError(f"{folder} holds another sweep, or this one with other settings: name another --output")
            return cls(sweep, RunSet.load(folder), chosen)
        configs: list[RunConfig] = []
        for each in chosen:
            built = build([*fixed, *option_words(each)])
            if len(built) != 1:
                raise RunError(f"a configuration of a sweep is one run, but {each} asks for {len(built)}")
            if built[0].variations:
                raise RunError(
                    "a sweep ranks runs of one setting each: --vary trains and ranks its values by itself, without "
                    "--sweep; or name them as values in the sweep's file"
                )
            configs += built
        runs = RunSet.create(configs, folder)
        write_whole(folder / STATE, json.dumps(state, indent=1) + "\n")
        return cls(sweep, runs, chosen)

    def run(self) -> list[Place]:
        """Train what is not finished; return the ranking, which `ranking.json` keeps."""
        self.runs.run()
        places = self.rank()
        entries = [
            {"folder": place.folder.name, "parameters": place.parameters, "status": place.status}
            | {name: None if math.isnan(value) else value for name, value in (("value", place.value),)}
            for place in places
        ]
        ranking = {"metric": self.sweep.metric, "maximise": self.sweep.maximise, "places": entries}
        write_whole(self.runs.folder / RANKING, json.dumps(ranking, indent=1) + "\n")
        return places

    def rank(self) -> list[Place]:
        """Return the configurations, best first; those without a value come last."""
        places = []
        for config, parameters in zip(self.runs.configs, self.parameters, strict=True):
            assert config.output is not None
            run = read_run(config.output) if config.output.exists() else None
            values = member_values(run, self.sweep.metric) if run is not None else np.array([math.nan])
            status = "not begun" if run is None else run.status
            places.append(Place(config.output, parameters, float(values.mean()), float(values.std()), status))
        sign = -1.0 if self.sweep.maximise else 1.0
        return sorted(places, key=lambda place: math.inf if math.isnan(place.value) else sign * place.value)


def without_options(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the words less some options that take one value each."""
    kept, skip = [], False
    for word in words:
        if not skip and word not in names and not word.startswith(tuple(f"{name}=" for name in names)):
            kept.append(word)
        skip = not skip and word in names
    return kept


def member_values(run: Run, metric: str) -> np.ndarray:
    """Return a metric of each member: from its results, else the last of its curve; NaN where there is none."""
    name = metric.removesuffix("_mean")
    values = []
    for member in run.results.get("members", []):
        value = member.get(name)
        if value is None and name not in member:
            curve = run.metrics.get(member["seed"], {}).get(name)
            value = None if curve is None or not len(curve) else curve[-1]
        values.append(math.nan if value is None else float(value))
    return np.array(values or [math.nan])


def ranking_table(places: Sequence[Place], metric: str) -> str:
    """Return the ranking as text, a line a configuration."""
    names = list(dict.fromkeys(name for place in places for name in place.parameters))
    header = ["rank", metric, *names, "run"]
    rows = []
    for rank, place in enumerate(places, 1):
        known = not math.isnan(place.value)
        value = format_spread(place.value, place.spread) if known else place.status
        cells = [_cell(place.parameters.get(name, "–")) for name in names]
        rows.append([str(rank) if known else "–", value, *cells, place.folder.name])
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    last = len(header) - 1
    lines = [
        "  ".join(
            cell if column == last else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_sweep(
    path: Path, *, build: BuildRuns, words: Sequence[str], folder: Path | None, count: int | None, seed: int = 0
) -> int:
    """Run a sweep and print its ranking.

    Returns:
        The exit status: 0; 1 where a configuration failed; 130 after Ctrl-C.
    """
    local = LocalSweep.open(path, build=build, words=words, folder=folder, count=count, seed=seed)
    total, finished = len(local.parameters), local.runs.num_finished
    what = "maximise" if local.sweep.maximise else "minimise"
    print(
        f"sweep {path}: {local.sweep.method}, {total} configurations, {what} {local.sweep.metric}"
        + (f"; {finished} finished already" if finished else ""),
        flush=True,
    )
    for name in local.sweep.ignored:
        print(f"{name} is heeded by W&B's server only; every configuration runs to its end", flush=True)
    if count is not None and total < count:
        print(f"the space holds no more than {total} configurations", flush=True)
    try:
        places = local.run()
    except KeyboardInterrupt:
        print(f"\nstopped with {local.runs.num_finished} of {total} finished; the same command goes on", flush=True)
        return 130
    print("\n" + ranking_table(places, local.sweep.metric))
    best = places[0]
    if not math.isnan(best.value):
        print(f"\nbest: {' '.join(option_words(best.parameters))}  in {best.folder}")
    print(f"the ranking is in {local.runs.folder / RANKING}", flush=True)
    return 1 if local.runs.failures else 0
