"""`VecEnvView` against stable-baselines3's own `DummyVecEnv` over the same environments, one by one."""

import gymnasium
import numpy as np
import pytest
import torch

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.monitor import Monitor  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize  # noqa: E402

from gumbelrl.envs import make  # noqa: E402
from gumbelrl.envs.sb3 import VecEnvView, make_vec_env  # noqa: E402


@pytest.mark.parametrize("name", ["CartPole-v1", "gumbelrl/Pointer-v0", "gumbelrl/MultiButton-v0", "Taxi-v4"])
def test_a_first_episode_is_that_of_single_environments(name):
    """Same seeds, same actions: observations, rewards, ends, final observations and masks are equal, to the bit."""
    view = VecEnvView(make(name, num_envs=3))
    single = DummyVecEnv([lambda: gymnasium.make(view_name(name))] * 3)
    assert view.observation_space == single.observation_space
    assert view.action_space == single.action_space
    view.seed(5)
    single.seed(5)
    np.testing.assert_array_equal(view.reset(), single.reset())
    alive, chooser = np.ones(3, dtype=bool), np.random.default_rng(0)
    for _ in range(300):
        np.testing.assert_array_equal(masks(view)[alive], masks(single)[alive])
        actions = np.stack([valid_action(view.action_space, mask, chooser) for mask in masks(view)])
        mine, other = view.step(actions), single.step(actions)
        assert [type(part) for part in mine] == [type(part) for part in other]
        assert [part.dtype for part in mine[:3]] == [part.dtype for part in other[:3]]
        for ours, theirs in zip(mine[1:3], other[1:3], strict=True):
            np.testing.assert_array_equal(ours[alive], theirs[alive])
        for row in np.flatnonzero(alive & mine[2]):
            assert set(mine[3][row]) >= {"terminal_observation", "TimeLimit.truncated"}
            for key in ("terminal_observation", "TimeLimit.truncated", "action_mask"):
                np.testing.assert_array_equal(mine[3][row].get(key), other[3][row].get(key))
        alive &= ~mine[2]
        np.testing.assert_array_equal(mine[0][alive], other[0][alive])
        if not alive.any():
            break
    assert not alive.any()


def view_name(name):
    """Return the id under which gymnasium has our own environment, whose rules the batch has."""
    return name if name.startswith("gumbelrl/") else f"gumbelrl/{name}"


def masks(env):
    sizes = {"Discrete": lambda space: space.n, "MultiDiscrete": lambda space: int(space.nvec.sum())}
    total = sizes[type(env.action_space).__name__](env.action_space)
    found = env.env_method("action_masks")
    assert {mask.shape for mask in found} == {(total,)}
    return np.stack(found)


def valid_action(space, mask, chooser):
    counts = getattr(space, "nvec", np.array([getattr(space, "n", 0)]))
    parts = np.split(mask, np.cumsum(counts)[:-1])
    action = np.array([chooser.choice(np.flatnonzero(part)) for part in parts])
    return action if len(space.shape) else action[0]


def test_episodes_cut_by_the_clock_and_those_that_end():
    env = make("CartPole-v1", num_envs=2)
    env.max_episode_steps = 4
    view = VecEnvView(env)
    view.seed(0)
    view.reset()
    for step in range(1, 9):
        observation, _, finished, infos = view.step(np.array([step % 2, step % 2]))
        assert finished.all() == (step % 4 == 0)
        assert [info["TimeLimit.truncated"] for info in infos] == [step % 4 == 0] * 2
    assert not np.array_equal(infos[0]["terminal_observation"], observation[0])
    assert np.abs(observation).max() <= 0.05  # a fresh start


def test_what_it_returns_is_never_written_into_again():
    view = make_vec_env("CartPole-v1", 4, seed=0)
    kept = [view.reset()]
    copies = [kept[0].copy()]
    for _ in range(40):
        observation, reward, finished, infos = view.step(np.zeros(4, dtype=np.int64))
        kept += [observation, reward, finished]
        kept += [info["terminal_observation"] for info in infos if "terminal_observation" in info]
        copies += [part.copy() for part in kept[len(copies) :]]
    for one, two in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(one, two)


