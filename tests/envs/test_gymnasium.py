"""Gymnasium environments as ours, and ours as gymnasium's."""

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from gumbelrl.envs import CartPole, GymnasiumEnv, make


class Counter(gymnasium.Env):
    """Counts to its limit; odd limits terminate, even ones leave it to the time limit; masks the action just taken."""

    observation_space = spaces.Dict(
        {"count": spaces.Box(0, 100, (1,), np.float32), "action_mask": spaces.Box(0, 1, (3,), np.int8)}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.last = 0, int(self.np_random.integers(3))
        return self._observation(), {}

    def step(self, action):
        assert action != self.last, "a masked action was taken"
        self.count, self.last = self.count + 1, int(action)
        return self._observation(), 1.0, self.count == 7, False, {}

    def _observation(self):
        mask = np.ones(3, np.int8)
        mask[self.last] = 0
        return {"count": np.array([self.count], np.float32), "action_mask": mask}


gymnasium.register("Counter-v0", entry_point=Counter, max_episode_steps=5)
gymnasium.register("CounterEnds-v0", entry_point=Counter, max_episode_steps=50)


@pytest.mark.parametrize(("env_id", "length", "terminates"), [("Counter-v0", 5, False), ("CounterEnds-v0", 7, True)])
def test_final_observation_truncation_and_masks(env_id, length, terminates):
    env = GymnasiumEnv(env_id, 2)
    env.reset(0)
    assert env.single_observation_space.shape == (1,)
    for t in range(1, 3 * length + 1):
        mask = env.info["action_mask"]
        step = env.step(mask.float().argmax(1))
        end = t % length == 0
        assert step.terminated.tolist() == [end and terminates] * 2
        assert step.truncated.tolist() == [end and not terminates] * 2
        assert step.final_observation[:, 0].tolist() == [((t - 1) % length) + 1] * 2
        assert step.observation[:, 0].tolist() == [t % length] * 2
        if end:
            taken = mask.float().argmax(1)
            assert not step.info["final_action_mask"].gather(1, taken[:, None]).any()
        assert step.info["action_mask"].sum(1).tolist() == [2, 2]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "FrozenLake-v1", "Taxi-v4", "Counter-v0"])
def test_a_saved_environment_goes_on_exactly(env_id):
    if env_id not in gymnasium.registry:
        env_id = "Taxi-v3"
    env, other = GymnasiumEnv(env_id, 3), GymnasiumEnv(env_id, 3)
    env.reset(5)
    generator = torch.Generator().manual_seed(0)
    count = int(env.single_action_space.n)

    def choose():
        valid = env.info.get("action_mask", torch.ones(3, count, dtype=torch.bool))
        return torch.multinomial(valid.float(), 1, generator=generator)[:, 0]

    for _ in range(130):
        env.step(choose())
    other.load_state_dict(env.state_dict())
    for _ in range(130):
        action = choose()
        ours, theirs = env.step(action), other.step(action)
        for name in ("observation", "reward", "terminated", "truncated", "final_observation"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_an_environment_that_cannot_be_replayed_says_so():
    env = GymnasiumEnv("CartPole-v1", 2)
    env.reset(0)
    env.step(torch.zeros(2, dtype=torch.int64))
    state = env.state_dict()
    state["observation"] = state["observation"] + 1
    with pytest.warns(UserWarning, match="cannot be brought back"):
        env.load_state_dict(state)
    env.step(torch.zeros(2, dtype=torch.int64))


# Velocities have no bound, in gymnasium's own CartPole either.
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is -?infinity")
def test_the_single_view_passes_gymnasiums_check():
    env = gymnasium.make("gumbelrl/CartPole-v1")
    check_env(env.unwrapped, skip_render_check=True)
    observation, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    assert np.array_equal(observation, again)
    with pytest.raises(ValueError, match="not in Discrete"):
        env.unwrapped.step(2)


def test_the_single_view_passes_stable_baselines3s_check():
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    sb3.check_env(gymnasium.make("gumbelrl/CartPole-v1").unwrapped)


def test_the_single_view_is_truncated_by_gymnasiums_limit():
    env = gymnasium.make("gumbelrl/CartPole-v1")
    env.reset(seed=0)
    for t in range(1, 501):
        env.unwrapped.env.state.zero_()
        _, _, terminated, truncated, _ = env.step(t % 2)
        assert not terminated
        assert truncated == (t == 500)


def test_the_vector_view_resets_in_the_same_step():
    env = gymnasium.make_vec("gumbelrl/CartPole-v1", num_envs=4)
    assert env.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
    observation, _ = env.reset(seed=0)
    assert observation.shape == (4, 4)
    assert observation.dtype == np.float32
    ended = False
    for _ in range(100):
        observation, reward, terminated, truncated, info = env.step(np.ones(4, np.int64))
        assert reward.shape == terminated.shape == truncated.shape == (4,)
        if terminated.any():
            ended = True
            assert np.array_equal(info["_final_obs"], terminated)
            assert (np.abs(info["final_obs"][terminated]) > 0.05).any()
            assert (np.abs(observation[terminated]) <= 0.05).all()
    assert ended


def test_make_takes_native_names_twins_and_gymnasium_ids():
    assert isinstance(make("CartPole-v1", num_envs=1), CartPole)
    assert isinstance(make("gumbelrl/CartPole-v1", num_envs=1), CartPole)
    assert isinstance(make("CartPole-v1", num_envs=1, native=False), GymnasiumEnv)
    assert isinstance(make("Counter-v0", num_envs=1), GymnasiumEnv)
    with pytest.raises(ValueError, match=r"did you mean .*CartPole-v1"):
        make("CartPol-v1", num_envs=1)


def test_one_seed_an_environment():
    with pytest.raises(ValueError, match="one seed or 3"):
        CartPole(3).reset([1, 2])
    with pytest.raises(RuntimeError, match="before reset"):
        CartPole(1).step(torch.zeros(1))


def test_an_unknown_id_is_answered_by_the_nearest_each_once():
    with pytest.raises(ValueError, match="unknown environment 'MinAtar/Breakout-v7'") as caught:
        make("MinAtar/Breakout-v7", num_envs=1)
    near = str(caught.value).split("did you mean ")[1].split("?")[0].split(" or ")
    assert near[0] == "MinAtar/Breakout-v1"
    assert len(set(near)) == len(near) == 3


def test_a_missing_package_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("Box2D", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match=r"LunarLander-v3 needs .* pip install 'gumbelrl\[box2d\]'"):
        make("LunarLander-v3", num_envs=1)
