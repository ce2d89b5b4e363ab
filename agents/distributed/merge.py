"""The folders of parts of a population, each a run of its own, made into that of the whole population."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gumbelrl
from gumbelrl.agents.checkpoint import Checkpoint, CheckpointStore
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import reward_threshold, write_whole
from gumbelrl.agents.model_card import model_card
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.tracking.base import read_metrics

LINES = ("metrics.jsonl", "histograms.jsonl", "evaluations.jsonl")
SECOND_AXIS = ("statistics/running", "statistics/window", "agent/replay/pending/")  # where `member` is not the first
GYMNASIUM = "environment/replay"  # bytes of a JSON list, an entry an environment


def merge_tensors(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the state of a population from those of its parts, members in order.

    Raises:
        RunError: the parts are not at the same place: they hold other names, or counts that differ.
    """
    merged = {}
    for name, first in parts[0].items():
        if any(part.keys() != parts[0].keys() for part in parts):
            raise RunError("the parts of this run hold different states and cannot be joined")
        columns = [part[name] for part in parts]
        if name == GYMNASIUM:
            records = [entry for column in columns for entry in json.loads(column.cpu().numpy().tobytes())]
            merged[name] = torch.frombuffer(bytearray(json.dumps(records).encode()), dtype=torch.uint8).clone()
        elif first.dim() == 0:  # a count, the same for all members
            if not all(torch.equal(column, first) for column in columns):
                raise RunError(f"the parts of this run are not at the same step: {name} differs")
            merged[name] = first
        else:
            merged[name] = torch.cat(columns, dim=1 if name.startswith(SECOND_AXIS) else 0)
    return merged


def merge_checkpoints(parts: Sequence[Checkpoint], config: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint of a population from those of its parts; `config` is the population's."""
    first = parts[0].metadata
    metadata = {
        **first,
        "run": {name: config[name] for name in first["run"]},
        "run_ids": [each for part in parts for each in part.metadata["run_ids"]],
        "solved_at": [each for part in parts for each in part.metadata["solved_at"]],
        "seconds": max(part.metadata["seconds"] for part in parts),
    }
    return Checkpoint(merge_tensors([part.tensors for part in parts]), metadata)


def merge_runs(config: RunConfig, folder: Path, parts: Sequence[Path]) -> dict[str, Any]:
    """Write the run of all seeds into `folder`, from finished runs of some of them each; return its results.

    `results.json` comes last; doing it again does no harm. The parts are left as they are, but for the logs of W&B and
    TensorBoard and the videos, which move.
    """
    described = {**replace(config, output=folder).to_json(), "gumbelrl": gumbelrl.__version__}
    described["torch"] = torch.__version__
    stores = [CheckpointStore(part / "checkpoints") for part in parts]
    whole = merge_checkpoints([store.latest() for store in stores], described)
    CheckpointStore(folder / "checkpoints").save(stores[0].steps()[-1], whole.tensors, whole.metadata)
    for name in LINES:
        merge_lines(folder / name, [part / name for part in parts])
    for part in parts:
        for name in ("wandb", "tensorboard", "videos"):
            _move_contents(part / name, folder / name)
    write_whole(folder / "config.json", json.dumps(described, indent=2) + "\n")
    _plot(folder, config)
    told = [json.loads((part / "results.json").read_text(encoding="utf-8")) for part in parts]
    results: dict[str, Any] = {
        **told[0],
        "train_seconds": max(each["train_seconds"] for each in told),
        "processes": len(parts),
        "members": [member for each in told for member in each["members"]],
    }
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


def _plot(folder: Path, config: RunConfig) -> None:
    from gumbelrl.agents.plots import plot_learning_curve

    title = f"{config.env} · {config.agent} · {config.policy} ({config.critic} critic)"
    metrics = read_metrics(folder / "metrics.jsonl")
    plot_learning_curve(folder / "learning_curve.png", metrics, title=title, threshold=reward_threshold(config.env))
