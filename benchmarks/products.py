"""Products of matrices in compiled graphs: by small kernels, as they are, against `torch.bmm`, which is MKL's.

    python benchmarks/products.py        # about two minutes; writes benchmarks/results/products.json

A graph holds the products of every one of six matrices with every one of six others, which share what it takes to call
it. On one thread, both sides in turns, by the CPU time of this process; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from provenance import provenance
from torch import Tensor

from gumbelrl.agents import products
from gumbelrl.agents.compiled_methods import CompiledMethod

RESULTS = Path(__file__).parent / "results" / "products.json"
MATRICES = 6
CALLS = 200

# What a network of 64 units asks for: rows, inner dimension, columns, and which of the two lies column by column.
SIZES: dict[str, tuple[int, int, int, str]] = {
    "forward, 4 rows": (4, 64, 64, ""),
    "forward, 128 rows": (128, 64, 64, ""),
    "forward, 256 rows": (256, 64, 64, ""),
    "first layer, 4 inputs, 256 rows": (256, 4, 64, ""),
    "last layer, 2 outputs, 256 rows": (256, 64, 2, ""),
    "gradient of inputs, 256 rows": (256, 64, 64, "b"),
    "gradient of weights, 256 rows": (64, 256, 64, "a"),
    "the same, first layer, 4 inputs": (4, 256, 64, "a"),
    "the same, last layer, 2 outputs": (2, 256, 64, "a"),
    "forward, 256 units, 256 rows": (256, 256, 256, ""),
}


class Network:
    """What has products to compile."""

    def __init__(self, by_columns: str) -> None:
        self.by_columns = by_columns

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (each.mT if name in self.by_columns else each for name, each in (("a", a), ("b", b)))
        found = [torch.bmm(left, right) for left in a.unbind() for right in b.unbind()]
        return torch.stack([each[0, 0, 0] for each in found])  # little beside them, and none is left out


def graphs(rows: int, inner: int, columns: int, by_columns: str) -> dict[str, Callable[[], Any]]:
    """Return what calls the graph of each side."""
    a, b = torch.randn(MATRICES, 1, rows, inner), torch.randn(MATRICES, 1, inner, columns)
    a, b = (each.mT.contiguous() if name in by_columns else each for name, each in (("a", a), ("b", b)))
    made: dict[str, Callable[[], Any]] = {}
    for name, available in (("small", products.available()), ("mkl", False)):
        method = CompiledMethod(Network(by_columns), "multiply")
        with patch.object(products, "available", return_value=available):
            method(a, b)
        made[name] = partial(method, a, b)
    return made


def measure(size: tuple[int, int, int, str], *, repeats: int) -> dict[str, float]:
    """Return the microseconds of a product on each side."""
    sides = graphs(*size)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in list(sides.items())[:: 1 if repeat % 2 else -1]:
            start = time.process_time()
            for _ in range(CALLS):
                call()
            if repeat:  # the first is not counted
                taken[name].append(1e6 * (time.process_time() - start) / CALLS / MATRICES**2)
    return {name: round(statistics.median(times), 3) for name, times in taken.items()}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["| product | rows × inner × columns | MKL, µs | small kernels, µs | ratio |", "|---|---|--:|--:|--:|"]
    for name, found in results["found"].items():
        size = " × ".join(map(str, SIZES[name][:3]))
        lines.append(f"| {name} | {size} | {found['mkl']:.2f} | {found['small']:.2f} | {_ratio(found):.2f} |")
    return "\n".join(lines)


def _ratio(found: dict[str, float]) -> float:
    return found["small"] / found["mkl"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    if not products.available():
        parser.exit(1, "this torch has no oneDNN kernels for this processor: both sides would be the same\n")
    found = {}
    for name, size in SIZES.items():
        found[name] = measure(size, repeats=options.repeats)
        print(f"{name}: {found[name]}, ratio {_ratio(found[name]):.2f}", flush=True)
    options.output.write_text(json.dumps({**provenance(), "found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
