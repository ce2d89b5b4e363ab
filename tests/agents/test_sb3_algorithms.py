"""GumbelSAC, GumbelTD3 and GumbelDDPG behave as SB3's users expect; modelled on what SB3's own tests cover."""

import io
import pickle
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from gumbelrl.agents.sb3 import GumbelDDPG, GumbelSAC, GumbelTD3
from gumbelrl.policies import ESTIMATORS
from gumbelrl.policies.sb3 import GumbelCallback

ALGORITHMS = [GumbelSAC, GumbelTD3, GumbelDDPG]
SMALL = {"learning_starts": 16, "batch_size": 8, "buffer_size": 400, "train_freq": 4}
ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "from-two": spaces.Discrete(3, start=2),
    "multi-discrete": spaces.MultiDiscrete([2, 4]),
    "multi-binary": spaces.MultiBinary(3),
}
OBSERVATION_SPACES = {
    "vector": ("MlpPolicy", spaces.Box(-1, 1, (3,), np.float32)),
    "discrete": ("MlpPolicy", spaces.Discrete(4)),
    "image": ("CnnPolicy", spaces.Box(0, 255, (36, 36, 1), np.uint8)),
    "dict": (
        "MultiInputPolicy",
        spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(3)}),
    ),
}


class Sampled(gym.Env):
    """Observations are samples of their space; an action that is not in the action space fails."""

    def __init__(self, observation_space=OBSERVATION_SPACES["vector"][1], action_space=ACTION_SPACES["discrete"]):
        self.observation_space, self.action_space = observation_space, action_space
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.taken.append(np.copy(action))
        self.count += 1
        return self.observation_space.sample(), float(np.sum(action)), False, self.count == 7, {}


def parameters_of(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


@pytest.mark.parametrize("kind", OBSERVATION_SPACES)
@pytest.mark.parametrize("actions", ACTION_SPACES)
def test_every_space_learns_saves_and_loads_exactly(actions, kind, tmp_path):
    policy, observation_space = OBSERVATION_SPACES[kind]
    algorithm = ALGORITHMS[list(ACTION_SPACES).index(actions) % 3]
    env = Sampled(observation_space, ACTION_SPACES[actions])
    small = {**SMALL, "policy_kwargs": {"net_arch": [16]}}
    model = algorithm(policy, env, seed=0, exploration_rate=0.2, **small).learn(40)
    stored = model.replay_buffer.actions[:40, 0].reshape(40, -1)
    np.testing.assert_array_equal(stored, np.reshape(env.taken, (40, -1)))
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=Sampled(observation_space, ACTION_SPACES[actions]))
    for name, value in model.policy.state_dict().items():
        torch.testing.assert_close(loaded.policy.state_dict()[name], value, rtol=0, atol=0)
    observations = model.env.reset()
    before, after = (each.predict(observations, deterministic=True)[0] for each in (model, loaded))
    np.testing.assert_array_equal(before, after)
    assert before.dtype == ACTION_SPACES[actions].dtype
    single = {k: v[0] for k, v in observations.items()} if isinstance(observations, dict) else observations[0]
    assert ACTION_SPACES[actions].contains(model.predict(single)[0][()])
    loaded.learn(12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_moves_the_actor(estimator):
    critic = ["linear", "multilinear", "joint"][list(ESTIMATORS).index(estimator) % 3]
    env = Sampled(action_space=ACTION_SPACES["multi-discrete"])
    model = GumbelSAC("MlpPolicy", env, estimator=estimator, critic=critic, seed=1, **SMALL)
    before = parameters_of(model)
    model.learn(24)
    after = model.policy.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not torch.equal(before["actor.network.last_layer.weight"], after["actor.network.last_layer.weight"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_equal_seeds_give_equal_runs_and_other_seeds_others(algorithm):
    runs = [parameters_of(algorithm("MlpPolicy", "CartPole-v1", seed=seed, **SMALL).learn(60)) for seed in (3, 3, 4)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"train_freq": 4, "gradient_steps": 1}, 11),
        ({"train_freq": (4, "step"), "gradient_steps": 3}, 33),
        ({"train_freq": 8, "gradient_steps": -1}, 48),
        ({"train_freq": (1, "episode"), "gradient_steps": 2}, 14),
        ({"gradient_steps": 0}, 0),
    ],
    ids=str,
)
def test_updates_are_made_as_often_as_asked(options, updates):
    # Rollouts that end after step 16 are learned from, until one reaches step 60; an episode is 7 steps.
    model = GumbelSAC("MlpPolicy", Sampled(), **{**SMALL, **options}).learn(60)
    assert model._n_updates == updates


