"""The pool: look at its images, choose their pixels, ask the oracle.

What is chosen is on disk before anybody is asked: people may take days over a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from active_learning.asking import (
    NONE,
    answer_questions,
    asked_pixels,
    put_questions,
    untold_pixels,
)
from active_learning.choosing import choose_by
from active_learning.draft import Chosen, Draft, forget, made_of
from active_learning.ensembles import ensemble_files
from active_learning.maps import AnswersOf, Maps, pool_maps
from active_learning.mistakes import Mistakes
from active_learning.oracle import MaskOracle, Oracle, leak_regions
from active_learning.people import HumanOracle
from active_learning.selection import Choice, grid_pixels, random_pixels
from active_learning.spending import CAP, spend
from config import Config
from datasets.cache import ResizedImages
from datasets.images import native_sizes
from datasets.index import Sample
from datasets.points import read_answers
from datasets.superpixels import SuperpixelCache
from datasets.training import PointLabels
from models.saliency_net import SaliencyNet
from models.stored import load_model
from utils.background import in_background
from utils.device import Machine
from utils.distributed import gather_objects, is_main, world
from utils.errors import UserError
from utils.files import atomic_path
from utils.progress import track
from utils.run_folder import RunFolder
from utils.seeding import generator_for
from utils.settings import training_images

SHEET_IMAGES = 6


@dataclass(frozen=True)
class SheetNotes:
    """What is kept of one image for the round's sheet.

    Attributes:
        index: of the image in the pool.
        known: int64 (K, 3) of x, y, label, before the round.
        maps: what the snapshots said, None where they were not asked.
        choice: what was chosen among which candidates, None where it was left to chance.
    """

    index: int
    known: np.ndarray
    maps: Maps | None = None
    choice: Choice | None = None


class Pool:
    """The training images of a trial, what is known of them, and whom to ask.

    A round is asked in two steps: its pixels are chosen and written down, then the oracle answers.
    What is written down is not chosen anew. Where somebody may be unable to tell, each image has a
    reserve of pixels, too, that take the places of those that cannot be told.
    """

    def __init__(self, config: Config, oracle: Oracle | None = None) -> None:
        self.config = config
        self.run = RunFolder(config.run_folder)
        self.samples, self.validation = training_images(config)
        self._oracle = oracle
        self.regions = SuperpixelCache(self.run.superpixels, config.superpixels)
        self.spare = config.reserve if config.may_skip else 0
        # A round reads an image once, unless what its group has in common is to be learnt first.
        self.cache_mb = config.cache_mb if config.relation != "none" else 0

    @property
    def oracle(self) -> Oracle:
        """Whom to ask; people only when they have answered."""
        if self._oracle is None:
            self._oracle = make_oracle(self.config, self.run)
        return self._oracle

    def known(self, arm: str, rounds: int) -> list[np.ndarray]:
        """Return the points of rounds 0..rounds-1, one array (K, 3) of x, y, label an image.

        Raises:
            UserError: a points file is missing, damaged, or does not fit the images.
        """
        return read_answers(self.run.answers(arm, rounds), self.samples, self.run.ledger)

    def untold(self, arm: str, rounds: int) -> list[np.ndarray]:
        """Return the pixels, (U, 2) of x and y an image, that nobody could tell in some rounds."""
        rounds = rounds if self.spare else 0
        paths = [(self.run.questions(arm, i), self.run.points(arm, i)) for i in range(rounds)]
        return untold_pixels(paths, self.samples)

    def choose_validation(self) -> None:
        """Choose random pixels of the validation images, as many an image as the budget."""
        path = self.run.validation_questions
        if not (path.exists() or self.run.validation_points.exists()):
            count = self.config.points_per_image
            chosen, reserve = self._random(self.validation, count, "validation")
            put_questions(path, 0, self.validation, chosen, reserve)

    def choose_first(self) -> None:
        """Choose round 0 of every arm: random pixels, a grid, or those a person points out."""
        how, count, key = self.config.first_points, self.config.schedule[0], "points round 0"
        if self._chosen("points", 0):
            return
        if how == "object":
            seeded = ((s, generator_for(self.config.seed, key, s.name)) for s in self.samples)
            chosen = [self.oracle.point_out(sample, rng) for sample, rng in seeded]
            reserve = chosen[:0]
        elif how == "grid":
            sizes = native_sizes(self.samples)
            chosen = [grid_pixels(width, height, count) for width, height in sizes]
            reserve = self._reserve(self.samples, chosen, key)
        else:
            chosen, reserve = self._random(self.samples, count, key)
        nothing = np.empty((0, 3), np.int64)
        self._save_sheet(0, [SheetNotes(index, nothing) for index in self._shown()])
        put_questions(self.run.questions("points", 0), 0, self.samples, chosen, reserve)

    def choose_nothing(self, arm: str, round_index: int) -> None:
        """Write down that a round asks nothing (``retrain``); as `choose_random`."""
        if not self._chosen(arm, round_index):
            self.known(arm, round_index)  # raises where a round before is not answered
            nothing = [NONE] * len(self.samples)
            path = self.run.questions(arm, round_index)
            put_questions(path, round_index, self.samples, nothing, ())

    def choose_random(self, round_index: int) -> None:
        """Choose random pixels: a later round of the random arm."""
        if self._chosen("random", round_index):
            return
        count, key = self.config.schedule[round_index], f"random round {round_index}"
        known, skipped = self.known("random", round_index), self.untold("random", round_index)
        taken = [np.concatenate([k[:, :2], u]) for k, u in zip(known, skipped, strict=True)]
        chosen, reserve = self._random(self.samples, count, key, taken)
        path = self.run.questions("random", round_index)
        put_questions(path, round_index, self.samples, chosen, reserve)

    def choose_uncertain(self, round_index: int, machine: Machine) -> None:
        """Choose the pixels that the ensemble of the last trained round is uncertain about.

        Of an image no more is kept than the pixels it may be asked, and their worth.

        Raises:
            UserError: a network of it is missing, or its training diverged; names file or folder.
        """
        config, run = self.config, self.run
        if self._chosen("points", round_index):
            if is_main():
                forget(run.training("points", round_index))
            return
        known, skipped = self.known("points", round_index), self.untold("points", round_index)
        before = config.trained_before(round_index)
        if not run.trained("points", before).exists():
            raise UserError(
                f"{run.training('points', before)}: not trained to its end: run "
                f"train.py --trial {config.trial} --round {before} first"
            )
        files = ensemble_files(run, before, config.ensemble, config.snapshots)
        about = made_of(config, files, [*known, *skipped])
        draft = Draft(run.training("points", round_index), about, [s.name for s in self.samples])
        ensemble = [load_model(path, machine)[0].requires_grad_(False) for path in files]
        key, count = f"round {round_index}", config.schedule[round_index]
        pooled = config.spend == "pool"
        wanted = count * CAP if pooled else count
        choose = partial(self._choose, known, skipped, wanted, key, files[-1].parent)
        answers: AnswersOf | None = None
        if config.ask_agree:
            labels = PointLabels(known, native_sizes(self.samples), config.size)
            answers = partial(labels.at, affine=np.eye(3))
        found, shown = self._look(ensemble, machine, key, choose, draft, answers)
        if not is_main():
            return
        sheet = [SheetNotes(index, known[index], maps, choice) for index, maps, choice in shown]
        self._save_sheet(round_index, sheet)
        chosen, reserve, worth = zip(*(found[i] for i in range(len(self.samples))), strict=True)
        given = spend(chosen, worth, count) if pooled else chosen
        # What the pool did not spend on an image comes before its reserve.
        rest = [
            np.concatenate([pixels[len(own) :], more])[: self.spare if len(own) else 0]
            for own, pixels, more in zip(given, chosen, reserve, strict=True)
        ]
        path = run.questions("points", round_index)
        put_questions(path, round_index, self.samples, given, rest)
        forget(path.parent)

    def _look(
        self,
        ensemble: Sequence[SaliencyNet],
        machine: Machine,
        key: str,
        choose: Callable[[int, Maps], Choice],
        draft: Draft,
        answers: AnswersOf | None,
    ) -> tuple[dict[int, Chosen], list[tuple[int, Maps, Choice]]]:
        """Look at the images that the draft lacks; return all choices, and what a sheet shows."""
        config, shown = self.config, self._shown()
        images = ResizedImages(self.samples, config.size, self.cache_mb, "pool")
        # Those that are shown are looked at anew: a draft keeps no maps.
        done = draft.found.keys() - set(shown)
        if done:
            print(f"{key}: going on, {len(done)} of {len(images)} images were looked at before")
        maps_of = pool_maps(images, ensemble, config, machine, key, done, answers=answers)
        work = in_background(choose, maps_of, config.batch_size)
        about = -(-(len(images) - len(done)) // world())
        bar = track(work, f"asking, {key}", about, shown=is_main())
        found, sheet = {}, []
        for (index, maps), choice in bar:
            draft.add(index, choice)
            found[index] = Chosen(choice.pixels, choice.reserve, choice.worth)
            if index in shown:
                sheet.append((index, maps.kept(), choice))
        whole = {}
        for theirs in (*gather_objects(draft.found), *gather_objects(found)):
            whole |= theirs
        sheet = [notes for theirs in gather_objects(sheet) for notes in theirs]
        return whole, sorted(sheet, key=lambda notes: notes[0])

    def _choose(
        self,
        known: list[np.ndarray],
        skipped: list[np.ndarray],
        count: int,
        key: str,
        source: Path,
        index: int,
        maps: Maps,
    ) -> Choice:
        """Choose the pixels of one image; ``source`` is the folder of the networks it told."""
        config, sample = self.config, self.samples[index]
        if not (maps.scores.isfinite().all() and maps.features.isfinite().all()):
            raise UserError(
                f"{source}: what is said of {sample.name} is not finite: the training diverged; "
                "train again with a lower --lr in a new trial"
            )
        regions = self.regions(sample)
        choose = partial(choose_by, config, maps, regions, untold=skipped[index])
        rng = generator_for(config.seed, key, sample.name)
        choice = choose(points=known[index], count=count, rng=rng)
        if not self.spare:
            return choice
        # A choice of its own, as if the pixels were answered: to want more of the first could
        # change what that begins with, where candidates are few.
        asked = np.pad(choice.pixels, ((0, 0), (0, 1)))
        rng = generator_for(config.seed, f"{key} reserve", sample.name)
        points = np.concatenate([known[index], asked])
        return replace(choice, reserve=choose(points=points, count=self.spare, rng=rng).pixels)

    def _chosen(self, arm: str, round_index: int) -> bool:
        asked, answered = self.run.questions(arm, round_index), self.run.points(arm, round_index)
        return asked.exists() or answered.exists()

    def _random(
        self,
        samples: Sequence[Sample],
        count: int,
        key: str,
        taken: Sequence[np.ndarray] | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Draw pixels of each image, none of them taken, (T, 2); return them and the reserve."""
        if taken is None:
            taken = [NONE] * len(samples)
        chosen = self._draw(samples, taken, count, key)
        both = [np.concatenate(pair) for pair in zip(taken, chosen, strict=True)]
        return chosen, self._reserve(samples, both, key)

    def _reserve(
        self, samples: Sequence[Sample], taken: Sequence[np.ndarray], key: str
    ) -> list[np.ndarray]:
        """Draw the reserve of random pixels, from numbers of its own."""
        return self._draw(samples, taken, self.spare, f"{key} reserve") if self.spare else []

    def _draw(
        self, samples: Sequence[Sample], taken: Sequence[np.ndarray], count: int, key: str
    ) -> list[np.ndarray]:
        drawn = []
        sizes = native_sizes(samples)
        for sample, (width, height), pixels in zip(samples, sizes, taken, strict=True):
            rng = generator_for(self.config.seed, key, sample.name)
            busy = [(int(x), int(y)) for x, y in pixels]
            drawn.append(random_pixels(width, height, busy, count, rng))
        return drawn

    def answer_validation(self) -> None:
        """Have the chosen pixels of the validation images answered."""
        if not self.run.validation_points.exists():
            questions = self.run.validation_questions
            answer_questions(questions, self.validation, self.oracle, self.run.validation_points)

    def answer(self, arm: str, round_index: int) -> Path:
        """Have the chosen pixels of a round answered; return the points file.

        In the mode that leaks the mask, the superpixels are labelled too.

        Raises:
            UserError: the questions are missing or damaged, or do not fit the images; people have
                not answered them all, or could tell none of them; a mask is missing.
        """
        path = self.run.points(arm, round_index)
        if not path.exists():
            questions = self.run.questions(arm, round_index)
            if self.config.label_mode == "region_mask":
                self._leak(arm, round_index, asked_pixels(questions, self.samples))
            answer_questions(questions, self.samples, self.oracle, path)
        return path

    def _leak(self, arm: str, round_index: int, chosen: list[np.ndarray]) -> None:
        folder = self.run.region_labels(arm, round_index)
        for sample, known, pixels in zip(
            self.samples, self.known(arm, round_index), chosen, strict=True
        ):
            asked = np.concatenate([known[:, :2], pixels])
            leak_regions(sample, asked, self.regions(sample), folder)

    def _shown(self) -> list[int]:
        """Return the images that stand in the sheets, the same ones in every round."""
        spaced = np.linspace(0, len(self.samples) - 1, SHEET_IMAGES)
        return np.unique(spaced.round().astype(int)).tolist()

    def _save_sheet(self, round_index: int, sheet: list[SheetNotes]) -> None:
        """Keep the numbers of a few images, from which the round's sheet is drawn."""
        arrays: dict[str, np.ndarray] = {}
        for row, notes in enumerate(sheet):
            sample = self.samples[notes.index]
            found = {
                "name": np.array(sample.name),
                "known": notes.known,
                "regions": self.regions(sample),
            }
            if notes.choice is not None:
                found["candidates"] = notes.choice.candidates
            for part in ("clean", "attacked", "scores"):
                values = getattr(notes.maps, part, None)
                if values is not None:
                    found[part] = values.float().cpu().numpy()
            arrays |= {f"{part}_{row}": array for part, array in found.items()}
        path = self.run.training("points", round_index) / "sheet.npz"
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)


def make_oracle(config: Config, run: RunFolder) -> Oracle:
    """Return the oracle that the settings name."""
    if config.oracle == "human":
        return HumanOracle(run.ledger, run.journal)
    mistakes = Mistakes(
        config.seed, config.answer_errors, config.answer_errors_border, config.answer_skips
    )
    return MaskOracle(run.ledger, mistakes)
