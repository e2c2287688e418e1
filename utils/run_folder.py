"""Where a trial keeps what: one place that knows the names in ``runs/<trial>/``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

ARMS = ("points", "dense", "random")
"""points: asked by the acquisition; random: asked at random; dense: trained on masks."""

VALIDATION = "validation"
"""Name of the held-out split among the sets in ``preds/`` and ``scores.csv``."""

REGION_LABELS = "region_labels"
"""Name of the folders of label maps."""

LOCKS = (*ARMS, "asking", "maps", "annotate")
"""Locks of a trial: one arm is asked or trained by one process at a time, and arms side by side;
questions of all arms go into one ledger, maps of all checkpoints are made by one process, and one
server puts questions to people."""


@dataclass(frozen=True)
class RunFolder:
    """Paths below ``runs/<trial>/``; nothing is read or made here."""

    root: Path

    def training(self, arm: str, round_index: int, member: int = 0) -> Path:
        """Folder of one training: ``round_<rr>``, ``random/round_<rr>`` or ``dense``.

        Round 0 of the random arm is the one of the points arm: both begin with the same points.
        Further members of a deep ensemble lie below their round, in ``members/<member>``.
        """
        if arm == "dense":
            return self.root / "dense"
        top = self.root / "random" if arm == "random" and round_index > 0 else self.root
        folder = top / f"round_{round_index:02d}"
        return folder / "members" / str(member) if member else folder

    def points(self, arm: str, round_index: int) -> Path:
        """Return the answers of one round."""
        return self.training(arm, round_index) / "points.csv"

    def questions(self, arm: str, round_index: int) -> Path:
        """Return the pixels chosen for a round, where somebody may take time to answer."""
        return self.training(arm, round_index) / "questions.csv"

    def answers(self, arm: str, rounds: int) -> list[Path]:
        """Return the points files of the first ``rounds`` rounds."""
        return [self.points(arm, index) for index in range(rounds)]

    def region_labels(self, arm: str, round_index: int) -> Path:
        """Folder of the label maps that leak the mask (label mode region_mask only)."""
        return self.training(arm, round_index) / REGION_LABELS

    def trained(self, arm: str, round_index: int) -> Path:
        """Return the summary written when a training is finished, with all its members."""
        return self.training(arm, round_index) / "trained.json"

    def checkpoint(self, arm: str, round_index: int, kind: str, member: int = 0) -> Path:
        """Return a checkpoint; ``kind`` is ``last`` or, of the round's own training, ``best``."""
        return self.training(arm, round_index, member) / "checkpoints" / f"{kind}.pth"

    def snapshots(self, arm: str, round_index: int, member: int = 0) -> Path:
        """Folder of the snapshots taken along one training."""
        return self.training(arm, round_index, member) / "snapshots"

    def checkpoint_name(self, checkpoint: Path) -> str:
        """Name of a checkpoint in ``preds/`` and ``scores.csv``: ``round_04-best``.

        Raises:
            UserError: the file does not lie in this folder.
        """
        root, path = self.root.resolve(), checkpoint.resolve()
        if not path.is_relative_to(root):
            raise UserError(
                f"{checkpoint}: not a checkpoint of the trial in {self.root}: to make maps with "
                "it, give --input and --output too"
            )
        parts = path.relative_to(root).with_suffix("").parts
        return "-".join(part for part in parts if part != "checkpoints")

    def lock(self, what: str) -> Path:
        """Return the lock of a kind of work, one of `LOCKS`."""
        return self.root / f"{what}.lock"

    def arm_lock(self, arm: str, round_index: int) -> Path:
        """Return the lock of an arm's rounds; round 0 of the random arm is the points arm's."""
        return self.lock("points" if arm == "random" and round_index == 0 else arm)

    @property
    def config(self) -> Path:
        """The trial's settings."""
        return self.root / "config.json"

    @property
    def has_weights(self) -> bool:
        """Whether a training has left any."""
        return any(self.root.glob("*/checkpoints/*.pth"))

    @property
    def validation_points(self) -> Path:
        """Answers at random points of the validation images."""
        return self.root / VALIDATION / "points.csv"

    @property
    def validation_questions(self) -> Path:
        """Pixels chosen in the validation images, where somebody may take time to answer."""
        return self.root / VALIDATION / "questions.csv"

    @property
    def journal(self) -> Path:
        """What people answered, and when."""
        return self.root / "oracle" / "answers.csv"

    @property
    def agreement(self) -> Path:
        """How well annotators agree, as it was when the last round had been answered."""
        return self.root / "oracle" / "agreement.json"

    @property
    def ledger(self) -> Path:
        """Every pixel the oracle was asked about."""
        return self.root / "oracle" / "ledger.csv"

    @property
    def superpixels(self) -> Path:
        """Superpixel maps of the training images."""
        return self.root / "superpixels"

    @property
    def predictions(self) -> Path:
        """Saliency maps: ``preds/<checkpoint>/<SET>/<image>.png``."""
        return self.root / "preds"

    @property
    def scores(self) -> Path:
        """One row a checkpoint and set."""
        return self.root / "scores.csv"

    @property
    def best(self) -> Path:
        """The chosen checkpoint and its scores."""
        return self.root / "best.json"

    @property
    def report(self) -> Path:
        """The trial on one page."""
        return self.root / "report.html"

    @property
    def curve(self) -> Path:
        """Score against points."""
        return self.root / "curve.png"


def snapshot_name(epoch: int) -> str:
    """Return the file name of the snapshot after an epoch."""
    return f"epoch_{epoch:04d}.pth"


def list_snapshots(folder: Path, last_epoch: int | None = None) -> list[Path]:
    """Return the snapshots in a folder, oldest first; those after ``last_epoch`` are left out.

    A training killed between a snapshot and the end of its epoch leaves one of no whole epoch; one
    killed while it writes leaves a hidden part of a file. That is none, nor is one of another name.
    """
    named = [(path.stem.removeprefix("epoch_"), path) for path in folder.glob("epoch_*.pth")]
    found = sorted((int(epoch), path) for epoch, path in named if epoch.isdecimal())
    return [path for epoch, path in found if last_epoch is None or epoch <= last_epoch]


def map_of(image: str, set_name: str) -> Path:
    """Return where the map of an image lies below ``preds/<checkpoint>/``.

    Test maps are named as their masks. The held-out split may hold pictures of several sets whose
    names differ in the extension alone, so its maps keep it.
    """
    if set_name == VALIDATION:
        return Path(set_name) / f"{image}.png"
    return Path(set_name) / Path(image).with_suffix(".png")
