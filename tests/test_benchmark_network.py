"""The network benchmark: its counts against other sources, and that every part of it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torchvision import models as tv

from benchmarks import network
from config import Config
from models import BACKBONES, build_model
from utils.errors import UserError


def plain(**changes: object) -> Config:
    small = {"backbone": "resnet18", "size": 96, "batch_size": 6, "width": 16}
    return Config(**{**small, **changes})


def decoder_macs(config: Config) -> float:
    """Count by hand what the decoder and the head cost an image."""
    encoder = BACKBONES[config.backbone]()
    pixels = [(config.size // stride) ** 2 for stride in encoder.strides]
    width, wide, all_pixels = config.width, 4 * config.width, config.size**2
    *below, top = zip(encoder.channels, pixels, strict=True)
    plain = sum(n * (c * width + 9 * width**2) for c, n in (*below, top))
    if config.decoder == "plain":
        return plain + 9 * width * pixels[0]
    second = sum(n * 9 * width**2 for n in pixels[1:])
    widened = top[1] * (top[0] * (wide - width) + 9 * wide**2 + wide * width)
    detail = 16 * width * pixels[0] + (3 + 16 + 16) * 16 * 9 * all_pixels
    return plain + second + widened + detail + 9 * 16 * all_pixels


@pytest.mark.parametrize("decoder", ["fine", "plain"])
@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "mobilenet_v2"])
def test_multiply_adds_are_those_that_torchvision_states(name: str, decoder: str) -> None:
    config = plain(backbone=name, size=224, decoder=decoder)
    encoder = network.count(config)["eval"] - decoder_macs(config)
    # torchvision's number, in 1e9 to three decimals, includes the classifier.
    classifier = BACKBONES[name]().channels[-1] * 1000
    stated = tv.get_model_weights(name).DEFAULT.meta["_ops"]
    assert (encoder + classifier) / 1e9 == pytest.approx(stated, abs=1.1e-3)


@pytest.mark.parametrize("mode", ["eval", "training"])
def test_relations_cost_what_their_formulas_say(mode: str) -> None:
    """A batch is one group in eval mode and two in training; P = 9 pixels, C = 512 channels."""
    base = network.count(plain())[mode]
    images, pixels, channels = (6 if mode == "eval" else 3), 9, 512
    pooled = 4  # keys of the non-local block: 3 x 3 pixels pooled by two, rounded up
    expected = {
        "gam": 3 * pixels * channels**2 + images * pixels**2 * channels,
        "nonlocal": 2 * pixels * channels**2 + pixels * pooled * channels,
        "mha": 4 * pixels * channels**2 + 2 * pixels**2 * channels,
    }
    for name, macs in expected.items():
        found = network.count(plain(**network.SWITCHES[name]))[mode] - base
        assert found == pytest.approx(macs, abs=1)


def test_masked_classification_costs_a_second_encoder_pass_in_training_alone() -> None:
    before = network.count(plain(**network.SWITCHES["classify"]))
    after = network.count(plain(**network.SWITCHES["classify+masked"]))
    encoder = network.count(plain())["eval"] - decoder_macs(plain())
    assert after["eval"] == before["eval"]
    extra = after["training"] - before["training"]
    assert extra == pytest.approx(encoder + 512 * network.CLASSES, abs=1)


def test_parameters_are_those_of_the_real_network() -> None:
    config = plain(**network.SWITCHES["gconet_plus"])
    parts = network.parts_of(network.to_dict(config), network.CLASSES)
    model, _ = build_model("resnet18", 16, "none", parts)
    assert network.count(config)["parameters"] == sum(p.numel() for p in model.parameters())


def test_all_is_timed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    switches = ["adversarial"]
    network.main(
        [
            *("--backbones", "mobilenet_v2", "--backbone", "mobilenet_v2"),
            *("--switches", *switches, "--precisions", "fp32", "--device", "cpu"),
            *("--size", "32", "--batch", "4", "--width", "8", "--turns", "1", "--out", str(out)),
        ]
    )
    rows = json.loads(out.read_text())["rows"]
    assert [row["parts"] for row in rows] == ["none", *switches, "gconet_plus", "gconet_plus"]
    assert [row["way"] for row in rows[-2:]] == ["fp32 last", "fp32 first"]
    assert all(row["forward"] > 0 and row["step"] > 0 for row in rows)
    assert capsys.readouterr().out.count("mobilenet_v2") == len(rows)


def test_sections_that_were_timed_are_kept_when_a_later_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race, raced = network.race, []

    def fails_compiled(variants: Sequence[network.Variant], *how: int) -> list[dict[str, float]]:
        raced.append([variant.way for variant in variants])
        if any(variant.compiled for variant in variants):
            raise RuntimeError("of the compiler")
        return race(variants, *how)

    monkeypatch.setattr(network, "race", fails_compiled)
    out = tmp_path / "found.json"
    flags = "--backbones --switches --whole none --backbone mobilenet_v2 --precisions fp32"
    small = "--device cpu --size 32 --batch 4 --width 8 --turns 1 --compile"
    with pytest.raises(RuntimeError, match="of the compiler"):
        network.main([*flags.split(), *small.split(), "--out", str(out)])
    assert raced == [["fp32 last", "fp32 first"], ["fp32 last", "fp32 last compiled"]]
    rows = json.loads(out.read_text())["rows"]
    assert [row["way"] for row in rows] == ["fp32 last", "fp32 first"]
    assert all(row["forward"] > 0 for row in rows)


def test_a_step_is_the_trainers_and_changes_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    config = plain(
        **network.SWITCHES["gconet_plus"], backbone_weights="none", backbone_lr=1.0, size=64
    )
    machine = network.choose_machine("cpu", "fp32")
    trainer = network.DatalessTrainer(network.Variant("part", config, "gconet_plus", machine))
    assert trainer.batch.groups == (3, 3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    losses = []
    step = trainer.step
    monkeypatch.setattr(trainer, "step", lambda batch: losses.append(step(batch)[1]))
    trainer.train_steps(2)
    assert len(losses) == 2
    assert {"bce", "contrast", "classify", "classify_masked", "triplet"} <= set(losses[0])
    after = dict(trainer.model.named_parameters())
    still = [name for name, old in before.items() if torch.equal(old, after[name])]
    assert not still
    assert not Path("no").exists()


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--switches", "gamm"], "switch 'gamm'"),
        (["--backbones", "resnet19"], "backbone 'resnet19'"),
        (["--precisions", "fp64"], "precision 'fp64'"),
        (["--batch", "2"], "--batch"),
        (["--backbones", "--switches", "--precisions"], "nothing to compare"),
    ],
)
def test_flags_that_cannot_be_meant(flags: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        network.main([*flags, "--device", "cpu"])
