"""Products of float32 matrices in graphs that a CPU computes, and what networks do with them, by kernels of our own.

`torch.bmm` asks MKL, which copies both matrices into an order of its own before it multiplies. These kernels take them
as they lie, and need two fifths of its time for 4 × 64 × 64 and four fifths for 256 × 64 × 64 (benchmarks/products.py).
What a network does with a product is done while it is in registers or the nearest cache: see `fused_layers.py`, which
puts these operators into graphs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library
from torch.nn import functional

from gumbelrl.agents.rational_tanh import tanh_in_cpp

SOURCES = [Path(__file__).with_name(name) for name in ("products.h", "normalised_layers.h")]
WRITER = Path(__file__).read_text(encoding="utf-8")

OPERATORS = library.Library("gumbelrl", "FRAGMENT")


def fastest_bmm(a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what multiplies matrices like these, `[member, row, inner]` and `[member, inner, column]`, in a graph.

    It is `torch.bmm` where there are no such kernels; where there are several threads, since these kernels use one; and
    where there is nothing to be summed.
    """
    fitting = all(each.dtype == torch.float32 and each.device.type == "cpu" for each in (a, b)) and a.shape[2] > 0
    if not fitting or torch.get_num_threads() > 1 or not available():
        return torch.bmm
    return ours()["bmm"]


def ours() -> dict[str, Any]:
    """Return the operators, by the names in `MEANINGS`."""
    return operators("\n".join(each.read_text(encoding="utf-8") for each in SOURCES))


def multiplies(target: Any) -> bool:
    """Return whether that is our product."""
    return available() and target is ours()["bmm"]


@cache
def available() -> bool:
    """Return whether the kernels suit this processor, and this torch's inductor can call them.

    They count on 32 registers of 16 numbers each: AVX-512.
    """
    from torch._inductor import config

    return torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(config, "cpp_wrapper")