def test_several_environments():
    env = make_vec_env(Sampled, n_envs=3, seed=0)
    model = GumbelTD3("MlpPolicy", env, gradient_steps=-1, **{**SMALL, "train_freq": 1}).learn(60)
    assert model._n_updates == 60 - 15  # the first rollout to be learned from ends at step 18
    assert model.replay_buffer.actions.shape == (133, 3, 1)
    assert model.predict(env.reset())[0].shape == (3,)


def test_options_of_the_replay():
    model = GumbelDDPG(
        "MlpPolicy",
        Sampled(),
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        **SMALL,
    ).learn(40)
    assert not hasattr(model.replay_buffer, "next_observations")
    model = GumbelSAC("MlpPolicy", Sampled(), n_steps=3, gamma=0.5, **SMALL).learn(60)
    discount = model._draw(64).discount
    # Episodes are cut off after 7 steps: transitions of 1, 2 or 3 steps, none of them terminal.
    assert set(discount.unique().tolist()) == {0.125, 0.25, 0.5}


def test_hindsight_replay():
    env = BitFlippingEnv(n_bits=4, max_steps=4)
    model = GumbelSAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, seed=0, **SMALL).learn(60)
    buffer = io.BytesIO()
    model.save_replay_buffer(buffer)
    buffer.seek(0)
    model.load_replay_buffer(buffer, truncate_last_traj=False)
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 80


def test_normalised_observations_and_rewards():
    env = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]))
    model = GumbelSAC("MlpPolicy", env, seed=0, **SMALL).learn(60)
    raw = model.replay_buffer.observations[:60, 0]
    normalised = env.normalize_obs(raw)
    assert np.abs(normalised - raw).max() > 0.1
    distance = np.abs(model._draw(64).observation.numpy()[:, None] - normalised).max(-1)
    np.testing.assert_allclose(distance.min(1), 0, atol=1e-6)
    assert evaluate_policy(model, env, n_eval_episodes=2)[0] > 0


