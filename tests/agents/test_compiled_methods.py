"""What compiled graphs are made of: products turned round, polynomials for functions, small results before loops."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from gumbelrl.agents import products
from gumbelrl.agents.compiled_methods import CompiledMethod
from gumbelrl.agents.decompositions import affine, product, settle
from gumbelrl.agents.episodes import EpisodeStatistics
from gumbelrl.agents.rational_tanh import tanh
from gumbelrl.agents.recurrences import backward_recurrence
from gumbelrl.agents.returns import lambda_returns
from gumbelrl.policies import ESTIMATORS


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 11])
@pytest.mark.parametrize(("rows", "inner"), [(32, 8), (8, 32)])
@pytest.mark.parametrize("small_kernels", [True, False])
def test_products_with_few_columns(
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    rows: int,
    inner: int,
    small_kernels: bool,
) -> None:
    if not small_kernels:
        monkeypatch.setattr(products, "available", lambda: False)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((3, rows, inner), (3, inner, columns)))
    found = product(a, b)
    if columns < min(rows, 12) or (small_kernels and products.available()):
        assert_close(found, torch.bmm(a, b))
        assert found.is_contiguous() == (columns >= min(rows, 12) or columns == 1)  # others are turned round
    else:
        assert found is NotImplemented


def test_products_that_are_left_as_they_are(generator: torch.Generator) -> None:
    a, b, bias = (torch.randn(2, *shape, generator=generator) for shape in ((5, 4), (4, 12), (1, 12)))
    assert product(a.double(), b.double()) is NotImplemented
    assert_close(affine(bias, a, b), torch.baddbmm(bias, a, b))
    assert affine(bias, a, b, alpha=0.5) is NotImplemented


def test_tanh_is_right_to_a_few_units_in_the_last_place() -> None:
    x = torch.cat([torch.linspace(-12.0, 12.0, 20_001), torch.logspace(-30, 0, 1000)])
    assert_close(tanh(x).double(), x.double().tanh(), rtol=4e-7, atol=0)
    assert torch.isnan(tanh(torch.tensor([torch.nan])))


class Numbers:
    """What has a method to compile."""

    def powers(self, exponent: torch.Tensor) -> torch.Tensor:
        return 2**exponent

    def exact(self, logits: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits.detach().requires_grad_()
        objective = ESTIMATORS["exact"](logits, lambda action: (values * action).sum((-2, -1)).square()).objective
        return objective, torch.autograd.grad(objective.sum(), logits)[0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_powers_of_whole_numbers(dtype: torch.dtype) -> None:
    exponent = torch.arange(5, dtype=dtype)
    found = CompiledMethod(Numbers(), "powers")(exponent)
    assert found.dtype == dtype
    assert found.tolist() == [1, 2, 4, 8, 16]


def test_compiled_exact_expectation_where_the_actions_are_listed(generator: torch.Generator) -> None:
    logits, values = (torch.randn(2, 5, 3, 4, generator=generator) for _ in range(2))
    with torch.enable_grad():
        expected = Numbers().exact(logits, values)
    assert_close(CompiledMethod(Numbers(), "exact")(logits, values), expected)


def test_numbers_that_loops_take_are_computed_before_them(generator: torch.Generator) -> None:
    def scaled(rows: torch.Tensor, step: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        small = rows[:, :1] + 1.0  # beside few others
        size = (0.9**step).sqrt()
        norm = rows.square().mean(1)
        return size * (rows / norm.unsqueeze(1).expand(3, 64)) + count.add_(1.0) + (small * rows[:, :2]).sum()

    inputs = torch.randn(3, 64, generator=generator), torch.tensor(5.0), torch.tensor(1.0)
    graph = make_fx(scaled, tracing_mode="fake")(*inputs)
    settle(graph)
    graph.recompile()
    settled = [node.args[0].target for node in graph.graph.nodes if node.target == torch.ops.aten.as_strided.default]
    aten = torch.ops.aten
    assert settled == [aten.sqrt.default, aten.mean.dim, aten.sum.default]  # no power, nor what is changed in place
    assert_close(graph(*(each.clone() for each in inputs)), scaled(*(each.clone() for each in inputs)))


def test_rows_of_several_look_ups_are_computed_once(generator: torch.Generator) -> None:
    def drawn(bits: torch.Tensor, size: torch.Tensor, *columns: torch.Tensor) -> list[torch.Tensor]:
        row = (bits % size).flatten()
        return [column.index_select(0, row) for column in columns]

    columns = [torch.randn(9, width, generator=generator) for width in (4, 1)]
    bits, size = torch.arange(40).view(2, 20), torch.tensor(7)
    for count in (1, 2):
        graph = make_fx(drawn, tracing_mode="fake")(bits, size, *columns[:count])
        settle(graph)
        graph.recompile()
        aten = torch.ops.aten
        settled = [node.args[0].target for node in graph.graph.nodes if node.target == aten.as_strided.default]
        assert settled == [aten.remainder.Tensor] * (count - 1)
        assert_close(graph(bits, size, *columns[:count]), drawn(bits, size, *columns[:count]))


@pytest.mark.parametrize("time", [1, 2, 5, 8, 33])
def test_recurrences_by_doubling(generator: torch.Generator, time: int) -> None:
    base, carry = (torch.randn(time, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    following = torch.zeros(3, dtype=torch.float64)
    for t in reversed(range(time)):
        following = base[t] + carry[t] * following
        assert_close(backward_recurrence(base, carry)[t], following)


def test_returns_and_statistics_written_for_a_compiler_are_the_same(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (9, 2, 5)  # [time, member, env]
    both = [EpisodeStatistics(2, 5) for _ in range(2)]
    for _ in range(3):
        reward, value = (torch.randn(shape, generator=generator) for _ in range(2))
        terminated, truncated = (torch.rand(shape, generator=generator) < 0.2 for _ in range(2))
        found = []
        for compiling, statistics in zip((False, True), both, strict=True):
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
            statistics.record(reward, terminated | truncated)
            found.append(lambda_returns(reward, value, terminated, truncated, discount=0.9, trace=0.8))
        assert_close(*found)
        assert_close(*(statistics.state_dict() for statistics in both))
    loaded = EpisodeStatistics(2, 5)
    loaded.load_state_dict(both[0].state_dict())
    assert_close(loaded.means(), both[0].means())
    assert torch.isfinite(loaded.mean).all()
