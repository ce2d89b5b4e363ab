"""Runs are found by what they are; what is not finished is listed, with the reason."""

import json
import os
import shutil

import numpy as np
import pytest

from gumbelrl.agents import RunError
from gumbelrl.agents.compare.runs import find_runs
from gumbelrl.agents.compare.variants import group_runs
from gumbelrl.agents.ppo import PPOConfig


def labels(*runs):
    return [variant.label for variant in group_runs(find_runs(runs))[0]]


def test_names_of_folders_mean_nothing(make_run, tmp_path):
    make_run("deep/below/softmax", policy="gumbel")
    make_run("gumbel", policy="softmax")
    found = find_runs([tmp_path])
    assert {run.folder.name: run.config["policy"] for run in found} == {"softmax": "gumbel", "gumbel": "softmax"}
    assert len(find_runs([tmp_path, tmp_path / "gumbel", tmp_path / "deep"])) == 2  # each once


def test_a_config_of_something_else_is_no_run(make_run, tmp_path):
    make_run("run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    assert len(find_runs([tmp_path])) == 1


@pytest.mark.parametrize("path", ["missing", "empty"])
def test_nothing_there_is_an_error(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no such folder|holds no run"):
        find_runs([tmp_path / path])


def cut(path):
    path.write_text(path.read_text()[:-40])


def other_seeds(path):
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 11'))


FAULTS = {
    "results cut short": (lambda run: cut(run / "results.json"), "unreadable", "results.json is damaged"),
    "metrics cut short": (lambda run: cut(run / "metrics.jsonl"), "unreadable", "JSONDecodeError"),
    "config cut short": (lambda run: cut(run / "config.json"), "unreadable", "config.json is damaged"),
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "unreadable", "metrics.jsonl: No such file"),
    "no results": (lambda run: (run / "results.json").unlink(), "incomplete", "nothing saved yet"),
    "other seeds": (lambda run: other_seeds(run / "results.json"), "unreadable", "of seeds [0, 11, 2]"),
    "no returns": (
        lambda run: (run / "metrics.jsonl").write_text(
            (run / "metrics.jsonl").read_text().replace("train/return", "r")
        ),
        "unreadable",
        "no column train/return",
    ),
    "a seed without rows": (lambda run: other_seeds(run / "metrics.jsonl"), "unreadable", "no row of seed 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_told(make_run, fault):
    damage, status, reason = FAULTS[fault]
    folder = make_run("run")
    damage(folder)
    (run,) = find_runs([folder])
    assert run.status == status
    assert reason in run.reason


def test_a_failed_run_says_why_and_an_unfinished_one_how_far_it_got(make_run):
    failed, stopped = make_run("failed", finished=False), make_run("stopped", finished=False)
    (failed / "failure.json").write_text(json.dumps({"error": "reward is not finite"}))
    (stopped / "checkpoints" / "step-000000065536").mkdir(parents=True)
    one, other = find_runs([failed, stopped])
    assert (one.status, other.status) == ("failed", "incomplete")
    assert one.reason == "reward is not finite (nothing saved yet)"
    assert "saved at step 65,536 of 131,072" in other.reason
    assert f"python train.py --resume {stopped}" in other.reason


def test_only_what_differs_is_in_a_variants_name(make_run, tmp_path):
    assert labels(make_run("a")) == ["gumbel"]
    assert labels(make_run("b", policy="gumbel"), make_run("c", policy="softmax")) == ["gumbel", "softmax"]
    sharp = make_run("d", temperature="0.5")
    assert labels(tmp_path / "a", sharp) == ["gumbel · temperature=1.0", "gumbel · temperature=0.5"]
    assert labels(tmp_path / "a", make_run("e", critic="joint")) == ["gumbel · linear", "gumbel · joint"]
    ppo = make_run("f", agent="ppo", agent_config=PPOConfig())
    assert labels(tmp_path / "a", ppo) == ["actor-critic · gumbel", "ppo"]
    watched = make_run("g", policy="softmax", log_interval=77, device="cpu")
    assert labels(tmp_path / "c", watched) == ["softmax"]


def test_settings_that_differ_between_environments_only_make_no_variant(make_run):
    runs = [
        make_run(f"{policy}-{steps}", env=env, policy=policy, total_steps=steps)
        for policy in ("gumbel", "softmax")
        for env, steps in (("CartPole-v1", 131_072), ("Acrobot-v1", 65_536))
    ]
    variants, _ = group_runs(find_runs(runs))
    assert {(each.env, each.label) for each in variants} == {
        (env, policy) for env in ("CartPole-v1", "Acrobot-v1") for policy in ("gumbel", "softmax")
    }


def test_seeds_of_several_runs_are_one_variant_and_the_later_of_two_equal_ones_counts(make_run, tmp_path):
    first = make_run("first", final=(1.0, 2.0))
    text = (first / "config.json").read_text().replace('"seeds": [0, 1]', '"seeds": [5, 6]')
    second = tmp_path / "second"
    shutil.copytree(first, second)
    (second / "config.json").write_text(text)
    for name in ("metrics.jsonl", "results.json"):
        rows = (second / name).read_text().replace('"seed": 0', '"seed": 5').replace('"seed": 1,', '"seed": 6,')
        (second / name).write_text(rows)
    repeated = tmp_path / "repeated"
    shutil.copytree(first, repeated)
    os.utime(repeated / "results.json", (2e9, 2e9))
    variants, left_out = group_runs(find_runs([first, second, repeated]))
    assert [variant.seeds for variant in variants] == [[0, 1, 5, 6]]
    assert [(run.folder, reason) for run, reason in left_out] == [
        (first, "a later run of the same settings holds seed 0 too")
    ]


def test_curves_of_other_intervals_are_brought_together(make_run):
    (run,) = find_runs([make_run("run", final=(100.0, 200.0))])
    (variant,), _ = group_runs([run])
    columns = dict(variant.columns[1])
    columns = {name: values[3::4] for name, values in columns.items()}  # logged at a quarter of the rows
    variant.columns[1] = columns
    steps, values = variant.curve("train/return")
    assert steps.tolist() == columns["step"].tolist()
    np.testing.assert_allclose(values[:, 1], columns["train/return"])
    np.testing.assert_allclose(values[:, 0], variant.columns[0]["train/return"][3::4])
    assert variant.curve("gradient/bias")[0].tolist() == columns["step"].tolist()
    assert variant.curve("nothing/such") is None
