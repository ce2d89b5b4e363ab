"""JSON lines, TensorBoard, model card, evaluation of a run: what lies in the folder and what reads it."""

import json
import math

import numpy as np
import pandas
import pytest
import yaml

from gumbelrl.agents.command_line import main
from gumbelrl.agents.model_card import front_matter
from gumbelrl.agents.tracking.base import (
    NUM_BINS,
    JsonLines,
    action_histograms,
    count_bins,
    read_history,
    read_metrics,
    read_rows,
)

TINY = ["--num-envs", "4", "--rollout-steps", "8", "--epochs", "1", "--minibatches", "1", "--hidden", "8"]
TINY += ["--evaluation-episodes", "3", "--track", "off"]


def test_bins_are_numpys_histogram():
    values = np.random.default_rng(0).uniform(size=(2, 50, 3))
    values[0, 0, 0], values[0, 1, 0], values[1, 2, 2] = 0.0, 1.0, np.nan
    found = count_bins(values)
    for member in range(2):
        for column in range(3):
            known = values[member, :, column][~np.isnan(values[member, :, column])]
            np.testing.assert_array_equal(found[member, column], np.histogram(known, NUM_BINS, range=(0, 1))[0])


def test_histograms_are_named_by_group_and_choice_and_are_not_too_many():
    assert list(action_histograms(np.zeros((1, 5, 1, 3)))[0]) == [f"policy/probs/{index}" for index in range(3)]
    assert list(action_histograms(np.zeros((1, 5, 2, 2)))[0])[2] == "policy/probs/1.0"
    assert len(action_histograms(np.zeros((1, 5, 16, 5)))[0]) == 32
    assert action_histograms(np.full((1, 5, 1, 2), np.nan)) == [{}]  # nothing to say yet


def lines(folder, **options):
    return JsonLines(folder, [7, 8], **options)


def test_nan_is_null_and_what_pandas_reads_is_what_was_written(tmp_path):
    sink = lines(tmp_path)
    sink.log(0, {"step": 1, "a": math.nan, "b": 0.5}, {"h": [1, 2]})
    sink.log(1, {"step": 1, "a": 2.0, "b": math.inf}, {})
    sink.log_evaluation(0, {"step": 1, "eval/video": "videos/x.gif"})
    sink.close(failed=False)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    found = pandas.read_json(tmp_path / "metrics.jsonl", lines=True)
    assert found.seed.tolist() == [7, 8]
    assert np.isnan(found.a[0])
    assert read_metrics(tmp_path / "metrics.jsonl")[8]["a"].tolist() == [2.0]
    assert read_history(tmp_path, [7, 8]) == [
        (0, {"step": 1, "a": None, "b": 0.5}, {"h": [1, 2]}),
        (1, {"step": 1, "a": 2.0, "b": None}, {}),
        (0, {"step": 1, "eval/video": "videos/x.gif"}, {}),
    ]


@pytest.mark.parametrize(("finished", "evaluations"), [(False, [10, 20]), (True, [10])])
def test_resuming_forgets_what_came_after_the_checkpoint_and_a_line_cut_short(tmp_path, finished, evaluations):
    sink = lines(tmp_path)
    for step in (10, 20, 30):
        sink.log(0, {"step": step}, {"h": [step]})
        sink.log_evaluation(0, {"step": step})
    sink.close(failed=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"seed": 7, "st')
    sink = lines(tmp_path, resume_step=20, finished=finished)
    sink.log(0, {"step": 25}, {})
    sink.close(failed=False)
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 25]
    assert [row["step"] for row in read_rows(tmp_path / "histograms.jsonl")] == [10, 20]
    assert [row["step"] for row in read_rows(tmp_path / "evaluations.jsonl")] == evaluations


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["--seeds", "3", "4", "--total-steps", "256", "--log-interval", "32", "--checkpoint-interval", "64"]
    assert main([*TINY, *words, "--tensorboard", "--output", str(folder)]) == 0
    return folder


