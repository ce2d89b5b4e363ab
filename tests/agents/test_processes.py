"""Real processes of torchrun: what they agree on, how they end, and what can be gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gumbelrl.agents.checkpoint import CheckpointStore
from gumbelrl.agents.command_line import main

TRAIN = Path(__file__).parents[2] / "train.py"
SMALL = ["--num-envs", "4", "--rollout-steps", "8", "--hidden", "8", "--evaluation-episodes", "2", "--track", "off"]
SHORT = [*SMALL, "--total-steps", "256", "--log-interval", "64"]
LONG = [*SMALL, "--total-steps", "4096", "--log-interval", "256", "--checkpoint-interval", "128"]
ENDLESS = [*SMALL, "--total-steps", "10000000", "--checkpoint-interval", "128"]
SHARDS = {"envs": ["--shard", "envs"], "members": ["--seeds", "0..1"]}
PATIENCE_S = 240.0  # on a machine with other work
SECONDS = 30.0  # in which torchrun would kill what does not end


@pytest.fixture
def start():
    """Return what starts torchrun; whatever a test leaves running ends with it."""
    running = []

    def begin(*words, processes=2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen([*command, str(TRAIN), *map(str, words)], env=environment, **pipes))
        return running[-1]

    yield begin
    for started in running:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
        started.communicate(timeout=40)


@pytest.fixture
def torchrun(start):
    """Return what starts torchrun and returns what it prints, once it has ended well."""

    def run(*words, processes=2):
        status, out, err = ended(start(*words, processes=processes))
        assert status == 0, err
        return out

    return run


def ended(started, *, within=PATIENCE_S):
    """Return the exit status, and what was printed, of processes that end by themselves."""
    out, err = started.communicate(timeout=within)
    return started.returncode, out, err


def wait_for_checkpoints(started, folder, count):
    """Wait until so many runs in a folder have saved."""
    deadline = time.monotonic() + PATIENCE_S
    while len({path.parent for path in folder.glob("**/checkpoints/step-*")}) < count:
        assert time.monotonic() < deadline, "nothing was saved"
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.05)


def stop(started, folder, count):
    """Send SIGTERM once so many runs in a folder have saved; return what was printed, of an end that is no success."""
    wait_for_checkpoints(started, folder, count)
    started.send_signal(signal.SIGTERM)
    status, _, err = ended(started, within=SECONDS)
    assert status != 0
    return err


def ranks_of(started):
    """Return the process ids of the ranks, in order."""
    children = Path(f"/proc/{started.pid}/task").glob("*/children")
    found = sorted(int(pid) for path in children for pid in path.read_text().split())
    return [pid for pid in found if str(TRAIN).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def last(folder):
    return CheckpointStore(folder / "checkpoints").latest()


def assert_equal_checkpoints(ours, theirs, *, tolerance=0.0):
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor, rtol=0, atol=tolerance, msg=name, equal_nan=True)


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in lines]


def test_two_processes_share_the_environments_of_a_run(tmp_path, torchrun):
    folder, alone = tmp_path / "run", tmp_path / "alone"
    words = [*SHORT, "--agent", "ppo", "--minibatches", "1", "--seeds", "3", "4", "--output"]
    out = torchrun(*words, folder, "--shard", "envs")
    assert out.count("sampled return") == 1
    assert out.count("memory:") == 1
    assert main([*words, str(alone)]) == 0
    assert_equal_checkpoints(last(folder), last(alone), tolerance=1e-4)
    for ours, theirs in zip(rows(folder), rows(alone), strict=True):
        same = ("seed", "step", "train/episodes", "train/return", "train/length")
        assert [ours[name] for name in same] == [theirs[name] for name in same]
        for name in ("gradient/norm", "policy/entropy", "policy/kl", "train/critic_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5)
    results = json.loads((folder / "results.json").read_text())
    assert results["processes"] == 2
    assert [member["seed"] for member in results["members"]] == [3, 4]
    assert main(["--evaluate", str(folder), "--episodes", "2"]) == 0
    assert main(["--resume", str(folder)]) == 0  # it is a run as any other


@pytest.mark.slow
def test_a_refusal_is_told_once_and_nothing_is_made(tmp_path, start):
    status, _, err = ended(start(*SHORT, "--shard", "envs", "--num-envs", "7", "--output", tmp_path / "run"))
    assert status != 0
    assert err.count("error: 2 processes share the environments: num_envs = 7 must be divisible by 2") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["actor-critic", "sac"])
def test_a_run_that_was_stopped_goes_on_exactly(tmp_path, agent, start, torchrun):
    words = [*LONG, "--shard", "envs", "--agent", agent]
    words += ["--rollout-steps", "1", "--learning-starts", "64", "--total-steps", "1024"] if agent == "sac" else []
    torchrun(*words, "--output", tmp_path / "straight")
    err = stop(start(*words, "--output", tmp_path / "stopped"), tmp_path / "stopped", 1)
    assert err.count("stopped; saved at step") == 1
    assert not (tmp_path / "stopped" / "results.json").exists()
    torchrun("--resume", tmp_path / "stopped")
    assert_equal_checkpoints(last(tmp_path / "stopped"), last(tmp_path / "straight"))
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")


@pytest.mark.slow
def test_another_number_of_processes_goes_on_and_says_so(tmp_path, capsys, start):
    folder = tmp_path / "run"
    stop(start(*LONG, "--shard", "envs", "--output", folder), folder, 1)
    status, _, err = ended(start("--resume", folder, processes=3))
    assert status != 0
    assert "3 processes share the environments: num_envs = 4 must be divisible by 3" in err
    assert main(["--resume", str(folder)]) == 0
    assert "by 1 instead of 2" in capsys.readouterr().out
    assert last(folder).metadata["processes"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("shard", SHARDS)
def test_a_process_that_dies_ends_the_others_and_what_was_saved_stays(tmp_path, shard, rank, start):
    folder = tmp_path / "run"
    started = start(*ENDLESS, *SHARDS[shard], "--output", folder)
    wait_for_checkpoints(started, folder, 1 if shard == "envs" else 2)
    os.kill(ranks_of(started)[rank], signal.SIGKILL)
    status, _, err = ended(started, within=SECONDS)
    assert status != 0
    if shard == "envs" or rank == 1:  # of parts, the first process tells
        assert f"train.py --resume {folder}" in err
    if shard == "envs":  # torchrun may tell before the connection does
        assert "error: another process of this run is gone; what it had saved stays" in err or "stopped; saved" in err
    stores = [CheckpointStore(path) for path in folder.glob("**/checkpoints")]
    assert len(stores) == (1 if shard == "envs" else 2)
    assert all(store.latest() for store in stores)  # whole, by their checksums
    assert not list(folder.glob("**/results.json"))


@pytest.mark.slow
def test_parts_that_were_stopped_are_gone_on_with_by_another_number_of_processes(tmp_path, start, torchrun):
    folder = tmp_path / "run"
    err = stop(start(*LONG, "--seeds", "0..2", "--output", folder), folder, 2)
    assert err.count("of 2 parts are finished, and those in training are saved") == 1
    assert (folder / "parts.json").exists()
    torchrun("--resume", folder, processes=3)  # one of them finds nothing left to do
    assert not (folder / "parts.json").exists()
    assert not list(folder.glob("part-*"))
    results = json.loads((folder / "results.json").read_text())
    assert [(member["seed"], member["steps"]) for member in results["members"]] == [(0, 4096), (1, 4096), (2, 4096)]
    torchrun(*LONG, "--seeds", "0..2", "--output", tmp_path / "straight")
    assert rows(folder) == rows(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("shard", SHARDS)
def test_weights_and_biases_has_a_run_for_every_seed(tmp_path, shard, torchrun):
    pytest.importorskip("wandb")
    words = ["--shard", shard, "--seeds", "0..2", "--track", "offline", "--output", tmp_path / "run"]
    torchrun(*SHORT, *words)
    logs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(logs) == 3
    ids = last(tmp_path / "run").metadata["run_ids"]
    assert sorted(path.name.rpartition("-")[2] for path in logs) == sorted(ids)


@pytest.mark.slow
def test_two_processes_learn_cartpole(tmp_path, torchrun):
    words = ["--shard", "envs", "--seeds", "0..2", "--track", "off", "--evaluation-episodes", "20"]
    torchrun(*words, "--output", tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert min(member["eval/sampled_return"] for member in results["members"]) > 400
