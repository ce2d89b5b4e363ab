"""A population in parts, a process each: `torchrun --nproc-per-node 2 train.py --seeds 0..9`.

Members never meet, so that nothing is exchanged while they train: a part is a run of its own seeds in a folder of its
own below the run's, saved and resumed as any run. When all parts are over they become one folder, that of a run of all
seeds. What is left of an interrupted run can be gone on with by any number of processes, one included.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from gumbelrl.agents.checkpoint import CheckpointStore
from gumbelrl.agents.distributed.chunks import bounds, plan_parts
from gumbelrl.agents.distributed.group import ALONE, AgreedError, GoneError, Group, join_group
from gumbelrl.agents.distributed.merge import merge_runs
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import open_experiment
from gumbelrl.agents.interruption import terminated_as_interrupted
from gumbelrl.agents.run_config import RunConfig, check_config
from gumbelrl.agents.run_folder import claim_folder, default_folder, read_config, write_whole
from gumbelrl.agents.run_report import report

PARTS = "parts.json"
SHARDS = ("members", "envs")  # what processes have between them


def is_in_parts(folder: Path) -> bool:
    """True where the folder is that of a run whose parts have not become one yet."""
    return (folder / PARTS).is_file()


class Parts:
    """The parts of a run; `folder` holds `parts.json`, which says what they are, and a folder each.

    Args:
        name: of each part's own folder, by which W&B groups the members: what the run's folder was called at first.
    """

    def __init__(
        self, config: RunConfig, folder: Path, seeds: Sequence[tuple[int, ...]], *, name: str | None = None
    ) -> None:
        self.config, self.folder = config, folder
        name = name or folder.resolve().name
        self.configs = [
            replace(
                config,
                seeds=config.seeds[members],
                variations=config.variations[members],
                output=folder / f"part-{index}" / name,
            )
            for index, members in enumerate(bounds(seeds))
        ]

    @classmethod
    def create(cls, config: RunConfig, group: Group) -> Parts:
        """Check the run on every process and make its folder on the first.

        Raises:
            RunError: on all processes, what one of them was asked wrongly; nothing has been made.
        """
        error, why = None, ""
        seeds: list[tuple[int, ...]] = []
        try:
            check_config(config)
            if config.stop_at_return is not None:
                raise RunError("--stop-at-return waits for all seeds at once, which train apart here: leave it out")
            seeds, why = plan_parts(config, group.size)
        except RunError as wrong:
            error = wrong
        group.agree(error)
        seeds, why = max(group.gather((seeds, why)), key=lambda planned: len(planned[0]))  # some see less memory
        if why:
            print(why, flush=True)
        folder = group.gather(config.output or default_folder(config))[0]
        if group.rank == 0:
            try:
                claim_folder(folder)
                data = {"config": replace(config, output=folder).to_json(), "parts": [list(part) for part in seeds]}
                data["name"] = folder.resolve().name
                write_whole(folder / PARTS, json.dumps(data, indent=1) + "\n")
            except RunError as wrong:
                error = wrong
        group.agree(error)
        missing = f"{folder} is not seen by every process: --output must be in a folder that all machines share"
        group.agree(None if is_in_parts(folder) else RunError(missing))
        return cls(config, folder, seeds)

    @classmethod
    def load(cls, folder: Path) -> Parts:
        """Return the parts in a folder, wherever it has been moved to.

        Raises:
            RunError: `parts.json` is damaged.
        """
        try:
            data = json.loads((folder / PARTS).read_text(encoding="utf-8"))
            config, seeds = RunConfig.from_json(data["config"]), [tuple(part) for part in data["parts"]]
        except RunError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"--resume {folder}: {folder / PARTS} is damaged ({error})") from error
        return cls(config, folder, seeds, name=data.get("name"))

    def stopped(self) -> str:
        """Return what to say after an interrupt."""
        finished = sum((part.output / "results.json").exists() for part in self.configs if part.output)
        return (
            f"stopped; {finished} of {len(self.configs)} parts are finished, and those in training are saved. To go "
            "on, with any number of processes:"
        )

    def train(self, group: Group) -> dict[str, Any]:
        """Train the parts that are this process's, wait for the others, and make them one; return the results."""
        for index in range(group.rank, len(self.configs), group.size):
            config = self.configs[index]
            assert config.output is not None
            if not (config.output / "results.json").exists():
                seeds = "" if config.variations else f": seeds {config.seeds[0]} … {config.seeds[-1]}"
                print(f"part {index + 1} of {len(self.configs)}{seeds}", flush=True)
                open_experiment(config).run()
                let_go()
        group.gather(None)
        results: dict[str, Any] = {}
        if group.rank == 0:
            parts = [part.output for part in self.configs if part.output]
            results = merge_runs(self.config, self.folder, parts, processes=group.size)
            (self.folder / PARTS).unlink()
            for part in self.configs:
                assert part.output is not None
                shutil.rmtree(part.output.parent, ignore_errors=True)
        group.gather(None)
        return results


