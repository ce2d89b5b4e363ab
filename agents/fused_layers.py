"""A network's layers as single operators in a graph: what it does with a product is done while that is in a cache.

A hidden layer is a product, the sum with its bias, and the activation; backward a product and the slope of the
activation, and for its weights a product and the sum of its second factor, which is the gradient of the bias. Apart,
each is a loop over [member, batch, unit] with an array of its own: together a sixth of an update of `sac`, a quarter
where members are many and arrays in a far cache. `products.py` has operators that do both.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from gumbelrl.agents import products

aten = torch.ops.aten

FORWARD = {aten.relu.default: "bmm_relu", aten.tanh.default: "bmm_tanh"}
BACKWARD = {aten.threshold_backward.default: "bmm_relu_backward", aten.tanh_backward.default: "bmm_tanh_backward"}


def fuse_layers(graph: GraphModule) -> None:
    """Put a product and what its layer does with it into one operator each.

    Args:
        graph: with the products of `decompositions.on_cpu`, and values for its nodes.
    """
    if not any(_is_product(node) for node in graph.graph.nodes):  # which are float32 on a CPU
        return
    _drop_aliases(graph)
    for node in list(graph.graph.nodes):
        if node.target in FORWARD:
            _fuse_forward(graph, node)
        elif node.target in BACKWARD:
            _fuse_backward(graph, node)
        elif node.target == aten.silu.default:
            _fuse_normalised(graph, node)
    for node in graph.graph.find_nodes(op="call_function", target=aten.sum.dim_IntList):
        _fuse_sum(graph, node)


def _drop_aliases(graph: GraphModule) -> None:
    """Have what is an alias of another node taken for that one, but where it is returned."""
    for node in list(graph.graph.nodes):
        if node.target in (aten.detach.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0], delete_user_cb=lambda user: user.op != "output")
            if not node.users:
                graph.graph.erase_node(node)


def _is_product(node: Any) -> bool:
    return isinstance(node, Node) and products.multiplies(node.target)


def _is_layer(total: Any) -> bool:
    """Return whether a node is the sum of a product, which nobody else takes, and a bias."""
    if not isinstance(total, Node) or total.target != aten.add.Tensor or total.kwargs:
        return False
    product: Any
    bias: Any
    product, bias = total.args
    if not _is_product(product) or len(product.users) > 1 or not isinstance(bias, Node):
        return False
    members, _, columns = product.meta["val"].shape
    return bias.meta["val"].shape == (members, 1, columns) and _is_like(bias, product)


def _fuse_forward(graph: GraphModule, activated: Any) -> None:
    """activation(product + bias)"""
    total = activated.args[0]
    if _is_layer(total) and len(total.users) == 1:
        product, bias = total.args
        _replace(graph, activated, FORWARD[activated.target], *product.args, bias)
        _remove(graph, activated, total, product)


def _fuse_backward(graph: GraphModule, slope: Any) -> None:
    """Product · activation'"""
    product, activated, *threshold = slope.args
    if threshold not in ([], [0]) or not _is_product(product) or len(product.users) > 1:
        return
    if activated.meta["val"].shape == product.meta["val"].shape and _is_like(activated, product):
        _replace(graph, slope, BACKWARD[slope.target], *product.args, activated)
        _remove(graph, slope, product)


def _fuse_normalised(graph: GraphModule, activated: Any) -> None:
    """silu(normalised(product + bias)), and the way back to the sum, where there is one"""
    layer = _Normalised.of(activated)
    if layer is None or not all(_is_product(user) or user.target == aten.transpose.int for user in activated.users):
        return
    product, bias = layer.total.args
    back = layer.backward
    inputs = (*product.args, bias, layer.epsilon)
    if back is None:
        _replace(graph, activated, "bmm_norm_silu", *inputs)
    else:
        rows = product.meta["val"].shape[1]
        kept = _replace(graph, activated, "bmm_norm_silu_kept", *inputs, part=(1, 0, rows))
        _replace(graph, back.slope, "bmm_norm_silu_backward", *back.product.args, kept)
        _remove(graph, *list(back.norm.users), back.norm, back.activation, back.product)
    _remove(graph, activated, *layer.statistics, layer.norm, layer.total, product)


