"""Pointer: its rules written again, its optimum by closed form and by play, and gymnasium's ways to make it."""

import math
import multiprocessing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from gumbelrl.envs import Pointer, check_batched_env, make, random_actions
from gumbelrl.envs.pointer import expected_best

VARIANTS = [
    {},
    {"reward": "linear"},
    {"horizon": 3, "min_items": 5},
    {"horizon": 2, "min_items": 3, "max_items": 4, "num_features": 2, "reward": "linear"},
    {"min_items": 6, "max_items": 6, "num_features": 3},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_keeps_the_contract(options):
    check_batched_env(Pointer(3, **options), steps=40)  # a dozen episodes or more


def test_a_float64_environment_keeps_its_width():
    env = Pointer(4, dtype=torch.float64)
    assert env.reset(0).dtype == torch.float64
    assert env.step(random_actions(env, torch.Generator())).reward.dtype == torch.float32


@pytest.mark.parametrize("reward", ["query", "linear"])
def test_an_episode_presents_unit_vectors_and_padding(reward):
    env = Pointer(20_000, reward=reward)
    rows = env.reset(0)
    mask = env.info["action_mask"]
    assert torch.equal(rows[:, 0, -1], torch.ones(20_000))
    assert torch.equal(rows[:, 1:, -1], mask.float())
    assert not rows[:, 1:][~mask].any()
    norms = torch.linalg.vector_norm(rows[..., :-1], dim=-1)
    torch.testing.assert_close(norms[:, 1:][mask], torch.ones(int(mask.sum())), rtol=0, atol=2e-6)
    torch.testing.assert_close(norms[:, 0], torch.ones(20_000), rtol=0, atol=2e-6)
    # Padding is at the end; the number of items is uniform on 2 … 10: five standard errors for each of nine counts.
    count = mask.sum(1)
    assert torch.equal(mask, torch.arange(10) < count.unsqueeze(1))
    frequency = torch.bincount(count, minlength=11)[2:] / 20_000
    assert ((frequency - 1 / 9).abs() < 5 * math.sqrt(1 / 9 * 8 / 9 / 20_000)).all()
    # Uniform on the sphere: the second moments of the features are I/d.
    items = rows[:, 1:, :-1][mask]
    moments = items.T @ items / len(items)
    torch.testing.assert_close(moments, torch.eye(4) / 4, rtol=0, atol=5 * 0.25 / math.sqrt(len(items)))
    varies = rows[:, 0, :-1].std(0) > 0.1
    assert varies.tolist() == [reward == "query"] * 4


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_rules_written_again(options):
    """Rewards, removals, picks left and ends of 40 steps, in plain numpy from the same starts."""
    env = Pointer(6, **options)
    rows = env.reset(1).double().numpy().copy()
    generator, picks = torch.Generator().manual_seed(0), np.zeros(6, dtype=int)
    for _ in range(40):
        action = random_actions(env, generator)
        step = env.step(action)
        picks += 1
        ended = picks == env.horizon
        for index, item in enumerate(action.tolist()):
            want = rows[index, 0, :-1] @ rows[index, 1 + item, :-1]
            assert float(step.reward[index]) == pytest.approx(want, abs=1e-6)
            rows[index, 1 + item] = 0.0
            rows[index, 0, -1] = 1.0 - picks[index] / env.horizon
        assert step.terminated.tolist() == ended.tolist()
        assert not step.truncated.any()
        np.testing.assert_allclose(step.final_observation.numpy(), rows, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(step.info["final_action_mask"].numpy(), rows[:, 1:, -1] == 1)
        rows = np.where(ended[:, None, None], step.observation.double().numpy(), rows)
        picks *= ~ended


def test_linear_reward_is_the_same_function_in_every_episode():
    env = Pointer(500, reward="linear", num_features=3)
    rows = env.reset(0)
    step = env.step(torch.zeros(500, dtype=torch.int64))
    torch.testing.assert_close(step.reward, rows[:, 1, :-1].sum(1) / math.sqrt(3))


def test_a_row_without_an_item_earns_the_least_where_nobody_checks():
    env = Pointer(64, max_items=3)
    env.reset(0)
    missing = ~env.info["action_mask"][:, 2]
    step = env.step(torch.full((64,), 2))
    assert 0 < missing.sum() < 64
    assert torch.equal(step.reward[missing], torch.full((int(missing.sum()),), -1.0))
    assert (step.reward[~missing] > -1.0).all()


# Optimum ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_items", [2, 3, 10, 100])
def test_cosines_in_three_dimensions_are_uniform(num_items):
    """Archimedes; the j-th largest of n uniform numbers on (−1, 1) has the mean 1 − 2j/(n + 1)."""
    for picked in {1, 2, num_items - 1, num_items}:
        want = sum(1 - 2 * j / (num_items + 1) for j in range(1, picked + 1))
        assert expected_best(num_items, picked, 3) == pytest.approx(want, abs=1e-12)


def test_other_closed_forms_of_the_optimum():
    """Half the mean difference of two arcsine numbers is 4/π², of two semicircle numbers 128/(45 π²)."""
    assert expected_best(2, 1, 2) == pytest.approx(4 / math.pi**2, abs=1e-12)
    assert expected_best(2, 1, 4) == pytest.approx(128 / (45 * math.pi**2), abs=1e-12)
    # All of them together, or one alone, have the mean 0.
    assert expected_best(7, 7, 5) == pytest.approx(0.0, abs=1e-12)
    assert expected_best(1, 1, 8) == pytest.approx(0.0, abs=1e-12)


def test_the_optimum_of_many_features_by_simulation():
    """Largest 3 of 7 cosines in 5 dimensions, by numpy: five standard errors, a chance of failure of 6e-7."""
    vectors = np.random.default_rng(0).standard_normal((100_000, 7, 5))
    cosines = np.sort(vectors[..., 0] / np.linalg.norm(vectors, axis=-1), axis=1)[:, -3:].sum(1)
    assert abs(cosines.mean() - expected_best(7, 3, 5)) < 5 * cosines.std() / math.sqrt(len(cosines))


def test_the_documented_optimum():
    assert Pointer(1).optimal_return == pytest.approx(0.5821, abs=5e-5)
    assert Pointer(1, num_features=3).optimal_return == pytest.approx(
        np.mean([(n - 1) / (n + 1) for n in range(2, 11)])
    )


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_scripted_policy_attains_the_optimum_and_random_picks_earn_nothing(options):
    """Five standard errors each: a chance of failure of 6e-7."""
    env = Pointer(2_000, **options)
    generator = torch.Generator().manual_seed(0)
    for best in (True, False):
        env.reset(0)
        returns, total = [], torch.zeros(2_000)
        for _ in range(5 * env.horizon):
            step = env.step(env.optimal_probs()[:, 0].argmax(1) if best else random_actions(env, generator))
            total = total + step.reward
            returns.append(total.where(step.terminated, torch.nan))
            total = total * ~step.terminated
        values = torch.cat(returns)
        values = values[~values.isnan()].double()
        assert len(values) == 10_000
        want = env.optimal_return if best else 0.0
        assert abs(float(values.mean()) - want) < 5 * float(values.std()) / 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"horizon": 0}, "horizon is the picks"),
        ({"horizon": 2}, "min_items must be above horizon=2"),
        ({"min_items": 1}, "min_items must be above horizon=1"),
        ({"max_items": 4, "min_items": 5}, "max_items must be at least min_items=5"),
        ({"num_features": 1}, "num_features must be at least 2"),
        ({"reward": "nearest"}, "choose one of query, linear"),
    ],
)
def test_bad_options_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        Pointer(1, **options)


