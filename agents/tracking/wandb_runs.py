"""Weights & Biases: one run a member, grouped; offline unless the user is logged in. The only importer of wandb.

Everything wandb does happens in one thread of its own, fed by a queue: starting it (about a second) and writing to it
do not hold training up, and whatever goes wrong there is one warning, never the end of the training.

A run is gone on with by its id. What of its history W&B lacks (all of it where it is offline, since a killed process
leaves a log cut short) is written again from the JSON lines; what W&B has already is not sent twice.
"""

from __future__ import annotations

import errno
import os
import queue
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gumbelrl.agents.tracking.base import NUM_BINS, Counts, Row, is_media

CLOSE_TIMEOUT_S = 60.0
PATIENCE_S = 1.0  # beyond this, waiting is told
LEAST_FREE_BYTES = 1 << 20  # wandb drops what it cannot write without a word, so room is looked for first
PREFIXES = ("train", "eval", "gradient", "policy", "time")


@dataclass(frozen=True)
class RunLabel:
    """What W&B is told of one member's run.

    Attributes:
        run_id: kept in the checkpoint, so that resuming continues the same run.
        group: folds the members together.
        job_type: `train` or `evaluate`.
    """

    project: str
    group: str
    job_type: str
    name: str
    run_id: str
    config: Mapping[str, Any]
    tags: Sequence[str] = ()
    notes: str = ""


