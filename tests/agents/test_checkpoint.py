"""Checkpoints: exact, whole or not at all, and refused in words when they are not what was saved."""

import json
import os
import pickle

import pytest
import torch

from gumbelrl.agents.checkpoint import (
    DESCRIPTION,
    TENSORS,
    CheckpointError,
    CheckpointStore,
    flatten_state,
    load_checkpoint,
    save_checkpoint,
    unflatten_state,
)


@pytest.fixture
def tensors():
    flat = torch.arange(12.0)
    return {
        "view": flat[2:8].view(2, 3).t(),
        "shared": flat,
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "wide": torch.tensor([1 / 3], dtype=torch.float64),
    }


@pytest.fixture
def saved(tmp_path, tensors):
    return save_checkpoint(tmp_path / "one", tensors, {"step": 7, "rate": 0.1, "text": "ü", "none": None})


def test_round_trip(saved, tensors):
    checkpoint = load_checkpoint(saved)
    assert checkpoint.metadata == {"step": 7, "rate": 0.1, "text": "ü", "none": None}
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor)


def test_nested_state_round_trip():
    state = {"a": {"b": torch.ones(2), "c": {"d": 0.1, "e": None}}, "f": [1, 2], "g": torch.tensor(4), "h": {}}
    tensors, rest = flatten_state(state)
    again = unflatten_state(tensors, json.loads(json.dumps(rest)))
    assert torch.equal(again["a"]["b"], torch.ones(2))
    assert again["a"]["c"] == {"d": 0.1, "e": None}
    assert again["f"] == [1, 2]
    assert again["h"] == {}


@pytest.mark.parametrize("name", [TENSORS, DESCRIPTION])
def test_a_file_cut_short_or_missing_is_refused(saved, name):
    data = (saved / name).read_bytes()
    for length in (0, 1, 7, len(data) // 2, len(data) - 1):
        (saved / name).write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"damaged|does not describe"):
            load_checkpoint(saved)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", [TENSORS, DESCRIPTION])
def test_every_altered_byte_is_refused(saved, name):
    """Every byte of both files, flipped in one bit; white space between JSON tokens alone may change harmlessly."""
    data = (saved / name).read_bytes()
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1
        (saved / name).write_bytes(altered)
        if name == DESCRIPTION and data[position : position + 1] in b" \n":
            continue
        with pytest.raises(CheckpointError):
            load_checkpoint(saved)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_a_smuggled_pickle_is_refused_and_not_executed(saved, tmp_path):
    target = tmp_path / "executed"
    data = pickle.dumps(Bomb(str(target)))
    (saved / "extra.pkl").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"extra\.pkl, which gumbelrl never writes"):
        load_checkpoint(saved)
    (saved / "extra.pkl").unlink()
    # In the place of the tensors, with the checksums made to agree.
    from gumbelrl.agents.checkpoint import _canonical, _digest

    (saved / TENSORS).write_bytes(data)
    description = json.loads((saved / DESCRIPTION).read_text())
    description["tensors_sha256"] = _digest(data)
    description["sha256"] = _digest(_canonical(description))
    (saved / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(saved)
    assert not target.exists()


def test_newer_and_foreign_are_refused(saved):
    description = json.loads((saved / DESCRIPTION).read_text())
    (saved / DESCRIPTION).write_text(json.dumps({**description, "version": 2}))
    with pytest.raises(CheckpointError, match="upgrade gumbelrl"):
        load_checkpoint(saved)
    for foreign in ({}, [], {"format": "other"}, 3):
        (saved / DESCRIPTION).write_text(json.dumps(foreign))
        with pytest.raises(CheckpointError, match="does not describe a gumbelrl checkpoint"):
            load_checkpoint(saved)


def test_a_save_that_fails_leaves_what_was_there(tmp_path, tensors, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(1, tensors, {})
    for function in ("_write", "_sync_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(f"gumbelrl.agents.checkpoint.{function}", _no_room)
            with pytest.raises(OSError, match="No space"):
                store.save(2, tensors, {})
        assert store.steps() == [1]
        assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]
    store.latest()


def _no_room(*args):
    raise OSError(28, "No space left on device")


def test_what_a_killed_process_left_is_ignored_and_swept(tmp_path, tensors):
    store = CheckpointStore(tmp_path)
    store.save(1, tensors, {"step": 1})
    partial = tmp_path / ".step-000000000002.99.partial"
    partial.mkdir()
    (partial / TENSORS).write_bytes(b"half")
    assert store.latest().metadata == {"step": 1}
    store.save(3, tensors, {"step": 3})
    assert not partial.exists()


def test_the_newest_two_stay_and_a_damaged_one_names_the_one_before(tmp_path, tensors):
    store = CheckpointStore(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        store.latest()
    for step in (1, 2, 3):
        store.save(step, tensors, {"step": step})
    assert store.steps() == [2, 3]
    (store.folder(3) / TENSORS).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"damaged.*step-000000000002, is whole"):
        store.latest()


def test_nothing_is_overwritten(saved, tensors):
    with pytest.raises(FileExistsError):
        save_checkpoint(saved, tensors, {})
