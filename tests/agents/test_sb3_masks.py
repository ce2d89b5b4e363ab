"""Masks of SB3's users hold in acting, in the target and in the actor's loss, and are stored beside the transition."""

import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gumbelrl.agents.sb3 import GumbelDDPG, GumbelSAC, GumbelTD3, MaskedReplayBuffer, ReportMasks
from gumbelrl.envs.sb3 import make_vec_env as sb3_make_vec_env

SMALL = {"learning_starts": 16, "batch_size": 8, "buffer_size": 400}


def masks_of(state, nvec):
    """The choices that are valid in a state, from the state alone: one of each group's is not."""
    parts = [np.arange(n) != (state + group) % n for group, n in enumerate(nvec)]
    return np.concatenate(parts)


class Masked(gym.Env):
    """A counter modulo 12 as a vector; episodes of 5 steps are cut off, or end; an invalid action fails."""

    def __init__(self, nvec=(3,), *, ends=False, reports=False):
        self.nvec, self.ends, self.reports = nvec, ends, reports
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)
        self.action_space = spaces.Discrete(nvec[0]) if len(nvec) == 1 else spaces.MultiDiscrete(nvec)
        self.state = 0

    def action_masks(self):
        return masks_of(self.state, self.nvec)

    def observe(self):
        return np.array([self.state / 12], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.state = 0, int(self.np_random.integers(12))
        return self.observe(), {}

    def step(self, action):
        valid = np.split(self.action_masks(), np.cumsum(self.nvec)[:-1])
        assert all(mask[choice] for mask, choice in zip(valid, np.atleast_1d(action), strict=True))
        self.count, self.state = self.count + 1, (self.state + 1 + int(np.sum(action))) % 12
        over = self.count == 5
        return self.observe(), 1.0, over and self.ends, over and not self.ends, {}


class InObservation(gym.Wrapper):
    """The same environment with its mask in the observation, and not as a method."""

    def __init__(self, env):
        super().__init__(env)
        mask = spaces.MultiBinary(sum(env.nvec))
        self.observation_space = spaces.Dict({"action_mask": mask, "state": env.observation_space})

    def has_wrapper_attr(self, name):
        return name != "action_masks" and super().has_wrapper_attr(name)

    def get_wrapper_attr(self, name):
        if name == "action_masks":
            raise AttributeError(name)
        return super().get_wrapper_attr(name)

    def look(self, observation):
        return {"action_mask": self.unwrapped.action_masks().astype(np.int8), "state": observation}

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        return self.look(observation), info

    def step(self, action):
        observation, *rest = self.env.step(action)
        return self.look(observation), *rest


def states(observation):
    vector = observation["state"] if isinstance(observation, dict) else observation
    return np.rint(vector.numpy().reshape(-1) * 12).astype(int)


def assert_stored_masks_are_those_of_the_states(model, nvec, *, count=200):
    batch = model._draw(count)
    width = max(nvec)
    for observation, mask in ((batch.observation, batch.mask), (batch.next_observation, batch.next_mask)):
        rows = [np.split(masks_of(state, nvec), np.cumsum(nvec)[:-1]) for state in states(observation)]
        expected = np.array([[np.pad(part, (0, width - len(part))) for part in row] for row in rows])
        np.testing.assert_array_equal(mask.numpy(), expected)
    assert (batch.action[0].bool() & ~batch.mask).sum() == 0


@pytest.mark.parametrize("algorithm", [GumbelSAC, GumbelTD3, GumbelDDPG])
@pytest.mark.parametrize("where", ["method", "observation"])
@pytest.mark.parametrize("nvec", [(3,), (2, 4)], ids=str)
def test_invalid_actions_are_never_taken_and_masks_are_stored(nvec, where, algorithm):
    env = Masked(nvec) if where == "method" else InObservation(Masked(nvec))
    policy = "MlpPolicy" if where == "method" else "MultiInputPolicy"
    model = algorithm(policy, env, seed=0, exploration_rate=0.3, **SMALL).learn(60)
    assert model.mask_source == {"method": "environment", "observation": "observation"}[where]
    assert_stored_masks_are_those_of_the_states(model, nvec)


@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 3},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"buffer_size": 50},
        {"buffer_size": 50, "n_steps": 3},
        {"replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": {"n_steps": 2}},
    ],
    ids=str,
)
def test_masks_with_the_options_of_the_replay(options):
    # In shared memory a cut-off episode's last state is the next episode's first: episodes that end are safe there.
    env = Masked((3,), ends="optimize_memory_usage" in options)
    model = GumbelSAC("MlpPolicy", env, seed=0, **{**SMALL, **options}).learn(120)
    assert isinstance(model.replay_buffer, MaskedReplayBuffer)
    batch = model._draw(200)
    alive = batch.discount[0].numpy() > 0
    for observation, mask in ((batch.observation, batch.mask), (batch.next_observation, batch.next_mask)):
        expected = np.array([masks_of(state, (3,)) for state in states(observation)])
        np.testing.assert_array_equal(mask.numpy()[alive, 0], expected[alive])


