"""Weights & Biases, offline: what `wandb leet` reads back, and that it can break without stopping the training."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gumbelrl.agents.command_line import main
from gumbelrl.agents.tracking_wandb import WandbSink

TINY = [
    "--num-envs",
    "4",
    "--rollout-steps",
    "8",
    "--epochs",
    "1",
    "--minibatches",
    "1",
    "--hidden",
    "8",
    "--evaluation-episodes",
    "2",
]
WANDB = shutil.which("wandb", path=str(Path(sys.executable).parent)) or shutil.which("wandb")


def inspect(run, *options):
    command = [WANDB, "leet", "inspect", *options, "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked") / "run"
    words = ["--seeds", "5", "6", "--total-steps", "256", "--log-interval", "32", "--track", "offline"]
    assert main([*TINY, *words, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    found = [path for path in (folder / "wandb").iterdir() if path.name.startswith("offline-run-")]
    summaries = [(json.loads(inspect(path, "--summary")), path) for path in found]
    return {summary["config"]["seed"]: (summary, path) for summary, path in summaries}


def test_each_member_is_a_finished_run_with_its_config(folder, runs):
    assert runs.keys() == {5, 6}
    for seed, (summary, _) in runs.items():
        assert summary["state"] == "finished"
        assert summary["exit_code"] == 0
        assert summary["name"] == f"CartPole-v1-actor-critic-gumbel-seed{seed}"
        config = summary["config"]
        assert (config["env"], config["policy"], config["critic"]) == ("CartPole-v1", "gumbel", "linear")
        assert config["agent_config"]["hidden"] == [8]
        assert config["seeds"] == [5, 6]


def test_the_summary_holds_the_evaluation_and_the_last_of_every_curve(folder, runs):
    members = json.loads((folder / "results.json").read_text())["members"]
    for member in members:
        summary = runs[member["seed"]][0]["summary"]
        assert summary["eval/greedy_return"] == pytest.approx(member["eval/greedy_return"])
        assert summary["eval/sampled_return"] == pytest.approx(member["eval/sampled_return"])
        for name in ("train/return", "train/critic_loss", "policy/entropy", "policy/temperature", "policy/kl"):
            assert name in summary
        assert summary["gradient/norm"] > 0


def test_the_curves_are_those_of_the_metrics_file_with_histograms(folder, runs):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    mine = [row for row in rows if row["seed"] == 6]
    records = [json.loads(line) for line in inspect(runs[6][1]).splitlines()]
    text = json.dumps(records)
    assert text.count("policy/probs/0") >= len(mine)
    history = [record for record in records if record.get("type") == "history"]
    assert len(history) >= len(mine) == 8
    found = json.dumps(history)
    assert '"histogram' in found
    for row in mine:
        assert f"{row['policy/entropy']:.6g}"[:7] in found
    assert "learning_curve" in json.dumps(runs[5][0]) or "learning_curve" in inspect(runs[5][1])


def test_a_broken_wandb_is_a_warning_and_training_goes_on(tmp_path, capsys, monkeypatch):
    import wandb

    def refuse(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.warns(UserWarning, match=r"W&B stopped \(OSError: no space left on device\); metrics.jsonl stays"):
        status = main([*TINY, "--total-steps", "64", "--track", "offline", "--output", str(tmp_path / "run")])
    assert status == 0
    assert (tmp_path / "run" / "results.json").exists()


def test_a_hanging_wandb_is_given_up(tmp_path, monkeypatch):
    import threading

    import wandb

    monkeypatch.setattr("gumbelrl.agents.tracking_wandb.CLOSE_TIMEOUT_S", 0.1)
    release = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **options: release.wait(10) and None)
    sink = WandbSink(
        tmp_path, mode="offline", project="p", group="g", names=["n"], run_ids=["i"], configs=[{}], tags=[]
    )
    with pytest.warns(UserWarning, match="did not finish"):
        sink.close(failed=False)
    release.set()  # the thread then finds no run, which is its own affair
    sink.thread.join(10)


@pytest.mark.parametrize(
    ("variable", "key", "mode"), [(None, False, "offline"), (None, True, "online"), ("offline", True, "offline")]
)
def test_auto_is_online_only_for_who_is_logged_in(monkeypatch, variable, key, mode):
    import wandb

    from gumbelrl.agents.tracking_wandb import _choose_mode

    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setattr(wandb, "login", lambda *, prompt, verify: key and not prompt and not verify)
    assert _choose_mode(wandb) == mode
