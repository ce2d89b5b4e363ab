"""The W&B dashboard, offline: what it shows is what runs log, and who cannot have it is told why."""

import json
import sys
from importlib.util import find_spec

import pytest

from gumbelrl.agents.command_line import main
from gumbelrl.agents.tracking import dashboard
from gumbelrl.agents.tracking.base import is_media, read_rows

pytestmark = pytest.mark.skipif(find_spec("wandb_workspaces") is None, reason="needs wandb-workspaces")


@pytest.fixture(scope="module")
def spec():
    return dashboard.workspace("me", "mine")._to_model().model_dump(by_alias=True)["spec"]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Every key that a run of the default agent logs."""
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["--num-envs", "4", "--rollout-steps", "8", "--epochs", "1", "--minibatches", "1", "--hidden", "8"]
    words += ["--total-steps", "64", "--diagnostics-interval", "1", "--evaluation-episodes", "1", "--video"]
    assert main([*words, "--track", "off", "--output", str(folder)]) == 0
    rows = [row for name in ("metrics", "histograms", "evaluations") for row in read_rows(folder / f"{name}.jsonl")]
    return {name: value for row in rows for name, value in row.items()}


def test_every_panel_shows_what_runs_log_over_environment_steps(spec, logged):
    shown = []
    for section in spec["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            config = panel["config"]
            metrics = config.get("metrics") or config.get("mediaKeys") or []
            shown += metrics
            is_curve = panel["viewType"] == "Run History Line Plot"
            assert config.get("xAxis") == ("step" if is_curve else None)
            for key in metrics:
                value = logged[key]
                assert is_curve == (not is_media(value) and not isinstance(value, list)), key
    assert sorted(shown) == sorted(dashboard.metric_keys())
    assert len(shown) == len(set(shown))


def test_nothing_that_runs_log_is_forgotten_but_what_is_told_elsewhere(logged):
    """Deviations stand in the tables, counts and the seed are no curves."""
    told = {"seed", "step", "train/episodes", "eval/sampled_return_std", "eval/greedy_return_std"}
    left = set(logged) - set(dashboard.metric_keys()) - told
    assert left <= {"policy/kl_coefficient"}


def test_seeds_fold_into_one_curve(spec):
    (runs,) = spec["section"]["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "group"}]
    assert "train" in json.dumps(runs["filters"])
    assert spec["section"]["settings"]["xAxis"] == "step"


def test_who_is_not_logged_in_or_lacks_the_package_is_told(capsys, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **options: False)
    assert dashboard.main([]) == 2
    assert "`wandb login`" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert dashboard.main(["--entity", "me"]) == 2
    assert "pip install 'gumbelrl[dashboard]'" in capsys.readouterr().err