def test_several_environments_report_the_masks_of_last_states():
    env = make_vec_env(Masked, n_envs=3, wrapper_class=ReportMasks, seed=0)
    model = GumbelSAC("MlpPolicy", env, **SMALL).learn(120)
    assert_stored_masks_are_those_of_the_states(model, (3,))
    assert model._draw(50).discount.min() > 0  # cut off, never ended


def test_a_last_state_without_mask_counts_as_terminal_with_a_warning():
    model = GumbelSAC("MlpPolicy", make_vec_env(Masked, n_envs=2, seed=0), **SMALL)
    with pytest.warns(UserWarning, match="wrapper_class=gumbelrl.agents.sb3.ReportMasks"):
        model.learn(120)
    assert 0 < (model._draw(400).discount == 0).float().mean() < 0.8  # three steps in five


class Goals(gym.Env):
    """Reach a cell of a ring of six; one of three actions is not valid."""

    def __init__(self):
        cell = spaces.Discrete(6)
        self.observation_space = spaces.Dict({"observation": cell, "achieved_goal": cell, "desired_goal": cell})
        self.action_space = spaces.Discrete(3)

    def action_masks(self):
        return np.arange(3) != self.cell % 3

    def look(self):
        return {"observation": self.cell, "achieved_goal": self.cell, "desired_goal": self.goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell, self.goal = (int(x) for x in self.np_random.integers(6, size=2))
        self.count = 0
        return self.look(), {}

    def compute_reward(self, achieved, desired, info):
        return (np.reshape(achieved, -1) == np.reshape(desired, -1)).astype(np.float32)

    def step(self, action):
        assert self.action_masks()[action]
        self.cell, self.count = (self.cell + int(action)) % 6, self.count + 1
        reward = float(self.compute_reward(self.cell, self.goal, {})[0])
        return self.look(), reward, False, self.count == 6, {}


def test_masks_with_hindsight(tmp_path):
    model = GumbelSAC("MultiInputPolicy", Goals(), replay_buffer_class=HerReplayBuffer, seed=0, **SMALL).learn(60)
    drawn = model.replay_buffer.sample(100)
    cells = drawn.observations["observation"].reshape(-1)
    expected = torch.arange(3) != (cells % 3).unsqueeze(1)
    assert torch.equal(drawn.observations["action_mask"].bool(), expected)
    model.save_replay_buffer(tmp_path / "replay")
    model.load_replay_buffer(tmp_path / "replay", truncate_last_traj=False)
    model.learn(20, reset_num_timesteps=False)


def test_n_step_returns_are_those_of_sb3():
    space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)
    stock = NStepReplayBuffer(20, *space, n_envs=2, n_steps=3, gamma=0.9)
    masked = MaskedReplayBuffer(20, *space, n_envs=2, n_steps=3, gamma=0.9, num_mask=2)
    generator = np.random.default_rng(0)
    for _ in range(15):  # a ring of 10 rows, so that it wraps
        observation, following = generator.normal(size=(2, 2, 1))
        reward, dones = generator.normal(size=2), generator.random(2) < 0.3
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in dones & (generator.random(2) < 0.5)]
        masked.pending = (np.ones((2, 2), bool), np.ones((2, 2), bool))
        for buffer in (stock, masked):
            buffer.add(observation, following, np.zeros(2), reward, dones, infos)
    samples = []
    for buffer in (stock, masked):
        np.random.seed(1)  # noqa: NPY002
        samples.append(buffer.sample(500))
    # Up to rounding: SB3 sums in another order.
    for name in ("observations", "actions", "rewards", "discounts", "dones"):
        torch.testing.assert_close(getattr(samples[0], name), getattr(samples[1], name), rtol=1e-5, atol=1e-6)
    alive = samples[0].dones.reshape(-1) == 0
    torch.testing.assert_close(samples[0].next_observations[alive], samples[1].next_observations[alive])


