"""What is said of the memory of a population is what its tensors take."""

import re
from dataclasses import fields

import pytest
import torch

from gumbelrl.agents import AGENTS, RunError, Trainer, memory
from gumbelrl.agents.command_line import main
from gumbelrl.agents.memory import Memory, check_memory, format_bytes, memory_of, num_bytes
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.envs import make
from gumbelrl.policies import ActionLayout, parse_temperature

OFF_POLICY = {"replay_capacity": 32, "learning_starts": 8, "batch_size": 8, "updates_per_iteration": 1}
CASES = [
    ("actor-critic", "CartPole-v1", {}),
    ("actor-critic", "gumbelrl/Memory-v0", {"torso": "recurrent", "minibatches": 2}),
    ("actor-critic", "FrozenLake-v1", {"normalise_observations": True}),
    ("ppo", "CartPole-v1", {}),
    ("a2c", "CartPole-v1", {}),  # RMSprop
    ("sac", "CartPole-v1", {**OFF_POLICY, "return_steps": 3}),
    ("sac", "FrozenLake-v1", {**OFF_POLICY, "return_steps": 1}),  # states kept as their numbers
    ("td3", "gumbelrl/RockPaperScissors-v0", {**OFF_POLICY, "return_steps": 2}),
]


def make_trainer(name, env_id, members, settings):
    config = AGENTS[name].config(num_envs=4, rollout_steps=8, hidden=(16,), **settings)
    env = make(env_id, num_envs=members * config.num_envs)
    agent = AGENTS[name].agent(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        seeds=tuple(range(members)),
        estimator="gumbel",
        critic="linear",
        temperature=parse_temperature("1.0"),
        observation_space=env.single_observation_space,
        device="cpu",
    )
    return Trainer(agent, env, seeds=tuple(range(members)), total_steps=10_000, temperature=lambda *_: 1.0)


@pytest.mark.parametrize(("name", "env_id", "settings"), CASES)
def test_each_part_is_what_the_tensors_take_once_they_are_there(name, env_id, settings):
    """Storage sizes after two rollouts; a count of steps that members share may be off by its bytes."""
    trainer = make_trainer(name, env_id, 3, settings)
    told = memory_of(trainer)
    agent = trainer.agent
    trainer.iterate()
    rollout = trainer.collect()
    agent.update(rollout)
    flats = [part.flat for part in agent._parts().values()] if hasattr(agent, "_parts") else [agent.flat]
    moments = [each for state in agent.optimizer.state.values() for each in state.values()]
    gradients = [p for group in agent.optimizer.param_groups for p in group["params"]]
    columns = [x for field in fields(rollout) if (x := getattr(rollout, field.name)) is not None]
    kept = [x for x in (trainer.observation, trainer.mask, trainer.memory) if x is not None]
    replay = agent.replay.num_bytes() if hasattr(agent, "replay") else 0

    def each_member(tensors):
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors) / 3

    assert told.parameters == pytest.approx(each_member(flats), abs=1)
    assert told.optimiser == pytest.approx(each_member(moments) + each_member(gradients), abs=16)
    assert told.replay == replay / 3
    assert told.rollout == pytest.approx(num_bytes([*columns, *kept]) / 3, abs=2)
    assert (told.replay > 0) == hasattr(agent, "replay")
    assert told.environment > 0


def test_looking_changes_nothing():
    seen, unseen = (make_trainer("actor-critic", "CartPole-v1", 2, {}) for _ in range(2))
    memory_of(seen)
    for _ in range(2):
        seen.iterate(), unseen.iterate()
    assert torch.equal(seen.agent.flat, unseen.agent.flat)


def test_a_line_says_it():
    found = Memory(parameters=20_000, optimiser=60_000, replay=2_900_000, rollout=100_000, environment=20_000)
    assert found.describe(10) == "memory: 3.1 MB a member (replay 2.9 MB), 31 MB in all"
    assert found.describe(1) == "memory: 3.1 MB (replay 2.9 MB)"
    assert [format_bytes(n) for n in (12, 999, 1500, 45_300, 2e9)] == [
        "12 bytes",
        "999 bytes",
        "1.5 kB",
        "45 kB",
        "2.0 GB",
    ]


def test_a_population_that_does_not_fit_is_refused_before_anything_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: memory.PROCESS + 3_000_000)
    words = ["--agent", "sac", "--seeds", "0..9", "--track", "off", "--output", str(tmp_path / "run")]
    assert main([*words, "--chunk-size", "10"]) == 2
    assert re.search(
        r"10 members need 6.7 MB \(670 kB each\) and the process 537 MB, but 540 MB are available; 4 fit: --chunk-size",
        capsys.readouterr().err,
    )
    assert not (tmp_path / "run").exists()
    assert main([*words, "--memory-limit", "100MB"]) == 2
    assert "but 100 MB are allowed by --memory-limit; not one fits" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunError, match="not one fits"):
        check_memory(Memory(10**9, 0, 0, 0, 0), 2, device=torch.device("cpu"))


def test_what_is_available_is_known_here():
    found = memory.available_bytes(torch.device("cpu"))
    assert found is None or found > 2**20
