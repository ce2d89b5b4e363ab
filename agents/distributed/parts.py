"""A population in parts, a process each: `torchrun --nproc-per-node 2 train.py --seeds 0..9`.

Members never meet, so that nothing is exchanged while they train: a part is a run of its own seeds in a folder of its
own below the run's, saved and resumed as any run. When all parts are over they become one folder, that of a run of all
seeds. What is left of an interrupted run can be gone on with by any number of processes, one included.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gumbelrl.agents.distributed.group import AgreedError, Group, join_group
from gumbelrl.agents.distributed.merge import merge_runs
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import (
    claim_folder,
    default_folder,
    load_experiment,
    open_experiment,
    report,
    write_whole,
)
from gumbelrl.agents.run_config import RunConfig, check_config

PARTS = "parts.json"


def is_in_parts(folder: Path) -> bool:
    """True where the folder is that of a run whose parts have not become one yet."""
    return (folder / PARTS).is_file()


def split_seeds(seeds: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Return `size` runs of neighbouring seeds, as equal as can be, the longer first.

    Raises:
        RunError: there are fewer seeds than parts.
    """
    if len(seeds) < size:
        raise RunError(
            f"{size} processes share the seeds, and {len(seeds)} cannot be shared by so many: name more, such as "
            f"--seeds 0..{size - 1}, or start fewer processes"
        )
    least, more = divmod(len(seeds), size)
    ends = [least * part + min(part, more) for part in range(size + 1)]
    return [tuple(seeds[start:end]) for start, end in itertools.pairwise(ends)]


class Parts:
    """The parts of a run; `folder` holds `parts.json`, which says what they are, and a folder each.

    The part's own folder has the name of the run's, by which W&B groups the members.
    """

    def __init__(self, config: RunConfig, folder: Path, seeds: Sequence[tuple[int, ...]]) -> None:
        self.config, self.folder = config, folder
        self.configs = [
            replace(config, seeds=part, output=folder / f"part-{index}" / folder.resolve().name)
            for index, part in enumerate(seeds)
        ]

    @classmethod
    def create(cls, config: RunConfig, group: Group) -> Parts:
        """Check the run on every process and make its folder on the first.

        Raises:
            RunError: on all processes, what one of them was asked wrongly; nothing has been made.
        """
        error, seeds = None, []
        try:
            check_config(config)
            if config.stop_at_return is not None:
                raise RunError("--stop-at-return waits for all seeds at once, which train apart here: leave it out")
            seeds = split_seeds(config.seeds, group.size)
        except RunError as wrong:
            error = wrong
        group.agree(error)
        folder = group.gather(config.output or default_folder(config))[0]
        if group.rank == 0:
            try:
                claim_folder(folder)
                data = {"config": replace(config, output=folder).to_json(), "parts": [list(part) for part in seeds]}
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
        return cls(config, folder, seeds)

    def train(self, group: Group) -> dict[str, Any]:
        """Train the parts that are this process's, wait for the others, and make them one; return the results."""
        for index in range(group.rank, len(self.configs), group.size):
            config = self.configs[index]
            assert config.output is not None
            if not (config.output / "results.json").exists():
                what = f"part {index + 1} of {len(self.configs)}: seeds {config.seeds[0]} … {config.seeds[-1]}"
                print(what, flush=True)
                open_experiment(config).run()
        group.gather(None)
        results: dict[str, Any] = {}
        if group.rank == 0:
            results = merge_runs(self.config, self.folder, [part.output for part in self.configs if part.output])
            (self.folder / PARTS).unlink()
            for part in self.configs:
                assert part.output is not None
                shutil.rmtree(part.output.parent, ignore_errors=True)
        group.gather(None)
        return results


def train_parts(parts: Parts, group: Group, *, start: float) -> int:
    """Train, and print what came of it on the first process; return the exit status."""
    try:
        results = parts.train(group)
    except KeyboardInterrupt:
        if group.rank == 0:
            print(
                "\nstopped; every process saves its part. To go on, with any number of processes:\n"
                f"  python train.py --resume {parts.folder}",
                file=sys.stderr,
            )
        return 130
    if group.rank == 0:
        report(load_experiment(parts.folder), results, seconds=time.perf_counter() - start)
    return 0


def train_on_processes(choose_parts: Callable[[Group], Parts], *, start: float) -> int:
    """Join the processes that torchrun started, train, and leave them; return the exit status.

    Only the first process prints, but for the error of a part that stops training.

    Args:
        choose_parts: returns what is to be trained; its errors become those of all processes.
    """
    group = join_group()
    with contextlib.ExitStack() as stack:
        stack.callback(group.close)
        if group.rank:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            return train_parts(choose_parts(group), group, start=start)
        except AgreedError as error:
            if group.rank == 0:
                print(f"error: {error}", file=sys.stderr)
        except RunError as error:
            print(f"error: {error} (process {group.rank} of {group.size})", file=sys.stderr)
    return 2
