"""Bit flipping: the rules written again, starts, and optima in closed form and by enumeration."""

import itertools
import warnings

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from gumbelrl.envs import BitFlip, check_batched_env, random_actions

NAME = "gumbelrl/BitFlip-v0"
VARIANTS = [
    {},
    {"reward": "distance"},
    {"one_flip": True, "num_bits": 5},
    {"one_flip": True, "num_bits": 3, "reward": "distance"},
    {"num_bits": 1},
    {"num_bits": 33, "reward": "distance"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_keeps_the_contract(options):
    check_batched_env(BitFlip(3, **options), steps=60, random_steps=1000)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_rules_written_again(options):
    env = BitFlip(4, **options)
    env.reset(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        before = [[int(x) for x in row] for row in env.state]
        action = random_actions(env, generator)
        step = env.step(action)
        for row, state in enumerate(before):
            bits, goal = state[: env.num_bits], state[env.num_bits :]
            flipped = {int(action[row])} if env.one_flip else {i for i, a in enumerate(action[row].tolist()) if a}
            bits = [bit ^ (i in flipped) for i, bit in enumerate(bits)]
            wrong = sum(bit != aim for bit, aim in zip(bits, goal, strict=True))
            assert step.final_observation[row].tolist() == bits + goal
            assert step.reward[row] == (-(wrong > 0) if env.reward == "sparse" else -wrong)
            assert step.terminated[row] == (wrong == 0)


def test_starts_are_uniform_and_never_solved():
    """Of 3 bits the 64 pairs: 8 solved ones go to the neighbour in bit 0, so that those are twice as likely.

    Frequencies over 64,000 starts within 5 standard errors.
    """
    env = BitFlip(64_000, num_bits=3)
    start = env.reset(0)
    code = (start.long() * (2 ** torch.arange(6))).sum(1)
    found = torch.bincount(code, minlength=64)
    for pair in range(64):
        difference = (pair & 7) ^ (pair >> 3)
        expected = {0: 0, 1: 2000}.get(difference, 1000)
        assert abs(int(found[pair]) - expected) <= 5 * expected**0.5
    assert BitFlip(64, num_bits=50).reset(0).float().mean() == pytest.approx(0.5, abs=5 * 0.5 / 6400**0.5)


def test_gives_up_after_50_steps():
    env = BitFlip(2)
    env.reset(0)
    for time in range(1, 51):
        step = env.step(torch.zeros(2, 8, dtype=torch.int64))
        assert step.truncated.tolist() == [time == 50] * 2
        assert not step.terminated.any()


@pytest.mark.parametrize("reward", ["sparse", "distance"])
@pytest.mark.parametrize("num_bits", [2, 5, 8])
def test_the_optimum_of_one_flip_a_step_by_enumeration(num_bits, reward):
    """Dynamic programming over the distance, and its mean over all starts."""
    best = [0.0]
    for d in range(1, num_bits + 1):  # flipping a right bit only adds a step, so that d comes from d − 1
        best.append(best[d - 1] - (float(d > 1) if reward == "sparse" else d - 1))
    starts = [max(1, sum(bits)) for bits in itertools.product((0, 1), repeat=num_bits)]
    optimum = sum(best[d] for d in starts) / len(starts)
    env = BitFlip(1, num_bits=num_bits, one_flip=True, reward=reward)
    assert env.optimal_return == pytest.approx(optimum, abs=1e-12)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_scripted_policy_attains_the_optimum(options):
    """Exactly where it is 0; within 5 standard errors of 4,000 episodes where it depends on the start."""
    env = BitFlip(4000, **options)
    env.reset(0)
    generator = torch.Generator().manual_seed(0)
    returns, going = torch.zeros(4000), torch.ones(4000)
    for _ in range(env.num_bits if env.one_flip else 1):
        probs = env.optimal_probs()
        chosen = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(4000, -1)
        step = env.step(chosen[:, 0] if env.one_flip else chosen)
        returns += going * step.reward
        going = going * ~step.terminated
    assert not going.any()
    spread = float(returns.std())
    assert abs(float(returns.mean()) - env.optimal_return) <= 5 * spread / 4000**0.5


def test_other_libraries_accept_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in ({}, {"one_flip": True}):
            check_gymnasium(gymnasium.make(NAME, **options).unwrapped, skip_render_check=False)
            check_sb3(gymnasium.make(NAME, **options).unwrapped)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_bits": 0}, "from 1 to 50"),
        ({"num_bits": 51}, "from 1 to 50"),
        ({"reward": "dense"}, "is one of sparse"),
        ({"num_bits": 1, "one_flip": True}, "leaves no choice"),
    ],
)
def test_refuses_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        BitFlip(1, **options)
