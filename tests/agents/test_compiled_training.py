"""A compiled optimiser step moves an agent as the eager one does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from gumbelrl.agents.compilation import compiles, optimiser_steps
from gumbelrl.agents.compiled_training import compile_learning
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.registry import AGENTS
from gumbelrl.agents.training import Trainer
from gumbelrl.envs import make
from gumbelrl.policies import ActionLayout, parse_temperature

SEEDS = (3, 4)
SMALL: dict[str, Any] = {"num_envs": 4, "rollout_steps": 4, "hidden": (8,)}
OF_AGENT: dict[str, dict[str, Any]] = {
    "actor-critic": {"minibatches": 2, "epochs": 2, "diagnostics_interval": 0},
    "ppo": {"minibatches": 2, "epochs": 2},
    **{
        name: {"learning_starts": 0, "batch_size": 8, "return_steps": 1, "diagnostics_interval": 0}
        for name in ("sac", "td3", "ddpg")
    },
}


def trainer_of(
    agent: str, *, estimator: str = "gumbel", compiled: bool, env_id: str = "CartPole-v1", **settings: Any
) -> Trainer:
    env = make(env_id, num_envs=len(SEEDS) * 4)
    config = replace(AGENTS[agent].config(), **(SMALL | OF_AGENT.get(agent, {}) | settings))
    made = AGENTS[agent].agent(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        seeds=SEEDS,
        estimator=estimator,
        critic="linear",
        observation_space=env.single_observation_space,
        temperature=parse_temperature("1.0"),
        device="cpu",
    )
    if compiled:
        compile_learning(made)
    return Trainer(made, env, seeds=SEEDS, total_steps=1000, temperature=lambda progress, _: 1.0 - 0.5 * progress)


def check_equal(agent: str, **settings: Any) -> None:
    eager, compiled = (trainer_of(agent, compiled=each, **settings) for each in (False, True))
    for _ in range(3):
        expected, found = eager.iterate(), compiled.iterate()
    assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert torch.equal(found["train/episodes"], expected["train/episodes"])
    assert_close(compiled.agent.state_dict(), eager.agent.state_dict(), rtol=1e-4, atol=1e-5, check_dtype=True)
    assert torch.equal(compiled.observation, eager.observation)  # the same actions


def test_compiled_sac_equals_eager() -> None:
    check_equal("sac")


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["actor-critic", "ppo", "a2c", "reinforce", "td3", "ddpg"])
def test_compiled_equals_eager(agent: str) -> None:
    check_equal(agent)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["actor-critic", "sac"])
def test_compiled_equals_eager_with_masks_and_several_variables(agent: str) -> None:
    check_equal(agent, env_id="gumbelrl/MultiButton-v0", estimator="gumbel-soft")


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["exact", "reinforce", "gumbel-rao", "relax"])
def test_compiled_estimators_equal_eager(estimator: str) -> None:
    check_equal("actor-critic", estimator=estimator)


def test_annealed_temperature_and_rate_reach_the_graph() -> None:
    check_equal("ddpg", anneal=True)


def test_auto_goes_by_the_number_of_optimiser_steps() -> None:
    config = AGENTS["sac"].config()
    assert optimiser_steps(config, 16 * 500) == 500 * config.updates_per_iteration
    on_policy = AGENTS["actor-critic"].config()
    assert optimiser_steps(on_policy, 131_072) == 64 * 16
    assert optimiser_steps(AGENTS["a2c"].config(num_envs=2, rollout_steps=5), 101) == 11
    agent = trainer_of("sac", compiled=False).agent
    step = agent._step
    assert not compiles("auto", agent, total_steps=1000)
    assert not compiles("off", agent, total_steps=10**9)
    assert agent._step == step
    assert compiles("auto", agent, total_steps=10**9)
    assert agent._step != step


def test_auto_goes_on_eagerly_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.compile", fail)
    eager, compiled = (trainer_of("sac", compiled=False) for _ in range(2))
    compile_learning(compiled.agent, or_eager=True)
    with pytest.warns(UserWarning, match="no C[+][+] compiler; training goes on without"):
        compiled.iterate()
    eager.iterate()
    assert_close(compiled.agent.state_dict(), eager.agent.state_dict(), rtol=0, atol=0)
    asked = trainer_of("sac", compiled=True)
    with pytest.raises(RunError, match="cannot be compiled here: no C"):
        asked.iterate()


def test_refuses_what_is_not_compiled() -> None:
    with pytest.raises(RunError, match="--compile on: --target-kl decides"):
        compiles("on", trainer_of("ppo", compiled=False, target_kl=0.1).agent, total_steps=10**9)
    recurrent = trainer_of("actor-critic", compiled=False, torso="recurrent").agent
    with pytest.raises(RunError, match="--compile on: a recurrent torso"):
        compiles("on", recurrent, total_steps=10**9)
    assert not compiles("auto", recurrent, total_steps=10**9)
