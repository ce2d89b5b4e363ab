"""The head inside unmodified agents of stable-baselines3: every action space with every kind of observation."""

import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.envs import BitFlippingEnv  # noqa: E402
from stable_baselines3.common.noise import NormalActionNoise  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv  # noqa: E402

from gumbelrl.envs import OneHotActions  # noqa: E402
from gumbelrl.policies import sb3 as head  # noqa: E402

ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi_binary": spaces.MultiBinary(3),
}
VECTOR, IMAGE = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (36, 36, 1), np.uint8)
OBSERVATIONS = {
    "": VECTOR,
    "Cnn": IMAGE,
    "MultiInput": spaces.Dict({"one": VECTOR, "other": spaces.Discrete(4)}),
}
SETTINGS = {
    "PPO": {"n_steps": 16, "batch_size": 8, "n_epochs": 2},
    "A2C": {"n_steps": 8},
    "SAC": {"learning_starts": 6, "batch_size": 4, "buffer_size": 64, "target_entropy": 0.3},
    "TD3": {"learning_starts": 6, "batch_size": 4, "buffer_size": 64, "target_noise_clip": 0.0},
    "DDPG": {"learning_starts": 6, "batch_size": 4, "buffer_size": 64},
}
FAMILY = {"PPO": "ActorCritic", "A2C": "ActorCritic", "SAC": "SAC", "TD3": "TD3", "DDPG": "TD3"}
SMALL_IMAGES = {"features_extractor_kwargs": {"features_dim": 8}}


class Sampled(gymnasium.Env):
    """Observations without meaning, episodes of seven steps, and a record of the actions."""

    def __init__(self, action_space, observation_space=VECTOR):
        self.action_space, self.observation_space, self.taken = action_space, observation_space, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.taken.append(action)
        self.count += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.count >= 7, {}


def make_env(agent, action_space, observation_space=VECTOR):
    env = Sampled(action_space, observation_space)
    return env if FAMILY[agent] == "ActorCritic" else OneHotActions(env)


def make_model(agent, env, kind="", **settings):
    kwargs = {"net_arch": [8], **(SMALL_IMAGES if kind == "Cnn" else {})}
    kwargs |= settings.pop("policy_kwargs", {})
    policy = getattr(head, f"Gumbel{FAMILY[agent]}{kind}Policy")
    return getattr(sb3, agent)(
        policy, env, device="cpu", seed=0, policy_kwargs=kwargs, **{**SETTINGS[agent], **settings}
    )


def predictions(predict, observation, seed=3):
    torch.manual_seed(seed)
    return np.stack([predict(observation, deterministic=index % 2 == 0)[0] for index in range(6)])


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("agent", ["PPO", "SAC", "TD3"])
def test_learns_saves_loads_and_predicts_the_same(agent, actions, kind, tmp_path):
    env = make_env(agent, ACTIONS[actions], OBSERVATIONS[kind])
    model = make_model(agent, env, kind, policy_kwargs={"temperature": 0.5}).learn(8)
    model.policy.set_temperature(0.25)
    observation = env.reset(seed=0)[0]
    expected = predictions(model.predict, observation)
    assert all(env.action_space.contains(action) for action in expected.astype(env.action_space.dtype))

    model.save(tmp_path / "model.zip")
    loaded = getattr(sb3, agent).load(tmp_path / "model.zip", env=env, device="cpu")
    assert loaded.policy.temperature == 0.25
    np.testing.assert_array_equal(predictions(loaded.predict, observation), expected)
    loaded.learn(2, reset_num_timesteps=False)

    model.policy.save(tmp_path / "policy.pt")
    policy = type(model.policy).load(tmp_path / "policy.pt", device="cpu")
    np.testing.assert_array_equal(predictions(policy.predict, observation), expected)
    np.testing.assert_array_equal(predictions(pickle.loads(pickle.dumps(model.policy)).predict, observation), expected)


