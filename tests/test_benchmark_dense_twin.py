"""The benchmark of the dense twin: all networks get the same, and are scored by their own maps."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evaluate
import test as mapping
import train
from benchmarks import dense_twin, network
from config import Config
from models.backbones import build_encoder
from utils import settings
from utils.checkpoints import load_checkpoint
from utils.errors import UserError
from utils.metrics import METRICS
from utils.scores import read_scores
from utils.tables import read_rows

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("segmentation_models_pytorch") is None,
    reason="segmentation_models_pytorch is installed for the benchmark alone",
)


class Finest(nn.Module):
    """A decoder that reads the finest map alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.body(maps[0]).relu()


class StandIn(nn.Module):
    """A small network with the same members as one of segmentation_models_pytorch."""

    def __init__(self, name: str, backbone: str) -> None:
        super().__init__()
        self.encoder = build_encoder(backbone)
        self.decoder = Finest(self.encoder.channels[0])
        grow = nn.Upsample(scale_factor=2, mode="bilinear")
        self.segmentation_head = nn.Sequential(nn.Conv2d(4, 1, 1), grow)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_twin, "their_network", StandIn)


@pytest.fixture
def flags(tiny: list[str], tmp_path: Path) -> list[str]:
    return [*tiny, "--networks", "ours", "fpn", "--seeds", "1", "--out", str(tmp_path / "out.csv")]


def small(**changes: object) -> Config:
    return Config(**{"backbone": "mobilenet_v2", "size": 64, "width": 8, **changes})


def rows_of(flags: list[str]) -> list[dict[str, str]]:
    return read_rows(Path(flags[flags.index("--out") + 1]), dense_twin.COLUMNS)


def last(flags: list[str], trial: str) -> dict:
    runs = Path(flags[flags.index("--runs") + 1])
    return load_checkpoint(runs / "tiny" / trial / "dense" / "checkpoints" / "last.pth")


