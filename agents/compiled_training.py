"""Learning as compiled graphs: `--compile`.

A region is a method of an agent that learns from tensors and changes the agent's own: parameters, moments, counters.
It is traced once, with every tensor that the agent holds as an input, by `make_fx`, gradients included, and the graph
goes to inductor without Dynamo and its checks in every call. What the method changes in place, the graph changes in
place, in the same storage: checkpoints, evaluation and diagnostics see nothing of it.

Sums are taken in another order than eagerly, and arithmetic is fused: parameters agree to rounding, not to the bit.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.networks import FlatParameters
from gumbelrl.agents.optimisers import Optimiser

OPTIONS: dict[str, Any] = {
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
    "assert_indirect_indexing": False,
}
"""Inputs are laid out as when compiled; look-ups are the agent's own."""


class CompileError(RunError):
    """A method cannot be compiled here."""


@dataclasses.dataclass
class Slot:
    """A place where an object holds a tensor."""

    holder: MutableMapping[Any, Any] | MutableSequence[Any]
    key: Any

    @property
    def tensor(self) -> Tensor:
        return self.holder[self.key]

    def put(self, tensor: Tensor) -> None:
        self.holder[self.key] = tensor


def slots_of(root: object, *, kept: Sequence[object] = ()) -> Iterator[Slot]:
    """Yield every place where `root`, or what it holds of this package, holds a tensor, but for what is `kept`."""
    seen = {id(each) for each in kept}
    waiting: list[Any] = [root]
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, MutableMapping):
            places: list[tuple[Any, Any]] = [(held, key) for key in held]
        elif isinstance(held, list):
            places = [(held, index) for index in range(len(held))]
        elif type(held).__module__.startswith("gumbelrl.") or isinstance(held, nn.Module):
            waiting.append(getattr(held, "__dict__", {}))
            continue
        else:
            continue
        for holder, key in places:
            value = holder[key]
            if isinstance(value, Tensor):
                yield Slot(holder, key)
            else:
                waiting.append(value)


def compile_learning(agent: Any, *, or_eager: bool = False) -> None:
    """Have an agent's optimiser steps compiled: losses, gradients, moments, coefficients and slow copies in one graph.

    The graphs are made by the first steps, which therefore take seconds.

    Args:
        agent: one that `gumbelrl.agents.compilation.obstacle` finds nothing against.
        or_eager: where there turns out to be no compiler, go on eagerly with a warning instead of raising.
    """
    kept = [agent.replay] if hasattr(agent, "replay") else []
    step = CompiledMethod(agent, "_step", kept=kept, or_eager=or_eager)
    set_progress, load = agent.set_progress, agent.load_state_dict
    numbers: dict[str, Tensor] = {}

    def on_the_device(name: str, number: float | Tensor) -> Tensor:
        if isinstance(number, Tensor):
            return number
        numbers.setdefault(name, torch.zeros((), device=agent.streams.device)).fill_(number)
        return numbers[name]

    def set_progress_by_tensors(progress: float, *, temperature: float | Tensor) -> None:
        """A graph holds numbers as they were when it was traced, and follows tensors."""
        set_progress(progress, temperature=temperature)
        if hasattr(agent, "path"):
            agent.path.scheduled_temperature = on_the_device("temperature", agent.path.scheduled_temperature)
        for index, group in enumerate(agent.optimizer.param_groups):
            group["lr"] = on_the_device(f"rate {index}", group["lr"])

    def load_anew(state: dict[str, Any]) -> None:
        """Other moments may come with a state: look for them again."""
        load(state)
        step.graphs.clear()

    agent._step, agent.set_progress, agent.load_state_dict = step, set_progress_by_tensors, load_anew


