"""Memory: its rules written again, the returns with and without memory, and gymnasium's ways to make it."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from gumbelrl.envs import Memory, check_batched_env, random_actions
from gumbelrl.envs.memory import CUE

VARIANTS = [
    {},
    {"delay": 0},
    {"delay": 1, "distractors": True},
    {"num_cues": 5, "delay": 7, "distractors": True},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_keeps_the_contract(options):
    check_batched_env(Memory(3, **options), steps=60)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_rules_written_again(options):
    """What is seen, earned and ended over three episodes, in plain Python."""
    env = Memory(8, **options)
    observation = env.reset(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        cue = observation[:, 2:].argmax(1)
        for time in range(env.delay + 1):
            left = 1 - time / env.delay if env.delay else 0.0
            np.testing.assert_allclose(observation[:, 0], left, atol=1e-6)
            assert observation[:, 1].tolist() == [float(time == 0)] * 8
            symbols = 1.0 if time == 0 or (env.distractors and time < env.delay) else 0.0
            assert observation[:, 2:].sum(1).tolist() == [symbols] * 8
            action = random_actions(env, generator)
            step = env.step(action)
            assert step.terminated.tolist() == [time == env.delay] * 8
            assert step.reward.tolist() == ((action == cue) & (time == env.delay)).float().tolist()
            observation = step.observation
        assert not step.final_observation.any()


def test_a_delay_of_a_thousand():
    env = Memory(4, delay=1_000)
    env.reset(0)
    for time in range(1_001):
        step = env.step(env.optimal_probs()[:, 0].argmax(1))
        assert bool(step.terminated.any()) == (time == 1_000)
    assert (step.reward == 1.0).all()


def test_cues_and_distractors_are_uniform_and_independent():
    """Pairs of cue and distractor, 25 cells, five standard errors each."""
    env = Memory(50_000, num_cues=5, delay=3, distractors=True)
    cue = env.reset(0)[:, 2:].argmax(1)
    step = env.step(cue)
    pairs = torch.bincount(5 * cue + step.observation[:, 2:].argmax(1), minlength=25) / 50_000
    assert ((pairs - 0.04).abs() < 5 * math.sqrt(0.04 * 0.96 / 50_000)).all()


# Optimum ------------------------------------------------------------------------------------------------------------


def play(env, policy):
    """Return the returns of an episode of each environment; `policy` is given the first observation and the current."""
    first = observation = env.reset(0)
    total = torch.zeros(env.num_envs)
    for _ in range(env.delay + 1):
        step = env.step(policy(first, observation))
        total, observation = total + step.reward, step.observation
    assert step.terminated.all()
    return total


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_remembering_returns_one(options):
    env = Memory(256, **options)
    assert env.optimal_return == 1.0
    assert (play(env, lambda first, _: first[:, 2:].argmax(1)) == 1.0).all()
    assert (play(env, lambda *_: env.optimal_probs()[:, 0].argmax(1)) == 1.0).all()


@pytest.mark.parametrize("options", [VARIANTS[0], *VARIANTS[2:]], ids=str)
def test_without_memory_every_policy_returns_one_in_the_number_of_cues(options):
    """What is seen when the choice is due does not depend on the cue; nor does the latest distractor."""
    env = Memory(20_000, **options)
    assert env.memoryless_return == 1 / env.num_cues
    latest = [torch.zeros(20_000, dtype=torch.int64)]

    def name_the_latest_distractor(first, observation):
        seen = (observation[:, 2:].sum(1) > 0) & (observation[:, 1] == 0)
        latest[0] = observation[:, 2:].argmax(1).where(seen, latest[0])
        return latest[0]

    generator = torch.Generator().manual_seed(0)
    policies = [
        lambda *_: torch.zeros(20_000, dtype=torch.int64),
        lambda *_: random_actions(env, generator),
        name_the_latest_distractor,
    ]
    for policy in policies:
        error = math.sqrt(env.memoryless_return * (1 - env.memoryless_return) / 20_000)
        assert abs(float(play(env, policy).mean()) - env.memoryless_return) < 5 * error
    env.reset(0)
    for _ in range(env.delay):
        step = env.step(random_actions(env, generator))
    assert (step.observation == step.observation[0]).all()
    assert env.state[:, CUE].unique().numel() == env.num_cues


def test_without_a_delay_no_memory_is_needed():
    assert Memory(1, delay=0).memoryless_return == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [({"delay": -1}, "delay is a number of steps"), ({"num_cues": 1}, "num_cues must be at least 2")],
)
def test_bad_options_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        Memory(1, **options)


# Other libraries ----------------------------------------------------------------------------------------------------


def test_gymnasiums_and_stable_baselines3s_checks():
    env = gymnasium.make("gumbelrl/Memory-v0").unwrapped
    check_env(env, skip_render_check=False)
    pytest.importorskip("stable_baselines3.common.env_checker").check_env(env)


@pytest.mark.parametrize("prefix", ["", "gumbelrl.envs:"])
def test_gymnasium_makes_one_and_many(prefix):
    env = gymnasium.make(f"{prefix}gumbelrl/Memory-v0", delay=2, num_cues=3)
    observation, _ = env.reset(seed=0)
    cue = int(observation[2:].argmax())
    rewards = [env.step(cue)[1] for _ in range(3)]
    assert rewards == [0.0, 0.0, 1.0]
    many = gymnasium.make_vec(f"{prefix}gumbelrl/Memory-v0", num_envs=1024, delay=1)
    observation, _ = many.reset(seed=0)
    cue = observation[:, 2:].argmax(1)
    assert not many.step(cue)[2].any()
    _, reward, terminated, _, _ = many.step(cue)
    assert terminated.all()
    assert (reward == 1.0).all()


def test_stable_baselines3_learns_on_it():
    sb3 = pytest.importorskip("stable_baselines3")
    env = gymnasium.make("gumbelrl/Memory-v0", delay=2)
    agent = sb3.PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=2, seed=0, device="cpu").learn(512)
    assert agent.num_timesteps == 512
