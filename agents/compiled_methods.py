"""Methods as compiled graphs, with every tensor that their object holds as an input.

A method is traced once, with every tensor that the object holds as an input, by `make_fx`, gradients included and
products in another form (`decompositions.py`), and the graph goes to inductor without Dynamo and its checks in every
call. What the method changes in place or assigns, the graph changes in place, in the same storage: checkpoints,
evaluation and diagnostics see nothing of it.

Sums are taken in another order than eagerly, and arithmetic is fused: results agree to rounding, not to the bit.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gumbelrl.agents.decompositions import on_cpu, settle
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.fused_layers import fuse_layers
from gumbelrl.agents.held_state import Place, tensors_of
from gumbelrl.agents.loops import Call, Loop, Take
from gumbelrl.agents.networks import FlatParameters
from gumbelrl.agents.optimisers import Optimiser
from gumbelrl.agents.rational_tanh import write_out_tanh
from gumbelrl.envs.programs import Program, program, write_into

OPTIONS: dict[str, Any] = {
    # Inputs are laid out as when compiled; look-ups are the agent's own.
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
    "assert_indirect_indexing": False,
    # A product and a sum in one instruction, and one rounding.
    "cpp.enable_floating_point_contract_flag": "fast",
    # What calls the loops and products is C++ too: half of the time of a rollout's step in Python.
    "cpp_wrapper": True,
}


class CompileError(RunError):
    """A method cannot be compiled here."""


class CompiledMethod:
    """A method as graphs, one for each way it is called.

    Args:
        owner: what the method belongs to; its tensors may be changed by the method, in place or by assignment.
        name: of a method that takes tensors, in dictionaries or dataclasses, and keywords, and returns tensors.
        kept: what the owner holds and the method does not touch, such as a replay.
        in_place: its graphs write into tensors that they are given, like their `places`, and return nothing; they are
            to be called by their `program`.
        or_eager: call the method itself, after a warning, where it cannot be compiled.

    Raises:
        CompileError: in a call, unless `or_eager`: it cannot be compiled here.
    """

    def __init__(
        self, owner: Any, name: str, *, kept: Sequence[object] = (), in_place: bool = False, or_eager: bool = False
    ) -> None:
        self.owner, self.name, self.kept, self.in_place, self.or_eager = owner, name, kept, in_place, or_eager
        self.method: Callable[..., Any] = getattr(owner, name)
        self.graphs: dict[Any, Graph | None] = {}  # None where it could not be compiled

    def graph(self, *inputs: Any, **choices: Any) -> Graph | None:
        """Return the graph for inputs like these, made if need be, or None where there can be none."""
        return self._graph_of(_parts(inputs), inputs, choices)

    def _graph_of(self, parts: list[Any], inputs: tuple[Any, ...], choices: dict[str, Any]) -> Graph | None:
        key = (*_layout(inputs, parts), *choices.items())
        if key not in self.graphs:
            try:
                self.graphs[key] = Graph(self, inputs, choices)
            except CompileError as error:
                if not self.or_eager:
                    raise
                warnings.warn(f"{error}; training goes on without (--compile off says so at once)", stacklevel=2)
                self.graphs[key] = None
        return self.graphs[key]

    def __call__(self, *inputs: Any, **choices: Any) -> Any:
        parts = _parts(inputs)
        graph = self._graph_of(parts, inputs, choices)
        return self.method(*inputs, **choices) if graph is None else graph(parts)


class RepeatedMethod:
    """A method called with every row of a column in turn, by one call: Python is not asked between them.

    Args:
        method: its last input is a row; the others are the same for all rows.
    """

    def __init__(self, method: CompiledMethod) -> None:
        self.method = method
        self.loops: dict[Graph, Loop] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Return what the method returns for the last row.

        Args:
            inputs: of the method, with a column of rows in place of the last.
        """
        *others, column = inputs
        graph = self.method.graph(*others, column[0])
        loop = None if graph is None else self._loop(graph)
        if graph is None or loop is None:
            return [self.method(*others, row) for row in column.unbind()][-1]
        return graph.as_returned(loop(len(column), [*graph.state(), *graph.taken(inputs)]))

    def _loop(self, graph: Graph) -> Loop | None:
        """Return a loop of a graph, made if need be; None where there can be none."""
        takes_row = graph.given[-1:] == [graph.num_parts - 1]
        if graph not in self.loops and takes_row:
            names = [f"input {i}" for i in range(len(graph.held) + len(graph.given))]
            found = [f"output {i}" for i in range(graph.num_outputs)]
            steps = (Take("column", names[-1]), Call(graph.program, names, found))
            self.loops = {graph: Loop(steps, given=[*names[:-1], "column"], returned=found)}
        return self.loops.get(graph)


