"""Loops of compiled graphs, against the same in Python."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from gumbelrl.agents import loops
from gumbelrl.agents.compiled_methods import OPTIONS
from gumbelrl.agents.loops import Call, Loop, LoopError, Take
from gumbelrl.envs.programs import Program, program, write_into

TABLE = torch.tensor([0.9, 0.5, 0.1])


def compiled(function: Callable[..., Any], *examples: Tensor) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own parts
        return program(make_fx(function)(*examples), list(examples), OPTIONS)


def step(state: Tensor, noise: Tensor) -> list[Tensor]:
    following = state * TABLE + noise
    return [following, following > 1]


def act(state: Tensor, above: Tensor, total: Tensor) -> list[Tensor]:
    total.add_(state.sum())
    return [torch.where(above, state * 0.5, state)]


@pytest.fixture(scope="module")
def programs() -> tuple[Program, Program]:
    three = torch.ones(3)
    return compiled(step, three, three.clone()), compiled(act, three, three > 0, torch.zeros(()))


def loop_of(programs: tuple[Program, Program]) -> Loop:
    stepping, acting = programs
    return Loop(
        [
            Take("noise", "noise now"),
            Take("marks", "mark", 1),
            Call(stepping, ["state", "noise now"], ["next", "above"]),
            Call(acting, ["next", "above", "mark"], ["state"]),
        ],
        given=["state", "noise", "marks"],
        returned=["state", "above"],
    )


def check_as_in_python(loop: Loop, times: int) -> None:
    noise = torch.randn(2, times, 3, generator=torch.Generator().manual_seed(times)).unbind(0)[1]
    start, marks = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(times + 1)
    found = loop(times, [start, noise, marks])
    state, above, expected = start, start > 0, torch.zeros(times + 1)
    for turn, noise_t in enumerate(noise):
        following, above = step(state, noise_t)
        (state,) = act(following, above, expected[turn + 1])
    assert_close([found[0], marks], [state, expected])  # products and sums are fused
    assert torch.equal(found[1], above)
    assert torch.equal(start, torch.tensor([1.0, -2.0, 3.0]))


@pytest.mark.parametrize("times", [1, 7])
def test_a_loop_does_what_python_would(programs: tuple[Program, Program], times: int) -> None:
    loop = loop_of(programs)
    assert loop.by_cpp
    check_as_in_python(loop, times)


@pytest.mark.parametrize("times", [1, 7])
def test_without_cpp_python_takes_the_steps(programs: tuple[Program, Program], times: int) -> None:
    loop = loop_of(tuple(Program(each.call, each.constants) for each in programs))  # type: ignore[arg-type]
    assert not loop.by_cpp
    check_as_in_python(loop, times)


def test_loops_of_several_threads_keep_out_of_each_others_memory(programs: tuple[Program, Program]) -> None:
    loop = loop_of(programs)
    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(check_as_in_python, loop, times) for times in (5, 50, 500) * 20]:
            future.result()


def test_what_a_loop_returns_stays_when_others_run(programs: tuple[Program, Program]) -> None:
    loop = loop_of(programs)
    given = [torch.ones(3), torch.ones(4, 3), torch.zeros(5)]
    found = [loop(4, given)[0] for _ in range(50)]
    assert len({each.data_ptr() for each in found}) == 50
    for each in found:
        assert each.data_ptr() % 64 == 0
        assert torch.equal(each, found[0])


def test_a_graph_writes_into_what_it_is_given() -> None:
    def turned(a: Tensor, b: Tensor) -> list[Tensor]:
        return [b.flip(0), a.view(3), a + b, b]

    graph = make_fx(turned)(torch.ones(3), torch.ones(3))
    places = write_into(graph, {0: 0, 1: 1})
    written = program(graph, [torch.ones(3), torch.ones(3), *places], OPTIONS)
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])
    assert written([a, b, *places]) == []
    assert [each.tolist() for each in (a, b, *places)] == [[30, 20, 10], [1, 2, 3], [11, 22, 33], [10, 20, 30]]


def owners(tensor: Tensor) -> int:
    """Return how many tensors own a tensor's storage."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata) - 1  # what asks is another


def test_a_loop_lets_go_of_its_tensors(programs: tuple[Program, Program]) -> None:
    stepping, _ = programs
    loop = Loop([Call(stepping, ["state", "noise"], ["state", "above"])], given=["state", "noise"], returned=["state"])
    given = [torch.ones(3), torch.ones(3)]
    (found,) = loop(5, given)
    assert [owners(each) for each in [*given, found]] == [1, 1, 1]


def test_a_graph_that_fails_says_why_and_nothing_is_lost() -> None:
    square = torch.eye(64)
    multiply = compiled(lambda a, b: [torch.mm(a, b)], square, square.clone())
    loop = Loop([Call(multiply, ["a", "b"], ["a"])], given=["a", "b"], returned=["a"])
    bad = torch.ones(5)
    with pytest.raises(LoopError, match="API call failed"):
        loop(2, [bad, square])
    assert owners(bad) == 1
    assert torch.equal(loop(3, [square, square])[0], square)


def test_a_tensor_that_a_graph_returns_twice_is_held_twice() -> None:
    def twice(a: Tensor) -> list[Tensor]:
        doubled = a * 2
        return [doubled, doubled]

    loop = Loop([Call(compiled(twice, torch.ones(64)), ["a"], ["a", "b"])], given=["a"], returned=["a", "b"])
    start = torch.ones(64)
    found = loop(5, [start])
    assert torch.equal(found[0], torch.full((64,), 32.0))
    assert torch.equal(found[0], found[1])
    assert owners(start) == 1


def test_an_output_that_a_graph_leaves_out_is_an_error() -> None:
    nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda inputs, outputs: None)
    address = ctypes.cast(nothing, ctypes.c_void_p).value
    loop = Loop([Call(Program(lambda arguments: [], entry=address), [], ["a"])], given=[], returned=["a"])
    with pytest.raises(LoopError, match="a graph left an output out"):
        loop(1, [])


def test_what_is_read_before_it_is_written_is_refused(programs: tuple[Program, Program]) -> None:
    with pytest.raises(LoopError, match="'noise' is read, and neither given nor written before"):
        Loop([Call(programs[0], ["state", "noise"], ["state", "above"])], given=["state"], returned=["state"])


def test_that_loops_cannot_be_compiled_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "loops.cpp"
    broken.write_text("this is not C++")
    monkeypatch.setattr(loops, "SOURCE", broken)
    for each in (loops.available, loops._repeat):
        each.cache_clear()
    try:
        with pytest.warns(UserWarning, match="cannot be compiled here.*Python calls them, which is slower"):
            assert not loops.available()
        assert not loops.available()  # without a second warning, which would be an error
    finally:
        loops.available.cache_clear()


def test_too_few_tensors_are_refused(programs: tuple[Program, Program]) -> None:
    with pytest.raises(LoopError, match="2 tensors are given, and the loop takes 3"):
        loop_of(programs)(1, [torch.ones(3), torch.ones(1, 3)])
