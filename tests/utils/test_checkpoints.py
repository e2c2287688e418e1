"""Checkpoints: whole or not there, read without running code, refused with one line."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoints import (
    FORMAT,
    fingerprint,
    load_checkpoint,
    load_weights_into,
    save_checkpoint,
)
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def network(width=4, bias=True):
    return nn.Sequential(nn.Linear(3, width, bias=bias), nn.BatchNorm1d(width))


def state_of(model, **more):
    return {"model": model.state_dict(), "config": {"backbone": "resnet18", "lr": 1e-3}, **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "last.pth"


def refused(path, match, load=load_checkpoint):
    with pytest.raises(UserError, match=match) as raised:
        load(path)
    text = str(raised.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_round_trip(path):
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    log = [{"epoch": 1.0, "loss": 0.5}]
    save_checkpoint(path, state_of(model, optimizer=optimizer.state_dict(), log=log, best=None))
    state = load_checkpoint(path, ("model", "config", "optimizer", "log", "best"))
    assert state["log"] == log
    assert state["config"] == {"backbone": "resnet18", "lr": 1e-3}
    assert state["format"] == FORMAT
    torch.manual_seed(1)
    other = network()
    load_weights_into(other, state, path)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
    again = torch.optim.AdamW(other.parameters())
    again.load_state_dict(state["optimizer"])
    moments = (o.state_dict()["state"][0]["exp_avg"] for o in (optimizer, again))
    assert torch.equal(*moments)
    assert os.listdir(path.parent) == ["last.pth"]


def test_a_failed_write_keeps_the_old_checkpoint(path, monkeypatch):
    save_checkpoint(path, state_of(network()))
    before = path.read_bytes()

    def fail(_state, file):
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file\nmore of it")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match="is the disk full") as raised:
        save_checkpoint(path, state_of(network()))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["last.pth"]


def test_truncated_at_many_lengths(path):
    save_checkpoint(path, state_of(network()))
    whole = path.read_bytes()
    for length in (*range(8), *range(8, len(whole), 37), len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "damaged or not a checkpoint")


def test_random_bytes(path):
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    for index in range(400):
        content = rng.integers(0, 256, rng.integers(1, 200), np.uint8).tobytes()
        # Every other file begins as a pickle does, which leads the reader further in.
        path.write_bytes(b"\x80\x02" * (index % 2) + content)
        refused(path, "not a checkpoint")


def test_damage_in_the_middle_never_escapes_as_another_error(path):
    path.parent.mkdir()
    torch.save(state_of(network()), path, _use_new_zipfile_serialization=False)
    whole, rng, refusals = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(300):
        content = bytearray(whole)
        content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        try:
            load_checkpoint(path)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert not any("\n" in text for text in refusals)


class Trap:
    """Unpickled with a reader that runs code, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_not_run(path, tmp_path, zipped):
    path.parent.mkdir()
    state = state_of(network(), extra=Trap(tmp_path / "ran"))
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    refused(path, "damaged or not a checkpoint")
    path.write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    refused(path, "damaged or not a checkpoint")
    assert not (tmp_path / "ran").exists()
    # The trap would work on a careless reader.
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()


def test_missing_file_and_folder(path):
    refused(path, "no such checkpoint")
    path.mkdir(parents=True)
    refused(path, "a folder, not a checkpoint")


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        ({"weight": torch.ones(2)}, "it lacks model, config"),
        ({"model": {}}, r"it lacks config\)"),
        (torch.ones(3), "it lacks model, config"),
        (["model", "config"], "it lacks model, config"),
    ],
)
def test_files_of_other_programs(path, content, lacks):
    path.parent.mkdir()
    torch.save(content, path)
    refused(path, lacks)


def wider(state):
    state["model"] = network(width=5).state_dict()


def unbiased(state):
    state["model"] = network(bias=False).state_dict()


def longer(state):
    state["model"]["9.weight"] = torch.ones(1)


def no_dictionary(state):
    state["model"] = torch.ones(2)


def no_tensors(state):
    state["model"] = dict.fromkeys(state["model"], "text")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (wider, r"0\.weight is \(5, 3\) there, \(4, 3\) here"),
        (unbiased, r"0\.bias is missing"),
        (longer, r"9\.weight is not part of this network"),
        (no_dictionary, "no dictionary of tensors"),
        (no_tensors, "no dictionary of tensors"),
    ],
)
def test_another_architecture(path, change, told):
    state = state_of(network())
    change(state)
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    text = refused(path, told, lambda path: load_weights_into(model, state, path))
    assert "its backbone is resnet18" in text
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("config", [None, [], "text", {}])
def test_another_architecture_with_an_odd_config(path, config):
    state = {"model": collections.OrderedDict(), "config": config}
    refused(path, "backbone is unknown", lambda path: load_weights_into(network(), state, path))


def test_fingerprint(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    content = bytes(range(256)) * 8192  # two blocks
    one.write_bytes(content)
    two.write_bytes(content)
    assert fingerprint(one) == fingerprint(two)
    assert len(fingerprint(one)) == 24
    two.write_bytes(content[:-1] + b"x")
    assert fingerprint(one) != fingerprint(two)
    two.write_bytes(content + b"\0")
    assert fingerprint(one) != fingerprint(two)
    refused(tmp_path / "none", "no such file", fingerprint)


def test_checkpoints_of_another_network_of_the_same_weights_are_refused(path):
    save_checkpoint(path, state_of(network()))
    state = torch.load(path, weights_only=True)
    for other in ({**state, "format": 1}, {k: v for k, v in state.items() if k != "format"}):
        torch.save(other, path)
        refused(path, "of another version .*format 1, not 2.*train again")