class CompiledMethod:
    """A method of an agent as graphs, one for each way it is called.

    Args:
        agent: what the method belongs to; its tensors may be changed by the method, in place or by assignment.
        name: of a method that takes tensors, in dictionaries or dataclasses, and keywords, and returns tensors.
        kept: what the agent holds and the method does not touch, such as a replay.
        or_eager: call the method itself, after a warning, where it cannot be compiled.

    Raises:
        CompileError: in a call, unless `or_eager`: it cannot be compiled here.
    """

    def __init__(self, agent: Any, name: str, *, kept: Sequence[object] = (), or_eager: bool = False) -> None:
        self.agent, self.name, self.kept, self.or_eager = agent, name, kept, or_eager
        self.method: Callable[..., Any] = getattr(agent, name)
        self.graphs: dict[Any, Graph | None] = {}  # None where it could not be compiled

    def __call__(self, *inputs: Any, **choices: Any) -> Any:
        leaves = pytree.tree_leaves([_columns(each) for each in inputs])
        layout = tuple(tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        key = (layout, *choices.items())
        if key not in self.graphs:
            try:
                self.graphs[key] = Graph(self, inputs, choices)
            except CompileError as error:
                if not self.or_eager:
                    raise
                warnings.warn(f"{error}; training goes on without (--compile off says so at once)", stacklevel=2)
                self.graphs[key] = None
        graph = self.graphs[key]
        return self.method(*inputs, **choices) if graph is None else graph(leaves)


class Graph:
    """A method compiled for inputs like these; compiling takes seconds.

    Raises:
        CompileError: it cannot be compiled here.
    """

    def __init__(self, owner: CompiledMethod, inputs: tuple[Any, ...], choices: dict[str, Any]) -> None:
        self.slots = _state_of(owner.agent, owner.kept)
        leaves, structure = pytree.tree_flatten([_columns(each) for each in inputs])
        self.given = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.assigned: list[int] = []
        if not all(slot.tensor.is_contiguous() for slot in self.slots):  # the graph would read it in another order
            raise CompileError(f"{owner.name} cannot be compiled here: a tensor of the agent is not contiguous")

        def traced(*tensors: Tensor) -> list[Tensor]:
            held, rest = tensors[: len(self.slots)], iter(tensors[len(self.slots) :])
            filled = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            columns = pytree.tree_unflatten(filled, structure)
            with _holding(owner.agent, self.slots, held, owner.kept):
                found = owner.method(*map(_like, inputs, columns), **choices)
                outputs, self.returned = pytree.tree_flatten(found)
                now = [slot.tensor for slot in self.slots]
            self.assigned = [index for index, (new, old) in enumerate(zip(now, held, strict=True)) if new is not old]
            return [each.detach() for each in (*outputs, *(now[index] for index in self.assigned))]

        examples = [*(slot.tensor.detach().clone() for slot in self.slots)]
        examples += [leaves[index].detach().contiguous() for index in self.given]  # parts of a batch are views
        try:
            self.graph = _compiled(traced, examples)
        except Exception as error:  # whatever the compiler raises
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CompileError(f"{owner.name} cannot be compiled here: {reason[0]}") from error

    @torch.no_grad()
    def __call__(self, leaves: list[Any]) -> Any:
        state = [slot.tensor.detach() for slot in self.slots]
        found = self.graph(*state, *(leaves[index].detach().contiguous() for index in self.given))
        count = self.returned.num_leaves
        for index, new in zip(self.assigned, found[count:], strict=True):
            state[index].copy_(new)
        return pytree.tree_unflatten(found[:count], self.returned)


def _compiled(function: Callable[..., Any], examples: list[Any]) -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own parts
        graph = make_fx(function)(*[each.clone(memory_format=torch.preserve_format) for each in examples])
        with torch.no_grad():
            return torch._inductor.compile(graph, examples, options=OPTIONS)


def _columns(given: Any) -> Any:
    """Return a dataclass as the dictionary of its fields; anything else as it is."""
    if not dataclasses.is_dataclass(given):
        return given
    return {each.name: getattr(given, each.name) for each in dataclasses.fields(given)}


def _like(example: Any, columns: Any) -> Any:
    kind: Callable[..., Any] = type(example)
    return kind(**columns) if dataclasses.is_dataclass(example) else columns


def _of_kind(agent: Any, kind: type) -> list[Any]:
    return [each for each in vars(agent).values() if isinstance(each, kind)]


def _state_of(agent: Any, kept: Sequence[object]) -> list[Slot]:
    """Return one place of each tensor of an agent, but for parameters, which are views of flat ones."""
    for optimiser in _of_kind(agent, Optimiser):
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                _ = optimiser.state[parameter] or optimiser._new_state(parameter)
    views = {id(parameter) for flat in _of_kind(agent, FlatParameters) for parameter in flat.parameters}
    places = {id(slot.tensor): slot for slot in slots_of(agent, kept=kept)}
    return [slot for key, slot in places.items() if key not in views]


@contextmanager
def _holding(agent: Any, slots: list[Slot], tensors: Sequence[Tensor], kept: Sequence[object]) -> Iterator[None]:
    """Have an agent hold other tensors, and parameters that are views of them, as long as this lasts."""
    everywhere = [(slot, slot.tensor) for slot in slots_of(agent, kept=kept)]
    flats, optimisers = _of_kind(agent, FlatParameters), _of_kind(agent, Optimiser)
    others = {id(slot.tensor): tensor for slot, tensor in zip(slots, tensors, strict=True)}
    for flat in flats:
        start, rows = 0, flat.flat.shape[0]
        for parameter in flat.parameters:
            columns = others[id(flat.flat)][:, start : start + parameter.numel() // rows]
            others[id(parameter)] = columns.view(parameter.shape).detach().requires_grad_()
            start += columns.shape[1]
    states = [optimiser.state for optimiser in optimisers]
    try:
        for slot, old in everywhere:
            slot.put(others[id(old)])
        for optimiser, state in zip(optimisers, states, strict=True):
            optimiser.state = defaultdict(dict, {others[id(each)]: moments for each, moments in state.items()})
            optimiser.written_out = True
        yield
    finally:
        for optimiser, state in zip(optimisers, states, strict=True):
            optimiser.state, optimiser.written_out = state, False
        for slot, old in everywhere:
            slot.put(old)
