"""Resume: killed at any moment and gone on with, a run ends bit for bit as one that was never interrupted."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gumbelrl.agents.checkpoint import CheckpointStore, load_checkpoint
from gumbelrl.agents.command_line import main

TRAIN = Path(__file__).parents[2] / "train.py"
SMALL = [
    "--num-envs",
    "8",
    "--rollout-steps",
    "16",
    "--epochs",
    "2",
    "--minibatches",
    "2",
    "--hidden",
    "16",
    "--evaluation-episodes",
    "4",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*words):
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *map(str, words)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def curve(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def final_tensors(folder):
    store = CheckpointStore(folder / "checkpoints")
    return store.steps()[-1], store.latest().tensors


def kill_at_a_random_moment(process, folder, delay):
    """SIGKILL `delay` seconds after there is a checkpoint newer than those at hand."""
    seen = CheckpointStore(folder / "checkpoints").steps()
    deadline = time.monotonic() + 60
    while CheckpointStore(folder / "checkpoints").steps() == seen:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode


def test_killed_twice_and_resumed_a_run_ends_with_the_same_bits(tmp_path):
    words = [*SMALL, "--seeds", "0", "1", "--total-steps", "30000", "--checkpoint-interval", "1500", "--track", "off"]
    words += ["--log-interval", "500", "--temperature", "exponential:1:0.3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(*words, "--output", whole)
    _, errors = undisturbed.communicate()
    assert undisturbed.returncode == 0, errors

    moments = random.Random(7)
    process = start(*words, "--output", killed)
    for _ in range(2):
        assert kill_at_a_random_moment(process, killed, moments.uniform(0.0, 0.4)) == -signal.SIGKILL
        assert not (killed / "results.json").exists()
        process = start("--resume", killed)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "resuming" in output

    step, ours = final_tensors(killed)
    their_step, theirs = final_tensors(whole)
    assert step == their_step
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert curve(killed) == curve(whole)  # no gap, nothing twice
    members = [json.loads((folder / "results.json").read_text())["members"] for folder in (killed, whole)]
    assert members[0] == members[1]


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, "--total-steps", "2000000", "--track", "off", "--output", folder)
    while not (folder / "config.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, (output, errors)
    assert f"python train.py --resume {folder}" in errors
    assert "Traceback" not in errors
    step = CheckpointStore(folder / "checkpoints").steps()[-1]
    assert f"saved at step {step:,}" in errors


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main([*SMALL, "--total-steps", "512", "--track", "off", "--output", str(folder)]) == 0
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def newest(folder):
    store = CheckpointStore(folder / "checkpoints")
    return store.folder(store.steps()[-1])


def cut_short(folder):
    path = newest(folder) / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def alter_one_byte(folder):
    path = newest(folder) / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def alter_the_description(folder):
    path = newest(folder) / "checkpoint.json"
    path.write_text(path.read_text().replace('"solved_at"', '"solved_ad"'))


def another_env(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace("CartPole-v1", "Acrobot-v1"))


def another_width(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seeds": [0, 1]}))


def smuggle_a_pickle(folder):
    (newest(folder) / "tensors.safetensors").write_bytes(pickle.dumps(Bomb()))


def add_a_pickle(folder):
    (newest(folder) / "extra.pkl").write_bytes(pickle.dumps(Bomb()))


def remove_all(folder):
    shutil.rmtree(folder / "checkpoints")


def spoil_the_config(folder):
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_short, "is damaged: its checksum"),
        (alter_one_byte, "is damaged: its checksum"),
        (alter_the_description, "is damaged: its checksum"),
        (another_env, "is of env = CartPole-v1, but config.json there says Acrobot-v1"),
        (another_width, "is of seeds = [0], but config.json there says [0, 1]"),
        (smuggle_a_pickle, "is damaged: its checksum"),
        (add_a_pickle, "extra.pkl, which gumbelrl never writes"),
        (remove_all, "there is no finished checkpoint"),
        (spoil_the_config, "is not a run's configuration"),
        (shutil.rmtree, "there is no run there"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_is_not_that_runs_checkpoint_is_refused_and_left_as_it_is(
    tmp_path, capsys, monkeypatch, finished, harm, message
):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(tmp_path)
    harm(folder)
    before = contents(folder)
    assert main(["--resume", str(folder)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert contents(folder) == before
    assert not (tmp_path / "exploded").exists()


def test_a_newer_version_is_refused(tmp_path, capsys, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    path = newest(folder) / "checkpoint.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert main(["--resume", str(folder)]) == 2
    assert "newer than the 1" in capsys.readouterr().err


def test_a_finished_run_is_only_evaluated_again(tmp_path, capsys, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    before = load_checkpoint(newest(folder)).tensors
    assert main(["--resume", str(folder)]) == 0
    after = load_checkpoint(newest(folder)).tensors
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert (
        json.loads((folder / "results.json").read_text())["members"]
        == (json.loads((finished / "results.json").read_text())["members"])
    )
    assert curve(folder) == curve(finished)
