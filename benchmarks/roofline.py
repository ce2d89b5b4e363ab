"""How far an update is from the least time that this machine could take for it, and why; on one CPU thread.

    python benchmarks/roofline.py          # some minutes; writes benchmarks/results/roofline.json

The floor is the larger of (operations ÷ peak of a large matrix product) and (bytes ÷ bandwidth of a large copy), with
the counts of `update_cost.py`. Beside it stand what the same products take at the sizes that the update has, one after
another, what calling so many operators costs when they do nothing (the two reasons for the distance), and the update
compiled.
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
from members import make_trainer
from provenance import provenance
from throughput import CHOICES, FEATURES, ours
from torch.utils._python_dispatch import TorchDispatchMode
from update_cost import Cost, actor_critic_update, layers, sac_update

from gumbelrl.agents.compiled_training import compile_training

RESULTS = Path(__file__).parent / "results" / "roofline.json"


class Counter(TorchDispatchMode):
    """Counts operators that reach the dispatcher below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def seconds_of(call: Callable[[], Any], *, budget: float = 0.5) -> float:
    """Return the median seconds of a call; the first is not counted."""
    call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < budget:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def machine() -> dict[str, float]:
    """Return what one thread of this machine reaches: a large product, a large copy, an operator with nothing to do."""
    size, count = 1024, 1 << 26
    a, b, out = (torch.randn(size, size) for _ in range(3))
    product = seconds_of(lambda: torch.mm(a, b, out=out))
    source, target = torch.ones(count), torch.empty(count)
    copy = seconds_of(lambda: target.copy_(source))
    tiny = torch.ones(1)
    many = 1000

    def calls() -> None:
        for _ in range(many):
            torch.add(tiny, tiny)

    return {
        "flops_per_second": 2 * size**3 / product,
        "bytes_per_second": 2 * 4 * count / copy,
        "call_seconds": seconds_of(calls) / many,
    }


def products(batch: int, sizes: tuple[int, ...], *, networks: int) -> float:
    """Return the seconds of the products of a pass there and back at their real sizes, of each of some networks."""
    total = 0.0
    for index, (i, o) in enumerate(layers(sizes)):
        x, w, g, bias = torch.randn(1, batch, i), torch.randn(1, i, o), torch.randn(1, batch, o), torch.zeros(1, 1, o)
        total += seconds_of(lambda b=bias, x=x, w=w: torch.baddbmm(b, x, w), budget=0.05)
        total += seconds_of(lambda x=x, g=g: torch.bmm(x.mT, g), budget=0.05)
        if index:
            total += seconds_of(lambda g=g, w=w: torch.bmm(g, w.mT), budget=0.05)
    return networks * total


def row(
    name: str,
    cost: Cost,
    update: Callable[[], Any],
    compiled: Callable[[], Any],
    *,
    found: dict[str, float],
    small: float,
) -> dict[str, Any]:
    """Measure an update, eager and compiled, and hold it against its floor."""
    measured = seconds_of(update, budget=2.0)
    with Counter() as counter:
        update()
    rates = {key: found[key] for key in ("flops_per_second", "bytes_per_second")}
    return {
        "name": name,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "floor_seconds": cost.seconds(**rates),
        "seconds": measured,
        "compiled_seconds": seconds_of(compiled, budget=2.0),
        "products_seconds": small,
        "operators": counter.count,
        "calls_seconds": counter.count * found["call_seconds"],
    }


def measure(hidden: tuple[int, ...], batch: int, found: dict[str, float]) -> list[dict[str, Any]]:
    """Return rows for `sac` and `actor-critic` of one size."""
    sizes = (FEATURES, *hidden, CHOICES)
    title = f"{len(hidden)}×{hidden[0]}, batch {batch}"
    size = {"batch": batch, "features": FEATURES, "choices": CHOICES, "hidden": hidden}
    learn, compiled_learn = (ours(batch, 1, hidden=hidden, compiled=compiled) for compiled in (False, True))
    rows = [
        row(
            f"sac, {title}",
            sac_update(**size),
            lambda: learn(1),
            lambda: compiled_learn(1),
            found=found,
            small=products(batch, sizes, networks=3) * 12 / 9,  # and three more passes forward
        )
    ]
    trainer, compiled = (make_trainer((0,), hidden=hidden, num_envs=batch // 32 * 4, epochs=1) for _ in range(2))
    compile_training(compiled)
    rollout = trainer.collect()
    steps = trainer.agent.config.minibatches
    each = row(
        f"actor-critic, {title}",
        actor_critic_update(**size),
        lambda: trainer.agent.update(rollout),
        lambda: compiled.agent.update(rollout),
        found=found,
        small=products(batch, sizes, networks=2),
    )
    for name in ("seconds", "compiled_seconds", "operators", "calls_seconds"):
        each[name] /= steps
    return [*rows, each]


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| update | MFLOP | MB moved | floor, µs | eager, µs | of the floor | compiled, µs | of the floor "
        "| its products at their sizes, µs | operators | calls alone, µs |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {each['name']} | {each['flops'] / 1e6:.1f} | {each['bytes'] / 1e6:.2f} "
        f"| {1e6 * each['floor_seconds']:,.0f} | {1e6 * each['seconds']:,.0f} "
        f"| {each['seconds'] / each['floor_seconds']:.1f}× | {1e6 * each['compiled_seconds']:,.0f} "
        f"| {each['compiled_seconds'] / each['floor_seconds']:.1f}× | {1e6 * each['products_seconds']:,.0f} "
        f"| {each['operators']:,.0f} | {1e6 * each['calls_seconds']:,.0f} |"
        for each in results["updates"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--batch", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    found = machine()
    updates = [
        each for width in options.hidden for batch in options.batch for each in measure((width, width), batch, found)
    ]
    results = {**provenance(), "machine": found, "updates": updates}
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(
        f"{found['flops_per_second'] / 1e9:.1f} GFLOP/s, {found['bytes_per_second'] / 1e9:.1f} GB/s, "
        f"{1e6 * found['call_seconds']:.2f} µs a call"
    )
    print(table(results))


if __name__ == "__main__":
    main()
