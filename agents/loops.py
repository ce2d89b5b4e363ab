"""Compiled graphs called in turn, again and again, by C++: between two of them Python would take as long as they do.

The loop itself (`loops.cpp`) is compiled once, in two seconds, and knows nothing of what it calls: a `Loop` says which
graphs, in what order, with which tensors by name.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from gumbelrl.envs.programs import Program

SOURCE = Path(__file__).with_name("loops.cpp")

CALL, TAKE = range(2)  # as in the source


class Call(NamedTuple):
    """Call a graph; outputs take the place of what had their names."""

    program: Program
    inputs: Sequence[str]
    outputs: Sequence[str] = ()


class Take(NamedTuple):
    """Take a row of a column, that of the turn or so many after it, for a graph to read or to write into."""

    column: str
    row: str
    ahead: int = 0


Step: TypeAlias = Call | Take


class LoopError(RuntimeError):
    """A loop, or a graph in it, failed."""


class Loop:
    """Steps that are taken again and again: by C++, or by Python where there is none.

    Args:
        steps: in the order of a turn.
        given: names of the tensors that every call brings.
        returned: names of those that it returns, as the last turn leaves them; each once, and outputs of graphs.

    Raises:
        LoopError: a step reads what is neither given nor written before it.
    """

    def __init__(self, steps: Iterable[Step], *, given: Sequence[str], returned: Sequence[str] = ()) -> None:
        self.steps, self.given, self.names = tuple(steps), tuple(given), tuple(returned)
        self.slots: dict[str, int] = {name: slot for slot, name in enumerate(given)}
        # In tuples, where no search for what an agent holds comes upon them.
        self.constants: tuple[tuple[int, Tensor], ...] = ()
        code = [number for step in self.steps for number in self._written(step)]
        calls = [step for step in self.steps if isinstance(step, Call)]
        self.by_cpp = all(call.program.entry is not None for call in calls) and available()
        self.code, self.returned = _integers(code), _integers([self.slots[name] for name in returned])

    def _read(self, name: str) -> int:
        if name not in self.slots:
            raise LoopError(f"{name!r} is read, and neither given nor written before")
        return self.slots[name]

    def _write(self, name: str) -> int:
        return self.slots.setdefault(name, len(self.slots))

    def _written(self, step: Step) -> list[int]:
        """Return a step as the source reads it."""
        if isinstance(step, Take):
            return [TAKE, self._read(step.column), self._write(step.row), step.ahead]
        inputs = [*map(self._constant, step.program.constants), *map(self._read, step.inputs)]
        outputs = [*map(self._write, step.outputs)]
        return [CALL, step.program.entry or 0, len(inputs), len(outputs), *inputs, *outputs]

    def _constant(self, tensor: Tensor) -> int:
        slot = self._write(f"a constant, {len(self.constants)}")
        self.constants = (*self.constants, (slot, tensor))
        return slot

    @torch.no_grad()
    def __call__(self, times: int, given: Sequence[Tensor]) -> list[Tensor]:
        """Take the steps so many times; return the tensors that `returned` names.

        Args:
            times: at least 1.
            given: in the order of their names; columns contiguous.

        Raises:
            LoopError: a graph failed; what it says.
        """
        if len(given) != len(self.given):
            raise LoopError(f"{len(given)} tensors are given, and the loop takes {len(self.given)}")
        if not self.by_cpp:
            return self._by_python(times, given)
        held = (ctypes.c_void_p * len(self.slots))(*_handles(given))
        for (slot, _), handle in zip(self.constants, _handles([each for _, each in self.constants]), strict=True):
            held[slot] = handle
        found, message = (ctypes.c_void_p * len(self.returned))(), ctypes.create_string_buffer(1000)
        turns = (self.code, len(self.code), times)
        if _repeat()(*turns, held, len(held), self.returned, len(found), found, message, len(message)):
            raise LoopError(message.value.decode(errors="replace"))
        return _tensors(found)

    def _by_python(self, times: int, given: Sequence[Tensor]) -> list[Tensor]:
        held = dict(zip(self.given, given, strict=True))
        for turn in range(times):
            for step in self.steps:
                if isinstance(step, Take):
                    held[step.row] = held[step.column][turn + step.ahead]
                else:
                    found = step.program([held[name] for name in step.inputs])
                    held.update(zip(step.outputs, found, strict=True))
        return [held[name] for name in self.names]


def _integers(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def _handles(tensors: Sequence[Tensor]) -> list[int]:
    """Return torch's C handles of tensors, for somebody to take over."""
    return [_pointer_of(each, None) for each in torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(list(tensors))]


def _tensors(handles: Iterable[int]) -> list[Tensor]:
    """Take handles over; return their tensors."""
    capsules: list[Any] = [_capsule_of(each, None, None) for each in handles]
    return torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)


@cache
def available() -> bool:
    """Return whether loops can be compiled here, with a warning if not; the first call does so."""
    try:
        _repeat()
    except LoopError as error:
        warnings.warn(f"{error}; Python calls them, which is slower", stacklevel=2)
        return False
    return True


@cache
def _repeat() -> Any:
    """Return `repeat` of the source, compiled if it is not in inductor's cache.

    Raises:
        LoopError: it cannot be compiled here.
    """
    from torch._inductor.codecache import CppCodeCache

    try:
        path = CppCodeCache.load(SOURCE.read_text(encoding="utf-8"))._name
        repeat = ctypes.PyDLL(path).repeat  # which keeps the interpreter's lock
    except Exception as error:  # whatever the compiler raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise LoopError(f"a loop of graphs cannot be compiled here: {reason[0]}") from error
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    repeat.argtypes = (pointer, integer, integer, pointer, integer, pointer, integer, pointer, pointer, integer)
    repeat.restype = ctypes.c_int32
    return repeat
