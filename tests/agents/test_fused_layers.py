"""Layers as single operators: that graphs have them and compute the same, and that the kernels do what they say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.testing import assert_close

from gumbelrl.agents import products
from gumbelrl.agents.compiled_methods import CompiledMethod
from gumbelrl.agents.decompositions import on_cpu
from gumbelrl.agents.fused_layers import fuse_layers
from gumbelrl.agents.networks import StackedMLP
from gumbelrl.agents.rational_tanh import write_out_tanh
from gumbelrl.random import RandomStreams

pytestmark = pytest.mark.skipif(not products.available(), reason="there are no such kernels for this processor")

aten = torch.ops.aten


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def fused(function: Callable[..., Any], *inputs: Tensor) -> tuple[GraphModule, list[str]]:
    """Return a function's graph with its layers fused, and the names of what it multiplies by."""
    graph = make_fx(function, decomposition_table=on_cpu(), tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    fuse_layers(graph)
    graph.recompile()
    names = {operator: name for name, operator in products.ours().items()}
    return graph, [names[node.target] for node in graph.graph.nodes if node.target in names]


def way_back(activation: str, *, layer_norm: bool) -> tuple[StackedMLP, Callable[..., Any]]:
    """Return a network of two hidden layers, and what returns its outputs and its gradients, of weights and inputs."""
    network = StackedMLP(RandomStreams([0, 1]), 5, 3, hidden=(24, 20), activation=activation, layer_norm=layer_norm)
    with torch.no_grad():
        for parameter in network.parameters():  # biases too
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    names = [name for name, _ in network.named_parameters()]

    def found(inputs: Tensor, slopes: Tensor, *parameters: Tensor) -> Any:
        given = [each.detach().requires_grad_() for each in (inputs, *parameters)]
        outputs = torch.func.functional_call(network, dict(zip(names, given[1:], strict=True)), (given[0],))
        return outputs, *torch.autograd.grad((outputs * slopes).sum(), given)

    return network, found


@pytest.mark.parametrize(
    ("activation", "layer_norm", "forward", "backward"),
    [
        ("relu", False, "bmm_relu", "bmm_relu_backward"),
        ("tanh", False, "bmm_tanh", "bmm_tanh_backward"),
        ("silu", True, "bmm_norm_silu_kept", "bmm_norm_silu_backward"),
        ("silu", False, "bmm", "bmm"),
        ("relu", True, "bmm", "bmm_relu_backward"),
    ],
)
def test_a_network_and_its_gradients(
    generator: torch.Generator, activation: str, layer_norm: bool, forward: str, backward: str
) -> None:
    network, found = way_back(activation, layer_norm=layer_norm)
    inputs = (torch.randn(2, 30, 5, generator=generator), torch.randn(2, 30, 3, generator=generator))
    parameters = [each.detach() for each in network.parameters()]
    graph, names = fused(found, *inputs, *parameters)
    others = ["bmm"] * 3  # of few columns: the last layer, its weights, and the slopes by the inputs
    assert sorted(names) == sorted([*(forward, backward, "bmm_and_sum") * 2, *others])
    expected = found(*inputs, *parameters)
    assert_close(graph(*inputs, *parameters), expected, rtol=1e-5, atol=1e-5)

    class Owner:
        method = staticmethod(found)

    assert_close(CompiledMethod(Owner(), "method")(*inputs, *parameters), expected, rtol=1e-5, atol=2e-5)


def test_a_network_forward_alone(generator: torch.Generator) -> None:
    for activation, layer_norm, name in (("silu", True, "bmm_norm_silu"), ("tanh", False, "bmm_tanh")):
        network, _ = way_back(activation, layer_norm=layer_norm)
        x = torch.randn(2, 30, 5, generator=generator)
        with torch.no_grad():
            graph, names = fused(network, x)
            assert names == [name, name, "bmm"]
            assert_close(graph(x), network(x), rtol=1e-5, atol=1e-5)


# What of a layer is taken by others too, or is no layer.
Case = tuple[Callable[..., Any], list[str]]
CASES: dict[str, Case] = {
    "sum taken": (lambda a, b, c: (torch.relu(total := torch.baddbmm(c, a, b)), total.exp()), ["bmm"]),
    "product taken": (lambda a, b, c: (torch.relu((product := torch.bmm(a, b)) + c), product.exp()), ["bmm"]),
    "no bias": (lambda a, b, c: torch.relu(torch.bmm(a, b)), ["bmm"]),
    "one bias for all": (lambda a, b, c: torch.relu(torch.bmm(a, b) + c[:1]), ["bmm"]),
    "a number": (lambda a, b, c: torch.relu(torch.bmm(a, b) + 1.0), ["bmm"]),
    "scaled": (lambda a, b, c: torch.relu(torch.add(torch.bmm(a, b), c, alpha=2.0)), ["bmm"]),
    "other slope": (lambda a, b, c: aten.threshold_backward(torch.bmm(a, b), torch.bmm(a, b), 0.5), ["bmm", "bmm"]),
    "slope taken": (
        lambda a, b, c: (aten.threshold_backward(slope := torch.bmm(a, b), torch.ones(2, 20, 16), 0), slope.exp()),
        ["bmm"],
    ),
    "sum over columns": (lambda a, b, c: (torch.bmm(a, b), b.sum(2, keepdim=True)), ["bmm"]),
    "sum before": (lambda a, b, c: (b.sum(1, keepdim=True), torch.bmm(a, b)), ["bmm"]),
    "normalised taken": (
        lambda a, b, c: (functional.silu(x := functional.layer_norm(torch.baddbmm(c, a, b), (16,))), x.exp()),
        ["bmm"],
    ),
    "with a scale": (
        lambda a, b, c: functional.silu(functional.layer_norm(torch.baddbmm(c, a, b), (16,), c[0, 0])),
        ["bmm"],
    ),
    "over rows too": (
        lambda a, b, c: functional.silu(functional.layer_norm(torch.baddbmm(c, a, b), (20, 16))),
        ["bmm"],
    ),
    "activated seen otherwise": (
        lambda a, b, c: functional.silu(functional.layer_norm(torch.baddbmm(c, a, b), (16,))).exp(),
        ["bmm"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_as_it_is(generator: torch.Generator, name: str) -> None:
    function, expected = CASES[name]
    inputs = [torch.randn(*shape, generator=generator) for shape in ((2, 20, 18), (2, 18, 16), (2, 1, 16))]
    graph, names = fused(function, *inputs)
    assert names == expected
    assert_close(graph(*inputs), function(*inputs))


def test_tanh_elsewhere(generator: torch.Generator) -> None:
    x = torch.randn(3, 4, generator=generator)
    graph = make_fx(lambda x: torch.tanh(x).exp())(x)
    write_out_tanh(graph)
    graph.recompile()
    assert not graph.graph.find_nodes(op="call_function", target=aten.tanh.default)
    assert_close(graph(x), x.tanh().exp())
    graph = make_fx(torch.tanh)(x.double())
    write_out_tanh(graph)
    assert graph.graph.find_nodes(op="call_function", target=aten.tanh.default)


SIZES = [(1, 1, 16), (2, 3, 20), (5, 64, 64), (7, 5, 5), (11, 300, 37), (50, 20, 130), (97, 17, 16)]
"""Rows, inner dimension, columns: whole vectors and not, of each kind of block, more than at a time."""


def layouts(sizes: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """Return matrices that lie row by row, column by column, and row by row in larger ones."""
    members, rows, columns = sizes
    wider = torch.randn(members, rows, columns + 3, generator=generator)[..., 1:-2]
    turned = torch.randn(members, columns, rows, generator=generator).mT
    return [torch.randn(sizes, generator=generator), turned, wider]


class Every:
    """Every operator, of matrices of some sizes and layouts."""

    def __init__(self, generator: torch.Generator) -> None:
        self.cases: list[tuple[str, list[Any]]] = []
        for name, (rows, inner, columns) in itertools.product(products.MEANINGS, SIZES):
            kinds = zip(layouts((2, rows, inner), generator), layouts((2, inner, columns), generator), strict=True)
            for a, b in kinds:
                self.cases.append((name, [a, b, *self.rest(name, rows, columns, generator)]))

    def rest(self, name: str, rows: int, columns: int, generator: torch.Generator) -> list[Any]:
        if name in ("bmm", "bmm_and_sum"):
            return []
        if name == "bmm_norm_silu_backward":
            below = rows + -(-rows // columns)  # beside the activated, which are not taken
            return [torch.randn(2, rows + below, columns, generator=generator)]
        if name.endswith("backward"):
            return [torch.randn(2, rows, columns + 1, generator=generator)[..., 1:].clamp(-1.0, 1.0)]
        bias = torch.randn(2, 1, columns, generator=generator)
        return [bias, 1e-3] if "norm" in name else [bias]

    def all(self, *tensors: Tensor) -> list[Tensor]:
        rest = iter(tensors)
        filled = [(name, [next(rest) if isinstance(x, Tensor) else x for x in given]) for name, given in self.cases]
        return [products.ours()[name](*given) for name, given in filled]


def test_kernels_against_what_they_mean(generator: torch.Generator) -> None:
    every = Every(generator)
    holders = [[x for x in given if isinstance(x, Tensor)] for _, given in every.cases]
    found = CompiledMethod(every, "all", kept=[every.cases])(*itertools.chain(*holders))
    for (name, given), result in zip(every.cases, found, strict=True):
        exact = products.MEANINGS[name][1](*(x.double() if isinstance(x, Tensor) else x for x in given))
        assert_close(result.double(), exact, rtol=2e-5, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_kernels_pass_on_what_is_no_number() -> None:
    a = torch.tensor([[1.0, torch.nan, 2.0]]).mT.expand(1, 3, 1).contiguous()
    b, other = torch.ones(1, 1, 16), torch.zeros(1, 1, 16)

    class Owner:
        def method(self, a: Tensor, b: Tensor, other: Tensor) -> list[Tensor]:
            return [products.ours()[name](a, b, other) for name in ("bmm_relu", "bmm_tanh")]

    for result in CompiledMethod(Owner(), "method")(a, b, other):
        assert result[0].isnan().all(1).tolist() == [False, True, False]
