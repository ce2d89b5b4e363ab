"""Finished, unfinished and failed runs, found by what their folders hold, whatever they are called."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gumbelrl.agents.checkpoint import CheckpointStore
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.registry import NO_ESTIMATOR
from gumbelrl.agents.tracking.base import read_metrics

FAILURE = "failure.json"
ESSENTIAL = ("env", "agent", "policy", "critic", "seeds")  # what makes a config.json that of a run
COLUMNS = ("step", "train/return", "train/episodes")  # of metrics.jsonl
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """A run's folder as it is now.

    Attributes:
        status: `finished`; `incomplete`: no results yet; `failed`: stopped by an error; `unreadable`: a file is
            damaged.
        reason: what is missing or wrong, in a sentence; empty of a finished run.
        results: what `results.json` holds; empty unless finished.
        metrics: seed -> column -> values over time; empty unless finished.
    """

    folder: Path
    config: dict[str, Any]
    status: str
    reason: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    metrics: Mapping[int, Columns] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What learned, in words; the folder's name where the configuration cannot be read."""
        if not self.config:
            return self.folder.name
        words = list(dict.fromkeys([self.config["agent"], self.config["policy"], self.config["critic"]]))
        return " · ".join([word for word in words if word not in NO_ESTIMATOR])


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """Return the runs in these folders, and in folders below them, each once.

    Raises:
        RunError: a path is not there, or no run lies in it.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise RunError(f"{path}: there is no such folder; give the folders of runs, or a folder that holds some")
        folders = [Path(folder) for folder, _, files in os.walk(path) if "config.json" in files]
        inside = {folder.resolve(): run for folder in sorted(folders) if (run := read_run(folder)) is not None}
        if not inside:
            raise RunError(f"{path} holds no run: no config.json of one lies in it, nor in a folder below it")
        found |= {folder: run for folder, run in inside.items() if folder not in found}
    return list(found.values())


def read_run(folder: Path) -> Run | None:
    """Return the run in a folder; None where its `config.json` is readable and of something else."""
    try:
        config = _read_object(folder / "config.json")
    except ValueError as error:
        beside = any((folder / name).exists() for name in ("metrics.jsonl", "results.json", "checkpoints"))
        return Run(folder, {}, "unreadable", str(error)) if beside else None
    if not all(name in config for name in ESSENTIAL) or not isinstance(config["seeds"], list):
        return None
    try:
        if not (folder / "results.json").exists():
            return _without_results(folder, config)
        results = _read_object(folder / "results.json")
        _check_results(results, config)
        metrics = read_metrics(folder / "metrics.jsonl")
    except OSError as error:
        return Run(folder, config, "unreadable", f"{Path(error.filename).name}: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        return Run(folder, config, "unreadable", f"{type(error).__name__}: {error}")
    if missing := sorted(set(config["seeds"]) - set(metrics)):
        return Run(folder, config, "unreadable", f"metrics.jsonl holds no row of seed {missing[0]}")
    if missing_columns := [name for name in COLUMNS if name not in metrics[config["seeds"][0]]]:
        return Run(folder, config, "unreadable", f"metrics.jsonl has no column {missing_columns[0]}")
    return Run(folder, config, "finished", results=results, metrics=metrics)


def _without_results(folder: Path, config: dict[str, Any]) -> Run:
    """A run that has no results: stopped by an error that was written down, or not finished."""
    steps = CheckpointStore(folder / "checkpoints").steps()
    reached = f"saved at step {steps[-1]:,} of {config.get('total_steps', 0):,}" if steps else "nothing saved yet"
    if (folder / FAILURE).exists():
        return Run(folder, config, "failed", f"{_read_object(folder / FAILURE)['error']} ({reached})")
    return Run(folder, config, "incomplete", f"no results.json; {reached}: `python train.py --resume {folder}` goes on")


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: it holds none; the message names the file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's and Unicode's errors are such
        raise ValueError(f"{path.name} is damaged ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} is damaged (not an object)")
    return data


def _check_results(results: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse results that are not those of all seeds of the run."""
    have, want = [member["seed"] for member in results["members"]], config["seeds"]
    if have != want:
        raise ValueError(f"results.json is of seeds {have}, but config.json says {want}")
    for member in results["members"]:
        for name in ("eval/sampled_return", "eval/greedy_return"):
            if not np.isfinite(member[name]):
                raise ValueError(f"{name} of seed {member['seed']} is {member[name]}")
