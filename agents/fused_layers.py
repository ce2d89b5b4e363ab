"""A network's layers as single operators in a graph: what it does with a product is done while that is in a cache.

A hidden layer is a product, the sum with its bias, and the activation; backward a product and the slope of the
activation, and for its weights a product and the sum of its second factor, which is the gradient of the bias. Apart, each
is a loop over [member, batch, unit] with an array of its own: together they take a quarter of an update of `sac`, and
more where members are many and arrays go to a far cache. `products.py` has operators that do both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from gumbelrl.agents import products
from gumbelrl.agents.rational_tanh import tanh

aten = torch.ops.aten

FORWARD = {aten.relu.default: "bmm_relu", aten.tanh.default: "bmm_tanh"}
BACKWARD = {aten.threshold_backward.default: "bmm_relu_backward", aten.tanh_backward.default: "bmm_tanh_backward"}


def fuse_layers(graph: GraphModule) -> None:
    """Put a product and what its layer does with it into one operator each, and the rest of the `tanh` in another form.

    Args:
        graph: with the products of `decompositions.on_cpu`, and values for its nodes.
    """
    if any(_is_product(node) for node in graph.graph.nodes):  # which are float32 on a CPU then
        for node in list(graph.graph.nodes):
            if node.target in FORWARD:
                _fuse_forward(graph, node)
            elif node.target in BACKWARD:
                _fuse_backward(graph, node)
            elif node.target == aten.sum.dim_IntList:
                _fuse_sum(graph, node)
    for node in graph.graph.find_nodes(op="call_function", target=aten.tanh.default):
        _write_out(graph, node)


def _is_product(node: Any) -> bool:
    return isinstance(node, Node) and products.multiplies(node.target)


def _fuse_forward(graph: GraphModule, activated: Node) -> None:
    """activation(product + bias)"""
    total = activated.args[0]
    if not (isinstance(total, Node) and total.target == aten.add.Tensor and len(total.users) == 1):
        return
    product, bias = total.args
    if total.kwargs or not _is_product(product) or len(product.users) > 1 or not isinstance(bias, Node):
        return
    members, _, columns = product.meta["val"].shape
    if bias.meta["val"].shape == (members, 1, columns) and _is_like(bias, product):
        _replace(graph, activated, FORWARD[activated.target], *product.args, bias)
        _remove(graph, total, product)


def _fuse_backward(graph: GraphModule, slope: Node) -> None:
    """product · activation'"""
    product, activated, *threshold = slope.args
    if threshold not in ([], [0]) or not _is_product(product) or len(product.users) > 1:
        return
    if activated.meta["val"].shape == product.meta["val"].shape and _is_like(activated, product):
        _replace(graph, slope, BACKWARD[slope.target], *product.args, activated)
        _remove(graph, product)


def _fuse_sum(graph: GraphModule, total: Node) -> None:
    """product of a turned batch and `slopes`, and sum of `slopes` over the batch"""
    slopes, dimensions, *keeps = total.args
    if (dimensions, keeps) != ([1], [True]) or total.kwargs:
        return
    for product in slopes.users:
        if _is_product(product) and product.args[1] is slopes and product < total:
            rows = product.meta["val"].shape[1]
            both = _replace(graph, product, "bmm_and_sum", *product.args, rows=slice(0, rows))
            _rows_of(graph, both, slice(rows, rows + 1), total)
            _remove(graph, total, product)
            return


def _is_like(node: Node, product: Node) -> bool:
    """Return whether a node has numbers of the same kind as a product."""
    value, other = node.meta["val"], product.meta["val"]
    return isinstance(value, Tensor) and (value.dtype, value.device) == (other.dtype, other.device)


def _replace(graph: GraphModule, node: Node, name: str, *inputs: Any, rows: slice | None = None) -> Node:
    """Have an operator, or some rows of what it returns, in the place of a node; return the operator's."""
    operator = products.ours()[name]
    with graph.graph.inserting_before(node):
        new = graph.graph.call_function(operator, inputs)
    new.meta["val"] = operator(*(each.meta["val"] for each in inputs))
    if rows is None:
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    else:
        _rows_of(graph, new, rows, node)
    return new


def _rows_of(graph: GraphModule, matrix: Node, rows: slice, node: Node) -> None:
    """Have some rows of a matrix in the place of a node."""
    with graph.graph.inserting_before(node):
        part = graph.graph.call_function(aten.slice.Tensor, (matrix, 1, rows.start, rows.stop))
    part.meta["val"] = matrix.meta["val"][:, rows]
    node.replace_all_uses_with(part)


def _remove(graph: GraphModule, *nodes: Node) -> None:
    for node in nodes:
        graph.graph.erase_node(node)


def _write_out(graph: GraphModule, node: Node) -> None:
    """Have arithmetic in the place of a `tanh`."""
    (argument,) = node.args
    if argument.meta["val"].dtype != torch.float32 or argument.meta["val"].device.type != "cpu":
        return
    arithmetic = make_fx(tanh)(argument.meta["val"])
    (given,) = arithmetic.graph.find_nodes(op="placeholder")
    with graph.graph.inserting_before(node):
        value = graph.graph.graph_copy(arithmetic.graph, {given: argument})
    node.replace_all_uses_with(value)
    graph.graph.erase_node(node)
