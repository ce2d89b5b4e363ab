"""Weights & Biases: one run a member, grouped; offline unless the user is logged in. The only importer of wandb.

This file is a program too, the one that `wandb_sink` starts: a process that does nothing but keep runs, so that
importing wandb (0.7 s), starting it and writing to it cost the training process nothing. It is run by its path and
imports nothing of its own package, since `gumbelrl.agents` brings torch along, which is not needed here.

Orders come over standard input and reports go out over standard output, a JSON array a line each:

    in   [method of WandbRuns, {argument: value}]; `open` first, `finish` last
    out  ["warning" | "stopped" | "finished", text]

Standard input that ends without `finish` is a training process that was killed: the runs are marked failed, with the
last metrics that it sent.

A run is gone on with by its id. What of its history W&B lacks (all of it where it is offline) is written again from the
JSON lines; what W&B has already is not sent twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

LEAST_FREE_BYTES = 1 << 20  # wandb drops what it cannot write without a word, so room is looked for first
PREDECESSOR_TIMEOUT_S = 30.0
PARENT_INTERVAL_S = 5.0
NICENESS = 10  # where processes share cores, training goes first; at the end it waits, and this one has its core
KILLED = 137  # the exit status by which a shell reports a process that was killed
PREFIXES = ("train", "eval", "gradient", "policy", "time")


class WandbRuns:
    """The W&B runs of the members of one training.

    Args:
        warn: takes what the user is to be told.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.folder = Path()
        self.labels: Sequence[Mapping[str, Any]] = ()
        self.runs: list[Any] = []
        self.lock: int | None = None

    # Orders ---------------------------------------------------------------------------------------------------------

    def open(
        self,
        *,
        folder: str,
        mode: str,
        labels: Sequence[Mapping[str, Any]],
        history: Sequence[tuple[int, Mapping[str, Any], Mapping[str, Sequence[int]]]],
    ) -> None:
        """Begin the runs, or go on with them.

        Args:
            folder: where `wandb/` goes, and where pictures and videos lie; absolute.
            mode: `online`, `offline`, or `auto`: online when the user is logged in.
            labels: the fields of a `RunLabel`, one a member.
            history: what the JSON lines hold already: (member, row, histograms) in the order of steps.
        """
        self.folder, self.labels = Path(folder), labels
        os.environ.setdefault("WANDB_SILENT", "true")
        (self.folder / "wandb").mkdir(exist_ok=True)  # where that cannot be, wandb would write somewhere else
        # A training that was killed, and is now gone on with, may have left a process that still keeps these runs.
        self.lock = hold(self.folder / "wandb" / f".{labels[0]['run_id']}.lock", timeout=PREDECESSOR_TIMEOUT_S)
        mode = self._choose_mode(mode)
        try:
            self._begin(mode)
        except Exception as error:
            if mode != "online":
                raise
            self._stay_offline(f"{type(error).__name__}: {error}")
            let_go()
            self._begin("offline")
        for member, row, histograms in history:
            self.write(member=member, row=row, histograms=histograms)
        if mode == "offline":
            self._remove_superseded()

    def write(self, *, member: int, row: Mapping[str, Any], histograms: Mapping[str, Sequence[int]]) -> None:
        """Take a row: numbers, None for NaN, and names of pictures and videos in the folder."""
        import wandb

        run = self.runs[member]
        if row["step"] < run.starting_step:  # W&B has it from before the run was resumed
            return
        _check_room(self.folder / "wandb")
        data: dict[str, Any] = {name: self._value(value) for name, value in row.items()}
        for name, counts in histograms.items():
            edges = [index / len(counts) for index in range(len(counts) + 1)]
            data[name] = wandb.Histogram(np_histogram=(list(counts), edges))  # type: ignore[arg-type]
        # Not committed before a later step comes: an evaluation joins the row of its step.
        run.log(data, step=row["step"])

    def summarise(self, *, member: int, summary: Mapping[str, Any]) -> None:
        self.runs[member].summary.update(dict(summary))

    def files(self, *, kind: str, paths: Sequence[str], metadata: Mapping[str, Any]) -> None:
        """Give a version of an artifact to the first member's run: the members share their files."""
        import wandb

        run = self.runs[0]
        artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind, metadata=dict(metadata))
        for path in map(Path, paths):
            # Immutable: not copied; these files are not written again without a log that takes this one's place.
            add = artifact.add_dir if path.is_dir() else artifact.add_file
            add(str(path), policy="immutable")
        if kind == "config" and not run.offline:  # an input of every member; offline, wandb knows outputs only
            for each in self.runs:
                each.use_artifact(artifact)
            return
        aliases = ["latest", *([f"step-{metadata['step']}"] if "step" in metadata else [])]
        run.log_artifact(artifact, aliases=aliases)

    def use(self, *, artifacts: Sequence[str]) -> None:
        """Name artifacts of the project as every member's inputs; offline, wandb does not know inputs."""
        missing = []
        for name in artifacts:
            try:
                for run in self.runs:
                    if not run.offline:
                        run.use_artifact(name)
            except Exception as error:  # of a run that was not tracked online, say: the rest is worth having
                missing.append(f"{name} ({type(error).__name__}: {error})")
        if missing:
            self.warn(f"W&B does not know what this was made from: {'; '.join(missing)}")

    def finish(self, *, exit_code: int) -> None:
        for run in self.runs:
            run.finish(exit_code=exit_code)
        _check_room(self.folder / "wandb")  # the last rows may have met a full disk

    # Beginning ------------------------------------------------------------------------------------------------------

    def _choose_mode(self, asked: str) -> str:
        """Return the mode to start in; `online` needs a key to log in with."""
        import wandb

        if asked == "auto" and (wished := os.environ.get("WANDB_MODE")):
            return wished
        # Neither a question on the terminal nor a word over the network.
        if asked == "offline" or wandb.login(prompt=False, verify=False):
            return "offline" if asked == "offline" else "online"
        if asked == "online":
            self._stay_offline("you are not logged in: `wandb login` does that")
        return "offline"

    def _stay_offline(self, reason: str) -> None:
        self.warn(
            f"W&B is not reached ({reason}); the run is kept offline, `wandb sync {self.folder}/wandb/offline-run-*` "
            "uploads it"
        )

    def _begin(self, mode: str) -> None:
        import wandb

        self.runs.clear()
        for label in self.labels:
            run = wandb.init(
                project=label["project"],
                group=label["group"],
                job_type=label["job_type"],
                name=label["name"],
                id=label["run_id"],
                # An offline log holds the whole run: what a server has of it is replaced when it is uploaded.
                resume="allow" if mode == "online" else None,
                dir=str(self.folder),
                mode=mode,  # type: ignore[arg-type]
                config=dict(label["config"]),
                tags=list(label["tags"]),
                notes=label["notes"] or None,
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
            )
            run.define_metric("step", hidden=True)
            for prefix in PREFIXES:
                run.define_metric(f"{prefix}/*", step_metric="step")
            self.runs.append(run)

    def _remove_superseded(self) -> None:
        """Remove the logs of killed processes: the new one holds all of the run, and the JSON lines do anyway."""
        for label, run in zip(self.labels, self.runs, strict=True):
            mine = Path(run.dir).resolve().parent
            for old in (self.folder / "wandb").glob(f"offline-run-*-{label['run_id']}"):
                if old.resolve() != mine:
                    shutil.rmtree(old, ignore_errors=True)

    def _value(self, value: Any) -> Any:
        import wandb

        if not isinstance(value, str):
            return float("nan") if value is None else value
        path = self.folder / value
        if path.suffix == ".png":
            return wandb.Image(str(path))
        return wandb.Video(str(path), format=path.suffix.removeprefix("."))  # type: ignore[arg-type]


