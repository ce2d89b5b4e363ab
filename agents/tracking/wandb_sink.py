"""The sink of Weights & Biases: a process beside the training keeps the runs, and nothing that it does can stop it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gumbelrl.agents.tracking.base import Counts, Row

CLOSE_TIMEOUT_S = 60.0
PATIENCE_S = 1.0  # beyond this, waiting is told
MOST_WAITING = 20_000  # orders that the process has not taken: some 50 MB
PROGRAM = Path(__file__).with_name("wandb_runs.py")


@dataclass(frozen=True)
class RunLabel:
    """What W&B is told of one member's run.

    Attributes:
        run_id: kept in the checkpoint, so that resuming continues the same run.
        group: folds the members together.
        job_type: `train`, `evaluate` or `compare`.
        config: as JSON has it.
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
    """A sink that writes orders to a process, `wandb_runs.py`, and does not wait for it.

    Two threads sleep in system calls nearly always: one waits for room in the pipe, the other for a report.

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
        self.stopped = False  # nothing more is sent
        self.warnings: list[str] = []
        self.orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.process: subprocess.Popen[str] | None = None
        self.threads: list[threading.Thread] = []
        try:
            self.process = start_process()
        except OSError as error:
            self._stop(f"{type(error).__name__}: {error}")
            return
        for work in (self._write_orders, self._read_reports):
            # Daemons: a process that hangs must not keep this one alive; `close` waits, but not for ever.
            self.threads.append(threading.Thread(target=work, name="wandb", daemon=True))
            self.threads[-1].start()
        told = [asdict(label) for label in labels]
        self._order("open", folder=str(folder.resolve()), mode=mode, labels=told, history=list(history))

    def log(self, member: int, row: Row, histograms: Counts) -> None:
        self._tell()
        self._order("write", member=member, row=row, histograms=histograms)

    def log_evaluation(self, member: int, row: Row) -> None:
        self._order("write", member=member, row=row, histograms={})

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        self._order("summarise", member=member, summary=summary)

    def files(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        self._order("files", kind=kind, paths=[str(path.resolve()) for path in paths], metadata=metadata)

    def use(self, artifacts: Sequence[str]) -> None:
        """Name artifacts of the project as every member's inputs; offline, wandb does not know inputs."""
        self._order("use", artifacts=list(artifacts))

    def flush(self) -> None:
        """Nothing: the other process outlives this one for as long as it takes to keep what it was sent."""

    def close(self, *, failed: bool) -> None:
        self._order("finish", exit_code=1 if failed else 0)
        self.orders.put(None)
        if not self._ends_within(PATIENCE_S):
            if not self.stopped:
                print("waiting for W&B to finish …", flush=True)
                self._ends_within(CLOSE_TIMEOUT_S)
            self._kill()
        self._tell()

    # Waiting and telling --------------------------------------------------------------------------------------------

    def _ends_within(self, seconds: float) -> bool:
        """True once the process has ended: then both threads have, too."""
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)

    def _kill(self) -> None:
        """End the process, where it has not ended; wandb's own ends with it."""
        if self._ends_within(0.0):
            return
        assert self.process is not None
        if not self.stopped:
            self.stopped = True
            self.warnings.append(f"W&B did not finish within {CLOSE_TIMEOUT_S:.0f} s; `wandb sync` can upload the rest")
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)  # it leads a group of its own
            else:
                self.process.kill()
        self._ends_within(PATIENCE_S)

    def _tell(self) -> None:
        """Pass on, from the thread that trains, what the process has to say."""
        while self.warnings:
            warnings.warn(self.warnings.pop(0))

    def _stop(self, reason: str) -> None:
        """Send nothing more; the first reason is told, and no other."""
        if not self.stopped:
            self.stopped = True
            self.warnings.append(f"W&B stopped ({reason}); metrics.jsonl stays complete")

    # The pipes ------------------------------------------------------------------------------------------------------

    def _order(self, name: str, **arguments: Any) -> None:
        if self.stopped:
            return
        if self.orders.qsize() > MOST_WAITING:
            self._stop(f"its process has not taken {MOST_WAITING:,} rows")
            return
        try:
            self.orders.put(json.dumps([name, arguments]) + "\n")
        except (TypeError, ValueError) as error:
            self._stop(f"{type(error).__name__}: {error}")

    def _write_orders(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # a process that has ended: `_read_reports` says why
            while (line := self.orders.get()) is not None:
                self.process.stdin.write(line)
                self.process.stdin.flush()
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def _read_reports(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        finished = False
        with self.process.stdout as reports:
            for line in reports:
                kind, text = json.loads(line)
                finished = finished or kind == "finished"
                if kind == "warning":
                    self.warnings.append(text)
                elif kind == "stopped":
                    self._stop(text)
        status = self.process.wait()
        if not finished:
            self._stop(f"its process ended by itself, with status {status}")
        self.stopped = True
        self.orders.put(None)


def start_process() -> subprocess.Popen[str]:
    """Start the process that keeps runs, without waiting for it.

    It leads a process group of its own, so that Ctrl-C in a terminal reaches the training only, which then has it
    finish; not a session, since Linux shares cores out between sessions before it looks at priorities. `-P` keeps its
    neighbours in the folder from being taken for the libraries that they are named after.
    """
    # A wandb that this process may have started for something else is not that of the runs.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.Popen(
        [sys.executable, "-P", str(PROGRAM), str(os.getpid()), *sys.argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        encoding="utf-8",
        process_group=0,
    )
