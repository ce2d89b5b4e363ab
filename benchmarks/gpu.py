"""What a GPU gives: graphs against eager iterations, steps and updates a second, members, a large replay, precisions.

    python benchmarks/gpu.py            # with a GPU, under four minutes; writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --smoke    # on a CPU, at tiny sizes: shows that the script runs, and measures nothing

    graphs      an iteration of the default agents, eager and as a CUDA graph
    steps       environment steps a second while training on CartPole, by members and environments of each
    members     an iteration of the default actor-critic, by members
    updates     updates a second of sac, all members together, by members
    replay      an iteration of sac with ten thousand and with a million transitions held
    precisions  an iteration of ppo with two layers of 512 units

Times are of whole iterations, the environments included, between two synchronisations. Results are written after each
part, so that a run that is cut short keeps what it has; parts that `--limit` leaves no time for are said to be missing.
Needed beside PyTorch: numpy, gymnasium and jaxtyping.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

from gumbelrl.agents import AGENTS, Trainer
from gumbelrl.agents.cuda_graphs import WARM_UP, CapturedWork, RepeatedCalls, capture, upcoming
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.precision import PRECISIONS, set_precision
from gumbelrl.envs import make
from gumbelrl.policies import ActionLayout

RESULTS = Path(__file__).parent / "results" / "gpu.json"
ENOUGH = 2**62  # steps of a run that is never over
GOAL = 5.0  # times as fast a graph should be as eager iterations


class Bench:
    """Loops on one device, and their times.

    Args:
        smoke: at tiny sizes, without a GPU.
        budget: seconds of each time that is taken.
    """

    def __init__(self, *, smoke: bool, budget: float) -> None:
        self.smoke, self.budget = smoke, 0.0 if smoke else budget
        self.device = torch.device("cpu" if smoke else "cuda")

    def trainer(
        self, agent: str, members: int, *, graph: bool = True, precision: str = "float32", **settings: Any
    ) -> Trainer:
        """Return a loop on CartPole."""
        config = AGENTS[agent].config(**settings)
        seeds = tuple(range(members))
        env = make("CartPole-v1", num_envs=members * config.num_envs, device=self.device)
        takes = {"estimator": "gumbel", "critic": "linear"} if AGENTS[agent].uses_estimator else {}
        made = AGENTS[agent].agent(
            config,
            layout=ActionLayout.from_space(env.single_action_space, device=self.device),
            num_features=num_features(env.single_observation_space),
            seeds=seeds,
            observation_space=env.single_observation_space,
            device=self.device,
            **takes,
        )
        set_precision(precision, made, self.device)
        trainer = Trainer(made, env, seeds=seeds, total_steps=ENOUGH, temperature=lambda progress, step: 1.0)
        if graph:
            capture(trainer, backend=RepeatedCalls() if self.smoke else None)
        return trainer

    def warm(self, trainer: Trainer) -> None:
        """Iterate until the next iteration learns, and is a replay where iterations are recorded."""
        work: Any = trainer.work
        starts = getattr(trainer.agent.config, "learning_starts", 0)
        for count in range(ENOUGH):
            waits = isinstance(work, CapturedWork) and upcoming(trainer.agent) not in work.recorded
            if trainer.step > starts and count >= 2 * WARM_UP and not waits:
                return
            trainer.iterate()

    def seconds(self, trainer: Trainer) -> float:
        """Return the seconds of an iteration."""
        self.warm(trainer)
        count, taken = 1, 0.0
        while taken < self.budget or not taken:
            self.synchronise()
            start = time.perf_counter()
            for _ in range(count):
                trainer.iterate()
            self.synchronise()
            taken = time.perf_counter() - start
            each, count = taken / count, 4 * count
        trainer.raise_faults()
        return each

    def synchronise(self) -> None:
        if not self.smoke:
            torch.cuda.synchronize()

    def busy(self, trainer: Trainer, seconds: float, iterations: int = 10) -> dict[str, float] | None:
        """Return the kernels of an iteration, and the share of its time, when it is not traced, that they run for."""
        if self.smoke:
            return None
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        self.synchronise()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(iterations):
                trainer.iterate()
            self.synchronise()
        kernels = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
        running = sum(event.time_range.elapsed_us() for event in kernels) / 1e6 / iterations
        return {"share": running / seconds, "kernels": len(kernels) / iterations}


def graphs(bench: Bench) -> dict[str, Any]:
    found = {}
    for agent in ("actor-critic", "ppo", "sac"):
        for members in (1, 2) if bench.smoke else (1, 64):
            small = {"num_envs": 4, "rollout_steps": 4} if bench.smoke else {}
            eager = bench.seconds(bench.trainer(agent, members, graph=False, **small))
            recorded = bench.trainer(agent, members, **small)
            graph = bench.seconds(recorded)
            row = {"eager_ms": 1e3 * eager, "graph_ms": 1e3 * graph, "ratio": eager / graph}
            found[f"{agent}/{members}"] = row | {"goal": GOAL, "busy": bench.busy(recorded, graph)}
    return found


def steps(bench: Bench) -> dict[str, Any]:
    found = {}
    shapes = ((1, 4), (2, 4)) if bench.smoke else ((1, 1024), (1, 8192), (16, 1024), (256, 64), (256, 256), (1024, 64))
    for members, envs in shapes:
        for agent in ("ppo", "actor-critic"):
            trainer = bench.trainer(agent, members, num_envs=envs)
            found[f"{agent}/{members}x{envs}"] = trainer.steps_per_iteration * members / bench.seconds(trainer)
    best = max(found, key=lambda name: found[name])
    return {"steps_per_second": found, "best": best}


def members(bench: Bench) -> dict[str, Any]:
    found = {}
    for count in (1, 2) if bench.smoke else (1, 4, 16, 64, 256):
        small = {"num_envs": 4, "rollout_steps": 4} if bench.smoke else {}
        seconds = bench.seconds(bench.trainer("actor-critic", count, **small))
        found[count] = {"iteration_ms": 1e3 * seconds, "member_ms": 1e3 * seconds / count}
    return found


def updates(bench: Bench) -> dict[str, Any]:
    found = {}
    for count in (1, 2) if bench.smoke else (1, 16, 64, 256, 1024):
        trainer = bench.trainer("sac", count, learning_starts=0)
        found[count] = count * trainer.agent.config.updates_per_iteration / bench.seconds(trainer)
    return {"updates_per_second": found}


def replay(bench: Bench) -> dict[str, Any]:
    found = {}
    for capacity in (100, 1000) if bench.smoke else (10_000, 1_000_000):
        trainer = bench.trainer("sac", 1, learning_starts=0, replay_capacity=capacity)
        bench.warm(trainer)
        trainer.agent.replay.size.fill_(capacity)  # as if it were full: rows are where they would be
        found[capacity] = {
            "iteration_ms": 1e3 * bench.seconds(trainer),
            "megabytes": trainer.agent.replay.num_bytes() / 1e6,
        }
    return found


def precisions(bench: Bench) -> dict[str, Any]:
    found = {}
    for precision in ("float32",) if bench.smoke else PRECISIONS:
        size = {"num_envs": 4, "hidden": (16, 16)} if bench.smoke else {"num_envs": 4096, "hidden": (512, 512)}
        found[precision] = 1e3 * bench.seconds(bench.trainer("ppo", 1, precision=precision, **size))
    return {"iteration_ms": found}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "graphs": graphs,
    "steps": steps,
    "members": members,
    "updates": updates,
    "replay": replay,
    "precisions": precisions,
}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown: a table for each part that was measured."""
    written = [TABLES[name](results[name]) for name in PARTS if name in results]
    missing = [f"Not measured, for want of time: {', '.join(results['missing'])}."] if results["missing"] else []
    return "\n\n".join([*written, *missing])


