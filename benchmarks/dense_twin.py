"""Is the network trained on masks as good as an FPN and a Unet that others use?

    python benchmarks/dense_twin.py --data_root D --trainset T --testsets A+B --seeds 3 \\
        --backbone mobilenet_v2 --backbone_weights FILE --size 128 --batch_size 8 --epochs 8

Points are compared with masks, so the network trained on masks must not be a weak one. This trains
ours, and FPN and Unet of segmentation_models.pytorch (0.5 or newer, installed for this alone), on
masks. All else is the same: images, augmentation, batches and their order, losses, optimiser,
learning rates and their schedule, validation and choice of the checkpoint, and the backbone, loaded
from the same file; so is the bias that the maps begin with. The kept checkpoints are scored by
evaluate.py. Every flag of config.py serves, and rules all networks; ``--losses_theirs`` alone sets
the losses of the other two apart.

Each training is a trial of its own, ``<runs>/<trial>/<network>_seed<n>``. Interrupted, the same
command goes on where it was. The table of results is written anew after every training: a line for
each training and test set.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import evaluate
from config import FIELDS, FREE, Config
from datasets.checked import require_checked
from datasets.index import split_set_names
from models import Prediction, SaliencyNet, WeightReport, build_model, load_weights
from models.saliency_net import NO_PARTS
from models.stored import parts_of
from test import Segmenter, test_trial
from train import Trainer
from utils import settings
from utils.checkpoints import load_checkpoint, load_weights_into
from utils.cli import Parser, parse_weights
from utils.device import Machine, choose_machine
from utils.errors import UserError, run_script
from utils.files import write_json
from utils.metrics import METRICS
from utils.registry import look_up
from utils.run_folder import RunFolder
from utils.scores import read_scores
from utils.tables import read_rows, text_table, write_rows

NETWORKS = {"ours": None, "fpn": "FPN", "unet": "Unet"}
"""The networks that are compared, by their class in segmentation_models.pytorch."""

SHOWN = ("maxF", "meanF", "wF", "S", "meanE", "maxE", "MAE")
COSTS = ("parameters", "multiply_adds", "seconds")
"""Trainable numbers; multiply-adds an image in eval mode; of all epochs, validation included."""

ABOUT = ("network", "decoder", "backbone", "size", "epochs", "batch_size")
ABOUT += ("losses", "seed", "set", "images")
COLUMNS = (*ABOUT, *METRICS, "best_epoch", "val_MAE", *COSTS, "torch")

Row = dict[str, Any]


def their_network(name: str, backbone: str) -> nn.Module:
    """Return a network of segmentation_models.pytorch, its weights random.

    Raises:
        UserError: the library is missing, or has no such backbone.
    """
    try:
        import segmentation_models_pytorch as library
    except ImportError as error:
        raise UserError(
            f"--networks {name}: segmentation_models_pytorch cannot be imported ({error}): "
            "pip install segmentation-models-pytorch in an environment for this benchmark"
        ) from None
    if backbone not in library.encoders.get_encoder_names():
        raise UserError(f"--backbone {backbone}: the library has none of this name: try resnet18")
    return getattr(library, NETWORKS[name])(backbone, encoder_weights=None, classes=1)


class TheirNet(SaliencyNet):
    """A network with the encoder, decoder and head of another library in the place of ours.

    Args:
        name: see `NETWORKS`.
        backbone: a name that both libraries know.
    """

    def __init__(self, name: str, backbone: str) -> None:
        super().__init__(backbone, width=1)
        theirs = their_network(name, backbone)
        self.encoder, self.decoder = theirs.encoder, theirs.decoder
        # Both begin with the same share of salient pixels: not to be told apart by the first steps.
        with torch.no_grad():
            theirs.segmentation_head[0].bias.copy_(self.head.bias)
        self.head = theirs.segmentation_head

    def forward(
        self, image: Tensor, groups: Sequence[int] | None = None, consensus: Tensor | None = None
    ) -> Prediction:
        """Predict saliency for images (B, 3, H, W), floats in [0, 1]; groups mean nothing here."""
        features = self.decoder(self.encoder((image - self.mean) / self.std))
        return Prediction(self.head(features).to(image.dtype), features)


def build(name: str, config: Config, source: str) -> tuple[SaliencyNet, WeightReport]:
    """Build a network, its backbone with the weights of ``source`` (`models.load_weights`).

    Raises:
        UserError: the weights do not fill the encoder, or hold what it has no place for.
    """
    if name == "ours":
        parts = parts_of(settings.to_dict(config), 0)
        model, report = build_model(config.backbone, config.width, source, parts)
    else:
        model = TheirNet(name, config.backbone)
        report = load_weights(model.encoder, source, config.backbone)
    if strays := [*report.missing, *report.unexpected]:
        raise UserError(
            f"--backbone_weights {source}: {len(strays)} tensors are not both in the file and in "
            f"the encoder of {name} ({strays[0]}): give a file of the whole backbone"
        )
    return model, report


class TwinTrainer(Trainer):
    """The trainer of the dense arm, with a network that has a name in `NETWORKS`."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        super().__init__(config, "dense", 0)

    def new_network(self, source: str) -> tuple[SaliencyNet, WeightReport]:
        """See `Trainer.new_network`."""
        return build(self.name, self.config, source)