def _relu(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    return torch.relu(torch.bmm(a, b) + bias)


def _tanh(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
    return torch.tanh(torch.bmm(a, b) + bias)


def _relu_backward(a: Tensor, b: Tensor, activated: Tensor) -> Tensor:
    return torch.where(activated <= 0.0, 0.0, torch.bmm(a, b))


def _tanh_backward(a: Tensor, b: Tensor, activated: Tensor) -> Tensor:
    return torch.bmm(a, b) * (1.0 - activated.square())


def _norm_silu(a: Tensor, b: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return functional.silu(functional.layer_norm(torch.bmm(a, b) + bias, b.shape[2:], eps=epsilon))


def _norm_silu_kept(a: Tensor, b: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    normalised, _, scale = torch.native_layer_norm(torch.bmm(a, b) + bias, b.shape[2:], None, None, epsilon)
    lines = functional.pad(scale.flatten(1), (0, -scale.shape[1] % b.shape[2]))
    return torch.cat([functional.silu(normalised), normalised, lines.unflatten(1, (-1, b.shape[2]))], dim=1)


def _norm_silu_backward(a: Tensor, b: Tensor, kept: Tensor) -> Tensor:
    rows = a.shape[1]
    normalised, scale = kept[:, rows : 2 * rows], kept[:, 2 * rows :].flatten(1)[:, :rows, None]
    slope = torch.ops.aten.silu_backward(torch.bmm(a, b), normalised)
    along = (slope * normalised).mean(2, keepdim=True)
    return (slope - slope.mean(2, keepdim=True) - normalised * along) * scale


def _and_sum(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([torch.bmm(a, b), b.sum(1, keepdim=True)], dim=1)


MEANINGS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "bmm": ("", torch.bmm),
    "bmm_relu": ("Tensor bias", _relu),
    "bmm_tanh": ("Tensor bias", _tanh),
    "bmm_relu_backward": ("Tensor activated", _relu_backward),
    "bmm_tanh_backward": ("Tensor activated", _tanh_backward),
    "bmm_norm_silu": ("Tensor bias, float epsilon", _norm_silu),
    "bmm_norm_silu_kept": ("Tensor bias, float epsilon", _norm_silu_kept),
    "bmm_norm_silu_backward": ("Tensor kept", _norm_silu_backward),
    "bmm_and_sum": ("", _and_sum),
}
"""What else each operator takes, and what it computes. Matrices are float32: `a` `[member, row, inner]`, `b`
`[member, inner, column]`, a bias `[member, 1, column]` to add, and what an activation returned, by whose slope to
multiply.

`bmm_and_sum` has the sums over `b`'s rows below the product, for the gradient of a bias. `bmm_norm_silu_kept` has what
was normalised below its result, and what the deviations of rows were multiplied by, one number after another."""


@cache
def operators(source: str) -> dict[str, Any]:
    """Return the operators by the names in `MEANINGS`; inductor knows how each is written, as a call of the source's.

    Their names say how: inductor looks for what it wrote before by the names of the operators.
    """
    from torch._inductor.lowering import register_lowering

    source = tanh_in_cpp() + source
    version, found = hashlib.sha256((source + WRITER).encode()).hexdigest()[:8], {}
    for called, (rest, meaning) in MEANINGS.items():
        name = f"{called}_{version}"
        OPERATORS.define(f"{name}({', '.join(filter(None, ('Tensor a, Tensor b', rest)))}) -> Tensor")
        OPERATORS.impl(name, meaning, "CompositeExplicitAutograd")
        library.register_fake(f"gumbelrl::{name}", meaning, lib=OPERATORS)
        found[called] = getattr(torch.ops.gumbelrl, name).default
        register_lowering(found[called], type_promotion_kind=None)(_lowering(source, called))
    return found


def _lowering(source: str, called: str) -> Callable[..., Any]:
    """Return how inductor is to write an operator: as a call of the source's function of that name."""
    from torch._inductor import config, ir
    from torch._inductor.kernel.mm_common import mm_args
    from torch._inductor.select_algorithm import realize_inputs
    from torch._inductor.virtualized import V

    class Product(ir.ExternKernelOut):
        def codegen(self, wrapper: Any) -> None:
            if not V.graph.cpp_wrapper:  # inductor has been told otherwise than by us
                raise RuntimeError("these products are written in C++ only")
            _, b, *others = self.inputs
            if not _in_lines(b) or not all(map(_by_rows, others)):
                raise RuntimeError("inductor has changed how the factors of a product lie in memory")
            if not getattr(wrapper, "has_products", False):
                wrapper.header.splice(source)
                wrapper.has_products = True
            matrices = ", ".join([*(_in_memory(each) for each in (self, *self.inputs)), *map(str, self.constant_args)])
            named = f'RAIIAtenRecordFunctionHandle named("gumbelrl::{called}", nullptr); '
            wrapper.writeline(f"{{ {named * config.cpp.enable_kernel_profile}gumbelrl::{called}({matrices}); }}")

    def lowered(a: Any, b: Any, *others: Any) -> Any:
        *_, layout, a, b = mm_args(a, b)
        members, rows, columns = layout.size
        if called == "bmm_and_sum":
            layout = ir.FixedLayout(layout.device, layout.dtype, [members, rows + 1, columns])
        elif called == "bmm_norm_silu_kept":
            layout = ir.FixedLayout(layout.device, layout.dtype, [members, 2 * rows + -(-rows // columns), columns])
        tensors = [_laid_out(realize_inputs(each), _by_rows) for each in others if not isinstance(each, float)]
        return ir.TensorBox.create(
            Product(
                layout=layout,
                inputs=[_laid_out(a), _laid_out(b, _in_lines), *tensors],
                constant_args=[each for each in others if isinstance(each, float)],
                python_kernel_name="extern_kernels.bmm",
            )
        )

    return lowered


def _laid_out(node: Any, fits: Callable[[Any], bool] = lambda _: True) -> Any:
    """Return one of inductor's nodes, to stay as it lies in memory if that fits, or else a copy."""
    from torch._inductor import ir

    ir.as_storage_and_layout(node, freeze=True)  # what the graph computes lies as from now on
    return node if fits(node) else ir.ExternKernel.require_contiguous(node)


def _by_rows(node: Any) -> bool:
    """Return whether the rows of the matrices of one of inductor's nodes are contiguous."""
    return _numbers(node.get_stride())[2] == 1


def _in_lines(node: Any) -> bool:
    """Return whether the rows of the matrices of one of inductor's nodes are contiguous, or their columns."""
    return 1 in _numbers(node.get_stride())[1:]


def _in_memory(node: Any) -> str:
    """Return C++ that says where the matrices of one of inductor's nodes lie, without a tensor made for a view."""
    layout = node.get_layout()
    sizes, strides = (", ".join(map(str, _numbers(each))) for each in (layout.size, layout.stride))
    return f"gumbelrl::Matrices({node.get_name()}, {int(layout.offset)}, {{{sizes}}}, {{{strides}}})"


def _numbers(expressions: Any) -> list[int]:
    return [int(each) for each in expressions]
