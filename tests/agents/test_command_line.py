"""The command line: what is asked wrongly is refused in a sentence, with status 2, before any work is lost."""

import json

import gymnasium
import numpy as np
import pandas
import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents.command_line import main, parse_seeds

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


class Faulty(gymnasium.Env):
    """Goes wrong in its tenth step, in the way it is told."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, fault="none"):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {"action_mask": np.ones(3, bool)}

    def step(self, action):
        self.count += 1
        wrong = self.count == 10
        observation = np.full(2, np.nan if wrong and self.fault == "observation" else 0.5, np.float32)
        reward = float("inf") if wrong and self.fault == "reward" else 1.0
        ends = self.count == 12
        nothing = (wrong and self.fault == "mask") or (ends and self.fault == "final mask")
        return observation, reward, ends, False, {"action_mask": np.full(3, not nothing)}


gymnasium.register("Faulty-v0", entry_point=Faulty)


def run(folder, *words, capsys=None):
    status = main([*TINY, "--total-steps", "128", "--track", "off", "--output", str(folder), *words])
    return status, capsys.readouterr() if capsys else None


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "CartPol-v1"], "did you mean CartPole-v1"),
        (["--env", "nowhere:Thing-v0"], "nowhere"),
        (["--policy", "gumble"], "did you mean gumbel"),
        (["--agent", "actor-critik"], "did you mean actor-critic"),
        (["--agent=actorcritic"], "did you mean actor-critic"),
        (["--critic", "joined"], "unknown critic 'joined'"),
        (["--env", "Pendulum-v1"], "is continuous: gumbelrl needs Discrete"),
        (["--temperature", "0"], "--temperature 0"),
        (["--temperature", "-1"], "--temperature -1"),
        (["--temperature", "nan"], "--temperature nan"),
        (["--temperature", "inf"], "--temperature inf"),
        (["--temperature", "warm"], "--temperature warm"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--seeds"], "no seed given"),
        (["--seeds", "1", "0..2"], "seed 1 is given more than once"),
        (["--seeds", "one"], "--seeds 0..9"),
        (["--seeds", "-3"], "must not be negative"),
        (["--track", "maybe"], "unknown --track"),
        (["--total-steps", "0"], "total-steps must be at least 1"),
        (["--learning-rate", "-1"], "learning_rate must be above 0"),
        (["--minibatches", "5"], "divisible"),
    ],
)
def test_bad_input_is_refused_with_status_2_and_nothing_is_made(tmp_path, capsys, words, message):
    folder = tmp_path / "run"
    try:
        status, said = run(folder, *words, capsys=capsys)
    except SystemExit as stop:  # what the parser itself refuses
        status, said = stop.code, capsys.readouterr()
    assert status == 2
    assert message in said.err
    assert "Traceback" not in said.err
    assert not folder.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(tmp_path, capsys):
    status, said = run(tmp_path / "run", "--device", "cuda", capsys=capsys)
    assert status == 2
    assert "no CUDA device" in said.err


def test_an_occupied_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.json").write_text("precious")
    status, said = run(tmp_path, capsys=capsys)
    assert status == 2
    assert "holds another run" in said.err
    assert "--resume" in said.err
    assert (tmp_path / "config.json").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("observation", "observation is not finite ([nan, nan]) in environment 0 of seed 7, at step 36"),
        ("reward", "reward is not finite ([inf]) in environment 0 of seed 7, at step 36"),
        (
            "mask",
            "no action is allowed in environment 0 of seed 7 (group 0 of its action mask is all False) at step 40",
        ),
    ],
)
def test_a_faulty_environment_is_named_with_its_step_and_the_last_checkpoint(
    tmp_path, capsys, monkeypatch, fault, message
):
    """The tenth step of each of four environments: steps 36 to 39 of the member."""
    monkeypatch.setitem(gymnasium.registry["Faulty-v0"].kwargs, "fault", fault)
    status, said = run(
        tmp_path / "run", "--env", "Faulty-v0", "--seeds", "7", "--checkpoint-interval", "32", capsys=capsys
    )
    assert status == 2
    assert message in said.err
    assert f"--resume {tmp_path / 'run'}" in said.err
    assert (tmp_path / "run" / "checkpoints" / "step-000000000032").is_dir()


def test_a_terminal_state_may_allow_nothing(tmp_path, capsys, monkeypatch):
    """What follows a termination is not bootstrapped from, so its mask does not matter, and makes no NaN."""
    monkeypatch.setitem(gymnasium.registry["Faulty-v0"].kwargs, "fault", "final mask")
    status, said = run(tmp_path / "run", "--env", "Faulty-v0", capsys=capsys)
    assert status == 0, said.err
    metrics = pandas.read_json(tmp_path / "run" / "metrics.jsonl", lines=True)
    assert metrics["train/critic_loss"].notna().all()
    assert metrics["train/return"].iloc[-1] == 12.0


def test_seeds_are_numbers_and_ranges():
    assert parse_seeds(["0", "3..5"]) == (0, 3, 4, 5)


def test_help_names_the_choices(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("gumbel-soft", "actor-critic", "interpolated", "--resume", "--kl-bound", "--track"):
        assert word in text


def test_a_run_leaves_what_it_says(tmp_path, capsys):
    status, said = run(tmp_path / "run", "--seeds", "4", "2", "--temperature", "linear:1:0.5", capsys=capsys)
    assert status == 0
    assert "solved at step" in said.out
    names = {path.name for path in (tmp_path / "run").iterdir()}
    lines = {f"{name}.jsonl" for name in ("metrics", "histograms", "evaluations")}
    assert names == {"README.md", "config.json", "results.json", "learning_curve.png", "checkpoints"} | lines
    metrics = pandas.read_json(tmp_path / "run" / "metrics.jsonl", lines=True)
    assert set(metrics.seed) == {4, 2}
    for column in ("train/return", "policy/entropy", "policy/temperature", "gradient/norm", "time/seconds"):
        assert column in metrics
    assert metrics["policy/temperature"].iloc[-1] < metrics["policy/temperature"].iloc[0] == 1.0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [member["seed"] for member in results["members"]] == [4, 2]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["temperature"] == "linear:1:0.5"
    assert (tmp_path / "run" / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"


def test_the_same_seed_gives_the_same_curve_twice(tmp_path, capsys):
    curves = []
    for name in ("one", "two"):
        run(tmp_path / name, "--total-steps", "2048", "--log-interval", "1", capsys=capsys)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        curves.append([{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows])
    assert curves[0] == curves[1]
    assert len(curves[0]) == 64
