"""Products of compiled graphs by oneDNN's kernels, against products in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gumbelrl.agents import products
from gumbelrl.agents.compiled_methods import CompiledMethod
from gumbelrl.agents.decompositions import on_cpu

SIZES = [
    (1, 1, 1),
    (1, 64, 64),
    (4, 4, 64),
    (4, 64, 2),
    (9, 33, 5),
    (64, 700, 17),
    (300, 20, 12),
    (7, 20, 300),
    (33, 256, 33),
]
"""Rows, inner dimension, columns: one and many of each, multiples of a vector and not, more than at a time."""

# How a matrix lies in memory: the shape that holds it, and the matrix in it.
LAYOUTS: list[tuple[Callable[[int, int], tuple[int, ...]], Callable[[Tensor, int, int], Tensor]]] = [
    (lambda rows, columns: (3, rows, columns), lambda held, rows, columns: held),
    (lambda rows, columns: (3, columns, rows), lambda held, rows, columns: held.mT),
    (lambda rows, columns: (3, rows, columns + 3), lambda held, rows, columns: held[..., 2:-1]),
    (lambda rows, columns: (3, columns, rows + 3), lambda held, rows, columns: held[..., 2:-1].mT),
    (lambda rows, columns: (3, rows, 2 * columns), lambda held, rows, columns: held[..., ::2]),
    (lambda rows, columns: (1, rows, columns), lambda held, rows, columns: held.expand(3, rows, columns)),
    (lambda rows, columns: (3, 1, columns), lambda held, rows, columns: held.expand(3, rows, columns)),
    (lambda rows, columns: (3, rows, 1), lambda held, rows, columns: held.expand(3, rows, columns)),
]


class Products:
    """Products of matrices in every pair of layouts, each of one of the sizes."""

    def __init__(self) -> None:
        pairs = itertools.product(LAYOUTS, LAYOUTS)
        self.cases = [(*pair, size) for pair, size in zip(pairs, itertools.cycle(SIZES), strict=False)]

    def holders(self, generator: torch.Generator) -> list[Tensor]:
        shapes = [
            shape
            for (a, _), (b, _), (rows, inner, columns) in self.cases
            for shape in (a(rows, inner), b(inner, columns))
        ]
        return [torch.randn(shape, generator=generator) for shape in shapes]

    def all(self, *holders: Tensor) -> list[Tensor]:
        held = iter(holders)
        return [
            torch.bmm(a(next(held), rows, inner), b(next(held), inner, columns))
            for (_, a), (_, b), (rows, inner, columns) in self.cases
        ]


def kernels_of(graph: torch.fx.GraphModule) -> list[Any]:
    """Return what a graph multiplies by."""
    return [node.target for node in graph.graph.nodes if "bmm" in str(node.target)]


def traced(a: Tensor, b: Tensor) -> list[Any]:
    return kernels_of(make_fx(torch.bmm, decomposition_table=on_cpu())(a, b))


def test_products_however_matrices_lie() -> None:
    assert products.available() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")
    every = Products()
    holders = every.holders(torch.Generator().manual_seed(3))
    expected, of_sizes = (every.all(*(each.double() for each in given)) for given in (holders, map(torch.abs, holders)))
    for _ in range(2):  # what was turned round before does no harm
        found = CompiledMethod(every, "all")(*holders)
        for product, exact, of_size, (*_, (_, inner, _)) in zip(found, expected, of_sizes, every.cases, strict=True):
            # Of sums in any order (Higham 2002, Accuracy and Stability of Numerical Algorithms, equation 3.5).
            assert ((product - exact).abs() <= 1.01 * inner * 2**-24 * of_size).all()


@pytest.mark.skipif(not products.available(), reason="this torch has no such kernels for this processor")
def test_who_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.ones(1, 20, 16), torch.ones(1, 16, 16)
    (ours,) = traced(a, b)
    assert ours.namespace == "gumbelrl"
    assert traced(a.bfloat16(), b.bfloat16()) == traced(a.double(), b.double()) == [torch.ops.aten.bmm.default]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert traced(a, b) == [torch.ops.aten.bmm.default]
    monkeypatch.undo()
    monkeypatch.setattr(products, "available", lambda: False)
    assert traced(a, b) == [torch.ops.aten.bmm.default]


def test_another_source_is_another_operator() -> None:
    """Inductor would otherwise find what it wrote with the source before."""
    source = products.SOURCE.read_text(encoding="utf-8")
    assert products.operator(source) == products.operator(source) != products.operator(source + "// changed")