class TwinSegmenter(Segmenter):
    """Makes the maps of a checkpoint of `TwinTrainer`."""

    def __init__(self, name: str, config: Config, checkpoint: Path, machine: Machine) -> None:
        self.machine, self.size = machine, config.size
        model = build(name, config, "none")[0]
        load_weights_into(model, load_checkpoint(checkpoint), checkpoint)
        self.model = model.to(machine.device, memory_format=machine.memory_format).eval()


def count(name: str, config: Config) -> dict[str, int]:
    """Return parameters, and multiply-adds of convolutions and products for one image."""
    model = build(name, config, "none")[0].eval()
    counter = FlopCounterMode(display=False)
    with FakeTensorMode(allow_non_fake_inputs=True), counter, torch.no_grad():
        model(torch.empty(1, 3, config.size, config.size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def train_and_score(name: str, config: Config) -> list[Row]:
    """Train a network, make its maps and score them, as far as that is not done; return rows."""
    run = RunFolder(config.run_folder)
    require_checked(run.root, config.data_root, config.trainset, masks=True)
    settings.save(config)
    if not run.trained("dense", 0).exists():
        summary = TwinTrainer(name, config).fit()
        write_json(run.trained("dense", 0), summary)
    test_trial(config, [run.checkpoint("dense", 0, "best")], partial(TwinSegmenter, name, config))
    flags = ["--runs", config.runs, "--trial", config.trial, "--no_figures"]
    evaluate.main([*flags, "--testsets", config.testsets, "--workers", str(config.workers)])
    epochs = read_rows(run.training("dense", 0) / "log.csv", ("epoch", "seconds"))
    best = load_checkpoint(run.checkpoint("dense", 0, "best"))
    known = {key: getattr(config, key) for key in ABOUT if hasattr(config, key)} | {
        "network": name,
        "decoder": config.decoder if name == "ours" else "",
        "losses": "+".join(f"{k}={weight:g}" for k, weight in config.losses_dense.items()),
        "best_epoch": best["epoch"],
        "val_MAE": round(best["val_MAE"], 6),
        "seconds": round(sum(float(row["seconds"]) for row in epochs), 1),
        "torch": torch.__version__,
        **count(name, config),
    }
    scores = {row["set"]: row for row in read_scores(run.scores)}
    return [
        known | {key: scores[which][key] for key in ("set", "images", *METRICS)}
        for which in split_set_names(config.testsets)
        if which in scores
    ]


def plan(flags: Row, args: argparse.Namespace) -> list[tuple[str, Config]]:
    """Return the trainings, seed by seed, with their settings.

    Raises:
        UserError: a flag cannot be meant here, or a training that is there had other settings.
    """
    for name in args.networks:
        look_up(NETWORKS, name, "network")
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: must be 1 or more")
    first, trial = flags.pop("seed", 0), flags.pop("trial", "dense_twin")
    runs = Path(flags.pop("runs", "runs")) / trial
    work = []
    for seed in range(first, first + args.seeds):
        for name in dict.fromkeys(args.networks):
            mine = {**flags, "runs": str(runs), "trial": f"{name}_seed{seed}", "seed": seed}
            if name != "ours":
                ours = flags.get("losses_dense", Config().losses_dense)
                mine["losses_dense"] = args.losses_theirs or ours
            work.append((name, settings.resolve(mine)))
    check(work)
    return work


def check(work: Sequence[tuple[str, Config]]) -> None:
    """Raise `UserError` unless all networks get the same, and can be trained so."""
    first = work[0][1]
    if not (first.data_root and first.testsets):
        raise UserError("--data_root, --trainset and --testsets are needed: name the data")
    if first.size % 32:
        raise UserError(f"--size {first.size}: the other networks need a multiple of 32")
    parts = dataclasses.replace(parts_of(settings.to_dict(first), 2), fine=False)
    if first.grouped or parts != NO_PARTS:
        raise UserError("the other networks know no groups and no parts: leave these flags out")
    settings.check_names(first)
    free = {"trial", "seed", "losses_dense"} | FREE - {"testsets"}
    for _, config in work:
        other = {name for name in settings.differences(first, config) if name not in free}
        if other:
            raise UserError(
                f"{config.run_folder}: began with another {', '.join(sorted(other))} than "
                f"{first.trial}: give these flags again, or --trial another name"
            )


def show(rows: Sequence[Row]) -> str:
    """Return the table: each score's mean over seeds and its standard deviation, by set."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == name]
        seeds = sorted({row["seed"] for row in mine})
        # [metric, seed, set]
        found = np.array(
            [
                [[float(r[key]) for r in mine if r["seed"] == seed] for seed in seeds]
                for key in SHOWN
            ]
        )
        costs = [f"{mine[0]['parameters']:,}", f"{mine[0]['multiply_adds'] / 1e9:.2f}"]
        costs.append(f"{np.mean([row['seconds'] for row in mine]):.0f}")
        for at, which in enumerate([*sets, "mean"]):
            values = found.mean(-1) if which == "mean" else found[..., at]
            line = [name, which, *map(told, values)]
            lines.append([*line, *(costs if which == "mean" else [""] * len(costs))])
    return text_table(["network", "set", *SHOWN, "parameters", "GMACs", "seconds"], lines)


def told(values: np.ndarray) -> str:
    """Return mean and standard deviation over seeds, the latter where there are several."""
    spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def parse(argv: Sequence[str] | None) -> tuple[Row, argparse.Namespace]:
    """Return the settings that are given, and the benchmark's own arguments."""
    parser: Parser = settings.make_parser(__doc__)
    parser.formatter_class = RawDescriptionHelpFormatter
    flag = parser.add_argument
    flag("--networks", nargs="+", default=list(NETWORKS), metavar="NAME", help=", ".join(NETWORKS))
    flag("--seeds", type=int, default=3, help="trainings of each network, from --seed on")
    text = "losses of the networks that are not ours, like bce=1+iou=1 (default: losses_dense)"
    flag("--losses_theirs", type=parse_weights, metavar="NAME=WEIGHT+...", help=text)
    flag("--out", type=Path, help="(default: benchmarks/results/dense_twin_<device>.csv)")
    given = vars(parser.parse(argv))
    flags = {name: given.pop(name) for name in FIELDS if name in given}
    return flags, argparse.Namespace(**given)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, score, write and print; see the module's text."""
    flags, args = parse(argv)
    work = plan(flags, args)
    device = choose_machine(work[0][1].device, work[0][1].precision).device.type
    out = args.out or Path(__file__).parent / "results" / f"dense_twin_{device}.csv"
    rows: list[Row] = []
    for name, config in work:
        rows += train_and_score(name, config)
        write_rows(out, COLUMNS, rows)
    print(f"{out}\n{show(rows)}")
    return 0


if __name__ == "__main__":
    run_script(main)