class WandbSink:
    """A sink that hands everything to a thread.

    Args:
        folder: where `wandb/` goes, and where pictures and videos lie.
        mode: `online`, `offline`, or `auto`: online when the user is logged in.
        labels: one a member.
        history: what the JSON lines hold already: (member, row, histograms) in the order of steps.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        labels: Sequence[RunLabel],
        history: Sequence[tuple[int, Row, Counts]] = (),
    ) -> None:
        self.folder, self.mode, self.labels = folder.resolve(), mode, labels
        self.failure: str | None = None
        self.warnings: list[str] = []
        self.runs: list[Any] = []
        self.jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.jobs.put(lambda: self._start(history))
        # A daemon: a hung upload must not keep the process alive; `close` waits for it, but not for ever.
        self.thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self.thread.start()

    # What the training thread calls ---------------------------------------------------------------------------------

    def log(self, member: int, row: Row, histograms: Counts) -> None:
        self._tell()
        self.jobs.put(lambda: self._write(member, row, histograms))

    def log_evaluation(self, member: int, row: Row) -> None:
        self.jobs.put(lambda: self._write(member, row, {}))

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        self.jobs.put(lambda: self.runs[member].summary.update(dict(summary)))

    def files(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        self.jobs.put(lambda: self._log_artifact(kind, [path.resolve() for path in paths], metadata))

    def use(self, artifact: str) -> None:
        """Name an artifact of the project as every member's input; offline, wandb does not know inputs."""

        def job() -> None:
            for run in self.runs:
                if not run.offline:
                    run.use_artifact(artifact)

        self.jobs.put(job)

    def flush(self) -> None:
        """Nothing: a run that is gone on with is completed from the JSON lines."""

    def close(self, *, failed: bool) -> None:
        def finish() -> None:
            for run in self.runs:
                run.finish(exit_code=1 if failed else 0)
            _check_room(self.folder / "wandb")  # the last rows may have met a full disk

        self.jobs.put(finish)
        self.jobs.put(None)
        self.thread.join(min(PATIENCE_S, CLOSE_TIMEOUT_S))
        if self.thread.is_alive():
            print("waiting for W&B to finish …", flush=True)
            self.thread.join(CLOSE_TIMEOUT_S)
        self._tell()
        if self.thread.is_alive():
            warnings.warn(f"W&B did not finish within {CLOSE_TIMEOUT_S:.0f} s; `wandb sync` can upload the rest")

    def _tell(self) -> None:
        """Pass on, from the thread that trains, what the other one has to say."""
        while self.warnings:
            warnings.warn(self.warnings.pop(0))

    # What the other thread does -------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            if self.failure is not None:
                continue
            try:
                job()
            except BaseException as error:  # whatever wandb raises, SystemExit included, training goes on
                self.failure = f"{type(error).__name__}: {error}".strip(": ")
                self.warnings.append(f"W&B stopped ({self.failure}); metrics.jsonl stays complete")
                self._let_go()

    def _let_go(self) -> None:
        """Take down what is left of wandb: it would complain when the process ends, and the next run starts afresh."""
        import contextlib

        with contextlib.suppress(BaseException):
            import wandb

            wandb.teardown(exit_code=1)

    def _start(self, history: Sequence[tuple[int, Row, Counts]]) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        mode = self._choose_mode(wandb)
        try:
            self._open(wandb, mode)
        except Exception as error:
            if mode != "online":
                raise
            self._stay_offline(f"{type(error).__name__}: {error}")
            self._let_go()
            self._open(wandb, "offline")
        for member, row, histograms in history:
            self._write(member, row, histograms)
        if mode == "offline":
            self._remove_superseded()

    def _choose_mode(self, wandb: Any) -> str:
        """Return the mode to start in; `online` needs a key to log in with."""
        if self.mode == "auto" and (asked := os.environ.get("WANDB_MODE")):
            return asked
        # Neither a question on the terminal nor a word over the network.
        if self.mode == "offline" or wandb.login(prompt=False, verify=False):
            return "offline" if self.mode == "offline" else "online"
        if self.mode == "online":
            self._stay_offline("you are not logged in: `wandb login` does that")
        return "offline"

    def _stay_offline(self, reason: str) -> None:
        self.warnings.append(
            f"W&B is not reached ({reason}); the run is kept offline, `wandb sync {self.folder}/wandb/offline-run-*` "
            "uploads it"
        )

    def _open(self, wandb: Any, mode: str) -> None:
        self.runs.clear()
        for label in self.labels:
            run = wandb.init(
                project=label.project,
                group=label.group,
                job_type=label.job_type,
                name=label.name,
                id=label.run_id,
                # An offline log holds the whole run: what a server has of it is replaced when it is uploaded.
                resume="allow" if mode == "online" else None,
                dir=str(self.folder),
                mode=mode,
                config=dict(label.config),
                tags=list(label.tags),
                notes=label.notes or None,
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
            run.define_metric("step", hidden=True)
            for prefix in PREFIXES:
                run.define_metric(f"{prefix}/*", step_metric="step")
            self.runs.append(run)

    def _write(self, member: int, row: Row, histograms: Counts) -> None:
        import wandb

        run = self.runs[member]
        if row["step"] < run.starting_step:  # W&B has it from before the run was resumed
            return
        _check_room(self.folder / "wandb")
        data: dict[str, Any] = {name: self._value(wandb, value) for name, value in row.items()}
        edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
        for name, counts in histograms.items():
            data[name] = wandb.Histogram(np_histogram=(np.asarray(counts), edges))
        # Not committed before a later step comes: an evaluation joins the row of its step.
        run.log(data, step=row["step"])

    def _value(self, wandb: Any, value: Any) -> Any:
        if not is_media(value):
            return float("nan") if value is None else value
        path = self.folder / value
        if path.suffix == ".png":
            return wandb.Image(str(path))
        return wandb.Video(str(path), format=path.suffix.removeprefix("."))

    def _log_artifact(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Give a version of an artifact to the first member's run: the members share their files."""
        import wandb

        run = self.runs[0]
        artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind, metadata=dict(metadata))
        for path in paths:
            # Immutable: not copied; these files are never written again.
            add = artifact.add_dir if path.is_dir() else artifact.add_file
            add(str(path), policy="immutable")
        if kind == "config" and not run.offline:  # an input of every member; offline, wandb knows outputs only
            for each in self.runs:
                each.use_artifact(artifact)
            return
        aliases = ["latest", *([f"step-{metadata['step']}"] if "step" in metadata else [])]
        run.log_artifact(artifact, aliases=aliases)

    def _remove_superseded(self) -> None:
        """Remove the logs of killed processes: the new one holds all of the run, and the JSON lines do anyway."""
        for label, run in zip(self.labels, self.runs, strict=True):
            mine = Path(run.dir).resolve().parent
            for old in (self.folder / "wandb").glob(f"offline-run-*-{label.run_id}"):
                if old.resolve() != mine:
                    shutil.rmtree(old, ignore_errors=True)


def _check_room(folder: Path) -> None:
    """Raise the error of a full disk before wandb meets it."""
    if folder.exists() and shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def default_entity() -> str | None:
    """Return the user or team that W&B puts runs under, or None for who is not logged in."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        return None
    return str(wandb.Api().default_entity)