@pytest.mark.usefixtures("stand_in")
def test_all_networks_see_the_same_batches_at_the_same_rates(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list] = {"ours": [], "fpn": []}
    step = train.Trainer.step

    def noted(self: dense_twin.TwinTrainer, batch: train.Batch) -> tuple:
        rates = {(group["name"], group["lr"]) for group in self.optimizer.param_groups}
        seen[self.name].append((batch.images.clone(), batch.labels.clone(), rates))
        return step(self, batch)

    monkeypatch.setattr(train.Trainer, "step", noted)
    dense_twin.main(flags)
    assert len(seen["ours"]) == len(seen["fpn"]) == 2 * (13 // 4)
    for ours, theirs in zip(seen["ours"], seen["fpn"], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
        assert ours[2] == theirs[2]
        assert {name.split("/")[0] for name, _ in ours[2]} == {"encoder", "rest"}
    assert not torch.equal(seen["ours"][0][0], seen["ours"][1][0])


@pytest.mark.usefixtures("stand_in")
def test_ours_is_the_dense_arm_and_nothing_is_done_twice(
    flags: list[str],
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dense_twin.main(flags)
    first, rows = capsys.readouterr().out, rows_of(flags)
    assert [row["network"] for row in rows] == ["ours", "fpn"]
    plain = [*tiny, "--trial", "plain"]
    train.main([*plain, "--arm", "dense"])
    mapping.main(plain)
    evaluate.main([*plain, "--no_figures"])
    (expected,) = read_scores(Path(tiny[tiny.index("--runs") + 1]) / "plain" / "scores.csv")
    assert {key: rows[0][key] for key in METRICS} == {key: expected[key] for key in METRICS}
    assert rows[1]["S"] != rows[0]["S"]
    for row in rows:
        log = read_rows(log_of(flags, row["network"]), ("val_MAE", "seconds"))
        of_epoch = log[int(row["best_epoch"]) - 1]
        assert float(row["val_MAE"]) == pytest.approx(float(of_epoch["val_MAE"]), rel=1e-5)
        assert float(row["seconds"]) == pytest.approx(
            sum(float(e["seconds"]) for e in log), abs=0.1
        )
    monkeypatch.setattr(train.Trainer, "fit", None)
    monkeypatch.setattr(mapping.Segmenter, "maps", None)
    capsys.readouterr()
    dense_twin.main(flags)
    table = slice(-7, None)
    assert capsys.readouterr().out.splitlines()[table] == first.splitlines()[table]
    assert rows_of(flags) == rows


def log_of(flags: list[str], name: str) -> Path:
    runs = Path(flags[flags.index("--runs") + 1])
    return runs / "tiny" / f"{name}_seed0" / "dense" / "log.csv"


@pytest.mark.usefixtures("stand_in")
def test_an_interrupted_training_goes_on(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*flags, "--networks", "fpn"]
    whole = [*flags, "--runs", str(Path(flags[flags.index("--runs") + 1]) / "whole")]
    dense_twin.main(whole)
    epoch = train.Trainer.train_epoch

    def cut_off(self: train.Trainer, began: float) -> dict[str, float]:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return epoch(self, began)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "train_epoch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            dense_twin.main(flags)
    assert last(flags, "fpn_seed0")["epoch"] == 1
    dense_twin.main(flags)
    resumed, expected = last(flags, "fpn_seed0"), last(whole, "fpn_seed0")
    assert resumed["epoch"] == 2
    for key, value in expected["model"].items():
        assert torch.equal(resumed["model"][key], value), key


def planned(flags: list[str]) -> list[tuple[str, Config]]:
    return dense_twin.plan(*dense_twin.parse(flags))


def test_seeds_and_the_losses_of_others(flags: list[str]) -> None:
    flags = [*flags, "--seeds", "2", "--seed", "5"]
    apart = planned([*flags, "--losses_theirs", "bce=1"])
    ours = {"bce": 1.0, "iou": 1.0, "ssim": 0.5}
    expected = {"ours": ours, "fpn": {"bce": 1.0}}
    assert [(name, config.seed, config.trial) for name, config in apart] == [
        (name, seed, f"{name}_seed{seed}") for seed in (5, 6) for name in ("ours", "fpn")
    ]
    assert all(config.losses_dense == expected[name] for name, config in apart)
    assert all(config.losses_dense == ours for _, config in planned(flags))
    alike = planned([*flags, "--losses_dense", "mse=1"])
    assert all(config.losses_dense == {"mse": 1.0} for _, config in alike)
    begin(apart[1][1])
    with pytest.raises(UserError, match=r"losses_dense \{'bce': 1\.0\} -> "):
        planned(flags)


def begin(config: Config) -> None:
    """Leave what a training leaves."""
    settings.save(config)
    (config.run_folder / "dense").mkdir()


@pytest.mark.usefixtures("stand_in")
def test_their_network_gets_normalised_images_and_our_first_bias() -> None:
    torch.manual_seed(0)
    model, _ = dense_twin.build("fpn", small(), "none")
    assert model.head[0].bias.item() == pytest.approx(math.log(0.2 / 0.8))
    image = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (image - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    expected = model.head(model.decoder(model.encoder.eval()(normalised)))
    found = model.eval()(image)
    torch.testing.assert_close(found.logits, expected)
    assert found.logits.shape == (2, 1, 64, 64)


def check_weights(name: str, backbone: str, tmp_path: Path) -> None:
    """Check that a file fills the encoder, and that one that lacks a tensor is refused."""
    torch.manual_seed(1)
    state = build_encoder(backbone).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    model, report = dense_twin.build(name, small(backbone=backbone), str(path))
    own = model.encoder.state_dict()
    assert report.loaded == len(own)
    assert all(torch.equal(own[key], value) for key, value in state.items())
    key = next(key for key in reversed(state) if key.endswith("weight"))
    torch.save({k: v for k, v in state.items() if k != key}, path)
    with pytest.raises(UserError, match=f"1 tensors are not both .* of {name} \\({key}\\)"):
        dense_twin.build(name, small(backbone=backbone), str(path))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", ["ours", "unet"])
def test_weights_fill_the_encoder(name: str, tmp_path: Path) -> None:
    check_weights(name, "mobilenet_v2", tmp_path)


@needs_library
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "vgg16_bn"])
@pytest.mark.parametrize("name", ["fpn", "unet"])
def test_weights_fill_the_librarys_encoder(name: str, backbone: str, tmp_path: Path) -> None:
    check_weights(name, backbone, tmp_path)


@needs_library
@pytest.mark.parametrize("name", ["fpn", "unet"])
def test_the_adapter_says_what_the_library_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    build: Callable[[str, str], nn.Module] = dense_twin.their_network
    monkeypatch.setattr(
        dense_twin, "their_network", lambda *args: made.append(build(*args)) or made[-1]
    )
    model = dense_twin.build(name, small(), "none")[0].eval()
    assert type(made[0]).__name__ == dense_twin.NETWORKS[name]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = made[0].eval()((image - model.mean) / model.std)
        torch.testing.assert_close(model(image).logits, expected)
    with pytest.raises(UserError, match="--backbone convnext_tiny"):
        build(name, "convnext_tiny")


@pytest.mark.parametrize("decoder", ["fine", "plain"])
def test_counts_are_those_of_the_network_benchmark(decoder: str) -> None:
    expected = network.count(small(batch_size=2, decoder=decoder))
    found = dense_twin.count("ours", small(decoder=decoder))
    assert found == {"parameters": expected["parameters"], "multiply_adds": expected["eval"]}


def test_the_table_tells_mean_and_spread() -> None:
    scores = {("A", 0): 0.5, ("A", 1): 0.7, ("B", 0): 0.1, ("B", 1): 0.5}
    costs = {"parameters": 12345, "multiply_adds": 2_000_000_000}
    rows = [
        {"network": "ours", "set": which, "seed": seed, "seconds": 10.0 + 4 * seed, **costs}
        | dict.fromkeys(dense_twin.SHOWN, str(score))
        for (which, seed), score in scores.items()
    ]
    table = [line.split("  ") for line in dense_twin.show(rows).splitlines()[2:]]
    cells = [[cell.strip() for cell in line if cell] for line in table]
    spreads = [np.std([0.5, 0.7], ddof=1), np.std([0.1, 0.5], ddof=1), np.std([0.3, 0.6], ddof=1)]
    for line, which, mean, spread in zip(
        cells, ("A", "B", "mean"), (0.6, 0.3, 0.45), spreads, strict=True
    ):
        assert line[:3] == ["ours", which, f"{mean:.4f} ± {spread:.4f}"]
    assert cells[2][-3:] == ["12,345", "2.00", "12"]
    alone = dense_twin.show([row for row in rows if row["seed"] == 0])
    assert "±" not in alone
    assert "0.3000" in alone


def test_a_training_that_had_other_settings_is_refused(flags: list[str]) -> None:
    begin(planned(flags)[0][1])
    at = flags.index("--epochs")
    less = flags[:at] + flags[at + 2 :]  # ours goes on with its own, the other takes the default
    with pytest.raises(UserError, match="fpn_seed0: began with another epochs than ours_seed0"):
        planned(less)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--networks", "fpm"], "network 'fpm'"),
        (["--seeds", "0"], "--seeds 0"),
        (["--size", "48"], "--size 48"),
        (["--testsets", ""], "--testsets are needed"),
        (["--refiner", "map"], "no groups and no parts"),
        (["--grouped"], "no groups and no parts"),
        (["--backbone", "resnet19"], "backbone 'resnet19'"),
    ],
)
def test_flags_that_cannot_be_meant(flags: list[str], more: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        dense_twin.main([*flags, *more])


@pytest.mark.skipif(not needs_library.args[0], reason="the library is there")
def test_a_missing_library_is_told() -> None:
    with pytest.raises(UserError, match=r"--networks unet: .* pip install"):
        dense_twin.build("unet", small(), "none")
