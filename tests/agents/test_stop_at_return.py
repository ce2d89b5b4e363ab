"""`--stop-at-return`: a run ends once it is good enough, and is a finished run like any other."""

import json

import pytest

from gumbelrl.agents.command_line import main
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import Experiment, load_experiment
from gumbelrl.agents.run_config import RunConfig

LEARNING = "--num-envs 64 --rollout-steps 8 --epochs 2 --minibatches 2 --log-interval 512"
SETTINGS = ["--track", "off", "--episodes", "2", *LEARNING.split()]


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_ends_at_the_first_row_that_is_good_enough(tmp_path, capsys):
    folder = tmp_path / "run"
    words = [*SETTINGS, "--total-steps", "20000", "--seeds", "0", "1", "--output", str(folder)]
    assert main([*words, "--stop-at-return", "19"]) == 0
    by_step = {}
    for row in rows(folder):
        by_step.setdefault(row["step"], []).append(row["train/episodes"] >= 100 and row["train/return"] >= 19)
    reached = {step: all(each) for step, each in by_step.items()}
    last = max(reached)
    assert last < 20000
    assert [step for step, good in reached.items() if good] == [last]
    assert f"of every seed reached 19 after {last:,} steps" in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert [member["steps"] for member in results["members"]] == [last, last]

    resumed = load_experiment(folder)  # it is finished, and evaluated again at most
    assert resumed.trainer.finished
    assert resumed.trainer.step == last


def test_few_episodes_are_not_enough_whatever_they_returned(tmp_path):
    config = RunConfig(track="off", total_steps=4096, stop_at_return=1.0, output=tmp_path / "run")
    experiment = Experiment(config)
    statistics = experiment.trainer.statistics
    statistics.mean.fill_(500.0)
    statistics.count.fill_(99)
    experiment._stop_at_return()
    assert not experiment.trainer.finished
    statistics.count.fill_(100)
    experiment._stop_at_return()
    assert experiment.trainer.finished


def test_a_return_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(RunError, match="stop-at-return must be a finite number, got nan"):
        Experiment(RunConfig(track="off", stop_at_return=float("nan"), output=tmp_path / "run"))