def _rows(heads: list[str], rows: list[list[str]]) -> str:
    rule = "|---|" + "--:|" * (len(heads) - 1)
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def _graphs_table(found: dict[str, Any]) -> str:
    rows = []
    for name, each in found.items():
        agent, count = name.split("/")
        busy = each["busy"] or {}
        share = f"{busy['share']:.0%}" if busy else "–"
        kernels = f"{busy['kernels']:,.0f}" if busy else "–"
        times = [f"{each['eager_ms']:.2f}", f"{each['graph_ms']:.2f}", f"{each['ratio']:.1f}×"]
        rows.append([f"`{agent}`", count, *times, kernels, share])
    return _rows(["agent", "members", "eager, ms", "graph, ms", "ratio", "kernels", "GPU busy"], rows)


def _steps_table(found: dict[str, Any]) -> str:
    rates = {tuple(name.split("/")): rate for name, rate in found["steps_per_second"].items()}
    rows = [[f"`{agent}`", shape.replace("x", " × "), f"{rate / 1e6:.2f}"] for (agent, shape), rate in rates.items()]
    return _rows(["training on CartPole", "members × environments", "million steps/s"], rows)


def _members_table(found: dict[str, Any]) -> str:
    rows = [[str(count), f"{each['iteration_ms']:.2f}", f"{each['member_ms']:.3f}"] for count, each in found.items()]
    return _rows(["members of `actor-critic`", "ms an iteration", "ms a member"], rows)


def _updates_table(found: dict[str, Any]) -> str:
    rows = [[str(count), f"{rate:,.0f}"] for count, rate in found["updates_per_second"].items()]
    return _rows(["members of `sac`", "updates/s, all members"], rows)


def _replay_table(found: dict[str, Any]) -> str:
    rows = [
        [f"{int(capacity):,}", f"{each['megabytes']:.1f}", f"{each['iteration_ms']:.2f}"]
        for capacity, each in found.items()
    ]
    return _rows(["transitions held by `sac`", "MB", "ms an iteration"], rows)


def _precisions_table(found: dict[str, Any]) -> str:
    rows = [[f"`{name}`", f"{milliseconds:.2f}"] for name, milliseconds in found["iteration_ms"].items()]
    return _rows(["`--precision`, layers of 512 units", "ms an iteration"], rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "graphs": _graphs_table,
    "steps": _steps_table,
    "members": _members_table,
    "updates": _updates_table,
    "replay": _replay_table,
    "precisions": _precisions_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="tiny, on a CPU, and written only where --output says")
    parser.add_argument("--budget", type=float, default=0.7, help="seconds of each time that is taken")
    parser.add_argument("--limit", type=float, default=220.0, help="seconds after which no further part begins")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --smoke tries the script on a CPU")

    start = time.perf_counter()
    bench = Bench(smoke=options.smoke, budget=options.budget)
    output = options.output or (None if options.smoke else RESULTS)
    results: dict[str, Any] = {**provenance(), "smoke": options.smoke, "missing": []}
    for name in options.parts:
        if time.perf_counter() - start > options.limit:
            results["missing"].append(name)
            continue
        before = time.perf_counter()
        results[name] = PARTS[name](bench)
        print(f"{name} ({time.perf_counter() - before:.0f} s): {json.dumps(results[name])}", flush=True)
        if output is not None:
            output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