@pytest.mark.parametrize("algorithm", [GumbelSAC, GumbelTD3])
@pytest.mark.parametrize("critic", ["linear", "joint"])
def test_masks_hold_in_the_target_and_in_the_actors_loss(algorithm, critic):
    model = algorithm("MlpPolicy", Masked((3,)), critic=critic, ent_coef=0.2, seed=0, **SMALL).learn(40)
    batch = model._draw(64)
    # What is not valid anywhere may be worth anything: neither the target nor the actor's gradient may notice.
    batch = batch._replace(mask=torch.tensor([True, True, False]).expand(64, 1, 3))
    batch = batch._replace(next_mask=batch.mask)
    results = []
    for worth in (0.0, 1e6):
        for ensemble in (model.critic.ensemble, model.critic_target.ensemble):
            poison(ensemble.critic, worth)
        torch.manual_seed(0)
        target = model.next_value(batch)
        model.actor.zero_grad()
        model._actor_loss(batch, model.critic(batch.observation))[0].backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.actor.network.parameters()])
        results.append((target.clone(), gradient))
    for without, with_poison in zip(*results, strict=True):
        torch.testing.assert_close(without, with_poison)
    assert results[0][1].abs().max() > 0


def poison(critic, worth):
    """Add `worth` to the value of the third action: to its output, or to the weights of its input and beyond."""
    original = getattr(critic, "original_forward", critic.forward)
    critic.original_forward = original

    def forward(observation):
        value = original(observation)
        extra = torch.tensor([0.0, 0.0, worth])

        def poisoned(action):
            return value(action) + (action * extra).sum((-2, -1))

        if hasattr(value, "choice_values"):
            poisoned.choice_values = value.choice_values + extra
        return poisoned

    critic.forward = forward


def test_random_actions_are_uniform_over_the_valid_ones():
    # 3,000 draws: 1,500 ± 27.4; five deviations fail by chance once in 10^6.
    model = GumbelSAC("MlpPolicy", Masked((3,)), seed=0, **SMALL)
    actions = model._random_actions(np.tile([True, False, True], (3000, 1)), 3000)
    counts = np.bincount(actions, minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 1500) < 137


def test_prediction_takes_masks_as_sb3_contrib_does():
    model = GumbelSAC("MlpPolicy", Masked((2, 4)), seed=0, **SMALL)
    observation = np.zeros((50, 1), np.float32)
    masks = np.tile([True, False, False, False, True, False], (50, 1))
    assert (model.predict(observation, action_masks=masks)[0] == [0, 2]).all()
    single = model.predict(observation[0], action_masks=masks[0], deterministic=True)[0]
    np.testing.assert_array_equal(single, [0, 2])


def test_evaluating_without_masks_is_refused_in_words():
    model = GumbelSAC("MlpPolicy", Masked((3,)), **SMALL).learn(20)
    with pytest.raises(ValueError, match=re.escape("pass predict(..., action_masks=env.action_masks())")):
        evaluate_policy(model, model.env, n_eval_episodes=1)