def let_go() -> None:
    """Give back the memory of a part that is over, before the next one is looked at."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trains_in_parts(config: RunConfig) -> bool:
    """True of a run whose members one process trains in several parts.

    Raises:
        RunError: the run cannot be.
    """
    return len(plan_parts(config)[0]) > 1


def results_in_parts(folder: Path) -> dict[str, Any] | None:
    """Return the results of a run that is finished, and too large to be loaded whole; None of any other."""
    path = folder / "results.json"
    if not path.is_file() or not trains_in_parts(read_config(folder)):
        return None
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def train_run(config: RunConfig) -> dict[str, Any]:
    """Train a run whose folder is named from where it stands, in parts where memory asks for it; return its results."""
    folder = config.output
    assert folder is not None
    if is_in_parts(folder):
        return Parts.load(folder).train(ALONE)
    if CheckpointStore(folder / "checkpoints").steps() or not trains_in_parts(config):
        return open_experiment(config).run()
    shutil.rmtree(folder, ignore_errors=True)  # stopped before it held anything to go on from
    return Parts.create(config, ALONE).train(ALONE)


class Work(Protocol):
    """What the processes of a group train together."""

    config: RunConfig
    folder: Path

    def train(self, group: Group) -> dict[str, Any]:
        """Train; return the results, on the first process."""

    def stopped(self) -> str:
        """Return what to say after an interrupt, before the command that goes on."""


def train_parts(parts: Work, group: Group, *, start: float) -> int:
    """Train, and print what came of it on the first process; return the exit status."""
    try:
        with terminated_as_interrupted():  # also one that evaluates, or waits for others
            results = parts.train(group)
    except KeyboardInterrupt:
        if group.rank == 0:
            print(f"\n{parts.stopped()}\n  python train.py --resume {parts.folder}", file=sys.stderr)
        return 130
    if group.rank == 0:
        report(parts.config, parts.folder, results, seconds=time.perf_counter() - start)
    return 0


def train_on_processes(choose: Callable[[Group], Work], *, start: float) -> int:
    """Join the processes that torchrun started, train, and leave them; return the exit status.

    Only the first process prints, but for the error of a part that stops training.

    Args:
        choose: returns what is to be trained; its errors become those of all processes.
    """
    group = join_group()
    with contextlib.ExitStack() as stack:
        stack.callback(group.close)
        if group.rank:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            return train_parts(choose(group), group, start=start)
        except AgreedError as error:
            if group.rank == 0:
                print(f"error: {error}", file=sys.stderr)
        except GoneError as error:
            if group.rank <= 1:  # one of the two is still here
                print(f"error: {error}", file=sys.stderr)
        except RunError as error:
            print(f"error: {error} (process {group.rank} of {group.size})", file=sys.stderr)
    return 2
