"""`GumbelCallback`: the temperature moves when it may, what is logged is true, and nothing that is learned changes."""

import json

import gymnasium
import numpy as np
import pytest
import torch

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.logger import KVWriter, Logger, configure  # noqa: E402
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

from gumbelrl.envs import OneHotActions  # noqa: E402
from gumbelrl.policies.sb3 import GumbelActorCriticPolicy, GumbelCallback, GumbelSACPolicy  # noqa: E402

PPO = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", "seed": 0}
SAC = {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "target_entropy": 0.2, "device": "cpu", "seed": 0}


class Kept(KVWriter):
    """Keeps what is dumped."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(dict(key_values))

    def close(self):
        pass


def ppo(**policy_kwargs):
    return sb3.PPO(GumbelActorCriticPolicy, "CartPole-v1", policy_kwargs={"net_arch": [8], **policy_kwargs}, **PPO)


def sac(env=None, **settings):
    env = OneHotActions(gymnasium.make("CartPole-v1")) if env is None else env
    kwargs = {"net_arch": [8], **settings.pop("policy_kwargs", {})}
    return sb3.SAC(GumbelSACPolicy, env, policy_kwargs=kwargs, **{**SAC, **settings})


def learn(model, steps, *callbacks, **settings):
    kept = Kept()
    model.set_logger(Logger(None, [kept]))
    model.learn(steps, list(callbacks), **settings)
    return kept.rows


@pytest.mark.parametrize(
    ("policy_kwargs", "argument"),
    [({"temperature": "linear:2.0:1.0"}, None), ({}, "linear:2.0:1.0"), ({}, lambda remaining: 1.0 + remaining)],
    ids=["policy", "callback", "function"],
)
def test_the_temperature_moves_between_rollouts_only(policy_kwargs, argument):
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            seen.append(self.model.policy.temperature)
            return True

        def _on_rollout_end(self):
            policy, stored = self.model.policy, self.model.rollout_buffer
            actions = torch.as_tensor(stored.actions[:, 0, 0]).long()
            with torch.no_grad():
                _, log_prob, _ = policy.evaluate_actions(torch.as_tensor(stored.observations[:, 0]), actions)
            np.testing.assert_allclose(log_prob, stored.log_probs[:, 0], rtol=1e-4, atol=1e-5)

    rows = learn(ppo(**policy_kwargs), 96, GumbelCallback(argument), Watch())
    assert seen == pytest.approx(np.repeat([2.0, 2.0 - 1 / 3, 2.0 - 2 / 3], 32))
    assert [row["policy/temperature"] for row in rows] == pytest.approx([2.0, 2.0 - 1 / 3, 2.0 - 2 / 3])


def test_a_schedule_that_nobody_moves_is_warned_of():
    with pytest.warns(UserWarning, match=r"temperature stays at 2: .* callback=GumbelCallback\(\)"):
        ppo(temperature="linear:2.0:1.0").learn(32)


def test_what_ppo_logs():
    model = ppo()
    rows = learn(model, 64, GumbelCallback())
    policy = model.policy.get_distribution(
        torch.as_tensor(model.rollout_buffer.observations).reshape(-1, 4)[-32:]
    ).policy
    assert rows[-1]["policy/probs"].numel() == 64
    assert 0 < rows[-1]["policy/entropy"] <= np.log(2) + 1e-6
    assert rows[-1]["policy/entropy"] == pytest.approx(policy.entropy().mean().item(), abs=1e-2)
    assert 0 < rows[-1]["gradient/norm"] <= 0.5 + 1e-6  # after clipping
    assert "gradient/bias" not in rows[-1]  # no estimator


@pytest.mark.parametrize(("estimator", "biased"), [("straight-through", False), ("gumbel", True)])
@pytest.mark.parametrize("critic", ["linear", "joint"])
def test_what_sac_logs(estimator, biased, critic):
    """With a single linear critic straight-through is exact and without noise; `gumbel` is neither."""
    kwargs = {"estimator": estimator, "critic": critic, "n_critics": 1}
    rows = learn(sac(policy_kwargs=kwargs), 60, GumbelCallback(interval=20), log_interval=1)
    told = [row for row in rows if "gradient/bias" in row]
    assert told
    is_exact = critic == "linear" and not biased
    for row in told:
        finite = {name for name in row if name.startswith(("gradient/", "policy/"))} - {"policy/probs"}
        finite -= {"gradient/signal_to_noise"} if is_exact else set()  # infinite without noise
        assert np.isfinite([row[name] for name in finite]).all()
        assert (row["gradient/variance"] < 1e-10) is is_exact
        assert row["gradient/cosine"] <= 1 + 1e-6


@pytest.mark.parametrize("make", [ppo, sac])
def test_looking_changes_nothing_that_is_learned(make):
    def weights(*callbacks):
        model = make()
        learn(model, 64, *callbacks)
        return torch.cat([parameter.flatten() for parameter in model.policy.parameters()])

    assert torch.equal(weights(), weights(GumbelCallback(interval=1)))


def test_several_variables_dicts_and_normalised_observations():
    class Several(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({"x": gymnasium.spaces.Box(-1, 1, (2,))})
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, bool(action[0]), False, {}

    from gumbelrl.policies.sb3 import GumbelSACMultiInputPolicy

    envs = VecNormalize(DummyVecEnv([lambda: OneHotActions(Several())] * 2))
    model = sb3.SAC(GumbelSACMultiInputPolicy, envs, policy_kwargs={"net_arch": [8]}, **{**SAC, "target_entropy": 0.4})
    rows = learn(model, 60, GumbelCallback(interval=10), log_interval=1)
    told = next(row for row in rows if "policy/entropy" in row)
    assert {"policy/probs_of_variable_0", "policy/probs_of_variable_1"} <= set(told)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sac(target_entropy="auto"),
            r"target_entropy is -2, which a policy over OneHotBox\(Discrete\(2\)\) cannot",
        ),
        (lambda: sac(target_entropy=0.9), r"between 0 and 0.693 nats.* target_entropy=0.3 \* env.action_space.largest"),
        (lambda: sb3.PPO("MlpPolicy", "CartPole-v1", **PPO), "ActorCriticPolicy is none of them: use for example PPO"),
    ],
)
def test_what_cannot_be_is_said_when_training_starts(make, message):
    with pytest.raises(ValueError, match=message):
        make().learn(10, GumbelCallback())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 0}, "interval is a number of environment steps, at least 1, got 0"),
        ({"temperature": 0.0}, "must be finite and at least 0.001"),
        ({"temperature": "learned:1.0"}, "is learned, which a policy inside stable-baselines3 cannot do"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        GumbelCallback(**arguments)


def test_every_writer_of_stable_baselines3_takes_it(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    model = ppo()
    model.set_logger(configure(str(tmp_path), ["stdout", "json", "csv", "tensorboard"]))
    model.learn(64, GumbelCallback())
    model.logger.close()
    assert "temperature" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert rows[-1]["policy/temperature"] == 1.0
    assert "policy/probs" not in rows[-1]


@pytest.mark.slow
def test_beside_the_callback_of_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    sb3_integration = pytest.importorskip("wandb.integration.sb3")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = wandb.init(dir=str(tmp_path), project="test", sync_tensorboard=True, reinit="finish_previous")
    try:
        model = ppo()
        model.set_logger(configure(str(tmp_path / "logs"), ["tensorboard"]))
        theirs = sb3_integration.WandbCallback(model_save_path=str(tmp_path / "models"), gradient_save_freq=8)
        model.learn(64, [GumbelCallback(), theirs])
        model.logger.close()
        assert (tmp_path / "models" / "model.zip").exists()
        assert run.config["algo"] == "PPO"
    finally:
        wandb.unwatch()
        run.finish()
        wandb.tensorboard.unpatch()
