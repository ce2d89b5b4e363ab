"""What is compared with what: runs that differ in nothing but their seeds are one variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gumbelrl.agents.compare.runs import Columns, Run
from gumbelrl.agents.registry import NO_ESTIMATOR
from gumbelrl.agents.variations import show

# What a run is called and how it is watched; it changes nothing that is learned.
BOOKKEEPING = {
    *("env", "seeds", "output", "device", "threads", "gumbelrl", "torch"),
    *("track", "project", "tags", "notes", "tensorboard", "video"),
    *("evaluation_episodes", "evaluation_interval", "log_interval", "checkpoint_interval"),
    *("chunk_size", "memory_limit"),
}
LEADING = ("agent", "policy", "critic")  # these say themselves what they are; others are shown as name=value
MOST_POINTS = 300  # of a curve: more cannot be seen


@dataclass(frozen=True)
class Variant:
    """The seeds of one variant in one environment.

    Attributes:
        config: of the first run.
        members: entries of `results.json`, one a seed.
        columns: metrics over time, one mapping a seed, in the same order.
        train_seconds: wall time of training, one a run: seeds of a run are trained side by side.
    """

    env: str
    label: str
    config: dict[str, Any]
    members: list[dict[str, Any]]
    columns: list[Columns]
    train_seconds: list[float]

    @property
    def seeds(self) -> list[int]:
        return [member["seed"] for member in self.members]

    def final(self, measure: str) -> np.ndarray:
        """Return the mean return of the last evaluation, `[seed]`; `measure` is `sampled` or `greedy`."""
        return np.array([member[f"eval/{measure}_return"] for member in self.members], dtype=np.float64)

    def curve(self, column: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return steps `[point]` and values `[point, seed]` where all seeds have one; None where a seed never has.

        Seeds that were logged at other steps are interpolated.
        """
        known = []
        for columns in self.columns:
            values = columns.get(column, np.array([]))
            finite = np.isfinite(values)
            if not finite.any():
                return None
            known.append((columns["step"][finite], values[finite]))
        first, last = max(steps[0] for steps, _ in known), min(steps[-1] for steps, _ in known)
        grid = min((steps for steps, _ in known), key=len)
        grid = grid[(grid >= first) & (grid <= last)]
        if len(grid) > MOST_POINTS:
            grid = grid[np.unique(np.linspace(0, len(grid) - 1, MOST_POINTS).round().astype(int))]
        if not len(grid):
            return None
        return grid, np.stack([np.interp(grid, steps, values) for steps, values in known], axis=-1)

    def first_reached(self, threshold: float) -> np.ndarray:
        """Return the step at which the mean of the last 100 training episodes reached a return, infinite if never."""
        steps = []
        for columns in self.columns:
            reached = (columns["train/return"] >= threshold) & (columns["train/episodes"] >= 100)
            steps.append(float(columns["step"][reached][0]) if reached.any() else np.inf)
        return np.array(steps)


def group_runs(runs: Sequence[Run]) -> tuple[list[Variant], list[tuple[Run, str]]]:
    """Return the variants of finished runs, and the runs, with a reason each, whose seeds others stand for already.

    Of two runs of one variant with a seed in common the later one counts.
    """
    runs = [run for run in runs if run.status == "finished"]
    matter = distinguishing(runs)
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.config["env"], label(run.config, matter)), []).append(run)
    variants, left_out = [], []
    for (env, name), members in cells.items():
        kept: list[Run] = []
        for run in sorted(members, key=_finished_at, reverse=True):
            taken = sorted({seed for other in kept for seed in other.config["seeds"]} & set(run.config["seeds"]))
            if taken:
                left_out.append((run, f"a later run of the same settings holds seed {taken[0]} too"))
            else:
                kept.append(run)
        kept.sort(key=lambda run: min(run.config["seeds"]))
        variants.append(
            Variant(
                env=env,
                label=name,
                config=kept[0].config,
                members=[member for run in kept for member in run.results["members"]],
                columns=[run.metrics[seed] for run in kept for seed in run.config["seeds"]],
                train_seconds=[float(run.results["train_seconds"]) for run in kept],
            )
        )
    return variants, left_out


def _finished_at(run: Run) -> float:
    return (run.folder / "results.json").stat().st_mtime


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides how a run learns, flat: the agent's own settings by their names."""
    flat = {name: value for name, value in config.items() if name not in BOOKKEEPING and name != "agent_config"}
    return flat | dict(config.get("agent_config") or {})


def distinguishing(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which runs of one environment and agent differ, and the agent where environments have two.

    What differs between environments only, such as the number of steps, makes no variant.
    """
    found: dict[str, None] = {}
    by_env: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_env.setdefault(run.config["env"], []).append(run.config)
    for configs in by_env.values():
        if len({config["agent"] for config in configs}) > 1:
            found["agent"] = None
        for agent in dict.fromkeys(config["agent"] for config in configs):
            flats = [settings(config) for config in configs if config["agent"] == agent]
            for name in dict.fromkeys(name for flat in flats for name in flat):
                if len({repr(flat.get(name)) for flat in flats}) > 1:
                    found[name] = None
    return list(found)


def label(config: Mapping[str, Any], matter: Sequence[str]) -> str:
    """Return a variant's name: its policy, or its agent if that takes none, and whatever else tells variants apart."""
    flat = settings(config)
    takes_policy = (config["policy"], config["critic"]) != NO_ESTIMATOR
    leading = [name for name in LEADING if name in matter or name == ("policy" if takes_policy else "agent")]
    words = [str(flat[name]) for name in leading if takes_policy or name == "agent"]
    own = dict(config.get("agent_config") or {})
    for name in matter:
        shared = name not in own and name not in LEADING and name in flat
        if (shared and (takes_policy or name != "temperature")) or name in own:
            words.append(f"{name.replace('_', '-')}={_short(flat[name])}")
    return " · ".join(words)


def _short(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list) else show(value)
