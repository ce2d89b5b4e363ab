"""Native environments as gymnasium's vector environments, held against gymnasium's own around single ones.

Gymnasium 1.4 has a check of single environments (`check_env`) and none of vector ones; what it ships for them are
wrappers, a comparison of nested data and a benchmark, used here.
"""

import functools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils import performance
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from gumbelrl.envs import make

NAMES = ["gumbelrl/CartPole-v1", "gumbelrl/Memory-v0", "gumbelrl/Pointer-v0"]
NUM_ENVS, STEPS = 5, 60


def choose(env, info):
    """Return random actions, valid ones where there is a mask."""
    mask = info.get("action_mask")
    if mask is None:
        return env.action_space.sample()
    return (env.action_space.np_random.random(mask.shape) * mask).argmax(1)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def env(name):
    made = gymnasium.make_vec(name, num_envs=NUM_ENVS)
    made.action_space.seed(0)
    yield made
    made.close()


def same_step(name):
    """Return gymnasium's own vector of the single views."""
    mode = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return gymnasium.make_vec(name, num_envs=NUM_ENVS, vectorization_mode="sync", vector_kwargs=mode)


def test_spaces_and_metadata_equal_those_of_gymnasiums_vector(name, env):
    theirs = same_step(name)
    for attribute in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(env, attribute) == getattr(theirs, attribute), attribute
    assert env.num_envs == NUM_ENVS
    assert env.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert env.spec.id == name
    assert env.spec.max_episode_steps == theirs.spec.max_episode_steps


def test_shapes_and_dtypes_equal_those_of_gymnasiums_vector(name, env):
    """Of every step, those that end an episode included, and of the masks in info."""
    theirs = same_step(name)
    theirs.action_space.seed(0)
    forms = []
    for vector in (env, theirs):
        observation, info = vector.reset(seed=0)
        form = {("reset", observation.shape, observation.dtype)}
        ended = False
        for _ in range(STEPS):
            *parts, info = vector.step(choose(vector, info))
            form |= {(place, part.shape, part.dtype) for place, part in enumerate(parts)}
            form |= {(key, info[key].shape, info[key].dtype) for key in ("action_mask", "_final_obs") if key in info}
            ended |= bool((parts[2] | parts[3]).any())
        assert ended
        forms.append(form)
    assert forms[0] == forms[1]


def test_every_observation_is_in_the_space(env):
    observation, info = env.reset(seed=0)
    for _ in range(STEPS):
        assert env.observation_space.contains(observation)
        actions = choose(env, info)
        assert env.action_space.contains(actions)
        observation, _, _, _, info = env.step(actions)


def test_equals_the_native_environment_and_resets_in_the_same_step(name, env):
    """Observations, rewards, ends, masks, and in `final_obs` what the native environment calls so."""
    seeds = list(range(NUM_ENVS))
    native = make(name, num_envs=NUM_ENVS)
    observation, info = env.reset(seed=seeds)
    # A view's seed goes through gymnasium's generator, so that it is the same for one environment and for many.
    inner = [int(gymnasium.utils.seeding.np_random(seed)[0].integers(1 << 62)) for seed in seeds]
    np.testing.assert_array_equal(observation, native.reset(inner).numpy())
    ends = 0
    for _ in range(STEPS):
        actions = choose(env, info)
        observation, reward, terminated, truncated, info = env.step(actions)
        step = native.step(torch.as_tensor(actions))
        finished = terminated | truncated
        ends += int(finished.sum())
        np.testing.assert_array_equal(observation, step.observation.numpy())
        np.testing.assert_array_equal(reward, step.reward.numpy())
        np.testing.assert_array_equal(terminated, step.terminated.numpy())
        np.testing.assert_array_equal(truncated, step.truncated.numpy())
        for key, value in native.info.items():
            if not key.startswith("final_"):
                np.testing.assert_array_equal(info[key], value.numpy())
                assert info[f"_{key}"].all()
        if finished.any():
            np.testing.assert_array_equal(info["_final_info"], finished)
            for key, value in native.final_info(step).items():
                np.testing.assert_array_equal(info["final_info"][key], value.numpy())
        assert ("final_obs" in info) == ("_final_obs" in info) == bool(finished.any())
        np.testing.assert_array_equal(info.get("_final_obs", finished), finished)
        final = info.get("final_obs", observation)
        np.testing.assert_array_equal(final, step.final_observation.numpy())
        np.testing.assert_array_equal(final[~finished], observation[~finished])
    assert ends > 0


def test_a_time_limit_truncates(name):
    env = gymnasium.make_vec(name, num_envs=NUM_ENVS, max_episode_steps=4)
    _, info = env.reset(seed=0)
    elapsed = np.zeros(NUM_ENVS, dtype=int)
    for _ in range(12):
        _, _, terminated, truncated, info = env.step(choose(env, info))
        elapsed += 1
        np.testing.assert_array_equal(truncated, (elapsed == 4) & ~terminated)
        elapsed *= ~(terminated | truncated)


