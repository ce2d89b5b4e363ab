"""A compiled loop collects and learns as the eager one does."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from gumbelrl.agents.compilation import compiles, optimiser_steps
from gumbelrl.agents.compiled_rollout import EagerSteps, RolloutLoop, compile_rollout
from gumbelrl.agents.compiled_training import compile_training
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.registry import AGENTS
from gumbelrl.agents.training import Trainer
from gumbelrl.envs import make
from gumbelrl.policies import ESTIMATORS, ActionLayout, parse_temperature

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
    agent: str,
    *,
    estimator: str = "gumbel",
    critic: str = "linear",
    compiled: bool,
    env_id: str = "CartPole-v1",
    native: bool = True,
    **settings: Any,
) -> Trainer:
    env = make(env_id, num_envs=len(SEEDS) * 4, native=native)
    config = replace(AGENTS[agent].config(), **(SMALL | OF_AGENT.get(agent, {}) | settings))
    made = AGENTS[agent].agent(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        seeds=SEEDS,
        estimator=estimator,
        critic=critic,
        observation_space=env.single_observation_space,
        temperature=parse_temperature("1.0"),
        device="cpu",
    )
    trainer = Trainer(made, env, seeds=SEEDS, total_steps=1000, temperature=lambda progress, _: 1.0 - 0.5 * progress)
    if compiled:
        compile_training(trainer)
    return trainer


def check_equal(agent: str, **settings: Any) -> None:
    eager, compiled = (trainer_of(agent, compiled=each, **settings) for each in (False, True))
    for _ in range(3):
        expected, found = eager.iterate(), compiled.iterate()
    assert isinstance(compiled.collect.steps, RolloutLoop if settings.get("native", True) else EagerSteps)
    assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert torch.equal(found["train/episodes"], expected["train/episodes"])
    assert_close(compiled.agent.state_dict(), eager.agent.state_dict(), rtol=1e-4, atol=1e-5, check_dtype=True)
    assert torch.equal(compiled.observation, eager.observation)  # the same actions
    assert_close(compiled.statistics.state_dict(), eager.statistics.state_dict(), rtol=1e-6, atol=0)
    assert_close(compiled.env.state_dict(), eager.env.state_dict(), rtol=0, atol=0)


def test_compiled_sac_equals_eager() -> None:
    check_equal("sac")


def test_compiled_sac_equals_eager_while_it_waits_for_steps() -> None:
    check_equal("sac", rollout_steps=1, return_steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [10, 24])
def test_compiled_sac_equals_eager_where_the_replay_is_full(capacity: int) -> None:
    check_equal("sac", replay_capacity=capacity)  # less than a rollout of 16 rows; less than two


def test_compiled_ppo_equals_eager() -> None:
    check_equal("ppo", normalise_observations=True)


def test_a_large_replay_is_not_copied_for_the_compiler() -> None:
    capacity = 50_000
    trainer = trainer_of("sac", compiled=True, replay_capacity=capacity, return_steps=3, rollout_steps=1)
    agent: Any = trainer.agent

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if type(found) is Tensor and found.device.type == "cpu":
                held = {column.untyped_storage().data_ptr() for column in agent.replay.columns.values()}
                if found.untyped_storage().data_ptr() not in held:
                    self.largest = max(self.largest, found.numel())
            return found

    for _ in range(2):
        trainer.iterate()  # too few steps for a transition of three
    steps = {name: torch.cat([column, column[-1:]]) for name, column in agent.replay.pending.items()}
    agent.replay._make_columns(steps)
    with Watch() as watch:
        agent.replay._enter(steps)
        agent.replay.num_rows = len(SEEDS) * 4
        drawn = agent._draw()
    assert drawn[0]["reward"].shape == (len(SEEDS), 8)
    assert 0 < watch.largest < capacity


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["actor-critic", "a2c", "reinforce", "td3", "ddpg"])
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


@pytest.mark.slow
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_compiled_estimators_equal_eager_on_a_joint_critic(estimator: str) -> None:
    check_equal("sac", estimator=estimator, critic="joint")


@pytest.mark.slow
def test_environments_that_are_not_ours_are_stepped_as_ever() -> None:
    check_equal("ppo", env_id="Blackjack-v1", native=False)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["actor-critic", "sac"])
def test_resumed_runs_go_on_to_the_same_bits(agent: str) -> None:
    settings = {"return_steps": 3, "rollout_steps": 2, "replay_capacity": 10} if agent == "sac" else {}
    through, first, second = (trainer_of(agent, compiled=True, **settings) for _ in range(3))
    for _ in range(4):
        through.iterate()
    for _ in range(2):
        first.iterate()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(2):
        second.iterate()
    assert_close(second.state_dict(), through.state_dict(), rtol=0, atol=0)


def test_where_there_are_no_loops_python_calls_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    by_loop = trainer_of("ppo", compiled=True)
    expected = [by_loop.iterate() for _ in range(2)]
    monkeypatch.setattr("gumbelrl.agents.loops.available", lambda: False)
    by_python = trainer_of("ppo", compiled=True)
    found = [by_python.iterate() for _ in range(2)]
    assert [each.collect.steps.loop.by_cpp for each in (by_loop, by_python)] == [True, False]
    assert_close(found[1], expected[1], rtol=0, atol=0, equal_nan=True)
    assert_close(by_python.state_dict(), by_loop.state_dict(), rtol=0, atol=0)


# Masks and several variables; random numbers in every step; a table; truth values in the state; eager kernels.
STEPPED = ("MultiButton-v0", "RockPaperScissors-v0", "Taxi-v4", "MinAtar-Breakout-v1", "Acrobot-v1")


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPPED)
def test_a_loop_of_graphs_collects_what_python_calling_them_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_loop, by_python = (trainer_of("a2c", compiled=False, env_id=f"gumbelrl/{name}", rollout_steps=40) for _ in "12")
    for trainer in (by_loop, by_python):
        compile_rollout(trainer)
    for turn in range(3):
        with monkeypatch.context() as patched:
            patched.setattr("gumbelrl.agents.loops.available", lambda: False)
            expected = by_python.collect()
        found = by_loop.collect()
        for column, value in vars(expected).items():
            assert_close(getattr(found, column), value, rtol=0, atol=0, msg=f"{column} of rollout {turn}")
    assert [each.collect.steps.loop.by_cpp for each in (by_loop, by_python)] == [True, False]
    ours, theirs = (trainer.state_dict() for trainer in (by_loop, by_python))
    for part in ("environment", "statistics", "observation", "mask"):
        assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert all(each.dtype == theirs["environment"][name].dtype for name, each in ours["environment"].items())


def test_a_rollout_without_a_valid_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("ppo", compiled=False, env_id="gumbelrl/MultiButton-v0")
    compile_rollout(trainer)
    trainer.collect()
    trainer.mask[1, 2, 0] = False
    with pytest.raises(RunError, match=r"no action is allowed in environment 2 of seed 4 \(group 0"):
        trainer.collect()


def test_a_rollout_in_place_leaves_what_it_began_with() -> None:
    trainer = trainer_of("ppo", compiled=False)
    compile_rollout(trainer)
    trainer.collect()
    held = [trainer.env.state, trainer.env.elapsed, trainer.observation]
    copies = copy.deepcopy(held)
    trainer.collect()
    assert not torch.equal(trainer.env.state, held[0])
    assert_close(held, copies, rtol=0, atol=0)


def test_annealed_temperature_and_rate_reach_the_graph() -> None:
    check_equal("ddpg", anneal=True)


def test_auto_goes_by_the_number_of_optimiser_steps() -> None:
    config = AGENTS["sac"].config()
    assert optimiser_steps(config, 16 * 500) == 500 * config.updates_per_iteration
    on_policy = AGENTS["actor-critic"].config()
    assert optimiser_steps(on_policy, 131_072) == 64 * 16
    assert optimiser_steps(AGENTS["a2c"].config(num_envs=2, rollout_steps=5), 101) == 11
    trainer = trainer_of("sac", compiled=False)
    step, collect = trainer.agent._step, trainer.collect
    assert not compiles("auto", trainer)
    trainer.total_steps = 10**9
    assert not compiles("off", trainer)
    assert (trainer.agent._step, trainer.collect) == (step, collect)
    assert compiles("auto", trainer)
    assert step not in (trainer.agent._step, trainer.agent._step.__call__)
    assert trainer.collect != collect


def test_auto_goes_on_eagerly_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("gumbelrl.agents.compiled_methods.program", fail)
    eager, compiled = (trainer_of("sac", compiled=False) for _ in range(2))
    compile_training(compiled, or_eager=True)
    with pytest.warns(UserWarning, match="no C[+][+] compiler; training goes on without"):
        compiled.iterate()
    eager.iterate()
    assert_close(compiled.agent.state_dict(), eager.agent.state_dict(), rtol=0, atol=0)
    asked = trainer_of("sac", compiled=True)
    with pytest.raises(RunError, match="cannot be compiled here: no C"):
        asked.iterate()


def test_refuses_what_is_not_compiled() -> None:
    with pytest.raises(RunError, match="--compile on: --target-kl decides"):
        compiles("on", trainer_of("ppo", compiled=False, target_kl=0.1))
    recurrent = trainer_of("actor-critic", compiled=False, torso="recurrent")
    recurrent.total_steps = 10**9
    with pytest.raises(RunError, match="--compile on: a recurrent torso"):
        compiles("on", recurrent)
    assert not compiles("auto", recurrent)
