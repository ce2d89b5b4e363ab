"""What compiling is worth: environment steps a second of training, eager and compiled, and how long compiling takes.

    python benchmarks/compiled.py        # about ten minutes; writes benchmarks/results/compiled.json

Agents on CartPole-v1, alone and with ten members, on one CPU thread: whole iterations, from acting to the last
optimiser step. Both sides take turns; rates are of the medians of their processor time. The seconds of compiling are
those of the first iteration that learns, with an empty cache of inductor.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from tasks import Task, build

from gumbelrl.agents.compiled_training import compile_training

RESULTS = Path(__file__).parent / "results" / "compiled.json"
TURN = 1.0  # seconds
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "actor-critic": ("actor-critic", {}),
    "ppo, 64 x 32": ("ppo", {"num_envs": 64, "rollout_steps": 32, "epochs": 4, "minibatches": 4}),
    "ppo, 8 x 2048": ("ppo", {"num_envs": 8, "rollout_steps": 2048, "epochs": 10, "minibatches": 64}),
    **{name: (name, {}) for name in ("sac", "td3", "ddpg")},
}


def measure(name: str, members: int, settings: dict[str, Any], *, repeats: int) -> dict[str, Any]:
    """Return environment steps a second of all members, eager and compiled, and the seconds that compiling takes."""
    sides = {}
    for kind in ("eager", "compiled"):
        estimator = {} if name == "ppo" else {"policy": "gumbel", "critic": "linear"}
        task = Task("CartPole-v1", name, 10**9, 475.0, settings=settings, **estimator)
        sides[kind] = build(task, tuple(range(members)))[0]
    compile_training(sides["compiled"])
    compiling = 0.0
    for kind, trainer in sides.items():
        starts = getattr(trainer.agent.config, "learning_starts", 0)
        while trainer.step + trainer.steps_per_iteration < starts:  # the next iteration learns
            trainer.iterate()
        start = time.perf_counter()
        trainer.iterate()
        compiling = time.perf_counter() - start if kind == "compiled" else compiling
    start = time.process_time()
    sides["eager"].iterate()
    count = max(1, round(TURN / (time.process_time() - start)))
    taken: dict[str, list[float]] = {kind: [] for kind in sides}
    for repeat in range(repeats + 1):
        for kind, trainer in list(sides.items())[:: 1 if repeat % 2 else -1]:
            start = time.process_time()
            for _ in range(count):
                trainer.iterate()
            if repeat:  # the first is not counted
                taken[kind].append((time.process_time() - start) / count)
    steps = sides["eager"].steps_per_iteration * members
    rates = {kind: steps / statistics.median(times) for kind, times in taken.items()}
    return {**rates, "ratio": rates["compiled"] / rates["eager"], "compiling": compiling}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--members", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        print(f"{'case':20}{'members':>8}{'eager':>12}{'compiled':>12}{'ratio':>8}{'compiling':>11}")
        for case in options.cases:
            for members in options.members:
                one = measure(CASES[case][0], members, CASES[case][1], repeats=options.repeats)
                found[f"{case}/{members}"] = {key: round(value, 4) for key, value in one.items()}
                print(
                    f"{case:20}{members:>8}{one['eager']:>10,.0f}/s{one['compiled']:>10,.0f}/s{one['ratio']:>8.2f}"
                    f"{one['compiling']:>9.1f} s",
                    flush=True,
                )
    chosen = [] if options.cases == list(CASES) else ["--cases", *map(shlex.quote, options.cases)]
    command = " ".join(["python benchmarks/compiled.py", *chosen])
    options.output.write_text(json.dumps({**provenance(), "command": command, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