class _Back(NamedTuple):
    """The way back: a product, by the slope of SiLU, by that of what normalises; of its results the first alone."""

    product: Any
    activation: Any
    norm: Any
    slope: Any

    @classmethod
    def of(cls, slope: Any) -> _Back | None:
        """Return the way back from `slope`'s on, which is SiLU's, if it has no other users between."""
        product, users = slope.args[0], list(slope.users)
        if not _is_product(product) or len(product.users) > 1 or len(users) != 1:
            return None
        (norm,) = users
        if norm.target != aten.native_layer_norm_backward.default or norm.args[0] is not slope:
            return None
        used = [user for user in norm.users if user.users]
        if len(used) != 1 or used[0].args[1] != 0:
            return None
        return cls(product, slope, norm, used[0])


class _Normalised(NamedTuple):
    """A sum, what normalises it, of that the results that are taken, and the way back."""

    total: Any
    norm: Any
    statistics: list[Any]
    epsilon: float
    backward: _Back | None

    @classmethod
    def of(cls, activated: Any) -> _Normalised | None:
        """Return the layer that ends in `activated`, if nobody else takes what is between."""
        normalised = activated.args[0]
        if normalised.target is not operator.getitem or normalised.args[1] != 0:
            return None
        norm = normalised.args[0]
        if norm.target != aten.native_layer_norm.default:
            return None
        total, shape, weight, bias, epsilon = norm.args
        if len(shape) != 1 or weight is not None or bias is not None or not _is_layer(total):
            return None
        statistics = list(norm.users)
        slopes = [user for user in normalised.users if user.target == aten.silu_backward.default]
        back = _Back.of(slopes[0]) if len(slopes) == 1 else None
        if (slopes and back is None) or len(normalised.users) != 1 + len(slopes):
            return None
        taking = {norm} if back is None else {norm, back.norm}
        others = {user for each in statistics if each is not normalised for user in each.users}
        if set(total.users) != taking or not others <= taking:
            return None
        return cls(total, norm, statistics, epsilon, back)


def _fuse_sum(graph: GraphModule, total: Any) -> None:
    """Product of a turned batch and `slopes`, and sum of `slopes` over the batch"""
    slopes, dimensions, *keeps = total.args
    if (dimensions, keeps) != ([1], [True]) or total.kwargs:
        return
    for product in slopes.users:
        if _is_product(product) and product.args[1] is slopes and product < total:
            rows = product.meta["val"].shape[1]
            both = _replace(graph, product, "bmm_and_sum", *product.args, part=(1, 0, rows))
            _take_part(graph, both, (1, rows, rows + 1), total)
            _remove(graph, total, product)
            return


def _is_like(node: Node, product: Node) -> bool:
    """Return whether a node has numbers of the same kind as a product."""
    value, other = node.meta["val"], product.meta["val"]
    return isinstance(value, Tensor) and (value.dtype, value.device) == (other.dtype, other.device)


def _replace(graph: GraphModule, node: Node, name: str, *inputs: Any, part: tuple[int, int, int] | None = None) -> Node:
    """Have an operator, or a part of what it returns, taken in the place of a node; return the operator's."""
    called = products.ours()[name]
    with graph.graph.inserting_before(node):
        new = graph.graph.call_function(called, inputs)
    new.meta["val"] = called(*(each.meta["val"] if isinstance(each, Node) else each for each in inputs))
    if part is None:
        node.replace_all_uses_with(new)
    else:
        _take_part(graph, new, part, node)
    return new


def _take_part(graph: GraphModule, whole: Node, part: tuple[int, int, int], node: Node) -> None:
    """Have a part of `whole`, along a dimension from a place to another, taken in the place of a node."""
    with graph.graph.inserting_before(node):
        new = graph.graph.call_function(aten.slice.Tensor, (whole, *part))
    new.meta["val"] = whole.meta["val"].narrow(part[0], part[1], part[2] - part[1])
    node.replace_all_uses_with(new)


def _remove(graph: GraphModule, *nodes: Node) -> None:
    for node in nodes:
        graph.graph.erase_node(node)
