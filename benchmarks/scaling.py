"""Cost against environments, members, choices, groups and replay size, on one thread and in one process.

    python benchmarks/scaling.py           # about three minutes; writes benchmarks/results/scaling.json and a plot

    environments    an iteration of actor-critic (rollout of 32 steps, targets, 16 updates), by environments
    members         an update of sac at 64 hidden units and batch 256, by members; and one after another, for comparison
    choices         the same update, by the choices of one group, linear critic, gumbel
    groups          the same update, by groups of two choices
    replay          adding 16 transitions and drawing 4 batches of 128, by transitions held, full

Points of an axis take turns, so that a slow minute of the machine falls on all of them; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from members import make_trainer
from provenance import provenance
from throughput import FEATURES

from gumbelrl.agents import SAC, SACConfig
from gumbelrl.agents.replay import Replay
from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ActionLayout
from gumbelrl.policies.sampling import one_hot
from gumbelrl.random import RandomStreams

RESULTS = Path(__file__).parent / "results" / "scaling.json"
POINTS: dict[str, list[int]] = {
    "environments": [4, 16, 64, 256, 1024],
    "members": [1, 2, 4, 8, 16, 32, 64],
    "choices": [2, 8, 32, 128, 512, 2048],
    "groups": [1, 2, 4, 8, 16, 32, 64],
    "replay": [1_000, 10_000, 100_000, 1_000_000],
}
LABELS = {
    "environments": ("environments", "µs a step"),
    "members": ("members", "ms an update and member"),
    "choices": ("choices of a group", "ms an update"),
    "groups": ("groups of two choices", "ms an update"),
    "replay": ("transitions held", "ms an add and 4 draws"),
}
QUICK = 2  # points of an axis
Call = Callable[[], Any]


def transitions(layout: ActionLayout, *, time: int, members: int, envs: int, seed: int = 0) -> Transition:
    """Return random experience."""
    generator = torch.Generator().manual_seed(seed)
    shape = (time, members, envs)
    choice = torch.randint(min(layout.choice_counts), (*shape, layout.num_groups), generator=generator)
    action = one_hot(choice, layout.num_choices)
    return Transition(
        observation=torch.randn(*shape, FEATURES, generator=generator),
        logits=torch.zeros_like(action),
        action=action,
        reward=torch.ones(shape),
        terminated=torch.rand(shape, generator=generator) < 0.01,
        truncated=torch.zeros(shape, dtype=torch.bool),
        final_observation=torch.randn(*shape, FEATURES, generator=generator),
    )


def updates(space: spaces.Space, *, members: int = 1, batch: int = 256) -> Call:
    """Return what makes an update of `sac` on experience of a space."""
    layout = ActionLayout.from_space(space)
    held = 1000
    config = SACConfig(batch_size=batch, replay_capacity=held, return_steps=1, diagnostics_interval=0)
    agent = SAC(config, layout=layout, num_features=FEATURES, seeds=tuple(range(members)))
    agent.replay.add(transitions(layout, time=held // 20, members=members, envs=20))
    return lambda: agent.learn(agent.replay.sample(batch, generator=agent.streams))


def environments(count: int) -> Call:
    trainer = make_trainer((0,), num_envs=count, diagnostics_interval=0, iterations=1_000_000)
    return trainer.iterate


def replayed(held: int) -> Call:
    """Return what adds to a full replay and draws from it."""
    layout = ActionLayout.from_space(spaces.Discrete(2))
    streams = RandomStreams([0])
    replay = Replay(layout, capacity=held, return_steps=3)
    size = 1000
    for _ in range(held // (size * 16) + 1):
        replay.add(transitions(layout, time=size, members=1, envs=16))
    few = transitions(layout, time=1, members=1, envs=16)

    def call() -> None:
        replay.add(few)
        replay.sample(512, generator=streams)

    return call


AXES: dict[str, tuple[Callable[[int], Call], Callable[[int], float]]] = {
    # What is measured, and by how much its seconds are multiplied for the label's unit.
    "environments": (environments, lambda count: 1e6 / (count * 32)),
    "members": (lambda count: updates(spaces.Discrete(2), members=count), lambda count: 1e3 / count),
    "choices": (lambda count: updates(spaces.Discrete(count)), lambda _: 1e3),
    "groups": (lambda count: updates(spaces.MultiDiscrete([2] * count)), lambda _: 1e3),
    "replay": (replayed, lambda _: 1e3),
}


def measure(axis: str, points: list[int], *, budget: float) -> dict[str, list[float]]:
    """Return the cost at each point of an axis: medians, and the fastest and slowest quarter."""
    build, unit = AXES[axis]
    calls = [build(point) for point in points]
    for call in calls:
        for _ in range(3):
            call()
    seconds: list[list[float]] = [[] for _ in points]
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(seconds[0]) < 3:
        for index, call in enumerate(calls):
            start, count = time.perf_counter(), 0
            # Short calls several times a turn, or a turn would be mostly about what came before it.
            while count == 0 or time.perf_counter() - start < 0.02:
                call()
                count += 1
            seconds[index].append((time.perf_counter() - start) / count)
    rows: dict[str, list[float]] = {"point": list(points), "median": [], "low": [], "high": []}
    for point, values in zip(points, seconds, strict=True):
        low, median, high = statistics.quantiles(values, n=4)
        for name, value in (("low", low), ("median", median), ("high", high)):
            rows[name].append(value * unit(point))
    return rows


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown, an axis a row: the cost at each point."""
    lines = []
    for axis, rows in results["axes"].items():
        along, unit = LABELS[axis]
        points = [f"{int(point):,}" for point in rows["point"]]
        costs = [f"{value:.3g}" for value in rows["median"]]
        lines += [
            f"| {along} | " + " | ".join(points) + " |",
            "|---|" + "--:|" * len(points),
            f"| {unit} | " + " | ".join(costs) + " |",
            "",
        ]
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=list(POINTS), default=list(POINTS))
    parser.add_argument("--budget", type=float, default=30.0, help="seconds an axis")
    parser.add_argument("--quick", action="store_true", help="two points an axis, two seconds each")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    axes = {}
    for axis in options.axes:
        points = POINTS[axis][:QUICK] if options.quick else POINTS[axis]
        axes[axis] = measure(axis, points, budget=2.0 if options.quick else options.budget)
        along, unit = LABELS[axis]
        costs = ", ".join(f"{int(p):,}: {v:.3g}" for p, v in zip(points, axes[axis]["median"], strict=True))
        print(f"{along}: {costs} ({unit})", flush=True)
    results = {**provenance(), "axes": axes}
    options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
