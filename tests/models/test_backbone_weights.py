from __future__ import annotations

import http.client
import urllib.error
from pathlib import Path

import pytest
import torch
from torchvision import models as tv

from models import BACKBONES, WeightReport, build_model, load_weights
from models.backbones import build_encoder
from utils.errors import UserError

NAME = "mobilenet_v2"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Return weights as a file would hold them, classifier included, unlike any fresh encoder."""
    torch.manual_seed(7)
    return tv.mobilenet_v2(weights=None).state_dict()


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def check_loaded(encoder: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key
        assert value.dtype == (torch.int64 if "num_batches" in key else torch.float32)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_files_of_all_spellings_load(
    tmp_path: Path, state: dict[str, torch.Tensor], prefix: str, wrapper: str | None
) -> None:
    content = {prefix + key: value for key, value in state.items()}
    path = save(tmp_path / "weights.pth", {wrapper: content, "epoch": 3} if wrapper else content)
    encoder = build_encoder(NAME)
    report = load_weights(encoder, path, NAME)
    assert report == WeightReport(str(path), loaded=len(encoder.state_dict()))
    check_loaded(encoder, state)


def test_half_precision_is_loaded_as_float32(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    encoder = build_encoder(NAME)
    load_weights(encoder, save(tmp_path / "half.pth", half), NAME)
    check_loaded(encoder, half)


def test_partial_file_reports_what_is_missing(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    partial = {
        k: v for k, v in state.items() if "num_batches" not in k and k != "features.0.0.weight"
    }
    partial["features.99.weight"] = torch.zeros(2)
    encoder = build_encoder(NAME)
    before = encoder.state_dict()["features.0.0.weight"].clone()
    report = load_weights(encoder, save(tmp_path / "partial.pth", partial), NAME)
    assert report.missing == ("features.0.0.weight",)
    assert report.unexpected == ("features.99.weight",)
    after = encoder.state_dict()
    assert torch.equal(after["features.0.0.weight"], before)
    assert torch.equal(after["features.18.0.weight"], state["features.18.0.weight"])


def test_none_keeps_the_seeded_weights() -> None:
    torch.manual_seed(3)
    expected = build_encoder(NAME).state_dict()
    torch.manual_seed(3)
    model, report = build_model(NAME, width=8, weights="none")
    assert report == WeightReport("none")
    assert all(torch.equal(v, expected[k]) for k, v in model.encoder.state_dict().items())


def test_other_architecture_names_file_and_first_differing_key(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = save(tmp_path / "mobile.pth", state)
    with pytest.raises(UserError, match=r"mobile\.pth: no tensor fits .*'vgg16'.*features\.0\.0"):
        load_weights(build_encoder("vgg16"), path, "vgg16")
    path = save(tmp_path / "r18.pth", build_encoder("resnet18").state_dict())
    encoder = build_encoder("resnet50")
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(UserError, match=r"r18\.pth: 'layer1\.0\.conv1\.weight' has shape \(64, "):
        load_weights(encoder, path, "resnet50")
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, torch.zeros(3)])
def test_file_without_state_dict(tmp_path: Path, content: object) -> None:
    path = save(tmp_path / "other.pth", content)
    with pytest.raises(UserError, match=r"other\.pth: holds no state dict"):
        load_weights(build_encoder(NAME), path, NAME)


def test_damaged_files(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    whole = save(tmp_path / "whole.pth", state).read_bytes()
    bad = tmp_path / "bad.pth"
    for content in (b"", b"<html>not found</html>", whole[: len(whole) // 2], whole[:100]):
        bad.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.pth: cannot be read") as caught:
            load_weights(build_encoder(NAME), bad, NAME)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"absent\.pth: no such file"):
        load_weights(build_encoder(NAME), tmp_path / "absent.pth", NAME)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    path = save(tmp_path / "evil.pth", {"features.0.0.weight": Evil(touched)})
    with pytest.raises(UserError, match=r"evil\.pth: cannot be read"):
        load_weights(build_encoder(NAME), path, NAME)
    assert not touched.exists()


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_empty_cache")
def test_default_weights_come_from_torchvision(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    asked = []

    def download(url: str, path: str, hash_prefix: str | None, progress: bool) -> None:
        asked.append((url, hash_prefix))
        torch.save(state, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    model, report = build_model(NAME, width=8, weights="default")
    url = tv.get_model_weights(NAME).DEFAULT.url
    assert [asked_url for asked_url, _ in asked] == [url]
    assert asked[0][1]  # a hash to check the download by
    assert asked[0][1] in url
    assert report.missing == ()
    check_loaded(model.encoder, state)


@pytest.mark.usefixtures("_empty_cache")
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    "fault",
    [
        urllib.error.URLError("no route"),
        http.client.IncompleteRead(b""),
        RuntimeError('invalid hash value (expected "a", got "b")'),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_failed_download_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, fault: Exception
) -> None:
    def download(*args: object, **kwargs: object) -> None:
        raise fault

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError) as caught:
        load_weights(torch.nn.Module(), "default", name)
    message = str(caught.value)
    assert tv.get_model_weights(name).DEFAULT.url in message
    assert "--backbone_weights FILE" in message
    assert "--backbone_weights none" in message


@pytest.mark.usefixtures("_empty_cache")
def test_broken_file_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: str, *args: object, **kwargs: object) -> None:
        Path(path).write_bytes(b"half a file")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError, match=r"came damaged .*delete .*mobilenet_v2-\w+\.pth if"):
        load_weights(build_encoder(NAME), "default", NAME)