def events(folder, seed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard" / f"seed{seed}"))
    found.Reload()
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_curves_and_histograms_of_the_json_lines(folder):
    for seed in (3, 4):
        found = events(folder, seed)
        rows = [row for row in read_rows(folder / "metrics.jsonl") if row["seed"] == seed]
        for name in ("policy/entropy", "gradient/norm", "time/seconds"):
            scalars = found.Scalars(name)
            assert [event.step for event in scalars] == [row["step"] for row in rows] == list(range(32, 257, 32))
            np.testing.assert_allclose([event.value for event in scalars], [row[name] for row in rows], rtol=1e-6)
        (evaluated,) = found.Scalars("eval/greedy_return")
        assert evaluated.step == 256
        histogram = found.Histograms("policy/probs/0")[-1]
        counts = read_rows(folder / "histograms.jsonl")[-2 + (seed == 4)]["policy/probs/0"]
        assert histogram.histogram_value.num == sum(counts)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_forgets_what_a_killed_run_wrote_after_its_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    from gumbelrl.agents.tracking.tensorboard import TensorBoardSink

    sink = TensorBoardSink(tmp_path, [0])
    for step in (10, 20, 30):
        sink.log(0, {"step": step, "a": float(step)}, {})
    sink.close(failed=True)
    sink = TensorBoardSink(tmp_path, [0], resume_step=20)
    for step in (30, 40):
        sink.log(0, {"step": step, "a": -float(step)}, {})
    sink.close(failed=False)
    assert [(event.step, event.value) for event in events(tmp_path, 0).Scalars("a")] == [
        (10, 10.0), (20, 20.0), (30, -30.0), (40, -40.0),
    ]  # fmt: skip


def test_tensorboard_that_is_not_there_is_said_before_anything_is_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gumbelrl.agents.run_config.find_spec", lambda name: None)
    assert main([*TINY, "--total-steps", "32", "--tensorboard", "--output", str(tmp_path / "run")]) == 2
    assert "pip install 'gumbelrl[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_evaluations_on_the_way_change_nothing_of_what_is_learned(tmp_path):
    curves, words = [], [*TINY, "--total-steps", "256", "--log-interval", "32"]
    for name, more, steps in (
        ("without", [], [256]),
        ("with", ["--evaluation-interval", "64"], [64, 128, 192, 256]),
    ):
        assert main([*words, *more, "--output", str(tmp_path / name)]) == 0
        assert [row["step"] for row in read_rows(tmp_path / name / "evaluations.jsonl")] == steps
        rows = read_rows(tmp_path / name / "metrics.jsonl")
        curves.append([{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows])
    assert curves[0] == curves[1]


# Model card ----------------------------------------------------------------------------------------------------------


def test_the_model_card_says_what_the_run_did(folder):
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    data = yaml.safe_load(front)
    (entry,) = data["model-index"]
    (result,) = entry["results"]
    members = json.loads((folder / "results.json").read_text())["members"]
    mean = np.mean([member["eval/sampled_return"] for member in members])
    assert data["library_name"] == "gumbelrl"
    assert {"CartPole-v1", "reinforcement-learning", "gumbel"} <= set(data["tags"])
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"]["name"] == "CartPole-v1"
    assert result["metrics"][0]["type"] == "mean_reward"
    assert result["metrics"][0]["value"].startswith(f"{mean:.2f} +/- ")
    for member in members:
        assert f"| {member['seed']} | " in body
    for shown in ("learning_curve.png", "256 steps", '"learning_rate": 0.001'):
        assert shown in body
    assert str(folder) not in text  # a card is for others


def test_the_hub_reads_the_front_matter(folder):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.task_type, result.dataset_name, result.metric_type) == (
        "reinforcement-learning", "CartPole-v1", "mean_reward",
    )  # fmt: skip


def test_a_name_with_quotes_is_still_yaml():
    config = {"agent": "ppo", "policy": "score-function", "critic": "state-value", "env": 'a:"b" #c'}
    members = [{"eval/sampled_return": 1.0, "eval/sampled_return_std": 0.5}]
    data = yaml.safe_load(front_matter(config, {"members": members}).strip("-"))
    assert data["tags"][0] == 'a:"b" #c'
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == "1.00 +/- 0.50"


# Evaluation of a run -------------------------------------------------------------------------------------------------


def test_evaluating_a_run_says_what_its_results_say_and_changes_nothing_else(folder, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "evaluation" not in path.name}
    assert main(["--evaluate", str(folder), "--episodes", "3", "--video"]) == 0
    said = capsys.readouterr().out
    found = json.loads((folder / "evaluation.json").read_text())
    members = json.loads((folder / "results.json").read_text())["members"]
    for ours, theirs in zip(found["members"], members, strict=True):
        for kind in ("sampled", "greedy"):
            assert ours[kind]["mean"] == pytest.approx(theirs[f"eval/{kind}_return"])
            assert ours[kind]["std"] == pytest.approx(theirs[f"eval/{kind}_return_std"])
            assert ours[kind]["min"] <= ours[kind]["median"] <= ours[kind]["max"]
    assert [line.split()[:2] for line in said.splitlines() if " ± " in line] == [
        [seed, kind] for seed in ("3", "4") for kind in ("sampled", "greedy")
    ]
    for name in found["videos"].values():
        assert (folder / name).stat().st_size > 1000
    after = {path: path.read_bytes() for path in before}
    assert after == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluate", "nowhere"], "--evaluate nowhere: there is no run there"),
        (["--evaluate", "{folder}", "--episodes", "0"], "--episodes must be at least 1"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(folder, capsys, words, message):
    assert main([word.format(folder=folder) for word in words]) == 2
    assert message in capsys.readouterr().err
