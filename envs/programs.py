"""Graphs compiled by inductor, as plain functions of tensors.

What inductor writes is called as it is. What torch would do before and after it in every call, for outputs that are
views of inputs and for inputs that overlap, is left out where a graph takes what it was given and nothing else.
"""

from __future__ import annotations

import ctypes
import logging
import operator
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

COPIES = (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)

ENTRY = "_Z19inductor_entry_implPP16AtenTensorOpaqueS1_"
"""`void inductor_entry_impl(AtenTensorHandle* inputs, AtenTensorHandle* outputs)`, which inductor's C++ wrapper is."""


class Program:
    """Machine code of a graph.

    Args:
        call: takes the list of its inputs, which it may empty, and returns its outputs.
        constants: inputs that are always the same, before the others.
        entry: the address of `call` for other C++, by `ENTRY`, with the same inputs; None where there is none.
    """

    def __init__(
        self, call: Callable[[list[Any]], Sequence[Any]], constants: Sequence[Tensor] = (), entry: int | None = None
    ) -> None:
        # A tuple, in which no search for what an agent holds comes upon them.
        self.call, self.constants, self.entry = call, tuple(constants), entry

    def __call__(self, arguments: list[Any]) -> list[Any]:
        """Return the outputs for the inputs after the constants."""
        return list(self.call([*self.constants, *arguments]))


def program(graph: GraphModule, inputs: list[Any], options: dict[str, Any]) -> Program:
    """Return a graph, which may change its inputs in place, compiled by inductor."""
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    written: list[tuple[GraphModule, Any]] = []

    def inner(module: GraphModule, examples: Sequence[Any], **how: Any) -> Any:
        written.append((module, compile_fx_inner(module, examples, **how)))
        return written[-1][1]

    known = torch._inductor.config.get_config_copy()
    options = {name: value for name, value in options.items() if name in known}  # versions of torch differ
    if any(each.device.type != "cpu" for each in inputs):
        options.pop("cpp_wrapper", None)  # not tried with Triton
    elif "cpp.vec_isa_ok" in known and known["cpp.vec_isa_ok"] is None and _knows_vectors():
        options["cpp.vec_isa_ok"] = True
    # With a shape environment inductor keeps what it wrote on the disk, for the next start.
    context = TracingContext(FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()))
    cached = torch._functorch.config.patch(enable_autograd_cache=False)
    with tracing(context), torch.no_grad(), cached, _without_warnings():
        whole = compile_fx(graph, inputs, inner_compile=inner, config_patches=options, ignore_shape_env=True)
    module, code = written[-1]
    constants = [*graph.parameters(), *graph.buffers()]
    taken = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    call = getattr(code, "current_callable", None)
    as_given = [_layout(each) for each in taken] == [_layout(each) for each in (*constants, *inputs)]
    as_given = as_given and len(outputs_of(module)) == len(outputs_of(graph))
    if len(written) > 1 or call is None or not as_given or any(each.device.type != "cpu" for each in taken):
        every = cast(Callable[..., Any], whole)
        return Program(lambda arguments: every(*arguments))
    of_its_own = getattr(code, "constants", None)  # of which `call` knows, and its entry is to be given them
    return Program(call, constants, None if of_its_own else _entry(call))


def write_into(graph: GraphModule, inputs: Mapping[int, int]) -> list[Tensor]:
    """Have a graph write what it returns into tensors that it is given: no call then makes new ones for it.

    Args:
        inputs: for an output that takes the place of an input, its number -> the number of that input.

    Returns:
        Empty tensors like the other outputs, on the CPU. As many further inputs of the graph are to take those.
    """
    given = [node for node in graph.graph.nodes if node.op == "placeholder"]
    output, found = graph.graph.output_node(), outputs_of(graph)
    rest = [index for index in range(len(found)) if index not in inputs]
    places, last = [], given[-1]
    for number, index in enumerate(rest):
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"place_{number}")
        last.meta["val"] = found[index].meta["val"].new_empty(found[index].meta["val"].shape)
        places.append(last)
    with graph.graph.inserting_before(output):
        values = [_computed(graph, node) for node in found]
        targets = dict(zip(rest, places, strict=True)) | {index: given[number] for index, number in inputs.items()}
        for index, target in targets.items():
            graph.graph.call_function(torch.ops.aten.copy_.default, (target, values[index]))
    output.args = ([],)
    graph.recompile()
    return [torch.empty(place.meta["val"].shape, dtype=place.meta["val"].dtype) for place in places]


def _computed(graph: GraphModule, node: Node) -> Node:
    """Return a value, not an input itself or a view of one, which may have changed by the time that it is copied.

    Inductor leaves clones out, and copies to inputs one after another at the end: of two turned around, it does not.
    """
    source = node
    while isinstance(source.target, torch._ops.OpOverload) and (
        source.target in COPIES or source.target._schema.returns[0].alias_info is not None
    ):
        source = cast(Node, source.args[0])
    if source.op != "placeholder" and source.target is not operator.getitem:
        return node
    flip = torch.ops.aten.flip.default
    return graph.graph.call_function(flip, (graph.graph.call_function(flip, (node, [0])), [0]))


@cache
def _knows_vectors() -> bool:
    """Return whether the C++ compiler is sure to have the vectors that the processor has: a GCC of 2022 or later.

    Inductor would compile, link and load a library for each kind of vector to see, which takes 7 s with an empty cache
    and most of a second with a full one.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler, is_gcc

    try:
        compiler = get_cpp_compiler()
        told = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout
        return sys.platform == "linux" and is_gcc() and int(told.split(".")[0]) >= 12
    except Exception:  # no compiler, or one that says something else: inductor is to see
        return False


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep from the terminal that an eager kernel is called by way of torch's dispatcher, as it is meant to be."""
    logger = logging.getLogger("torch._inductor.ir")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def outputs_of(graph: GraphModule) -> list[Any]:
    """Return the nodes that a graph returns."""
    found: Any = graph.graph.output_node().args[0]
    return list(found)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def _entry(call: Callable[..., Any]) -> int | None:
    """Return the address of the C++ that inductor's function in Python calls, a function of a module of its own."""
    for cell in getattr(call, "__closure__", None) or ():
        module = getattr(cell.cell_contents, "__self__", None)
        if isinstance(module, ModuleType) and module.__file__:
            try:
                return ctypes.cast(ctypes.CDLL(module.__file__)[ENTRY], ctypes.c_void_p).value
            except (AttributeError, OSError):  # written otherwise, by another version of torch
                return None
    return None