def test_seeds_reproduce_and_a_second_reset_is_another_episode():
    first, second = make_vec_env("CartPole-v1", 3, seed=7), make_vec_env("CartPole-v1", 3)
    second.seed(7)
    start = first.reset()
    np.testing.assert_array_equal(start, second.reset())
    again = first.reset()
    assert not np.array_equal(start, again)
    np.testing.assert_array_equal(again, second.reset())


def test_attributes_and_methods_of_single_environments():
    view = VecEnvView(make("gumbelrl/Pointer-v0", num_envs=3), render_mode="rgb_array")
    assert view.get_attr("render_mode") == ["rgb_array"] * 3
    assert view.has_attr("action_masks")
    assert not view.has_attr("nothing_of_the_kind")
    assert view.env_is_wrapped(Monitor) == [False] * 3
    assert view.get_attr("max_episode_steps", indices=[0, 2]) == [view.env.max_episode_steps] * 2
    view.set_attr("max_episode_steps", 5)
    assert view.env.max_episode_steps == 5
    with pytest.raises(ValueError, match="one batch: set max_episode_steps for all of them, without indices"):
        view.set_attr("max_episode_steps", 5, indices=1)
    with pytest.raises(AttributeError, match="no attribute 'reset' of its own: ask the VecEnv"):
        view.env_method("reset")
    view.reset()
    picture = view.render()
    assert picture.ndim == 3
    assert picture.dtype == np.uint8
    view.close()


def test_what_cannot_be_is_said():
    view = VecEnvView(make("gumbelrl/MultiButton-v0", num_envs=2), refuse_masked=True)
    view.seed(0)
    view.reset()
    with pytest.raises(ValueError, match=r"the action of environment 1, 4, is not in MultiDiscrete\(\[4 4 4\]\)"):
        view.step(np.array([[0, 0, 0], [0, 4, 0]]))
    with pytest.raises(ValueError, match="2 numbers an environment given"):
        view.step(np.zeros((2, 2), dtype=np.int64))
    view.set_options({"difficulty": 3})
    with pytest.raises(ValueError, match="MultiButton takes no options at reset; give them to its constructor"):
        view.reset()
    with pytest.raises(TypeError, match=r"write make_vec_env\(env_id, n_envs\)"):
        VecEnvView(gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="no render_mode 'human'; choose rgb_array or None"):
        make_vec_env("CartPole-v1", render_mode="human")


def test_masked_actions_are_refused_on_request():
    name = "gumbelrl/MultiButton-v0"
    views = [VecEnvView(make(name, num_envs=2), refuse_masked=refuse) for refuse in (False, True)]
    for view in views:
        view.reset()
        view.step(np.array([[0, 1, 2], [3, 2, 1]]))  # a button that is down cannot be pressed again
        expected = np.ones((2, 12), dtype=bool)
        expected[[0, 0, 0, 1, 1, 1], [0, 5, 10, 3, 6, 9]] = False
        np.testing.assert_array_equal(masks(view), expected)
    views[0].step(np.array([[1, 0, 0], [0, 2, 0]]))
    with pytest.raises(ValueError, match="the action of environment 1, 2, is masked in this state"):
        views[1].step(np.array([[1, 0, 0], [0, 2, 0]]))


def test_any_gymnasium_environment_and_stable_baselines3s_wrappers():
    view = VecEnvView(make("CartPole-v1", num_envs=2, native=False))
    wrapped = VecNormalize(VecFrameStack(VecMonitor(view), 3))
    model = sb3.PPO("MlpPolicy", wrapped, n_steps=32, batch_size=16, n_epochs=1, device="cpu", seed=0).learn(128)
    assert len(model.ep_info_buffer) > 0
    assert evaluate_policy(model, wrapped, 2)[0] > 0


@pytest.mark.parametrize("name", ["gumbelrl/MultiButton-v0", "Taxi-v4"])
def test_stock_agents_train_on_it(name):
    env = make_vec_env(name, 4, seed=0)
    settings = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}
    weights = [
        sb3.PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, **settings).learn(128).policy.state_dict()
        for env in (make_vec_env(name, 4), make_vec_env(name, 4))
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    sb3.A2C("MlpPolicy", env, **settings).learn(40)