def test_masks_that_forbid_nothing_ask_for_nothing():
    env = Masked((3,))
    env.action_masks = lambda: np.ones(3, bool)
    model = GumbelSAC("MlpPolicy", DummyVecEnv([lambda: env]), **SMALL).learn(40)
    assert model._draw(100).discount.min() > 0  # cut off, never ended
    evaluate_policy(model, model.env, n_eval_episodes=1, warn=False)


def test_batches_of_gumbelrl_and_their_masks():
    env = sb3_make_vec_env("gumbelrl/Pointer-v0", n_envs=4, seed=0)
    model = GumbelSAC("MlpPolicy", env, **SMALL).learn(80)
    batch = model._draw(100)
    assert not batch.mask.all()
    assert (batch.action[0].bool() & ~batch.mask).sum() == 0
    unmasked = sb3_make_vec_env("CartPole-v1", n_envs=2, seed=0)
    model = GumbelSAC("MlpPolicy", unmasked, **SMALL).learn(80)
    evaluate_policy(model, unmasked, n_eval_episodes=1, warn=False)


@pytest.mark.parametrize("where", ["method", "observation"])
def test_a_mask_of_all_false_is_refused_in_words(where):
    inner = Masked((3,))
    inner.action_masks = lambda: np.zeros(3, bool)
    env = inner if where == "method" else InObservation(inner)
    policy = "MlpPolicy" if where == "method" else "MultiInputPolicy"
    for learning_starts in (0, 10):
        model = GumbelSAC(policy, env, **{**SMALL, "learning_starts": learning_starts})
        with pytest.raises(ValueError, match="environment row 0 has no valid choice in group 0: at least one action"):
            model.learn(5)


def test_other_mistakes_with_masks_are_refused_in_words():
    model = GumbelSAC("MlpPolicy", Masked((3,)), **SMALL)
    with pytest.raises(ValueError, match=r"an action mask for .* got \(1, 1, 4\)"):
        model.predict(np.zeros(1, np.float32), action_masks=np.ones(4, bool))
    boxed = InObservation(Masked((3,)))
    boxed.observation_space["action_mask"] = spaces.Box(0, 1, (3,), np.int8)
    normalised = VecNormalize(DummyVecEnv([lambda: boxed]))
    with pytest.raises(ValueError, match="VecNormalize would normalise 'action_mask'"):
        GumbelSAC("MultiInputPolicy", normalised, **SMALL)

    class Own(ReplayBuffer):
        pass

    with pytest.raises(ValueError, match="which Own does not store: put the mask into a Dict observation"):
        GumbelSAC("MlpPolicy", Masked((3,)), replay_buffer_class=Own, **SMALL)
    unmasked = gym.wrappers.TransformObservation(gym.make("CartPole-v1"), lambda x: x[:1], model.observation_space)
    unmasked.action_space = model.action_space
    with pytest.raises(ValueError, match="has no masks, but the model was made for one that has action_masks"):
        model.set_env(unmasked)


def test_models_with_masks_can_be_loaded_and_go_on(tmp_path):
    model = GumbelSAC("MlpPolicy", Masked((3,)), n_steps=2, **SMALL).learn(40)
    model.save(tmp_path / "model")
    loaded = GumbelSAC.load(tmp_path / "model", env=Masked((3,)))
    assert isinstance(loaded.replay_buffer, MaskedReplayBuffer)
    assert loaded.replay_buffer.n_steps == 2
    loaded.learn(40)
    alone = GumbelSAC.load(tmp_path / "model")
    with pytest.raises(ValueError, match="action_masks"):
        alone.predict(np.zeros(1, np.float32))
    dictionary = GumbelSAC("MultiInputPolicy", InObservation(Masked((3,))), **SMALL)
    assert type(dictionary.replay_buffer) is DictReplayBuffer
