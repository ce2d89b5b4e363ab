"""Where the time of a run goes: `train.py … --profile`.

Some iterations warm up, some are timed by region, some are traced by `torch.profiler`; the trace opens in Perfetto
(https://ui.perfetto.dev, or chrome://tracing). Regions are put around methods of the very objects that are profiled, so
that a run without `--profile` has none. Tracing slows every operation down by some microseconds: times of regions are
taken without it.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from gumbelrl.agents.evaluation import evaluate_both
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.progress import format_seconds

WARM_UP, TIMED, TRACED = 1.0, 3.0, 0.3  # seconds, of iterations that are not traced
FEWEST = 3  # iterations of each kind
TRACE, SUMMARY = "trace.json.gz", "profile.json"
REST = "the loop itself"
NUM_OPERATIONS = 12

# Region -> (object, method) pairs; those that an agent does not have are left out.
REGIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "rollout": (("trainer", "collect"),),
    "act": (("trainer", "_act"),),
    "environment": (("env", "step"),),
    "update": (("agent", "update"),),
    "targets": (("agent", "_rows"), ("agent", "next_value")),
    "replay": (("replay", "add"), ("replay", "sample")),
    "optimiser": (("optimiser", "step"),),
    "diagnose": (("agent", "diagnose"),),
}


@dataclass
class Clock:
    """Seconds inside each region, without those of the regions inside it."""

    synchronise: Callable[[], None]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    inside: list[float] = field(default_factory=list)

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        self.synchronise()
        start = time.perf_counter()
        self.inside.append(0.0)
        try:
            yield
        finally:
            self.synchronise()
            total = time.perf_counter() - start
            self.seconds[name] += total - self.inside.pop()
            self.calls[name] += 1
            if self.inside:
                self.inside[-1] += total


Region = Callable[[str], Any]


@contextmanager
def regions(trainer: Any, region: Region) -> Iterator[None]:
    """Put `region(name)` around the methods in `REGIONS` of a trainer and of what it holds, and take it off again."""
    agent = trainer.agent
    owners = {
        "trainer": trainer,
        "env": trainer.env,
        "agent": agent,
        "replay": getattr(agent, "replay", None),
        "optimiser": getattr(agent, "optimizer", None),
    }
    put: list[tuple[Any, str, Any]] = []
    for name, places in REGIONS.items():
        for owner, method in ((owners[key], method) for key, method in places):
            if callable(inner := getattr(owner, method, None)):
                put.append((owner, method, vars(owner).get(method)))
                setattr(owner, method, _inside(name, inner, region))
    try:
        yield
    finally:
        for owner, method, before in put:
            if before is None:
                delattr(owner, method)
            else:
                setattr(owner, method, before)


def _inside(name: str, method: Callable[..., Any], region: Region) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # inside a compiled step there are no regions, only its kernels
            return method(*args, **kwargs)
        with region(name):
            return method(*args, **kwargs)

    return call


def profile_run(experiment: Experiment) -> int:
    """Profile a run that has just been made, and print where the time goes; return the exit status.

    It writes `trace.json.gz` and `profile.json` to the run's folder and trains no further.
    """
    from torch._inductor import config

    with config.patch({"cpp.enable_kernel_profile": True}):  # graphs are still to be compiled, then with names in them
        return _profile(experiment)


def _profile(experiment: Experiment) -> int:
    trainer, config = experiment.trainer, experiment.config
    synchronise = torch.cuda.synchronize if experiment.device.type == "cuda" else _nothing
    starts = getattr(trainer.agent.config, "learning_starts", 0)
    if experiment.captured is not None:
        experiment.captured.undo()
        print("iterations are eager here: a CUDA graph of a whole one has no regions", flush=True)
    print("warming up …", flush=True)
    while trainer.step <= starts:
        trainer.iterate()
    _iterate_for(trainer, WARM_UP, synchronise)
    clock = Clock(synchronise)
    print("timing regions …", flush=True)
    with regions(trainer, clock.region):
        count, seconds = _iterate_for(trainer, TIMED, synchronise)
    clock.seconds[REST] = seconds - sum(clock.seconds.values())
    clock.calls[REST] = count

    start = time.perf_counter()
    evaluate_both(trainer.agent, experiment.make_env, seeds=config.seeds, episodes=config.evaluation_episodes)
    synchronise()
    evaluation = time.perf_counter() - start

    traced = max(FEWEST, int(TRACED * count / seconds))
    print(f"tracing {traced} iterations …", flush=True)
    operations = _trace(trainer, traced, experiment.folder / TRACE)
    summary = {
        "iterations": count,
        "seconds": seconds,
        "steps_per_iteration": trainer.steps_per_iteration * trainer.num_members,
        "regions": {name: {"seconds": clock.seconds[name], "calls": clock.calls[name]} for name in clock.seconds},
        "evaluation": {"seconds": evaluation, "episodes": config.evaluation_episodes * len(config.seeds) * 2},
        "traced_iterations": traced,
        "operations": operations,
    }
    (experiment.folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(report(summary))
    print(f"\ntrace: {experiment.folder / TRACE}; open it at https://ui.perfetto.dev. The run was not trained further.")
    return 0


def _nothing() -> None:
    """On a CPU there is nothing to wait for."""


def _iterate_for(trainer: Any, seconds: float, synchronise: Callable[[], None]) -> tuple[int, float]:
    """Iterate for so long, and `FEWEST` times at least; return how often and for how long."""
    start, count = time.perf_counter(), 0
    while count < FEWEST or time.perf_counter() - start < seconds:
        trainer.iterate()
        count += 1
    synchronise()
    return count, time.perf_counter() - start


def _trace(trainer: Any, count: int, path: Path) -> list[dict[str, Any]]:
    """Write a trace of some iterations; return the operations that took longest, by the time in them alone."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its start and end are no news
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler, regions(trainer, record_function):
        for _ in range(count):
            with record_function("iteration"):
                trainer.iterate()
    plain = path.with_suffix("")
    profiler.export_chrome_trace(str(plain))
    with plain.open("rb") as source, gzip.open(path, "wb") as target:
        shutil.copyfileobj(source, target)
    plain.unlink()
    named = {*REGIONS, "iteration"}
    found = [
        {
            "name": event.key,
            "calls": event.count,
            "seconds": event.self_cpu_time_total / 1e6,
            "device_seconds": event.self_device_time_total / 1e6,
        }
        for event in profiler.key_averages()
        if event.key not in named and str(event.device_type).endswith("CPU")
    ]
    return sorted(found, key=lambda each: -max(each["seconds"], each["device_seconds"]))


