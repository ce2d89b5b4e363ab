"""Products and functions in the form in which a CPU does them fast, for graphs that are compiled.

Measured on one thread of an EPYC (AVX-512, MKL), at 512 rows and 64 units:

- A product with few columns, as a network's last layer has, takes as long as one with 64: [512, 64] × [64, 2] 36 µs,
  10 members of it 352. Turned round, and filled up to 4 columns, it takes 9 and 74.
- `baddbmm` first copies the bias into all rows, 7 µs; added in the loop that comes after the product, it costs nothing.
- `tanh` of torch's vector library takes 50 µs; a quotient of two polynomials 10 (`rational_tanh.py`).
- MKL copies both matrices before it multiplies, which kernels of our own do not: see `products.py`.
- A number that a loop takes, such as a power of Adam's decays, is made anew in every turn of it: 16 of 24 µs for a step
  of 9,000 weights. Made before the loop, it is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional

from gumbelrl.agents.products import fastest_bmm

aten = torch.ops.aten

FEW = 12
"""Columns below which a product is turned round: from there on vectors are filled."""

MANY = 32
"""How many times as many elements a loop has as what is computed before it."""

VIEWS = (aten.unsqueeze.default, aten.expand.default)


def on_cpu() -> dict[Any, Callable[..., Any]]:
    """Return operator -> what a graph is to hold in its place; `NotImplemented` from it leaves the operator."""
    return {
        aten.baddbmm.default: affine,
        aten.bmm.default: product,
        aten.pow.Scalar: power,
    }


def affine(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """`baddbmm`: the product, and then the sum."""
    return torch.bmm(a, b) + bias if beta == alpha == 1 else NotImplemented


def product(a: Float[Tensor, "member row inner"], b: Float[Tensor, "member inner column"]) -> Any:
    """`bmm` by the fastest kernels, turned round where it has few columns."""
    (_, rows, inner), few = a.shape, b.shape[2]
    if inner == 1 or rows == few == 1:  # which inductor writes as loops
        return NotImplemented
    multiply = fastest_bmm(a, b)
    if few >= min(FEW, rows):
        return NotImplemented if multiply is torch.bmm else multiply(a, b)
    turned = b.mT
    if multiply is torch.bmm and few in (2, 3) and inner < rows:  # for weights of 4 columns MKL has a better kernel
        turned = functional.pad(turned, (0, 0, 0, 4 - few))
    return multiply(turned, a.mT)[:, :few].mT


def power(base: float, exponent: Tensor) -> Any:
    """`base ** exponent`: of whole numbers, torch 2.13's C++ wrapper calls the one of floating-point numbers."""
    if exponent.is_floating_point() or not isinstance(base, int):
        return NotImplemented
    return torch.full_like(exponent, base).pow(exponent)


def settle(graph: GraphModule) -> None:
    """Have small results that large loops on a CPU take computed once, before the loop, and so the rows of a look-up.

    Inductor writes them into the loop, and there the C++ compiler leaves them, since for all it knows what the loop
    stores is what they are made of. Which rows are looked up it computes anew for each column, and random ones with a
    division each.
    """
    for node in list(graph.graph.nodes):
        small = _is_arithmetic(node) and _is_small_beside(node, node.users)
        if small or (_is_arithmetic(node, floating=False) and _says_rows(node, node.users)):
            value = node.meta["val"]
            with graph.graph.inserting_after(node):  # a view of a storage, which it must have then
                settled = graph.graph.call_function(aten.as_strided.default, (node, value.shape, value.stride(), 0))
            settled.meta["val"] = value
            node.replace_all_uses_with(settled, delete_user_cb=lambda user, new=settled: user is not new)


def _is_arithmetic(node: Node, *, floating: bool = True) -> bool:
    """Return whether a node computes one new tensor on a CPU, of floating-point numbers or of others."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._schema.is_mutable:
        return False
    value, tags = node.meta.get("val"), node.target.tags
    computes = torch.Tag.pointwise in tags or torch.Tag.reduction in tags or node.target == aten._to_copy.default
    if not (computes and isinstance(value, Tensor)):
        return False
    return value.is_floating_point() == floating and value.is_contiguous() and value.device.type == "cpu"


def _says_rows(node: Node, users: Iterable[Node]) -> bool:
    """Return whether several look-ups take a node, or a view of it, for their rows."""
    views = [user for user in users if user.target in (aten.view.default, *VIEWS)]
    looked_up = [user for user in users if user.target == aten.index_select.default and user.args[2] is node]
    return len(looked_up) > 1 or any(_says_rows(view, view.users) for view in views)


def _is_small_beside(node: Node, users: Iterable[Node]) -> bool:
    """Return whether arithmetic on many times as many elements takes a node, or a view of it."""
    for user in users:
        value = user.meta.get("val")
        if not isinstance(value, Tensor):
            continue
        large = value.numel() >= MANY * node.meta["val"].numel()
        if large and torch.Tag.pointwise in getattr(user.target, "tags", ()):
            return True
        if user.target in VIEWS and _is_small_beside(node, user.users):
            return True
    return False