class Graph:
    """A method compiled for inputs like these; compiling takes seconds.

    Attributes:
        held: the owner's tensors that the graph takes, before what it takes of the inputs.
        given: which of the inputs' `num_parts` parts it takes.
        program: the graph itself.
        num_outputs: that it returns.
        places: what it writes into instead, if it is to, as examples.

    Raises:
        CompileError: it cannot be compiled here.
    """

    def __init__(self, method: CompiledMethod, inputs: tuple[Any, ...], choices: dict[str, Any]) -> None:
        places = _state_of(method.owner, method.kept)
        parts = _parts(inputs)
        given = [index for index, part in enumerate(parts) if isinstance(part, Tensor)]
        if not all(place.value.is_contiguous() for place in places):  # the graph would read it in another order
            raise CompileError(f"{method.name} cannot be compiled here: a tensor of the agent is not contiguous")

        def traced(*tensors: Tensor) -> list[Tensor]:
            held, rest = tensors[: len(places)], iter(tensors[len(places) :])
            filled = [next(rest) if isinstance(part, Tensor) else part for part in parts]
            with _holding(method.owner, places, held, method.kept):
                found = method.method(*_filled(inputs, filled), **choices)
                found = () if found is None else found
                outputs, self.returned = pytree.tree_flatten(found)
                now = [place.value for place in places]
            for new, old in zip(now, held, strict=True):
                if new is not old:
                    old.detach().copy_(new.detach())
            self.names = list(found) if isinstance(found, dict) and len(found) == len(outputs) else None
            return [each.detach() for each in outputs]

        examples = [place.value.detach() for place in places]
        examples += [parts[index].detach().contiguous() for index in given]  # parts of a batch are views
        try:
            self.program, used, self.places = _compiled(traced, examples, in_place=method.in_place)
        except Exception as error:  # whatever the compiler raises
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CompileError(f"{method.name} cannot be compiled here: {reason[0]}") from error
        # In a tuple, where no search for what an agent holds comes upon the holders of other objects' tensors.
        self.held = tuple(places[index] for index in used if index < len(places))
        self.given = [given[index - len(places)] for index in used if index >= len(places)]
        self.num_parts, self.num_outputs = len(parts), self.returned.num_leaves

    @torch.no_grad()
    def __call__(self, parts: list[Any]) -> Any:
        """Return what the method would, of inputs that are opened already."""
        return self.as_returned(self.program([*self.state(), *self._taken(parts)]))

    def as_returned(self, found: list[Tensor]) -> Any:
        """Return what the method would, of the program's outputs."""
        if self.names is not None:
            return dict(zip(self.names, found, strict=True))
        return pytree.tree_unflatten(found, self.returned)

    def state(self) -> list[Tensor]:
        """Return the owner's tensors that the graph takes."""
        return [place.holder[place.key] for place in self.held]

    def taken(self, inputs: Sequence[Any]) -> list[Tensor]:
        """Return what the graph takes of the inputs, laid out as it takes it."""
        return self._taken(_parts(inputs))

    def _taken(self, parts: list[Any]) -> list[Tensor]:
        return [parts[index].contiguous() for index in self.given]


