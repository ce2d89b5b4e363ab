"""Loops of compiled graphs, against the same in Python."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from gumbelrl.agents import loops
from gumbelrl.agents.compiled_methods import OPTIONS
from gumbelrl.agents.loops import Call, Keep, Loop, LoopError, Take, Truths
from gumbelrl.envs.programs import Program, program

TABLE = torch.tensor([2.0, 3.0, 5.0])


def compiled(function: Callable[..., Any], *examples: Tensor) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own parts
        return program(make_fx(function)(*examples), list(examples), OPTIONS)


def step(state: Tensor, noise: Tensor) -> list[Tensor]:
    following = state * TABLE + noise
    return [following, (following > 4).view(torch.uint8)]


def act(state: Tensor, above: Tensor, total: Tensor) -> list[Tensor]:
    total.add_(state.sum())
    return [torch.where(above, state * 0.5, state)]


@pytest.fixture(scope="module")
def programs() -> tuple[Program, Program]:
    three = torch.ones(3)
    return compiled(step, three, three.clone()), compiled(act, three, three > 0, torch.zeros(()))


def test_a_loop_does_what_python_would(programs: tuple[Program, Program]) -> None:
    stepping, acting = programs
    loop = Loop(
        [
            Keep("state", "states", 12),
            Take("noise", "noise now"),
            Call(stepping, ["state", "noise now"], ["next", "above"]),
            Keep("above", "all above", 3),
            Truths("above"),
            Call(acting, ["next", "above", "total"], ["state"]),
        ],
        given=["state", "noise", "total", "states", "all above"],
        returned=["state", "above"],
    )
    for times in (1, 7):
        noise = torch.randn(2, times, 3, generator=torch.Generator().manual_seed(times)).unbind(0)[1]
        states, above = torch.empty(times, 3), torch.empty(times, 3, dtype=torch.bool)
        start, total = torch.tensor([1.0, -2.0, 3.0]), torch.zeros(())
        found = loop(times, [start, noise, total, states, above])

        state, expected_states, expected_above, expected_total = start, [], [], torch.zeros(())
        for noise_t in noise:
            expected_states.append(state)
            following, bits = step(state, noise_t)
            expected_above.append(bits.view(torch.bool))
            (state,) = act(following, bits.view(torch.bool), expected_total)
        assert_close(states, torch.stack(expected_states))  # products and sums are fused
        assert torch.equal(above, torch.stack(expected_above))
        assert found[1].dtype == torch.bool
        assert_close([found[0], total], [state, expected_total])
        assert torch.equal(start, torch.tensor([1.0, -2.0, 3.0]))


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


def test_a_graph_without_an_entry_is_refused() -> None:
    with pytest.raises(LoopError, match=r"no C\+\+ that other C\+\+ could call"):
        Loop([Call(Program(lambda arguments: arguments), ["a"], ["a"])], given=["a"], returned=["a"])