# Other libraries ----------------------------------------------------------------------------------------------------


def test_gymnasiums_and_stable_baselines3s_checks():
    """Both sample actions without regard to masks; with every item present there is none."""
    env = gymnasium.make("gumbelrl/Pointer-v0", min_items=10).unwrapped
    check_env(env, skip_render_check=False)
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    sb3.check_env(env, warn=False)  # it would rather have vectors than matrices


@pytest.mark.parametrize("prefix", ["", "gumbelrl.envs:"])
def test_gymnasium_makes_one_and_many(prefix):
    env = gymnasium.make(f"{prefix}gumbelrl/Pointer-v0", horizon=2, min_items=3, refuse_masked=True)
    _, info = env.reset(seed=0)
    first = int(info["action_mask"].argmax())
    _, _, terminated, _, info = env.step(first)
    assert not terminated
    assert not info["action_mask"][first]
    with pytest.raises(ValueError, match="is masked"):
        env.step(first)
    many = gymnasium.make_vec(f"{prefix}gumbelrl/Pointer-v0", num_envs=1024)
    observation, info = many.reset(seed=0)
    assert observation.shape == (1024, 11, 5)
    _, reward, terminated, _, info = many.step(info["action_mask"].argmax(1))
    assert terminated.all()
    assert info["final_obs"].shape == (1024, 11, 5)
    assert np.isfinite(reward).all()
    assert isinstance(make(f"{prefix}gumbelrl/Pointer-v0", num_envs=2, horizon=1), Pointer)


CHILD = """
import sys
import gymnasium
assert "gumbelrl" not in sys.modules
env = gymnasium.make("gumbelrl.envs:gumbelrl/Pointer-v0")
_, info = env.reset(seed=0)
env.step(int(info["action_mask"].argmax()))
many = gymnasium.make_vec("gumbelrl/Pointer-v0", num_envs=1024)
observation, info = many.reset(seed=0)
assert observation.shape == (1024, 11, 5)
assert many.step(info["action_mask"].argmax(1))[2].all()
"""


def test_a_spawned_process_makes_one_and_many_without_an_import_before():
    process = multiprocessing.get_context("spawn").Process(target=exec, args=(CHILD, {}))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_stable_baselines3_learns_on_it():
    sb3 = pytest.importorskip("stable_baselines3")
    env = gymnasium.make("gumbelrl/Pointer-v0", min_items=10)
    agent = sb3.PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=2, seed=0, device="cpu").learn(512)
    assert agent.num_timesteps == 512