def _compiled(
    function: Callable[..., Any], examples: list[Any], *, in_place: bool
) -> tuple[Program, list[int], list[Tensor]]:
    """Return a function of tensors compiled for some like the examples, which of them it takes, and its places."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with warnings.catch_warnings(), _compiling():
        warnings.simplefilter("ignore")  # of torch about its own parts
        # By tensors that only say how large they are: a replay may have most of the memory.
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        sizes = [mode.from_tensor(each, static_shapes=True) for each in examples]
        graph = make_fx(function, decomposition_table=on_cpu(), _allow_non_fake_inputs=True)(*sizes)
        inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
        used = [index for index, node in enumerate(inputs) if node.users]
        for node in inputs:
            if not node.users:
                graph.graph.erase_node(node)
        with mode:
            fuse_layers(graph)
            write_out_tanh(graph)
        settle(graph)
        places = write_into(graph, {}) if in_place else []
        graph.recompile()
        return program(graph, [*(examples[index] for index in used), *places], OPTIONS), used, places


@contextmanager
def _compiling() -> Iterator[None]:
    """Have code that asks whether it is being compiled told so: some is then written for a compiler to fuse."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


# What a method is given ---------------------------------------------------------------------------------------------


def _parts(inputs: Sequence[Any]) -> list[Any]:
    """Return what inputs hold, dictionaries and dataclasses opened."""
    parts: list[Any] = []
    for each in inputs:
        if isinstance(each, Tensor):
            parts.append(each)
        elif isinstance(each, dict):
            parts.extend(each.values())
        elif dataclasses.is_dataclass(each):
            parts.extend(vars(each).values())
        else:
            parts.append(each)
    return parts


def _filled(inputs: Sequence[Any], parts: list[Any]) -> list[Any]:
    """Return inputs like these with other parts."""
    rest = iter(parts)
    filled: list[Any] = []
    for each in inputs:
        if isinstance(each, dict):
            filled.append({name: next(rest) for name in each})
        elif dataclasses.is_dataclass(each):
            kind: Callable[..., Any] = type(each)
            filled.append(kind(**{name: next(rest) for name in vars(each)}))
        else:
            filled.append(next(rest))
    return filled


def _layout(inputs: Sequence[Any], parts: list[Any]) -> list[Any]:
    """Return what a graph is made for: names, shapes and what is no tensor; `parts` is what the inputs hold."""
    names = [name for each in inputs if isinstance(each, dict) for name in each]
    return names + [part.shape if isinstance(part, Tensor) else part for part in parts]


# What an object holds -----------------------------------------------------------------------------------------------


def _of_kind(owner: Any, kind: type) -> list[Any]:
    return [each for each in vars(owner).values() if isinstance(each, kind)]


def _state_of(owner: Any, kept: Sequence[object]) -> list[Place]:
    """Return one place of each tensor of an object, but for parameters, which are views of flat ones."""
    for optimiser in _of_kind(owner, Optimiser):
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                _ = optimiser.state[parameter] or optimiser._new_state(parameter)
    views = {id(parameter) for flat in _of_kind(owner, FlatParameters) for parameter in flat.parameters}
    places = {id(place.value): place for place in tensors_of(owner, leave_out=kept)}
    return [place for key, place in places.items() if key not in views]


@contextmanager
def _holding(owner: Any, places: list[Place], tensors: Sequence[Tensor], kept: Sequence[object]) -> Iterator[None]:
    """Have an object hold other tensors, and parameters that are views of them, as long as this lasts."""
    everywhere = [(place, place.value) for place in tensors_of(owner, leave_out=kept)]
    flats, optimisers = _of_kind(owner, FlatParameters), _of_kind(owner, Optimiser)
    others = {id(place.value): tensor for place, tensor in zip(places, tensors, strict=True)}
    for flat in flats:
        start, rows = 0, flat.flat.shape[0]
        for parameter in flat.parameters:
            columns = others[id(flat.flat)][:, start : start + parameter.numel() // rows]
            others[id(parameter)] = columns.view(parameter.shape).detach().requires_grad_()
            start += columns.shape[1]
    states = [optimiser.state for optimiser in optimisers]
    try:
        for place, old in everywhere:
            place.put(others[id(old)])
        for optimiser, state in zip(optimisers, states, strict=True):
            optimiser.state = defaultdict(dict, {others[id(each)]: moments for each, moments in state.items()})
            optimiser.written_out = True
        yield
    finally:
        for optimiser, state in zip(optimisers, states, strict=True):
            optimiser.state, optimiser.written_out = state, False
        for place, old in everywhere:
            place.put(old)
