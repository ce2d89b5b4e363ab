"""Temperatures that are learned."""

import pytest
import torch

from gumbelrl.policies import ESTIMATORS, LearnedTemperature, StateTemperature, parse_temperature


def test_starts_where_it_is_told_and_stays_above_its_floor():
    temperature = LearnedTemperature(0.7, floor=0.2, shape=(3, 1, 1, 1))
    torch.testing.assert_close(temperature(), torch.full((3, 1, 1, 1), 0.7))
    with torch.no_grad():
        temperature.raw.fill_(-1e3)
    assert (temperature() == 0.2).all()


def test_a_state_dependent_one_has_a_value_a_state():
    network = torch.nn.Linear(5, 1)
    torch.nn.init.normal_(network.weight)
    temperature = StateTemperature(network, 0.5)(torch.randn(6, 7, 5))
    assert temperature.shape == (6, 7, 1, 1)
    assert (temperature > 0.1).all()
    assert temperature.std() > 0.01
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    torch.testing.assert_close(StateTemperature(network, 0.5)(torch.randn(2, 5)), torch.full((2, 1, 1), 0.5))


@pytest.mark.parametrize("name", [name for name, each in ESTIMATORS.items() if each.temperature == "differentiable"])
def test_the_gradient_reaches_the_temperature(name):
    temperature = LearnedTemperature(0.8)
    logits = torch.randn(64, 1, 4, generator=torch.Generator().manual_seed(0))
    objective = ESTIMATORS[name](
        logits, lambda a: a.square().sum((-2, -1)) + a[..., 0, 1], temperature=temperature()
    ).objective
    objective.mean().backward()
    assert temperature.raw.grad.abs() > 1e-8


def test_gumbel_softs_temperature_has_the_derivative_of_the_relaxed_value():
    """Finite differences with the same noise, float64."""
    logits = torch.randn(50, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def objective(temperature):
        estimate = ESTIMATORS["gumbel-soft"](
            logits,
            lambda a: a.square().sum((-2, -1)),
            temperature=temperature,
            generator=torch.Generator().manual_seed(1),
        )
        return estimate.objective.sum()

    temperature = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(objective(temperature), temperature)
    want = (objective(0.8 + 1e-6) - objective(0.8 - 1e-6)) / 2e-6
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("text", ["learned", "learned:0.5", "learned:0.5:0.2", "state:1.0", "tags:1:0.1"])
def test_they_have_a_text(text):
    assert parse_temperature(text).value(0.0, 0) in (0.5, 1.0)


@pytest.mark.parametrize(
    "make", [lambda: LearnedTemperature(0.1, floor=0.1), lambda: LearnedTemperature(0.5, floor=0.0)]
)
def test_a_start_that_is_not_above_the_floor_is_refused(make):
    with pytest.raises(ValueError, match="floor < initial"):
        make()
    with pytest.raises(ValueError, match="above its floor"):
        parse_temperature("learned:0.05")
