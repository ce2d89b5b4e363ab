"""Several runs by one command: every combination, one failure stops no other, going on redoes nothing."""

import json
import os
import shutil
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from gumbelrl.agents.command_line import main, requested_runs
from gumbelrl.agents.training import Trainer

SMALL = ["--num-envs", "4", "--rollout-steps", "8", "--epochs", "1", "--minibatches", "1", "--hidden", "8"]
REST = ["--evaluation-episodes", "2", "--total-steps", "128", "--track", "off", "--seeds", "0", "1"]
POLICIES = ["--policy", "gumbel", "softmax", "reinforce"]


class Breaking(gymnasium.Env):
    """Gives an infinite reward in its tenth step."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.zeros(2, np.float32), float("inf") if self.count == 10 else 1.0, self.count == 12, False, {}


gymnasium.register("Breaking-v0", entry_point=Breaking)


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr("gumbelrl.agents.compare.plots.save_plots", lambda comparison, folder: None)
    monkeypatch.setattr("gumbelrl.agents.compare.report.page", lambda comparison: "")


def train(folder, *words):
    return main([*SMALL, *REST, "--output", str(folder), *words])


def members(folder):
    return [json.loads(path.read_text())["members"] for path in sorted(folder.glob("*/results.json"))]


def combinations(*words):
    return [(run.env, run.agent, run.policy, run.critic, run.temperature) for run in requested_runs(words)]


def test_every_combination_is_a_run_environments_outermost():
    assert combinations("--env", "A", "B", "--policy", "gumbel", "softmax", "--temperature", "0.5") == [
        ("A", "actor-critic", "gumbel", "linear", "0.5"),
        ("A", "actor-critic", "softmax", "linear", "0.5"),
        ("B", "actor-critic", "gumbel", "linear", "0.5"),
        ("B", "actor-critic", "softmax", "linear", "0.5"),
    ]
    assert len(combinations("--critic", "linear", "joint", "--temperature", "0.5", "1.0", "--policy", "gumbel")) == 4
    assert combinations("--policy", "gumbel", "gumbel") == [("CartPole-v1", "actor-critic", "gumbel", "linear", "1.0")]


def test_an_agent_without_an_estimator_is_there_once():
    found = combinations("--agent", "sac", "ppo", "--policy", "gumbel", "softmax", "--temperature", "0.5")
    assert found == [
        ("CartPole-v1", "sac", "gumbel", "linear", "0.5"),
        ("CartPole-v1", "sac", "softmax", "linear", "0.5"),
        ("CartPole-v1", "ppo", "score-function", "state-value", "1.0"),
    ]
    assert {run.agent: type(run.agent_config).__name__ for run in requested_runs(["--agent", "sac", "ppo"])} == {
        "sac": "SACConfig",
        "ppo": "PPOConfig",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "gumbel", "gumble"], "did you mean gumbel"),
        (["--policy", "gumbel", "softmax", "--env", "CartPole-v1", "CartPol-v1"], "did you mean CartPole-v1"),
        (["--env", "CartPole-v1", "Pendulum-v1"], "is continuous"),
        (["--agent", "sac", "sacc"], "did you mean sac"),
        (["--temperature", "1.0", "0"], "--temperature 0"),
        (["--policy"], "--policy: name at least one"),
        (["--agent", "ppo", "--policy", "gumbel", "softmax"], "takes no --policy"),
    ],
)
def test_one_wrong_word_stops_all_before_anything_is_made(tmp_path, capsys, words, message):
    assert train(tmp_path / "set", *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "set").exists()


def test_a_set_ends_in_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gumbelrl.agents.compare.plots.save_plots", lambda comparison, folder: folder.mkdir())
    folder = tmp_path / "set"
    assert train(folder, *POLICIES[:3]) == 0
    names = {path.name for path in folder.iterdir()}
    runs = {"1_CartPole-v1_actor-critic_gumbel_linear", "2_CartPole-v1_actor-critic_softmax_linear"}
    assert names == {*runs, "set.json", "report.html", "comparison.json", "plots"}
    said = capsys.readouterr().out
    assert "[1/2] CartPole-v1 · actor-critic · gumbel · linear critic · 2 seeds" in said
    assert "nothing can be concluded from 2 seeds a variant" in said
    assert f"saved in {folder}/" in said
    assert train(folder, *POLICIES) == 2  # occupied
    assert "--resume" in capsys.readouterr().err


def test_a_failing_run_stops_no_other_and_is_listed(tmp_path, capsys, without_pictures):
    folder = tmp_path / "set"
    assert train(folder, "--env", "Breaking-v0", "CartPole-v1") == 1
    data = json.loads((folder / "comparison.json").read_text())
    assert list(data["environments"]) == ["CartPole-v1"]
    (left_out,) = data["not_counted"]
    assert "reward is not finite ([inf]) in environment 0 of seed 0" in left_out["reason"]
    said = capsys.readouterr().out
    assert "failed: reward is not finite" in said
    assert "not counted: " in said


def test_stopped_and_gone_on_with_a_set_ends_as_one_that_was_not_stopped(
    tmp_path, capsys, monkeypatch, without_pictures
):
    """Ctrl-C in the second of three runs; the folder is moved before going on."""
    whole, stopped, moved = tmp_path / "whole", tmp_path / "stopped", tmp_path / "moved"
    assert train(whole, *POLICIES) == 0
    iterate, calls = Trainer.iterate, []

    def interrupted(self):
        calls.append(self.step)
        if len(calls) == 6:  # a run has four iterations of 32 steps
            os.kill(os.getpid(), signal.SIGINT)
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", interrupted)
    assert train(stopped, *POLICIES) == 130
    said = capsys.readouterr().err
    assert f"1 of 3 runs are finished. To go on with the rest:\n  python train.py --resume {stopped}" in said
    assert not (stopped / "comparison.json").exists()
    shutil.move(stopped, moved)
    first = next(moved.glob("1_*")) / "results.json"
    before = first.stat().st_mtime_ns
    calls.clear()
    calls.extend(range(100))  # no further interrupt
    assert main(["--resume", str(moved)]) == 0
    assert calls[100:] == [64, 96, 0, 32, 64, 96]  # the rest of the second run, and the third
    assert first.stat().st_mtime_ns == before
    assert members(moved) == members(whole)
    said = capsys.readouterr().out
    assert "[1/3] CartPole-v1 · actor-critic · gumbel · linear critic · 2 seeds: finished already" in said
    assert "resuming at step 64" in said


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, without_pictures):
    folder = tmp_path / "set"
    assert train(folder, *POLICIES[:3]) == 0
    want = members(folder)
    second = next(folder.glob("2_*"))
    for name in ("results.json", "learning_curve.png"):
        (second / name).unlink()
    shutil.rmtree(second / "checkpoints")
    assert main(["--resume", str(folder)]) == 0
    assert members(folder) == want


def test_a_damaged_set_is_refused_in_words(tmp_path, capsys):
    (tmp_path / "set.json").write_text('{"runs": [{"agent": "sac"')
    assert main(["--resume", str(tmp_path)]) == 2
    assert "set.json is damaged" in capsys.readouterr().err
