"""The speaker: the return is minus a squared distance between distributions, with optima by enumeration."""

import itertools
import warnings

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from gumbelrl.envs import Speaker, check_batched_env
from gumbelrl.policies import ESTIMATORS

NAME = "gumbelrl/Speaker-v0"
VARIANTS = [
    {},
    {"observe_counts": True},
    {"target_probs": (0.5, 0.3, 0.2), "num_emissions": 8},
    {"target_probs": (0.1, 0.6, 0.0, 0.3), "num_emissions": 5, "observe_counts": True},
]


def play(env, policy, seed=0):
    """Return the returns [env] of one episode of `policy()`, probabilities [env, symbol]."""
    env.reset(seed)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(env.num_envs, dtype=torch.float64)
    for _ in range(env.num_emissions):
        step = env.step(torch.multinomial(policy(), 1, generator=generator)[:, 0])
        total += step.reward
    assert step.terminated.all()
    return total


def one_hot_emissions(env):
    """Return every sequence of emissions, one-hot [sequence, emission, symbol], float64."""
    sequences = torch.tensor(list(itertools.product(range(env.num_symbols), repeat=env.num_emissions)))
    return torch.nn.functional.one_hot(sequences, env.num_symbols).double()


def in_float64(env):
    env.target_probs = env.target_probs.double()
    return env


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_keeps_the_contract(options):
    check_batched_env(Speaker(3, **options), steps=50, random_steps=2000)


@pytest.mark.parametrize("emissions", [(0, 0, 1, 0, 2, 1), (2, 2, 2, 2, 2, 2), (0, 1, 2, 0, 1, 2)])
def test_the_mean_return_of_emissions_is_their_value(emissions):
    """Over 20,000 hidden sequences, within 5 standard errors; the value by its formula, over pairs."""
    probs = (0.5, 0.3, 0.2)
    env = Speaker(20_000, target_probs=probs, num_emissions=6)
    env.reset(0)
    total = torch.zeros(20_000, dtype=torch.float64)
    for symbol in emissions:
        total += env.step(torch.full((20_000,), symbol)).reward
    pairs = sum(a == b for i, a in enumerate(emissions) for j, b in enumerate(emissions) if i != j)
    expected = sum(probs[s] for s in emissions) / 3 - pairs / 30 - sum(p * p for p in probs)
    value = env.value(torch.nn.functional.one_hot(torch.tensor(emissions), 3).float())
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert abs(float(total.mean()) - expected) < 5 * float(total.std()) / 20_000**0.5


def test_a_policy_without_memory_gets_minus_the_squared_distance():
    """By enumeration of all sequences; so only the target itself gets 0."""
    for target, policy in (((0.7, 0.3), (0.2, 0.8)), ((0.5, 0.3, 0.2), (0.5, 0.3, 0.2)), ((0.1, 0.9), (1.0, 0.0))):
        env = in_float64(Speaker(1, target_probs=target, num_emissions=6))
        points, probs = one_hot_emissions(env), torch.tensor(policy, dtype=torch.float64)
        mean = ((points @ probs).prod(-1) * env.value(points)).sum()
        distance = sum((p - q) ** 2 for p, q in zip(policy, target, strict=True))
        assert float(mean) == pytest.approx(-distance, abs=1e-7)
        assert float(env.value(probs.expand(6, -1))) == pytest.approx(-distance, abs=1e-7)


@pytest.mark.parametrize(("policy", "expected"), [((0.7, 0.3), 0.0), ((1.0, 0.0), -0.18), ((0.5, 0.5), -0.08)])
def test_matching_beats_the_most_frequent_symbol_and_a_coin(policy, expected):
    """Simulated, within 5 standard errors of 10,000 returns."""
    env = Speaker(10_000)
    returns = play(env, lambda: torch.tensor(policy).expand(10_000, -1))
    assert abs(float(returns.mean()) - expected) < 5 * float(returns.std()) / 100


@pytest.mark.parametrize("target", [(0.7, 0.3), (0.5, 0.3, 0.2), (0.05, 0.95)])
def test_counting_is_optimal_by_enumeration_of_all_sequences(target):
    env = in_float64(Speaker(1, target_probs=target, num_emissions=7))
    assert float(env.value(one_hot_emissions(env)).max()) == pytest.approx(env.counting_return, abs=1e-6)
    exact = Speaker(1, observe_counts=True)
    assert exact.optimal_return == exact.counting_return == pytest.approx((1 - 0.58) / 19, abs=1e-12)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_scripted_policy_attains_the_optimum(options):
    """Within 5 standard errors of 10,000 returns."""
    env = Speaker(10_000, **options)
    returns = play(env, lambda: env.optimal_probs()[:, 0], seed=2)
    assert abs(float(returns.mean()) - env.optimal_return) < 5 * float(returns.std()) / 100


def test_estimators_climb_to_the_target_on_the_value():
    """Straight-through is exact on a multilinear value: with shared logits its mean gradient vanishes at the target.

    Within 5 standard errors of 4,000 samples; at a fair coin it points to the more frequent symbol.
    """
    env = Speaker(1)
    for probs, direction in (((0.7, 0.3), 0), ((0.5, 0.5), 1), ((0.9, 0.1), -1)):
        logits = torch.tensor(probs).log().expand(4000, 20, 2).clone().requires_grad_()
        estimate = ESTIMATORS["straight-through"](logits, env.value, generator=torch.Generator().manual_seed(0))
        estimate.objective.sum().backward()
        slope = logits.grad.sum(1)[:, 0]
        error = float(slope.std()) / 4000**0.5
        expected = -2 * (probs[0] - 0.7) * 2 * probs[0] * probs[1]
        assert abs(float(slope.mean()) - expected) < 5 * error
        assert direction == (expected > 1e-6) - (expected < -1e-6)


def test_writing_into_what_reset_gave_changes_no_later_episode():
    env = Speaker(2)
    expected = env.reset(0).clone()
    env.observe(env.state).fill_(9)
    env.reset(0).fill_(9)
    env.state.fill_(9)
    assert torch.equal(env.reset(0), expected)
    assert (env.state < 9).all()


def test_other_libraries_accept_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in ({}, {"observe_counts": True}):
            check_gymnasium(gymnasium.make(NAME, **options).unwrapped, skip_render_check=False)
            check_sb3(gymnasium.make(NAME, **options).unwrapped)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_probs": (1.0,)}, "at least two numbers"),
        ({"target_probs": (0.7, 0.4)}, "sum to 1"),
        ({"target_probs": (1.2, -0.2)}, "numbers from 0"),
        ({"num_emissions": 1}, "a pair to compare"),
    ],
)
def test_refuses_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        Speaker(1, **options)
