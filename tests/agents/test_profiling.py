"""`--profile`: regions that come and go, times without those inside, a trace that Perfetto can read."""

import gzip
import json

import pytest
import torch
from torch._inductor import config

from gumbelrl.agents import products, profiling
from gumbelrl.agents.actor_critic import ActorCriticConfig
from gumbelrl.agents.command_line import main
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.ppo import PPOConfig
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.sac import SACConfig

SMALL = ActorCriticConfig(num_envs=4, rollout_steps=4, epochs=2, minibatches=2, hidden=(8,), diagnostics_interval=1)
REPLAYED = SACConfig(num_envs=4, batch_size=8, learning_starts=4, hidden=(8,), replay_capacity=100)


def make(folder, agent="actor-critic", settings=SMALL, compiling="off"):  # what is inside of a graph has no region
    return Experiment(
        RunConfig(
            agent=agent,
            agent_config=settings,
            output=folder,
            track="off",
            evaluation_episodes=2,
            seeds=(0, 1),
            compile=compiling,
        )
    )


def test_the_time_of_a_region_is_without_that_of_the_regions_inside_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])
    clock = profiling.Clock(lambda: None)
    with clock.region("update"):
        now[0] += 1.0
        for _ in range(2):
            with clock.region("targets"):
                now[0] += 2.0
                with clock.region("replay"):
                    now[0] += 4.0
        now[0] += 8.0
    assert clock.seconds == {"update": 9.0, "targets": 4.0, "replay": 8.0}
    assert clock.calls == {"update": 1, "targets": 2, "replay": 2}


@pytest.mark.parametrize(("agent", "settings"), [("actor-critic", SMALL), ("sac", REPLAYED)])
def test_regions_change_nothing_that_is_learned_and_leave_nothing_behind(tmp_path, agent, settings):
    plain, watched = (make(tmp_path / name, agent, settings).trainer for name in ("plain", "watched"))
    clock = profiling.Clock(lambda: None)
    with profiling.regions(watched, clock.region):
        for _ in range(8):
            watched.iterate()
    for _ in range(8):
        plain.iterate()
    assert torch.equal(plain.observation, watched.observation)
    inside = {"act", "environment", "update", "targets", "optimiser"}
    assert inside <= set(clock.seconds)
    for owner in (watched, watched.env, watched.agent, watched.agent.optimizer):
        assert not [name for name, value in vars(owner).items() if getattr(value, "__qualname__", "").endswith("call")]


@pytest.mark.parametrize(
    ("agent", "settings", "expected"),
    [("actor-critic", SMALL, {"diagnose"}), ("sac", REPLAYED, {"replay"})],
)
def test_a_profile_has_a_trace_and_times_that_add_up(tmp_path, monkeypatch, capsys, agent, settings, expected):
    for name in ("WARM_UP", "TIMED", "TRACED"):
        monkeypatch.setattr(profiling, name, 0.05)
    experiment = make(tmp_path / "run", agent, settings)
    assert profiling.profile_run(experiment) == 0
    summary = json.loads((tmp_path / "run" / profiling.SUMMARY).read_text())
    expected = expected | {"act", "environment", "update", "targets", profiling.REST}
    assert expected <= set(summary["regions"])
    spent = sum(region["seconds"] for region in summary["regions"].values())
    assert spent == pytest.approx(summary["seconds"])
    assert min(region["seconds"] for region in summary["regions"].values()) >= 0
    with gzip.open(tmp_path / "run" / profiling.TRACE) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"iteration", "act", "environment", "update", "targets", "aten::baddbmm"} <= names
    said = capsys.readouterr().out
    assert "aten::" in said
    assert "ui.perfetto.dev" in said
    assert max(map(len, said.splitlines()[-30:-1])) <= 100


@pytest.mark.slow  # half a minute, of compiling
def test_loops_and_products_of_a_compiled_run_have_names(tmp_path, monkeypatch):
    for name in ("WARM_UP", "TIMED", "TRACED"):
        monkeypatch.setattr(profiling, name, 0.05)
    settings = PPOConfig(num_envs=4, rollout_steps=4, epochs=1, minibatches=1, hidden=(8,))
    assert profiling.profile_run(make(tmp_path / "run", "ppo", settings, compiling="on")) == 0
    operations = json.loads((tmp_path / "run" / profiling.SUMMARY).read_text())["operations"]
    names = [operation["name"] for operation in operations]
    assert any("cpp_fused" in name for name in names)
    assert "gumbelrl::bmm" in names or not products.available()
    assert not config.cpp.enable_kernel_profile


def test_several_runs_are_not_profiled(tmp_path, capsys):
    words = ["--profile", "--policy", "gumbel", "softmax", "--output", str(tmp_path / "run"), "--track", "off"]
    assert main(words) == 2
    assert "--profile looks at one run, and these are 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
