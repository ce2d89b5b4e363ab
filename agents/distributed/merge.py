"""The folders of parts of a population, each a run of its own, made into that of the whole population."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gumbelrl
from gumbelrl.agents.checkpoint import CheckpointStore, open_checkpoint, save_columns
from gumbelrl.agents.distributed.member_axes import join_columns
from gumbelrl.agents.experiment import reward_threshold
from gumbelrl.agents.model_card import model_card
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.run_folder import write_whole

LINES = ("metrics.jsonl", "histograms.jsonl", "evaluations.jsonl")


def join_checkpoints(store: CheckpointStore, parts: Sequence[CheckpointStore], config: dict[str, Any]) -> None:
    """Save the last checkpoint of a population from those of its parts, members in order.

    One tensor of one part is in memory at a time: parts may be what memory cannot hold together.

    Args:
        config: the population's.

    Raises:
        RunError: the parts are not at the same place: they hold other names, or counts that differ.
    """
    step = parts[0].steps()[-1]
    metadata = join_metadata([part.metadata(part.steps()[-1]) for part in parts], config)
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(part.folder(part.steps()[-1]))) for part in parts]
        columns = join_columns(opened)
        store.place(step, lambda folder: save_columns(folder, columns, metadata))


def join_metadata(parts: Sequence[dict[str, Any]], config: dict[str, Any]) -> dict[str, Any]:
    return {
        **parts[0],
        "run": {name: config[name] for name in parts[0]["run"]},
        "run_ids": [each for part in parts for each in part["run_ids"]],
        "solved_at": [each for part in parts for each in part["solved_at"]],
        "seconds": max(part["seconds"] for part in parts),
    }


def merge_runs(config: RunConfig, folder: Path, parts: Sequence[Path], *, processes: int = 1) -> dict[str, Any]:
    """Write the run of all seeds into `folder`, from finished runs of some of them each; return its results.

    `results.json` comes last; doing it again does no harm. The parts are left as they are, but for the logs of W&B and
    TensorBoard and the videos, which move.
    """
    described = {**replace(config, output=folder).to_json(), "gumbelrl": gumbelrl.__version__}
    described["torch"] = torch.__version__
    stores = [CheckpointStore(part / "checkpoints") for part in parts]
    join_checkpoints(CheckpointStore(folder / "checkpoints"), stores, described)
    for name in LINES:
        merge_lines(folder / name, [part / name for part in parts])
    for part in parts:
        for name in ("wandb", "tensorboard", "videos"):
            _move_contents(part / name, folder / name)
    write_whole(folder / "config.json", json.dumps(described, indent=2) + "\n")
    _plot(folder, config)
    told = [json.loads((part / "results.json").read_text(encoding="utf-8")) for part in parts]
    seconds = [sum(each["train_seconds"] for each in told[rank::processes]) for rank in range(processes)]
    results: dict[str, Any] = {**told[0], "train_seconds": round(max(seconds), 3)}
    if processes > 1:
        results["processes"] = processes
    results["members"] = [member for each in told for member in each["members"]]
    write_whole(folder / "README.md", model_card(folder, described, results))
    write_whole(folder / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def merge_lines(path: Path, parts: Sequence[Path]) -> None:
    """Write the lines of several files in the order of steps; of equal steps, in the order of the files."""
    lines = [
        line for part in parts if part.exists() for line in part.read_text(encoding="utf-8").splitlines(keepends=True)
    ]
    steps = np.array([json.loads(line)["step"] for line in lines])
    write_whole(path, "".join(lines[index] for index in np.argsort(steps, kind="stable")))


def _move_contents(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    target.mkdir(exist_ok=True)
    for entry in source.iterdir():
        if entry.is_symlink():  # of W&B's, to its latest run
            entry.unlink()
        elif not (target / entry.name).exists():
            shutil.move(str(entry), str(target / entry.name))
        elif entry.is_dir():  # of a variation whose seeds are in two parts
            _move_contents(entry, target / entry.name)


def _plot(folder: Path, config: RunConfig) -> None:
    from gumbelrl.agents.plots import plot_run

    plot_run(folder, config, threshold=reward_threshold(config.env))
