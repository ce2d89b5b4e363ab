"""What compiling the optimiser step is worth: its time eagerly and compiled, and how long compiling takes.

    python benchmarks/compiled.py        # about four minutes; writes benchmarks/results/compiled.json

Each agent with its defaults on CartPole-v1, alone and with ten members, on one CPU thread. A step is one call of the
agent's own `_step`: losses, gradients, optimiser, coefficients, slow copies. Both sides take turns on the same batch;
ratios are of medians. The seconds of compiling are those of the first call, with inductor's cache empty.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from tasks import Task, build

from gumbelrl.agents.compiled_training import compile_learning

RESULTS = Path(__file__).parent / "results" / "compiled.json"
AGENTS = ("actor-critic", "ppo", "sac", "td3", "ddpg")


class Recorder:
    """Stands in for an agent's `_step` and keeps the inputs of its last call."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.step = agent, agent._step
        self.inputs: tuple[Any, ...] = ()
        self.choices: dict[str, Any] = {}
        agent._step = self

    def __call__(self, *inputs: Any, **choices: Any) -> Any:
        self.inputs, self.choices = inputs, choices
        return self.step(*inputs, **choices)


def measure(name: str, members: int, *, repeats: int, steps: int) -> dict[str, Any]:
    """Return milliseconds of a step, eager and compiled, and the seconds of compiling."""
    sides = {}
    for kind in ("eager", "compiled"):
        estimator = {} if name == "ppo" else {"policy": "gumbel", "critic": "linear"}
        trainer, _ = build(Task("CartPole-v1", name, 1_000_000, 475.0, **estimator), tuple(range(members)))
        recorder = Recorder(trainer.agent)
        while not recorder.inputs:
            trainer.iterate()
        trainer.agent._step = recorder.step
        if kind == "compiled":
            compile_learning(trainer.agent)
            trainer.agent.set_progress(0.0, temperature=1.0)
        sides[kind] = (trainer.agent, recorder)
    agent, recorder = sides["compiled"]
    start = time.perf_counter()
    agent._step(*recorder.inputs, **recorder.choices)
    compiling = time.perf_counter() - start
    taken: dict[str, list[float]] = {kind: [] for kind in sides}
    for repeat in range(repeats + 1):
        for kind, (agent, recorder) in list(sides.items())[:: 1 if repeat % 2 else -1]:
            start = time.perf_counter()
            for _ in range(steps):
                agent._step(*recorder.inputs, **recorder.choices)
            if repeat:  # the first is not counted
                taken[kind].append((time.perf_counter() - start) / steps * 1000)
    medians = {kind: statistics.median(times) for kind, times in taken.items()}
    return {**medians, "ratio": medians["compiled"] / medians["eager"], "compiling": compiling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
    parser.add_argument("--members", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        print(f"{'agent':14}{'members':>8}{'eager':>10}{'compiled':>10}{'ratio':>8}{'compiling':>11}")
        for name in options.agents:
            for members in options.members:
                one = measure(name, members, repeats=options.repeats, steps=options.steps)
                found[f"{name}/{members}"] = {key: round(value, 4) for key, value in one.items()}
                print(
                    f"{name:14}{members:>8}{one['eager']:>7.2f} ms{one['compiled']:>7.2f} ms{one['ratio']:>8.2f}"
                    f"{one['compiling']:>9.1f} s",
                    flush=True,
                )
    options.output.write_text(json.dumps({**provenance(), "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
