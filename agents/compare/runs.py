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
from gumbelrl.agents.tracking.base import read_variations
from gumbelrl.agents.variations import members_by_variation, variation_name

FAILURE = "failure.json"
ESSENTIAL = ("env", "agent", "policy", "critic", "seeds")  # what makes a config.json that of a run
COLUMNS = ("step", "train/return", "train/episodes")  # of metrics.jsonl
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Run:
    """A run's folder as it is now; of a run whose members differ in settings, one variation of them.

    Attributes:
        config: of one variation, that of a run alone with its settings.
        status: `finished`; `incomplete`: no results yet; `failed`: stopped by an error; `unreadable`: a file is
            damaged.
        reason: what is missing or wrong, in a sentence; empty of a finished run.
        results: what `results.json` holds; empty unless finished.
        metrics: seed -> column -> values over time; empty unless finished.
        variation: what it is called; empty of a run that has none, or is not finished.
    """

    folder: Path
    config: dict[str, Any]
    status: str
    reason: str = ""
    results: dict[str, Any] = field(default_factory=dict)
    metrics: Mapping[int, Columns] = field(default_factory=dict)
    variation: str = ""

    @property
    def name(self) -> str:
        """What learned, in words; the folder's name where the configuration cannot be read."""
        if not self.config:
            return self.folder.name
        words = list(dict.fromkeys([self.config["agent"], self.config["policy"], self.config["critic"]]))
        words = [word for word in words if word not in NO_ESTIMATOR]
        return " · ".join([*words, self.variation] if self.variation else words)


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """Return the runs in these folders, and in folders below them, each once; of a finished one every variation.

    Raises:
        RunError: a path is not there, or no run lies in it.
    """
    found: dict[Path, list[Run]] = {}
    for path in paths:
        if not path.is_dir():
            raise RunError(f"{path}: there is no such folder; give the folders of runs, or a folder that holds some")
        folders = [Path(folder) for folder, _, files in os.walk(path) if "config.json" in files]
        inside = {folder.resolve(): runs for folder in sorted(folders) if (runs := read_runs(folder))}
        if not inside:
            raise RunError(f"{path} holds no run: no config.json of one lies in it, nor in a folder below it")
        found |= {folder: runs for folder, runs in inside.items() if folder not in found}
    return [run for runs in found.values() for run in runs]


def read_run(folder: Path) -> Run | None:
    """Return the run in a folder, of several variations one; None where `config.json` is of something else."""
    runs = read_runs(folder)
    return next((run for run in runs if run.status != "finished"), runs[0] if runs else None)


def read_runs(folder: Path) -> list[Run]:
    """Return the run in a folder, or each of its variations; none where `config.json` is of something else."""
    try:
        config = _read_object(folder / "config.json")
    except ValueError as error:
        beside = any((folder / name).exists() for name in ("metrics.jsonl", "results.json", "checkpoints"))
        return [Run(folder, {}, "unreadable", str(error))] if beside else []
    if not all(name in config for name in ESSENTIAL) or not isinstance(config["seeds"], list):
        return []
    try:
        if not (folder / "results.json").exists():
            return [_without_results(folder, config)]
        results = _read_object(folder / "results.json")
        _check_results(results, config)
        metrics = read_variations(folder / "metrics.jsonl")
        parts = variations_of(config, results)
    except OSError as error:
        return [Run(folder, config, "unreadable", f"{Path(error.filename).name}: {error.strerror}")]
    except (ValueError, KeyError, TypeError) as error:
        return [Run(folder, config, "unreadable", f"{type(error).__name__}: {error}")]
    return [_with_results(folder, name, *part, metrics.get(name, {})) for name, part in parts.items()]


def variations_of(config: dict[str, Any], results: dict[str, Any]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return name -> (configuration, results) of a run alone with each variation's settings.

    Variations train side by side, so that each has its members' share of the time.
    """
    variations, members = config.get("variations", ()), results["members"]
    if not variations:
        return {"": (config, results)}
    parts = {}
    for name, own in members_by_variation([variation_name(each) for each in variations]).items():
        alone = {key: value for key, value in config.items() if key != "variations"}
        settings = dict(variations[own[0]])
        alone |= {"seeds": [config["seeds"][each] for each in own]}
        alone |= {key: settings.pop(key) for key in list(settings) if key in config}
        alone["agent_config"] = {**config["agent_config"], **settings}
        share = round(results["train_seconds"] * len(own) / len(members), 3)
        parts[name] = (alone, {**results, "members": [members[each] for each in own], "train_seconds": share})
    return parts


def _with_results(
    folder: Path, variation: str, config: dict[str, Any], results: dict[str, Any], metrics: Mapping[int, Columns]
) -> Run:
    """A run that has results: finished, if its curves are there."""
    if missing := sorted(set(config["seeds"]) - set(metrics)):
        return Run(folder, config, "unreadable", f"metrics.jsonl holds no row of seed {missing[0]}")
    if missing_columns := [name for name in COLUMNS if name not in metrics[config["seeds"][0]]]:
        return Run(folder, config, "unreadable", f"metrics.jsonl has no column {missing_columns[0]}")
    return Run(folder, config, "finished", results=results, metrics=metrics, variation=variation)


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
    variations = [variation_name(each) for each in config.get("variations", ())]
    if variations and [member.get("variation") for member in results["members"]] != variations:
        raise ValueError("results.json is of other variations than config.json")
    for member in results["members"]:
        for name in ("eval/sampled_return", "eval/greedy_return"):
            if not np.isfinite(member[name]):
                raise ValueError(f"{name} of seed {member['seed']} is {member[name]}")