def test_seeds_decide_everything(env):
    """Gymnasium's own comparison of two plays, all observations and infos; another seed differs."""

    def play(seed):
        env.action_space.seed(0)
        observation, info = env.reset(seed=seed)
        seen = [(observation, info)]
        for _ in range(10):
            *parts, info = env.step(choose(env, info))
            seen.append((*parts, info))
        return seen

    first = play(3)
    assert data_equivalence(first, play(3), exact=True)
    assert not data_equivalence(first, play(4), exact=True)


def test_what_was_returned_stays_as_it_was(env):
    observation, info = env.reset(seed=0)
    *parts, info = env.step(choose(env, info))
    kept = [part.copy() for part in (observation, *parts)]
    for _ in range(STEPS):
        info = env.step(choose(env, info))[4]
    for before, part in zip(kept, (observation, *parts), strict=True):
        np.testing.assert_array_equal(before, part)


# Wrappers -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(performance, "benchmark_vector_step"), reason="gymnasium below 1.4 miscounts resets in the same step"
)
def test_record_episode_statistics_sums_rewards_to_the_end(env):
    recorded = RecordEpisodeStatistics(env)
    _, info = recorded.reset(seed=0)
    total, length, ends = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS, dtype=int), 0
    for _ in range(STEPS):
        _, reward, terminated, truncated, info = recorded.step(choose(env, info))
        total, length, finished = total + reward, length + 1, terminated | truncated
        statistics = info.get("episode", {"r": np.zeros(NUM_ENVS), "l": np.zeros(NUM_ENVS, dtype=int)})
        np.testing.assert_allclose(statistics["r"], np.where(finished, total, 0.0))
        np.testing.assert_array_equal(statistics["l"], np.where(finished, length, 0))
        total, length, ends = total * ~finished, length * ~finished, ends + int(finished.sum())
    assert recorded.episode_count == ends > 0


def test_infos_split_by_environment(env):
    """`final_obs` only for those that ended, a mask of its own for each."""
    listed = DictInfoToList(env)
    _, infos = listed.reset(seed=0)
    ends = 0
    for _ in range(STEPS):
        masks = [each["action_mask"] for each in infos if "action_mask" in each]
        actions = choose(env, {"action_mask": np.stack(masks)} if masks else {})
        _, _, terminated, truncated, infos = listed.step(actions)
        finished = terminated | truncated
        ends += int(finished.sum())
        assert ["final_obs" in each for each in infos] == finished.tolist()
    assert ends > 0


@pytest.mark.skipif(not hasattr(performance, "benchmark_vector_step"), reason="gymnasium below 1.4")
@pytest.mark.parametrize("unmasked", NAMES[:2])
def test_gymnasiums_benchmark_runs(unmasked):
    """It samples actions without regard to masks."""
    assert performance.benchmark_vector_step(gymnasium.make_vec(unmasked, num_envs=8), target_duration=0, seed=0) > 0


def test_processes_of_gymnasiums_async_vector():
    """A spawned worker imports by the name alone."""
    env = AsyncVectorEnv([functools.partial(gymnasium.make, "gumbelrl.envs:gumbelrl/Pointer-v0")], context="spawn")
    try:
        observation, info = env.reset(seed=0)
        assert observation.shape == (1, 11, 5)
        _, reward, terminated, _, _ = env.step(choose(env, info))
        assert terminated.all()
        assert np.isfinite(reward).all()
    finally:
        env.close()


# Rendering ----------------------------------------------------------------------------------------------------------


def test_pictures_and_texts_are_one_an_environment(name):
    rgb = gymnasium.make_vec(name, num_envs=3, render_mode="rgb_array")
    rgb.reset(seed=0)
    pictures = rgb.render()
    assert isinstance(pictures, tuple)
    assert len(pictures) == 3
    for row, picture in enumerate(pictures):
        assert picture.dtype == np.uint8
        assert picture.shape == (*pictures[0].shape[:2], 3)
        np.testing.assert_array_equal(picture, rgb.env.draw(row))
    ansi = gymnasium.make_vec(name, num_envs=3, render_mode="ansi")
    ansi.reset(seed=0)
    assert ansi.render() == tuple(ansi.env.describe(row) for row in range(3))


def test_render_modes_are_checked(name, env):
    with pytest.raises(ValueError, match="choose rgb_array or ansi"):
        gymnasium.make_vec(name, num_envs=1, render_mode="human")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="needs a render_mode"):
        env.render()


@pytest.mark.parametrize("seed", [3, np.int64(3), [3, 4, 5, 6, 7]])
def test_a_seed_gives_what_a_single_environment_gives_with_it(name, seed):
    """An integer counts up over the environments, as in gymnasium's own vector environments."""
    many = gymnasium.make_vec(name, num_envs=5)
    observation, _ = many.reset(seed=seed)
    for row in range(5):
        alone, _ = gymnasium.make(name).reset(seed=3 + row)
        np.testing.assert_array_equal(observation[row], alone)
