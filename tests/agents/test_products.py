"""Products of compiled graphs by kernels of our own, against products in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

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
    # Computed by the same graph, which may lay it out as it likes.
    (lambda rows, columns: (rows, columns, 3), lambda held, rows, columns: held.permute(2, 0, 1) * 1.5),
    (lambda rows, columns: (columns, 3, rows), lambda held, rows, columns: (held * 1.5).permute(1, 2, 0)),
    (
        lambda rows, columns: (3, rows, columns),
        lambda held, rows, columns: torch.cat([held, held * 1.5], -1)[..., columns // 2 :][..., :columns],
    ),
]
BY_ROWS, BY_COLUMNS, EVERY_SECOND = LAYOUTS[0], LAYOUTS[1], LAYOUTS[4]


class Products:
    """Products of matrices in every layout with some of the others, each of one of the sizes."""

    def __init__(self) -> None:
        several = len(LAYOUTS)
        pairs = [(LAYOUTS[i], LAYOUTS[(i + apart) % several]) for apart in (0, 1, 3, 5, 8) for i in range(several)]
        self.cases = [(*pair, size) for pair, size in zip(pairs, itertools.cycle(SIZES), strict=False)]
        # Several parts both ways; a few rows, of more than a vector and not a whole number of them.
        self.cases += [(BY_COLUMNS, BY_COLUMNS, (300, 300, 300))]
        self.cases += [(layout, BY_COLUMNS, (3, 37, 20)) for layout in (BY_ROWS, BY_COLUMNS, EVERY_SECOND)]
        # As of gradients: several parts, four vectors at once and one, six rows at once, two and one.
        turned = ((LAYOUTS[1], LAYOUTS[0]), (LAYOUTS[3], LAYOUTS[2]), (LAYOUTS[9], LAYOUTS[5]))
        self.cases += [(*pair, size) for pair in turned for size in ((15, 600, 80), (2, 5, 16))]

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


class Changed(torch.nn.Module):
    """What changes a factor of a product in place, before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.arange(48.0).view(1, 6, 8)

    def multiply(self, b: Tensor) -> list[Tensor]:
        found = []
        for _ in range(3):
            found.append(torch.bmm(self.factor, b))
            self.factor.mul_(-2.0)
        return found


def kernels_of(graph: torch.fx.GraphModule) -> list[Any]:
    """Return what a graph multiplies by."""
    return [node.target for node in graph.graph.nodes if "bmm" in str(node.target)]


def traced(a: Tensor, b: Tensor) -> list[Any]:
    return kernels_of(make_fx(torch.bmm, decomposition_table=on_cpu())(a, b))


def test_products_however_matrices_lie() -> None:
    assert products.available() or torch.backends.cpu.get_cpu_capability() != "AVX512"
    every = Products()
    holders = every.holders(torch.Generator().manual_seed(3))
    expected, of_sizes = (every.all(*(each.double() for each in given)) for given in (holders, map(torch.abs, holders)))
    for _ in range(2):  # what was turned round before does no harm
        found = CompiledMethod(every, "all")(*holders)
        for product, exact, of_size, (*_, (_, inner, _)) in zip(found, expected, of_sizes, every.cases, strict=True):
            # Of sums in any order (Higham 2002, Accuracy and Stability of Numerical Algorithms, equation 3.5), and of
            # one rounding of each factor.
            assert ((product - exact).abs() <= 1.01 * (inner + 2) * 2**-24 * of_size).all()


def test_products_with_what_is_changed_in_place() -> None:
    eager, compiled = Changed(), Changed()
    b = torch.ones(1, 8, 12)
    assert_close(CompiledMethod(compiled, "multiply")(b), eager.multiply(b))
    assert_close(compiled.factor, eager.factor)


@pytest.mark.parametrize("inner", [0, 1])
def test_products_of_nothing_and_of_one_number(inner: int) -> None:
    a, b = torch.ones(2, 20, inner), torch.ones(2, inner, 16)
    found = kernels_of(make_fx(torch.bmm, decomposition_table=on_cpu())(a, b))
    assert found == [torch.ops.aten.bmm.default]  # inductor's, which gives zeros, or a loop


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
    source = products.SOURCES[0].read_text(encoding="utf-8")
    assert products.operators(source) == products.operators(source) != products.operators(source + "// changed")
