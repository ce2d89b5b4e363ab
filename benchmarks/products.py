"""Products of matrices in compiled graphs, and what networks do with them: by our kernels, and without.

    python benchmarks/products.py        # about four minutes; writes benchmarks/results/products.json

Products are compared with `torch.bmm`, which is MKL's. A graph holds the products of every one of six matrices with
every one of six others, which share what it takes to call it. Layers are compared with the same products, each followed
by a loop: a network of two hidden layers of 64 units, forward and back to the gradient of its weights. On one thread,
both sides in turns, by the CPU time of this process; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from provenance import provenance
from torch import Tensor

from gumbelrl.agents import products
from gumbelrl.agents.compiled_methods import CompiledMethod
from gumbelrl.agents.networks import StackedMLP
from gumbelrl.random import RandomStreams

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


ROWS, INPUTS, OUTPUTS = 256, 4, 2

# A network's options, and how many of it there are.
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    f"{name}{'' if members == 1 else f', {members} members'}": (options, members)
    for members in (1, 10)
    for name, options in {
        "ReLU": {"activation": "relu", "layer_norm": False},
        "tanh": {"activation": "tanh", "layer_norm": False},
        "normalised, SiLU": {},
    }.items()
}


class Products:
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
    for name, available in (("ours", products.available()), ("mkl", False)):
        method = CompiledMethod(Products(by_columns), "multiply")
        with patch.object(products, "available", return_value=available):
            method(a, b)
        made[name] = partial(method, a, b)
    return made


class Network:
    """What has a network to compile."""

    def __init__(self, members: int, **options: Any) -> None:
        self.network = StackedMLP(RandomStreams(range(members)), INPUTS, OUTPUTS, **options)
        self.names = [name for name, _ in self.network.named_parameters()]

    def slopes(self, inputs: Tensor, by_outputs: Tensor, *parameters: Tensor) -> list[Tensor]:
        given = [each.detach().requires_grad_() for each in parameters]
        outputs = torch.func.functional_call(self.network, dict(zip(self.names, given, strict=True)), (inputs,))
        return list(torch.autograd.grad((outputs * by_outputs).sum(), given))


def networks(options: dict[str, Any], members: int) -> dict[str, Callable[[], Any]]:
    """Return what calls the graph of each side."""
    owner = Network(members, **options)
    parameters = [each.detach() for each in owner.network.parameters()]
    inputs, by_outputs = (torch.randn(members, ROWS, size) for size in (INPUTS, OUTPUTS))
    made: dict[str, Callable[[], Any]] = {}
    for name in ("ours", "apart"):
        method = CompiledMethod(owner, "slopes", kept=[owner.network])
        with patch.object(products, "multiplies", return_value=False) if name == "apart" else nullcontext():
            method(inputs, by_outputs, *parameters)
        made[name] = partial(method, inputs, by_outputs, *parameters)
    return made


def measure(sides: dict[str, Callable[[], Any]], *, repeats: int, shares: int) -> dict[str, float]:
    """Return the microseconds of a share of each side's call."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in list(sides.items())[:: 1 if repeat % 2 else -1]:
            start = time.process_time()
            for _ in range(CALLS):
                call()
            if repeat:  # the first is not counted
                taken[name].append(1e6 * (time.process_time() - start) / CALLS / shares)
    return {name: round(statistics.median(times), 3) for name, times in taken.items()}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["| product | rows × inner × columns | MKL, µs | ours, µs | ratio |", "|---|---|--:|--:|--:|"]
    for name, found in results["products"].items():
        size = " × ".join(map(str, SIZES[name][:3]))
        lines.append(f"| {name} | {size} | {found['mkl']:.2f} | {found['ours']:.2f} | {_ratio(found):.2f} |")
    lines += ["", "| network | products and loops, µs a member | layers, µs | ratio |", "|---|--:|--:|--:|"]
    for name, found in results["networks"].items():
        lines.append(f"| {name} | {found['apart']:.0f} | {found['ours']:.0f} | {_ratio(found):.2f} |")
    return "\n".join(lines)


def _ratio(found: dict[str, float]) -> float:
    ours, theirs = found.values()
    return ours / theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()

    torch.set_num_threads(1)
    if not products.available():
        parser.exit(1, "there are no kernels for this processor: both sides would be the same\n")
    found: dict[str, dict[str, Any]] = {"products": {}, "networks": {}}
    for name, size in SIZES.items():
        found["products"][name] = measure(graphs(*size), repeats=options.repeats, shares=MATRICES**2)
        print(f"{name}: {found['products'][name]}, ratio {_ratio(found['products'][name]):.2f}", flush=True)
    for name, (network, members) in NETWORKS.items():
        found["networks"][name] = measure(networks(network, members), repeats=options.repeats, shares=members)
        print(f"{name}: {found['networks'][name]}, ratio {_ratio(found['networks'][name]):.2f}", flush=True)
    options.output.write_text(json.dumps({**provenance(), **found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
