"""A population that is trained in chunks becomes the run that it would be at once."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from gumbelrl.agents import memory
from gumbelrl.agents.checkpoint import (
    DTYPES,
    TENSORS,
    CheckpointError,
    Column,
    load_checkpoint,
    open_checkpoint,
    save_checkpoint,
    save_columns,
)
from gumbelrl.agents.command_line import main, requested_runs
from gumbelrl.agents.distributed.chunks import bounds, plan_parts
from gumbelrl.agents.distributed.member_axes import latest_members
from gumbelrl.agents.distributed.merge import _move_contents
from gumbelrl.agents.distributed.parts import is_in_parts
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import Experiment, load_experiment
from gumbelrl.agents.memory import parse_bytes
from gumbelrl.agents.tracking.base import read_rows

SMALL = ["--num-envs", "4", "--hidden", "8", "--episodes", "2", "--track", "off", "--total-steps", "128"]
SAC = [*SMALL, "--agent", "sac", "--learning-starts", "32", "--batch-size", "8", "--log-interval", "64"]
WORDS = [*SAC, "--seeds", "0..2", "--vary", "target-entropy=.1,.5"]


def config_of(*words):
    (config,) = requested_runs([str(word) for word in words])
    return config


def run(folder, *words):
    return main([*(str(word) for word in words), "--output", str(folder)])


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(Experiment, "_plot", lambda self: None)
    monkeypatch.setattr("gumbelrl.agents.distributed.merge._plot", lambda folder, config: None)


@pytest.fixture
def little_memory(monkeypatch):
    """Room for four members of `WORDS`."""
    one = Experiment(replace(config_of(*WORDS[:-4]), output=None), in_folder=False).needs.total
    monkeypatch.setattr(memory, "available_bytes", lambda device: int((memory.PROCESS + 4.5 * one) / memory.SHARE))


def assert_same_run(folder, alone):
    ours, theirs = (load_experiment(each).store.latest() for each in (folder, alone))
    assert ours.metadata["run"] == theirs.metadata["run"]
    assert ours.metadata["state"] == theirs.metadata["state"]
    for name, tensor in theirs.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-4, atol=1e-5)
    for name in ("metrics", "histograms", "evaluations"):
        ours, theirs = (read_rows(each / f"{name}.jsonl") for each in (folder, alone))
        assert [(row["seed"], row.get("variation"), row["step"]) for row in ours] == [
            (row["seed"], row.get("variation"), row["step"]) for row in theirs
        ]
    ours, theirs = (results_of(each) for each in (folder, alone))
    assert list(ours) == list(theirs)
    assert [(m["seed"], m.get("variation")) for m in ours["members"]] == [
        (m["seed"], m.get("variation")) for m in theirs["members"]
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in alone.iterdir())


@pytest.mark.parametrize("env", ["CartPole-v1", "Blackjack-v1"])
def test_chunks_become_the_run_that_trains_at_once(tmp_path, capsys, env):
    words = [*WORDS, "--env", env, "--no-native"]
    assert run(tmp_path / "chunks", *words, "--chunk-size", "4") == 0
    assert "6 members, and at most 4 at a time: 2 chunks of at most 3 members, one after" in capsys.readouterr().out
    assert run(tmp_path / "once", *words) == 0
    assert_same_run(tmp_path / "chunks", tmp_path / "once")
    capsys.readouterr()
    assert main(["--evaluate", str(tmp_path / "chunks"), "--episodes", "2"]) == 0  # a chunk at a time
    assert "3 members at a time" in capsys.readouterr().out
    assert main(["--evaluate", str(tmp_path / "once"), "--episodes", "2"]) == 0
    ours, theirs = (json.loads((tmp_path / each / "evaluation.json").read_text()) for each in ("chunks", "once"))
    assert ours == theirs
    assert main(["--resume", str(tmp_path / "chunks")]) == 0  # finished, and not to be loaded whole
    assert "best: --target-entropy" in capsys.readouterr().out


def test_a_population_too_large_for_the_memory_is_split_with_a_message(tmp_path, capsys, little_memory):
    assert run(tmp_path / "run", *SAC, "--seeds", "0..8") == 0
    said = capsys.readouterr().out
    assert re.search(
        r"9 members need 3.* MB \(.* kB each\) and the process 537 MB, but 59\d MB are available: 3 chun", said
    )
    assert re.search("3 chunks of at most 3 members, one after another", said)
    assert "part 3 of 3: seeds 6 … 8" in said
    assert [member["seed"] for member in results_of(tmp_path / "run")["members"]] == list(range(9))
    assert results_of(tmp_path / "run").get("processes") is None


def test_a_chunk_that_is_complete_survives_an_interrupt(tmp_path, capsys, monkeypatch):
    trained, original = [], Experiment.run

    def interrupted(self):
        trained.append(self.config.seeds)
        if len(trained) == 2:
            self._open_sinks()
            self.trainer.iterate()
            self.save()
            self.sinks.close(failed=False)
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Experiment, "run", interrupted)
    folder = tmp_path / "run"
    assert run(folder, *SAC, "--seeds", "0..5", "--chunk-size", "2") == 130
    assert "1 of 3 parts are finished" in capsys.readouterr().err
    assert is_in_parts(folder)
    folder = Path(shutil.move(folder, tmp_path / "moved"))
    assert main(["--resume", str(folder)]) == 0
    assert trained == [(0, 1), (2, 3), (2, 3), (4, 5)]
    assert not is_in_parts(folder)
    monkeypatch.setattr(Experiment, "run", original)
    assert run(tmp_path / "once", *SAC, "--seeds", "0..5") == 0
    ours, theirs = (load_experiment(each).store.latest() for each in (folder, tmp_path / "once"))
    for name, tensor in theirs.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-4, atol=1e-5)


def test_runs_of_a_set_are_split_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gumbelrl.agents.compare.plots.save_plots", lambda comparison, folder: None)
    monkeypatch.setattr("gumbelrl.agents.compare.report.page", lambda comparison: "")
    words = [*SAC, "--seeds", "0..2", "--policy", "gumbel", "softmax", "--chunk-size", "2"]
    assert run(tmp_path / "set", *words) == 0
    said = capsys.readouterr().out
    assert said.count("part 2 of 2: seeds 2 … 2") == 2
    variants = json.loads((tmp_path / "set" / "comparison.json").read_text())["environments"]["CartPole-v1"]["variants"]
    assert {name: each["seeds"] for name, each in variants.items()} == {"gumbel": [0, 1, 2], "softmax": [0, 1, 2]}


def test_members_taken_out_of_a_checkpoint_are_those_of_their_own_run(tmp_path):
    words = [*WORDS, "--env", "Blackjack-v1", "--no-native"]
    for name, more in (("all", []), ("part", ["--seeds", "1..2"])):
        assert run(tmp_path / name, *words, *more) == 0
    ours = latest_members(load_experiment(tmp_path / "all").store, slice(4, 6), device="cpu")  # of the second variation
    theirs = latest_members(load_experiment(tmp_path / "part").store, slice(2, 4), device="cpu")
    assert ours.metadata["run"]["seeds"] == theirs.metadata["run"]["seeds"] == [1, 2]
    assert ours.metadata["run"]["variations"] == theirs.metadata["run"]["variations"]
    for name, tensor in theirs.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-4, atol=1e-5)


def test_logs_of_a_variation_whose_seeds_are_in_two_parts_meet(tmp_path):
    for part, seed in (("part-0", 0), ("part-1", 1)):
        log = tmp_path / part / "discount=0.9" / f"seed{seed}"
        log.mkdir(parents=True)
        (log / "events").write_text(part)
        _move_contents(tmp_path / part, tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "whole" / "discount=0.9").iterdir()) == ["seed0", "seed1"]


# Planning -----------------------------------------------------------------------------------------------------------


def test_parts_are_as_equal_as_they_can_be(monkeypatch, little_memory):
    config = config_of(*SAC, "--seeds", "0..8")
    parts, why = plan_parts(config)
    assert [len(part) for part in parts] == [3, 3, 3]
    assert why.endswith("3 chunks of at most 3 members, one after another")
    assert bounds(parts) == [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert plan_parts(replace(config, seeds=(0, 1, 2, 3))) == ([(0, 1, 2, 3)], "")
    parts, why = plan_parts(replace(config, seeds=tuple(range(17))), processes=2)
    assert [len(part) for part in parts] == [3, 3, 3, 3, 3, 2]
    assert why.endswith("6 chunks of at most 3 members, one after another on each of 2 processes")
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)  # a system that does not tell
    assert plan_parts(config) == ([tuple(range(9))], "")


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 8_000)
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "4")
    assert memory.allowed_bytes(torch.device("cpu"), None) == 2_000
    assert memory.allowed_bytes(torch.device("cuda"), None) == 8_000
    assert memory.allowed_bytes(torch.device("cpu"), 1_500) == 1_500


def test_numbers_of_bytes():
    texts = ("800000", "2GB", "1.5 GiB", "500mb", ".5k", "12B", "1TiB")
    assert [parse_bytes(text) for text in texts] == [800_000, 2 * 10**9, 3 * 2**29, 5 * 10**8, 500, 12, 2**40]
    for text in ("", "GB", "-2GB", "2 seeds", "nan"):
        with pytest.raises(RunError, match="is no number of bytes: write 500MB, 2GB or"):
            parse_bytes(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chunk-size", "0"], "chunk-size must be at least 1, got 0"),
        (["--chunk-size", "few"], "Error parsing --chunk-size: --chunk-size few: give a number"),
        (["--memory-limit", "much"], "'much' is no number of bytes"),
        (["--chunk-size", "2", "--profile"], "--profile looks at one chunk: name as many --seeds as train at once"),
        (["--chunk-size", "2", "--stop-at-return", "9"], "--stop-at-return waits for all seeds at once, which train"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_made(tmp_path, capsys, words, message):
    try:
        status = run(tmp_path / "run", *SAC, "--seeds", "0..3", *words)
    except SystemExit as stop:  # what the parser itself refuses
        status = stop.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# Writing by pieces --------------------------------------------------------------------------------------------------


def columns_of(tensors, pieces=2):
    return {
        name: Column(tensor.dtype, tuple(tensor.shape), tensor.chunk(pieces) if tensor.dim() else [tensor])
        for name, tensor in tensors.items()
    }


def test_what_is_written_by_pieces_is_what_is_written_at_once(tmp_path):
    torch.manual_seed(0)
    tensors = {f"part/{index}": (torch.randn(5, 3) * 9).to(dtype) for index, dtype in enumerate(DTYPES)}
    tensors |= {"count": torch.tensor(7), "empty": torch.zeros(0, 4), "turned": torch.randn(4, 6).T}
    metadata = {"step": 3}
    one, other = tmp_path / "one", tmp_path / "other"
    save_checkpoint(one, tensors, metadata)
    save_columns(other, columns_of(tensors), metadata)
    reference = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    assert (one / TENSORS).read_bytes() == (other / TENSORS).read_bytes() == reference
    loaded = load_checkpoint(other)
    assert loaded.metadata == metadata
    assert loaded.tensors.keys() == tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in tensors.items())
    with open_checkpoint(one) as opened:
        assert torch.equal(opened.get_tensor("turned"), tensors["turned"])


def test_pieces_of_another_shape_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="the pieces of a tensor are not of its shape"):
        save_columns(tmp_path / "one", {"a": Column(torch.float32, (3,), [torch.zeros(2)])}, {})
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_not_opened(tmp_path):
    save_checkpoint(tmp_path / "one", {"a": torch.zeros(100)}, {})
    path = tmp_path / "one" / TENSORS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="is damaged: its checksum"), open_checkpoint(tmp_path / "one"):
        pass
