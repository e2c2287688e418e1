"""What does it cost that a point-supervised training validates on points?

    python benchmarks/validation_choice.py --data_root D --trainset T --testsets A+B --seeds 3 \\
        --backbone mobilenet_v2 --backbone_weights FILE --size 128 --batch_size 8 --epochs 8

Of the held-out images a strict training knows ten points each, too, and chooses its checkpoint by
them: a noisy judge. This trains on ten random points an image, in one round, and keeps three
checkpoints: the one that is kept by the points (`active_learning.validation.Latest`), the one that
would be by the held-out images' masks (which no strict training may look at; nothing else is learnt
from them) and the last epoch's. evaluate.py scores all. Every flag of config.py serves.

Each training is a trial of its own, ``<runs>/<trial>/seed<n>``. Interrupted, the same command goes
on. The table of results is written anew after every training: a line a seed, choice and test set.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import active_learning.__main__ as asking
import evaluate
from active_learning.validation import Estimate, Latest
from config import FIELDS, Config
from datasets.checked import require_checked
from datasets.index import split_set_names
from test import Segmenter, test_trial
from train import Trainer, make_validation
from utils import settings
from utils.checkpoints import load_checkpoint
from utils.errors import UserError, run_script
from utils.files import read_json, write_json
from utils.metrics import METRICS
from utils.run_folder import RunFolder
from utils.scores import read_scores
from utils.tables import text_table, write_rows

CHOICES = {"points": "best", "masks": "best_by_masks", "nothing": "last"}
"""What a checkpoint was chosen by, and its name in the training's folder."""

SHOWN = ("maxF", "meanF", "wF", "S", "meanE", "MAE")
COLUMNS = ("seed", "chosen_by", "epoch", "points_MAE", "masks_MAE", "set", "images", *METRICS)

Row = dict[str, Any]


class ChoiceTrainer(Trainer):
    """The trainer of the points arm, which also keeps the checkpoint that masks choose.

    Attributes:
        errors: of each whole epoch, the error at the held-out points, that at every pixel, and the
            latter's standard error.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, "points", 0)
        held_out = settings.training_images(config)[1]
        self.by_masks = make_validation(config, self.run, "dense", held_out)
        path = self.folder / "choice.json"
        self.errors: list[list[float]] = read_json(path)["errors"] if path.exists() else []
        # Of an epoch that a kill has cut short nothing counts.
        del self.errors[self.epoch :]
        self._keep()

    def save(self, error: Estimate) -> None:
        """See `Trainer.save`."""
        self.errors.append([error.mean, *self.by_masks.error(self.kept, self.machine)])
        write_json(self.folder / "choice.json", {"errors": self.errors})
        super().save(error)
        self._keep()

    def _keep(self) -> None:
        """Keep the last epoch's checkpoint if by masks it is the one to be kept."""
        latest = Latest(self.config.keep_within)
        if [latest.takes(Estimate(*by_masks)) for _, *by_masks in self.errors][-1:] == [True]:
            last = self.run.checkpoint("points", 0, "last")
            shutil.copyfile(last, last.with_name(f"{CHOICES['masks']}.pth"))


def train_and_score(config: Config) -> list[Row]:
    """Train, make the maps of all choices and score them, as far as that is not done."""
    run = RunFolder(config.run_folder)
    require_checked(run.root, config.data_root, config.trainset, masks=True)
    settings.save(config)
    flags = ["--runs", config.runs, "--trial", config.trial]
    asking.main([*flags, "--arm", "points", "--round", "0"])
    if not run.trained("points", 0).exists():
        write_json(run.trained("points", 0), ChoiceTrainer(config).fit())
    paths = {choice: run.checkpoint("points", 0, name) for choice, name in CHOICES.items()}
    test_trial(config, list(paths.values()), Segmenter)
    evaluate.main([*flags, "--no_figures", "--testsets", config.testsets, "--workers", "0"])
    errors = read_json(run.training("points", 0) / "choice.json")["errors"]
    scores = {(row["checkpoint"], row["set"]): row for row in read_scores(run.scores)}
    rows = []
    for choice, path in paths.items():
        epoch = load_checkpoint(path)["epoch"]
        told = {"seed": config.seed, "chosen_by": choice, "epoch": epoch}
        told |= dict(zip(("points_MAE", "masks_MAE"), errors[epoch - 1][:2], strict=True))
        for which in split_set_names(config.testsets):
            row = scores[run.checkpoint_name(path), which]
            rows.append(told | {key: row[key] for key in ("set", "images", *METRICS)})
    return rows


def show(rows: Sequence[Row]) -> str:
    """Return the table: the mean over sets, its mean and spread over seeds, by choice."""
    lines = []
    for choice in CHOICES:
        mine = [row for row in rows if row["chosen_by"] == choice]
        seeds = sorted({row["seed"] for row in mine})
        cells = []
        for key in SHOWN:
            of_seeds = [
                np.mean([float(row[key]) for row in mine if row["seed"] == seed]) for seed in seeds
            ]
            spread = f" ± {np.std(of_seeds, ddof=1):.4f}" if len(seeds) > 1 else ""
            cells.append(f"{np.mean(of_seeds):.4f}{spread}")
        epochs = [next(row["epoch"] for row in mine if row["seed"] == seed) for seed in seeds]
        lines.append([choice, " ".join(map(str, epochs)), *cells])
    return text_table(["chosen by", "epochs", *SHOWN], lines)


def parse(argv: Sequence[str] | None) -> tuple[Row, argparse.Namespace]:
    """Return the settings that are given, and the benchmark's own arguments."""
    parser = settings.make_parser(__doc__)
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, default=3, help="trainings, from --seed on")
    text = "(default: benchmarks/results/validation_choice.csv)"
    parser.add_argument("--out", type=Path, help=text)
    given = vars(parser.parse(argv))
    flags = {name: given.pop(name) for name in FIELDS if name in given}
    return flags, argparse.Namespace(**given)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, score, write and print; see the module's text."""
    flags, args = parse(argv)
    if args.seeds < 1:
        raise UserError(f"--seeds {args.seeds}: must be 1 or more")
    first, trial = flags.pop("seed", 0), flags.pop("trial", "validation_choice")
    runs = str(Path(flags.pop("runs", "runs")) / trial)
    out = args.out or Path(__file__).parent / "results" / "validation_choice.csv"
    rows: list[Row] = []
    for seed in range(first, first + args.seeds):
        mine = {**flags, "runs": runs, "trial": f"seed{seed}", "seed": seed, "rounds": 1}
        config = settings.resolve(mine)
        settings.check_names(config)
        rows += train_and_score(config)
        write_rows(out, COLUMNS, rows)
    print(f"{out}\n{show(rows)}")
    return 0


if __name__ == "__main__":
    run_script(main)