def _check_room(folder: Path) -> None:
    """Raise the error of a full disk before wandb meets it."""
    if folder.exists() and shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def hold(path: Path, *, timeout: float) -> int | None:
    """Lock a file for as long as this process lives, once no other process holds it; return its descriptor.

    None where another one still holds it after `timeout` seconds, or where there are no such locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor, deadline = os.open(path, os.O_CREAT | os.O_RDWR), time.monotonic() + timeout
    with contextlib.suppress(OSError):  # a file system without locks
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.05)
    os.close(descriptor)
    return None


def let_go() -> None:
    """Take down what is left of wandb, whatever state it is in."""
    with contextlib.suppress(BaseException):
        import wandb

        wandb.teardown()


def default_entity() -> str | None:
    """Return the user or team that W&B puts runs under, or None for who is not logged in."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        return None
    return str(wandb.Api().default_entity)


# The process ---------------------------------------------------------------------------------------------------------

Order = tuple[str, Mapping[str, Any]]
Tell = Callable[[str, str], None]


def read_orders(source: BinaryIO, *, parent: int) -> Iterator[Order]:
    """Yield the orders until they end, by the end of the file or that of the training process, `parent`.

    They are read as they come, by a thread, so that whoever writes never waits for wandb. The parent is looked at as
    well because processes that it has forked, for environments say, may outlive it and keep the pipe open.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):  # closed by somebody else: that is the end, too
            for line in source:
                lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, name="orders", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=PARENT_INTERVAL_S)
        except queue.Empty:
            if os.getppid() != parent:
                return
            continue
        if not line.endswith(b"\n"):  # the end, or an order that was cut short
            return
        name, arguments = json.loads(line)
        yield name, arguments


def serve(orders: Iterable[Order], tell: Tell) -> None:
    """Do what is ordered until `finish`; whatever wandb raises, `SystemExit` included, is one report."""
    runs = WandbRuns(lambda text: tell("warning", text))
    known = (runs.open, runs.write, runs.summarise, runs.files, runs.use, runs.finish)
    methods: dict[str, Callable[..., None]] = {method.__name__: method for method in known}
    try:
        for name, arguments in orders:
            methods[name](**arguments)
            if name == "finish":
                tell("finished", "")
                return
        runs.finish(exit_code=KILLED)
    except BaseException as error:
        tell("stopped", f"{type(error).__name__}: {error}".strip(": "))


def leave_out_what_is_not_used() -> None:
    """Keep wandb from importing what these runs never need: a third of the processor time of a short run.

    Of every value that is no number it asks whether that is a data frame of pandas', and at the start whether inputs of
    a W&B Launch job are waiting; each is an import of a quarter of a second (wandb 0.31). A wandb that asks for neither
    does not notice.
    """
    sys.modules["pandas"] = None  # type: ignore[assignment]  # as if it was not installed
    inputs = types.ModuleType("wandb.sdk.launch.inputs.internal")
    inputs.__dict__["StagedLaunchInputs"] = type("StagedLaunchInputs", (), {"apply": lambda self, run: None})
    sys.modules[inputs.__name__] = inputs


def main(parent: int, command: Sequence[str]) -> None:
    """Serve a training process, and end when it does, not when someone presses Ctrl-C.

    Args:
        parent: its id.
        command: the program that it is and its arguments, which W&B shows as the run's.
    """
    sys.argv[:] = command
    os.environ.setdefault("WANDB_PROGRAM", command[0])
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what wandb may print is no report

    def tell(kind: str, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            print(json.dumps([kind, text]), file=reports, flush=True)

    leave_out_what_is_not_used()
    serve(read_orders(sys.stdin.buffer, parent=parent), tell)
    let_go()
    os._exit(0)  # without what wandb does at the end of a process: it has been done


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