@pytest.mark.parametrize("agent", ["A2C", "DDPG"])
def test_the_other_agents_learn_too(agent, tmp_path):
    env = make_env(agent, ACTIONS["multi_discrete"])
    model = make_model(agent, env).learn(24)
    model.save(tmp_path / "model.zip")
    loaded = getattr(sb3, agent).load(tmp_path / "model.zip", device="cpu")
    observation = env.reset(seed=0)[0]
    np.testing.assert_array_equal(predictions(loaded.predict, observation), predictions(model.predict, observation))


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("agent", ["SAC", "TD3"])
def test_the_replay_holds_what_the_environment_ran_and_the_critic_sees_the_same(agent, actions):
    env = make_env(agent, ACTIONS[actions])
    model = make_model(agent, env).learn(20)  # random at first, then sampled from the policy
    stored = model.replay_buffer.actions[:20, 0]
    assert set(np.unique(stored)) == {-1.0, 1.0}
    ran = np.stack([env.one_hot.to_one_hot(action) for action in env.unwrapped.taken])
    np.testing.assert_array_equal((stored + 1) / 2, ran)
    climbed, _ = model.actor.action_log_prob(torch.zeros(64, 3))
    assert set(climbed.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    "settings",
    [
        {"train_freq": (1, "episode"), "gradient_steps": -1},
        {"n_steps": 3},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"learning_rate": lambda remaining: 1e-3 * remaining},
        {"policy_kwargs": {"share_features_extractor": True, "critic": "joint"}},
        {"policy_kwargs": {"net_arch": {"pi": [4], "qf": [6]}, "n_critics": 3, "logit_bound": 2.0}},
    ],
    ids=["episodes", "n_steps", "memory", "rate", "shared", "architecture"],
)
@pytest.mark.parametrize("agent", ["SAC", "TD3"])
def test_stable_baselines3s_own_options(agent, settings):
    make_model(agent, make_env(agent, ACTIONS["multi_discrete"]), **settings).learn(20)


@pytest.mark.parametrize("agent", ["PPO", "SAC"])
def test_several_environments_and_the_same_seed_again(agent):
    def run():
        envs = DummyVecEnv([lambda: make_env(agent, ACTIONS["multi_discrete"])] * 3)
        return torch.cat([p.flatten() for p in make_model(agent, envs).learn(48).policy.parameters()])

    assert torch.equal(run(), run())


def test_hindsight_replay_through_the_wrapper():
    """The reward is computed anew by the wrapped environment, which knows nothing of one-hot actions."""
    env = OneHotActions(BitFlippingEnv(n_bits=3, continuous=False, max_steps=5))
    model = make_model(
        "SAC", env, "MultiInput", replay_buffer_class=sb3.HerReplayBuffer, replay_buffer_kwargs={"n_sampled_goal": 2}
    )
    assert {-1.0, 0.0} == set(np.unique(model.learn(40).replay_buffer.sample(64).rewards))


def test_bounded_logits_keep_the_odds_bounded():
    """As in gumbelrl's own agents: the odds of one choice against all others stay below exp(2 * logit_bound)."""
    model = make_model("TD3", make_env("TD3", ACTIONS["multi_discrete"]), policy_kwargs={"logit_bound": 2.0})
    with torch.no_grad():
        model.actor.head.linear.bias.copy_(torch.tensor([1e4, -1e4, -1e4, -1e4] * 3))
    policy = model.actor.policy(torch.zeros(1, 3))
    largest = policy.probs.amax(-1)
    torch.testing.assert_close(largest / (1 - largest), torch.full((1, 3), float(np.exp(4.0))), rtol=1e-3, atol=0)