def report(summary: dict[str, Any]) -> str:
    """Return what a person wants to know of a profile: shares of regions, then of operations."""
    count, seconds = summary["iterations"], summary["seconds"]
    each, steps = seconds / count, summary["steps_per_iteration"]
    lines = [
        "",
        f"{1e3 * each:.2f} ms an iteration of {steps:,} steps: {steps / each:,.0f} steps/s  "
        f"(over {count} iterations, not traced)",
        "",
        f"  {'region':<18} {'share':>6} {'ms an iteration':>16} {'calls':>7} {'µs a call':>10}",
    ]
    ordered = sorted(summary["regions"].items(), key=lambda item: -item[1]["seconds"])
    for name, region in ordered:
        inside, calls = region["seconds"], region["calls"]
        lines.append(
            f"  {name:<18} {inside / seconds:>6.1%} {1e3 * inside / count:>16.3f} {calls / count:>7,.1f} "
            f"{1e6 * inside / calls:>10,.0f}"
        )
    played = summary["evaluation"]
    lines += [
        f"  an evaluation of {played['episodes']:,} episodes takes {format_seconds(played['seconds'])} beside this",
        "",
        f"  {'operation, in it alone':<44} {'share':>6} {'calls':>7} {'µs a call':>10}   (traced)",
    ]
    device = any(each["device_seconds"] for each in summary["operations"])
    field_ = "device_seconds" if device else "seconds"
    total = sum(each[field_] for each in summary["operations"]) or 1.0
    for operation in sorted(summary["operations"], key=lambda each: -each[field_])[:NUM_OPERATIONS]:
        name = operation["name"] if len(operation["name"]) <= 44 else operation["name"][:43] + "…"
        calls = operation["calls"]
        lines.append(
            f"  {name:<44} {operation[field_] / total:>6.1%} {calls / summary['traced_iterations']:>7,.1f} "
            f"{1e6 * operation[field_] / calls:>10,.1f}"
        )
    number = sum(each["calls"] for each in summary["operations"]) / summary["traced_iterations"]
    lines.append(f"  {number:,.0f} operations an iteration; calls are counted an iteration")
    return "\n".join(lines)
