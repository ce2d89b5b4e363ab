"""Weights & Biases: one run a member, grouped; offline unless the user is logged in. The only importer of wandb.

Everything wandb does happens in one thread of its own, fed by a queue: starting it (about a second) and writing to it
do not hold training up, and whatever goes wrong there is one warning, never the end of the training.
"""

from __future__ import annotations

import os
import queue
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLOSE_TIMEOUT_S = 60.0


class WandbSink:
    """A sink that hands everything to a thread.

    Args:
        folder: where `wandb/` goes.
        mode: `online`, `offline`, or `auto`: online when the user is logged in.
        names: one run name a member; `group` folds them together.
        run_ids: one run id a member, kept in the checkpoint, so that resuming continues the same runs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        project: str,
        group: str,
        names: Sequence[str],
        run_ids: Sequence[str],
        configs: Sequence[Mapping[str, Any]],
        tags: Sequence[str],
    ) -> None:
        self.failure: str | None = None
        self.told = False
        self.runs: list[Any] = []
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

        def start() -> None:
            import wandb

            chosen = _choose_mode(wandb) if mode == "auto" else mode
            os.environ.setdefault("WANDB_SILENT", "true")
            for name, run_id, config in zip(names, run_ids, configs, strict=True):
                run = wandb.init(
                    project=project,
                    group=group,
                    name=name,
                    id=run_id,
                    resume="allow",
                    dir=str(folder),
                    mode=chosen,  # type: ignore[arg-type]
                    config=dict(config),
                    tags=list(tags),
                    job_type="train",
                    reinit="create_new",
                    settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
                )
                run.define_metric("step")
                run.define_metric("*", step_metric="step")
                self.runs.append(run)

        self.jobs.put(start)
        # A daemon: a hung upload must not keep the process alive; `close` waits for it, but not for ever.
        self.thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            if self.failure is not None:
                continue
            try:
                job()
            except Exception as error:  # whatever wandb raises, training goes on
                self.failure = f"{type(error).__name__}: {error}"

    def _tell(self) -> None:
        """Warn once, from the thread that trains, that nothing reaches W&B any more."""
        if self.failure is not None and not self.told:
            self.told = True
            warnings.warn(f"W&B stopped ({self.failure}); metrics.jsonl stays complete")

    def log(self, member: int, row: Mapping[str, float], histograms: Mapping[str, np.ndarray]) -> None:
        self._tell()

        def job() -> None:
            import wandb

            data: dict[str, Any] = dict(row)
            for name, values in histograms.items():
                data[name] = wandb.Histogram(np_histogram=np.histogram(values, bins=32, range=(0.0, 1.0)))
            self.runs[member].log(data)

        self.jobs.put(job)

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        self.jobs.put(lambda: self.runs[member].summary.update(dict(summary)))

    def image(self, name: str, path: Path) -> None:
        """Attach a picture to the first member's run."""

        def job() -> None:
            import wandb

            self.runs[0].log({name: wandb.Image(str(path))})

        self.jobs.put(job)

    def close(self, *, failed: bool) -> None:
        def job() -> None:
            for run in self.runs:
                run.finish(exit_code=1 if failed else 0)

        self.jobs.put(job)
        self.jobs.put(None)
        self.thread.join(CLOSE_TIMEOUT_S)
        self._tell()
        if self.thread.is_alive():
            warnings.warn(f"W&B did not finish within {CLOSE_TIMEOUT_S:.0f} s; `wandb sync` can upload the rest")


def _choose_mode(wandb: Any) -> str:
    """Return what WANDB_MODE says, or `online` when there is a key to log in with, and `offline` otherwise."""
    if asked := os.environ.get("WANDB_MODE"):
        return asked
    # Neither a question on the terminal nor a word over the network.
    return "online" if wandb.login(prompt=False, verify=False) else "offline"