# What cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "env", "message"),
    [
        ("PPO", "Pendulum-v1", r"is continuous: gumbelrl needs Discrete.*use an agent for Box actions"),
        ("PPO", OneHotActions(Sampled(spaces.Discrete(3))), "PPO and A2C act on discrete spaces themselves"),
        ("PPO", Sampled(spaces.MultiDiscrete([[2, 2]])), "takes actions of one axis, got .*: flatten it to 2"),
        ("SAC", "Pendulum-v1", r"is not one-hot: for a discrete environment write OneHotActions\(env\)"),
        ("TD3", "Pendulum-v1", r"is not one-hot: for a discrete environment write OneHotActions\(env\)"),
    ],
)
def test_action_spaces_that_cannot_be(agent, env, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_model(agent, env)


def test_without_the_wrapper_stable_baselines3_speaks_before_any_policy_is_made():
    with pytest.raises(AssertionError, match=r"only supports .*Box.* but Discrete\(2\) was provided"):
        make_model("SAC", "CartPole-v1")


@pytest.mark.parametrize("agent", ["PPO", "SAC", "TD3"])
@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        (0.0, "must be finite and at least 0.001, got 0.0"),
        (-1, "must be finite and at least 0.001, got -1"),
        (float("nan"), "must be finite and at least 0.001, got nan"),
        ("linear:1.0", "has 1 numbers; write for example linear:1.0:0.1"),
        ("slowly", "neither a number nor a schedule; schedules are constant, linear"),
        ("learned:1.0", "is learned, which a policy inside stable-baselines3 cannot do: give a number or a schedule"),
    ],
)
def test_temperatures_that_cannot_be(agent, temperature, message):
    with pytest.raises(ValueError, match=message):
        make_model(agent, make_env(agent, ACTIONS["discrete"]), policy_kwargs={"temperature": temperature})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "gumble"}, "unknown estimator 'gumble': inside .* use argmax-st, decoupled, gapped, gumbel,"),
        ({"estimator": "exact"}, "'exact' needs the values of actions, .* or GumbelSAC, GumbelTD3 and GumbelDDPG"),
        ({"estimator": "rebar"}, "'rebar' needs the values of actions"),
        ({"critic": "quadratic"}, "unknown critic 'quadratic': use linear or joint"),
        ({"logit_bound": 0.0}, "logit_bound must be above 0 and finite, or None for no bound, got 0.0"),
    ],
)
@pytest.mark.parametrize("agent", ["SAC", "TD3"])
def test_arguments_that_cannot_be(agent, settings, message):
    with pytest.raises(ValueError, match=message):
        make_model(agent, make_env(agent, ACTIONS["discrete"]), policy_kwargs=settings)


def test_loading_with_another_estimator_is_refused_by_stable_baselines3(tmp_path):
    model = make_model("SAC", make_env("SAC", ACTIONS["discrete"]), policy_kwargs={"estimator": "reinmax"})
    model.save(tmp_path / "model.zip")
    assert sb3.SAC.load(tmp_path / "model.zip", device="cpu").actor.estimator.name == "reinmax"
    with pytest.raises(ValueError, match="specified policy kwargs do not equal the stored policy kwargs"):
        sb3.SAC.load(tmp_path / "model.zip", device="cpu", policy_kwargs={"net_arch": [8], "estimator": "gumbel"})


def test_noise_for_continuous_actions_is_refused():
    with pytest.raises(ValueError, match="use_sde=True is for continuous actions"):
        make_model("SAC", make_env("SAC", ACTIONS["discrete"]), use_sde=True)
    noise = NormalActionNoise(np.zeros(3), 0.3 * np.ones(3))
    model = make_model("TD3", make_env("TD3", ACTIONS["discrete"]), action_noise=noise)
    with pytest.raises(ValueError, match=r"is not a one-hot action of Discrete\(3\): .* and no action_noise"):
        model.learn(4)


class MaskedSampled(Sampled):
    """Dict observations whose mask allows the first choice of each variable and one other; or nothing."""

    def __init__(self, action_space, allows=True):
        total = 9
        super().__init__(action_space, spaces.Dict({"x": VECTOR, "action_mask": spaces.Box(0, 1, (total,), np.int8)}))
        self.allows = allows

    def _masked(self, observation):
        observation["action_mask"] = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0], dtype=np.int8) * self.allows
        return observation

    def reset(self, **kwargs):
        return self._masked(super().reset(**kwargs)[0]), {}

    def step(self, action):
        observation, *rest = super().step(action)
        return self._masked(observation), *rest


@pytest.mark.parametrize("agent", ["SAC", "TD3"])
def test_masks_in_dict_observations_hold_in_acting_and_learning(agent):
    env = OneHotActions(MaskedSampled(ACTIONS["multi_discrete"]))
    model = make_model(agent, env, "MultiInput", learning_starts=0).learn(30)
    taken = np.array(env.unwrapped.taken)
    assert set(taken[:, 0]) <= {0, 2}
    assert set(taken[:, 1]) == {0}
    assert set(taken[:, 2]) <= {0, 1}
    observation = model.policy.obs_to_tensor(env.reset(seed=0)[0])[0]
    action, _ = model.actor.action_log_prob({name: part.expand(50, -1) for name, part in observation.items()})
    assert (action[:, [1, 4, 7, 8]] == -1).all()


@pytest.mark.parametrize("agent", ["SAC", "TD3"])
def test_a_mask_that_allows_nothing_is_named(agent):
    env = OneHotActions(MaskedSampled(ACTIONS["multi_discrete"], allows=False))
    with pytest.raises(ValueError, match="environment row 0 has no valid choice in group 0"):
        make_model(agent, env, "MultiInput", learning_starts=0).learn(4)
