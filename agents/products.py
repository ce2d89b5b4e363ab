"""Products of float32 matrices for graphs that a CPU computes, by oneDNN's kernels for small matrices.

`torch.bmm` asks MKL, which copies both matrices into an order of its own before it multiplies. These kernels take them
as they lie, and need two fifths of its time for 4 × 64 × 64 and four for 256 × 64 × 64 (benchmarks/products.py).
They are torch's own `brgemm` (ATen/native/CPUBlas.h), which it calls for its attention and which has no name in Python;
`products.h` says how it is called, and has a kernel of its own for gradients of weights.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, library

SOURCE = Path(__file__).with_name("products.h")
WRITER = Path(__file__).read_text(encoding="utf-8")

BRGEMM = "_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb"
"""`void at::native::cpublas::brgemm(long, …, const float*, const float*, float*, bool)`."""

OPERATORS = library.Library("gumbelrl", "FRAGMENT")


def fastest_bmm(a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what multiplies matrices like these, `[member, row, inner]` and `[member, inner, column]`, in a graph.

    It is `torch.bmm` where there are no such kernels; where there are several threads, since these kernels use one; and
    where there is nothing to be summed.
    """
    fitting = all(each.dtype == torch.float32 and each.device.type == "cpu" for each in (a, b)) and a.shape[2] > 0
    if not fitting or torch.get_num_threads() > 1 or not available():
        return torch.bmm
    return operator(SOURCE.read_text(encoding="utf-8"))


@cache
def available() -> bool:
    """Return whether this torch has the kernels, for this processor, and an inductor that can call them.

    A processor without AVX-512 has kernels too; they were not measured.
    """
    from torch._inductor import config

    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:  # not Linux
        return False
    vectors = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return vectors and hasattr(torch_cpu, BRGEMM) and hasattr(config, "cpp_wrapper")


@cache
def operator(source: str) -> Any:
    """Return the operator, of which inductor knows how it is written.

    Its name says how: inductor looks for what it wrote before by the names of the operators.
    """
    from torch._inductor.lowering import register_lowering

    lowered = _lowering(source)
    name = f"bmm_{hashlib.sha256((source + WRITER).encode()).hexdigest()[:8]}"
    OPERATORS.define(f"{name}(Tensor a, Tensor b) -> Tensor")
    OPERATORS.impl(name, torch.bmm, "CompositeExplicitAutograd")
    library.register_fake(f"gumbelrl::{name}", torch.bmm, lib=OPERATORS)
    defined = getattr(torch.ops.gumbelrl, name).default
    register_lowering(defined, type_promotion_kind=None)(lowered)
    return defined


def _lowering(source: str) -> Callable[[Any, Any], Any]:
    """Return how inductor is to write a product: as a call of the source's function."""
    from torch._inductor import config, ir
    from torch._inductor.kernel.mm_common import mm_args
    from torch._inductor.virtualized import V

    class Product(ir.ExternKernelOut):
        def codegen(self, wrapper: Any) -> None:
            if not V.graph.cpp_wrapper:  # inductor has been told otherwise than by us
                super().codegen(wrapper)
                return
            if not all(_in_lines(each) for each in self.inputs):  # the kernels would read something else
                raise RuntimeError("inductor has changed how the factors of a product lie in memory")
            if not getattr(wrapper, "has_products", False):
                wrapper.header.splice(source)
                wrapper.has_products = True
            matrices = ", ".join(_in_memory(each) for each in (self, *self.inputs))
            named = 'RAIIAtenRecordFunctionHandle named("gumbelrl::bmm", nullptr); '
            wrapper.writeline(f"{{ {named * config.cpp.enable_kernel_profile}gumbelrl::bmm({matrices}); }}")

    def lowered(a: Any, b: Any) -> Any:
        *_, layout, a, b = mm_args(a, b)
        for each in (a, b):
            ir.as_storage_and_layout(each, freeze=True)  # what the graph computes lies as from now on
        inputs = [each if _in_lines(each) else ir.ExternKernel.require_contiguous(each) for each in (a, b)]
        return ir.TensorBox.create(Product(layout=layout, inputs=inputs, python_kernel_name="extern_kernels.bmm"))

    return lowered


def _in_lines(node: Any) -> bool:
    """Return whether the matrices of one of inductor's nodes lie row by row or column by column."""
    (_, rows, columns), (_, next_row, next_column) = _numbers(node.get_size()), _numbers(node.get_stride())
    return next_row == 1 or (next_column == 1 and (rows == 1 or next_row >= columns))


def _in_memory(node: Any) -> str:
    """Return C++ that says where the matrices of one of inductor's nodes lie, without a tensor made for a view."""
    layout = node.get_layout()
    sizes, strides = (", ".join(map(str, _numbers(each))) for each in (layout.size, layout.stride))
    return f"gumbelrl::Matrices({node.get_name()}, {int(layout.offset)}, {{{sizes}}}, {{{strides}}})"


def _numbers(expressions: Any) -> list[int]:
    return [int(each) for each in expressions]
