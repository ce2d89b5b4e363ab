"""Several processes: what they make is what one process makes, whichever way it was divided."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gumbelrl.agents.checkpoint import Checkpoint, CheckpointStore
from gumbelrl.agents.command_line import main, requested_runs
from gumbelrl.agents.distributed.chunks import split_seeds
from gumbelrl.agents.distributed.group import Group
from gumbelrl.agents.distributed.merge import join_checkpoints
from gumbelrl.agents.distributed.parts import Parts
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.registry import AGENTS

TRAIN = Path(__file__).parents[2] / "train.py"
SMALL = ["--num-envs", "4", "--hidden", "8", "--evaluation-episodes", "2", "--track", "off"]
RUN = [*SMALL, "--rollout-steps", "8", "--total-steps", "256", "--log-interval", "64"]


def torchrun(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(TRAIN)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *map(str, words)], env=environment, capture_output=True, text=True, timeout=120)


def rows(folder, name="metrics"):
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in lines]


def assert_same_run(folder, alone):
    """Equal in what is drawn and counted, near in what networks compute: their bits depend on how many there are."""
    steps = [CheckpointStore(each / "checkpoints").steps() for each in (folder, alone)]
    assert steps[0][-1] == steps[1][-1]
    ours, theirs = (CheckpointStore(each / "checkpoints").latest() for each in (folder, alone))
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        exact = "streams" in name or name.endswith(("key", "counter", "count"))
        torch.testing.assert_close(ours.tensors[name], tensor, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5)
    assert ours.metadata["run"] == theirs.metadata["run"]
    assert [(row["seed"], row["step"]) for row in rows(folder)] == [(row["seed"], row["step"]) for row in rows(alone)]
    told = [json.loads((each / "results.json").read_text()) for each in (folder, alone)]
    assert [member["seed"] for member in told[0]["members"]] == [member["seed"] for member in told[1]["members"]]


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(tmp_path):
    folder, alone = tmp_path / "two", tmp_path / "one"
    done = torchrun(*RUN, "--seeds", "0..2", "--output", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sampled return") == 1
    assert main([*RUN, "--seeds", "0..2", "--output", str(alone)]) == 0
    assert_same_run(folder, alone)
    assert not (folder / "parts.json").exists()
    assert not list(folder.glob("part-*"))
    assert main(["--evaluate", str(folder), "--episodes", "2"]) == 0
    assert main(["--resume", str(folder)]) == 0


@pytest.mark.parametrize(
    ("agent", "env"),
    [
        pytest.param(agent, env, marks=[] if (agent, env) == ("sac", "CartPole-v1") else pytest.mark.slow)
        for agent in AGENTS
        for env in ("CartPole-v1", "Blackjack-v1")
    ],
)
def test_checkpoints_of_parts_are_that_of_the_population(tmp_path, agent, env):
    words = [*RUN, "--agent", agent, "--env", env, "--no-native"]
    words += ["--learning-starts", "32", "--batch-size", "8"] if agent in ("ddpg", "td3", "sac") else []
    saved = []
    for index, seeds in enumerate(("0..2", "0..1", "2..2")):
        (config,) = requested_runs([*words, "--seeds", seeds])
        experiment = Experiment(replace(config, output=tmp_path / str(index)))
        experiment.run()
        saved.append(experiment.store)
    whole: Checkpoint = saved[0].latest()
    joined = CheckpointStore(tmp_path / "joined")
    join_checkpoints(joined, saved[1:], {**whole.metadata["run"]})
    merged = joined.latest()
    assert merged.metadata["state"] == whole.metadata["state"]
    for name, tensor in whole.tensors.items():
        assert merged.tensors[name].shape == tensor.shape, name
        assert merged.tensors[name].dtype == tensor.dtype
    torch.testing.assert_close(merged.tensors["agent/streams/key"], whole.tensors["agent/streams/key"])
    torch.testing.assert_close(merged.tensors["agent/streams/counter"], whole.tensors["agent/streams/counter"])


def test_parts_that_were_interrupted_are_gone_on_with_by_one_process(tmp_path):
    folder, alone = tmp_path / "parts", tmp_path / "alone"
    (config,) = requested_runs([*RUN, "--seeds", "0..2", "--output", str(folder)])
    parts = Parts.create(config, Group())
    parts = Parts(config, folder, split_seeds(config.seeds, 2))
    data = json.loads((folder / "parts.json").read_text()) | {"parts": split_seeds(config.seeds, 2)}
    (folder / "parts.json").write_text(json.dumps(data))
    first = Experiment(parts.configs[0])
    first.trainer.iterate()
    first._open_sinks()
    first.save()
    first.sinks.close(failed=False)
    assert main(["--resume", str(folder)]) == 0
    assert main([*RUN, "--seeds", "0..2", "--output", str(alone)]) == 0
    assert CheckpointStore(folder / "checkpoints").steps() == CheckpointStore(alone / "checkpoints").steps()
    assert [member["seed"] for member in json.loads((folder / "results.json").read_text())["members"]] == [0, 1, 2]


def test_a_refusal_is_told_once(tmp_path):
    done = torchrun(*RUN, "--seeds", "0", "--output", tmp_path / "run")
    assert done.returncode != 0
    assert done.stderr.count("error: 2 processes share the seeds") == 1
    assert not (tmp_path / "run").exists()


def test_seeds_are_split_evenly_and_in_order():
    assert split_seeds(range(10), 4) == [(0, 1, 2), (3, 4, 5), (6, 7), (8, 9)]
    with pytest.raises(RunError, match="3 processes share the seeds"):
        split_seeds((0, 1), 3)