def test_replay_goes_on_after_loading(tmp_path):
    model = GumbelSAC("MlpPolicy", "CartPole-v1", seed=0, **SMALL).learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = GumbelSAC.load(tmp_path / "model", env=gym.make("CartPole-v1"), custom_objects={"learning_rate": 0.5})
    loaded.load_replay_buffer(tmp_path / "replay")
    assert loaded.learning_rate == 0.5
    assert loaded.replay_buffer.size() == 60
    assert torch.equal(loaded.log_ent_coef, model.log_ent_coef)
    moments = [model.actor.optimizer, loaded.actor.optimizer]
    assert all(len(each.state_dict()["state"]) == 6 for each in moments)
    loaded.learn(20, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80


def test_loading_for_prediction_alone_and_policies_alone(tmp_path):
    model = GumbelTD3("MlpPolicy", "CartPole-v1", seed=0, **SMALL).learn(40)
    observation = model.env.reset()
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    copies = [
        GumbelTD3.load(tmp_path / "model").policy,
        type(model.policy).load(tmp_path / "policy"),
        pickle.loads(pickle.dumps(model.policy)),
    ]
    with torch.no_grad():
        logits = [each.distribution(torch.as_tensor(observation)).logits for each in (model.policy, *copies)]
    assert all(torch.equal(logits[0], other) for other in logits[1:])


def test_parameters_can_be_taken_and_given():
    model = GumbelSAC("MlpPolicy", "CartPole-v1", seed=0, **SMALL).learn(20)
    other = GumbelSAC("MlpPolicy", "CartPole-v1", seed=1, estimator="exact", **SMALL)
    assert set(model.get_parameters()) == {"policy", "actor.optimizer", "critic.optimizer"}
    other.set_parameters(model.get_parameters())
    assert all(torch.equal(value, parameters_of(other)[name]) for name, value in parameters_of(model).items())
    other.policy.load_from_vector(model.policy.parameters_to_vector())
    with pytest.raises(ValueError, match="do not match"):
        other.set_parameters({"policy": model.policy.state_dict()}, exact_match=True)


def test_environments_can_be_changed():
    model = GumbelSAC("MlpPolicy", "CartPole-v1", **SMALL).learn(20)
    model.set_env(gym.make("CartPole-v1"))
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 40
    with pytest.raises(ValueError, match="spaces do not match"):
        model.set_env(Sampled())


def test_learning_rates_and_temperatures_follow_their_schedules():
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            path = self.model.actor.path
            rate = self.model.critic.optimizer.param_groups[0]["lr"]
            seen.append((rate, self.model.actor.optimizer.param_groups[0]["lr"], path.scheduled_temperature))
            return True

    options = {**SMALL, "train_freq": 1, "learning_starts": 0}
    for temperature in ("linear:1.0:0.5", LinearSchedule(1.0, 0.5, 1.0)):
        seen.clear()
        rate = LinearSchedule(0.1, 0.0, 1.0)
        model = GumbelSAC("MlpPolicy", "CartPole-v1", learning_rate=rate, temperature=temperature, **options)
        model.learn(20, callback=Watch())
        expected = [(0.2 * (1 - t / 20), 0.1 * (1 - t / 20), 1 - 0.5 * t / 20) for t in range(1, 20)]
        np.testing.assert_allclose(seen[1:], expected, rtol=1e-5, atol=1e-9)


def test_a_learned_temperature_moves():
    model = GumbelSAC("MlpPolicy", "CartPole-v1", temperature="learned:1.0:0.1", seed=0, **SMALL)
    before = model.actor.path.learned().item()
    model.learn(40)
    assert model.actor.path.learned().item() != before


def test_callbacks_logs_and_progress(tmp_path):
    callbacks = [
        EvalCallback(Monitor(gym.make("CartPole-v1")), eval_freq=30, n_eval_episodes=1, verbose=0, log_path=tmp_path),
        CheckpointCallback(30, tmp_path, save_replay_buffer=True),
    ]
    model = GumbelSAC("MlpPolicy", "CartPole-v1", tensorboard_log=None, **SMALL)
    model.learn(60, callback=callbacks, log_interval=1)
    assert (tmp_path / "rl_model_60_steps.zip").is_file()
    assert (tmp_path / "evaluations.npz").is_file()


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_tensorboard_and_the_progress_bar(tmp_path, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("tqdm")
    model = GumbelSAC("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path), **SMALL)
    model.learn(60, log_interval=1, tb_log_name="run", progress_bar=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run_1")).Reload()
    assert {"train/actor_loss", "train/entropy", "rollout/ep_rew_mean", "time/fps"} <= set(events.Tags()["scalars"])
    assert all(event.step <= 60 for event in events.Scalars("train/actor_loss"))
    assert "60/60" in capsys.readouterr().out


def test_environments_in_processes_of_their_own():
    env = make_vec_env("CartPole-v1", n_envs=2, seed=0, vec_env_cls=SubprocVecEnv)
    try:
        model = GumbelSAC("MlpPolicy", env, seed=0, gradient_steps=-1, **SMALL).learn(48)
    finally:
        env.close()
    alone = GumbelSAC("MlpPolicy", make_vec_env("CartPole-v1", n_envs=2, seed=0), seed=0, gradient_steps=-1, **SMALL)
    expected = parameters_of(alone.learn(48))
    assert all(torch.equal(value, expected[name]) for name, value in parameters_of(model).items())


def test_what_is_logged():
    logged = {}

    class Read(BaseCallback):
        def _on_step(self):
            logged.update(self.logger.name_to_value)
            return True

    GumbelSAC("MlpPolicy", "CartPole-v1", **SMALL).learn(60, callback=Read(), log_interval=1000)
    known = {"actor_loss", "critic_loss", "ent_coef", "entropy", "learning_rate", "n_updates", "temperature", "value"}
    assert {f"train/{name}" for name in known} <= set(logged)
    assert 0 < logged["train/entropy"] <= np.log(2) + 1e-6


def test_exploration_is_as_often_random_as_asked():
    # A policy that always takes action 0, and 1,000 steps: 200 ± 12.6 of them random to 1, doubt 1e-6 at 5 deviations.
    env = Sampled(action_space=spaces.Discrete(2))
    model = GumbelDDPG(
        "MlpPolicy", env, seed=0, exploration_rate=0.4, gradient_steps=0, **{**SMALL, "learning_starts": 0}
    )
    bias = model.actor.network.last_layer.bias
    bias.data.copy_(torch.tensor([50.0, -50.0]).expand_as(bias))
    model.actor.bound = None
    model.learn(1000)
    assert abs(np.sum(env.taken) - 200) < 63


def test_deterministic_prediction_is_the_mode():
    model = GumbelSAC("MlpPolicy", Sampled(), seed=0, **SMALL)
    observation = model.env.reset().repeat(200, axis=0)
    mode = model.predict(observation, deterministic=True)[0]
    probs = model.policy.distribution(torch.as_tensor(observation)).probs
    assert (mode == probs[0, 0, 0].argmax().item()).all()
    assert len(set(model.predict(observation)[0].tolist())) == 3  # nearly uniform: one is missing with 1e-35


def test_features_extractors_can_be_shared():
    policy, space = OBSERVATION_SPACES["image"]
    kwargs = {"share_features_extractor": True, "net_arch": {"pi": [8], "qf": [16, 16]}}
    model = GumbelTD3(policy, Sampled(space), policy_kwargs=kwargs, seed=0, **SMALL).learn(30)
    assert model.critic.features_extractor is model.actor.features_extractor
    assert model.critic_target.features_extractor is not model.actor.features_extractor
    trained = sum(len(group["params"]) for group in model.critic.optimizer.param_groups)
    assert trained == 6  # three layers; the extractor is the actor's


def test_other_activations_and_optimisers():
    kwargs = {"activation_fn": torch.nn.ELU, "optimizer_class": torch.optim.SGD, "layer_norm": False}
    model = GumbelSAC("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, **SMALL).learn(30)
    assert isinstance(model.critic.ensemble.critic.network.activation, torch.nn.ELU)
    assert isinstance(model.actor.optimizer, torch.optim.SGD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "gumble"}, "unknown estimator 'gumble': did you mean gumbel"),
        ({"critic": "quadratic"}, "unknown critic 'quadratic'"),
        ({"critic": "interpolated"}, "which SB3's replay does not keep: choose one of linear, multilinear, joint"),
        ({"baseline": "moving-mean"}, "unknown baseline"),
        ({"temperature": 0.0}, "temperature must be finite and at least 0.001, got 0.0"),
        ({"temperature": -1}, "temperature must be finite and at least 0.001, got -1"),
        ({"temperature": "warm"}, "'warm' is neither a number nor a schedule"),
        ({"exploration_rate": 1.5}, "exploration_rate must be between 0 and 1, got 1.5"),
        ({"action_noise": NormalActionNoise(np.zeros(1), np.ones(1))}, "explores by sampling its policy"),
        ({"ent_coef": "automatic"}, "ent_coef must be a number above 0, 'auto', or 'auto_'"),
        ({"ent_coef": 0.0}, "without an entropy bonus SAC is GumbelTD3"),
        ({"target_entropy": -1.0}, "target_entropy must be above 0, got -1.0"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GumbelSAC("MlpPolicy", "CartPole-v1", **arguments)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-1, 1, (2,)), "is continuous, and these algorithms are for discrete ones"),
        (
            spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
            "flatten it to Discrete, MultiDiscrete or MultiBinary",
        ),
        (spaces.MultiBinary((2, 3)), "has 2 axes, and stable-baselines3 stores actions as vectors"),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), "has 2 axes"),
    ],
    ids=str,
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_action_spaces_that_cannot_work_are_refused_in_words(algorithm, space, message):
    with pytest.raises(ValueError, match=message):
        algorithm("MlpPolicy", Sampled(action_space=space))


@pytest.mark.parametrize(("name", "value"), [("policy_delay", 0), ("smoothing", 1.5)])
def test_settings_of_td3_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        GumbelTD3("MlpPolicy", "CartPole-v1", **{name: value})


def test_loading_what_does_not_fit_is_refused_in_words(tmp_path):
    from stable_baselines3 import SAC

    GumbelSAC("MlpPolicy", "CartPole-v1", **SMALL).save(tmp_path / "gumbel")
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).save(tmp_path / "stock")
    with pytest.raises(ValueError, match="trained with estimator 'gumbel', and 'exact' was asked for: leave"):
        GumbelSAC.load(tmp_path / "gumbel", estimator="exact")
    with pytest.raises(ValueError, match="trained with critic 'linear', and 'joint' was asked for"):
        GumbelSAC.load(tmp_path / "gumbel", critic="joint")
    with pytest.raises(ValueError, match=re.escape("saved by GumbelSAC: load it with GumbelSAC.load(...)")):
        GumbelTD3.load(tmp_path / "gumbel")
    with pytest.raises(ValueError, match="GumbelSAC needs a GumbelPolicy, and SACPolicy is none"):
        GumbelSAC.load(tmp_path / "stock")
    assert GumbelSAC.load(tmp_path / "gumbel", estimator="gumbel").estimator == "gumbel"


def test_the_wrong_policy_is_refused_in_words():
    from stable_baselines3.sac.policies import SACPolicy

    with pytest.raises(ValueError, match="pass 'MlpPolicy', 'CnnPolicy' or 'MultiInputPolicy'"):
        GumbelSAC(SACPolicy, "CartPole-v1")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_callback_logs_policy_and_gradient_and_changes_nothing_that_is_learned(algorithm):
    class Kept(KVWriter):
        def __init__(self):
            self.names = set()

        def write(self, key_values, key_excluded, step=0):
            self.names |= key_values.keys()

        def close(self):
            pass

    def trained(callback):
        model, kept = algorithm("MlpPolicy", Sampled(), seed=0, **SMALL), Kept()
        model.set_logger(Logger(None, [kept]))
        return parameters_of(model.learn(60, callback=callback, log_interval=1)), kept.names

    (plain, _), (watched, names) = trained(None), trained(GumbelCallback(interval=20))
    assert {"policy/entropy", "policy/temperature", "policy/probs", "gradient/norm", "gradient/bias"} <= names
    assert all(torch.equal(watched[name], value) for name, value in plain.items())
