"""Run the trials of the label-efficiency experiment, and let them share what is the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmarks.label_arms import ARMS, BASE_TRIAL, Planned, needs_base
from benchmarks.label_kept import CONVENTION, IMAGES, keep_images
from benchmarks.label_stages import Journal, Stages
from config import FREE, MAY_GROW, Config
from datasets.index import split_set_names
from utils import settings
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.locks import locked
from utils.run_folder import RunFolder


@dataclass(frozen=True)
class Trial:
    """One trial under way; its lock is held."""

    config: Config
    supervision: str
    stages: Stages
    journal: Journal
    lock: int

    @property
    def run(self) -> RunFolder:
        """Its files."""
        return RunFolder(self.config.run_folder)

    def stage(self, name: str, command: Sequence[str], product: Path | None = None) -> None:
        """Run a stage, unless what it makes is there.

        Raises:
            UserError: it failed, or those before had another number of threads.
        """
        if product is not None and product.exists():
            return
        made = self.stages.made if command[0] == "train.py" else None
        self.journal.begin_stage(self.stages.threads, made)

        def add(seconds: float) -> None:
            self.journal.seconds[name] = self.journal.seconds.get(name, 0.0) + seconds
            self.journal.write()

        of_trial = ["--trial", self.config.trial, "--runs", self.config.runs]
        log = self.run.root / "bench.log"
        self.stages.run([*command, *of_trial], log, add, [self.lock])

    def ask_and_train(self, arm: str, index: int) -> None:
        """Ask one round, and train it where it is to be."""
        which, told = ["--arm", arm, "--round", str(index)], f"round_{index:02d}"
        asked, trained = self.run.points(arm, index), self.run.trained(arm, index)
        self.stage(f"ask {told}", ["-m", "active_learning", *which], asked)
        if index in self.config.trained_rounds:
            self.stage(f"train {told}", ["train.py", *which], trained)

    @property
    def scored(self) -> bool:
        """Whether its scores on the test sets are there."""
        known = self.journal.scored_on == self.config.testsets
        return known and (self.run.root / IMAGES).exists()

    def score(self, checkpoints: Sequence[Path], last: Sequence[Path]) -> None:
        """Make and score the maps of checkpoints on the test sets; of none, nothing is left to do.

        An arm of one round that is the base trial's has no checkpoint of its own.

        Args:
            checkpoints: all of the trial.
            last: those whose scores are kept image by image.
        """
        if self.scored:
            return
        if checkpoints:
            self.stage("test", ["test.py", "--checkpoint", *map(str, checkpoints)])
            how = ["--convention", CONVENTION, "--workers", str(self.stages.threads)]
            self.stage("evaluate", ["evaluate.py", "--no_figures", *how])
        keep_images(self.run, last, split_set_names(self.config.testsets))
        self.journal.scored_on = self.config.testsets
        self.journal.write()


def begin(planned: Planned, base: Config | None) -> Config:
    """Write the settings of a trial, or check those that it has.

    Raises:
        UserError: the trial has begun with others, or they differ from the base trial's in more
            than the arm's own, for config.py has been edited since.
    """
    config = settings.resolve(planned.flags)
    settings.check_names(config)
    run = RunFolder(config.run_folder)
    if run.config.exists():
        saved = settings.from_dict(read_json(run.config), str(run.config))
        if grown := settings.differences(saved, config).keys() & MAY_GROW:
            told = ", ".join(f"--{name}" for name in sorted(grown))
            raise UserError(f"{run.root}: was begun with another {told}: name another --out")
    if base is not None:
        own = {"trial", *FREE, *ARMS[planned.arm].settings}
        others = settings.differences(base, config).keys() - own
        if others:
            begun = RunFolder(base.run_folder).config.exists()
            raise UserError(
                f"{base.run_folder if begun else run.root}: was begun with other defaults "
                f"({', '.join(sorted(others))}): name another --out"
            )
    settings.save(config)
    return config


def run_base(trial: Trial) -> None:
    """Train what the arms of a seed share: the first round, and the dense twin."""
    trial.ask_and_train("points", 0)
    trial.stage("train dense", ["train.py", "--arm", "dense"], trial.run.trained("dense", 0))
    both = [trial.run.checkpoint(arm, 0, "best") for arm in ("points", "dense")]
    trial.score(both, both)


def run_arm(trial: Trial, base: Config, shares: bool) -> None:
    """Train and score all rounds of an arm, the base trial's first one where it shares that."""
    shared = RunFolder(base.run_folder)
    if shares:
        # Superpixels follow from the pictures; so does what is sound.
        copy_tree(shared.superpixels, trial.run.superpixels)
        link(shared.root / "data_checked.json", trial.run.root / "data_checked.json")
        Journal(shared.root).check_threads(trial.stages.threads)
        take_first_round(shared, trial.run)
        trial.journal.shared = True
        trial.journal.write()
    for index in range(trial.config.round_count):
        trial.ask_and_train(trial.supervision if index else "points", index)
    mine = trial.config.trained_rounds[1 if trial.journal.shared else 0 :]
    checkpoints = [trial.run.checkpoint(trial.supervision, index, "best") for index in mine]
    trial.score(checkpoints, checkpoints[-1:])


def take_first_round(base: RunFolder, arm: RunFolder) -> None:
    """Give a trial the first round of another as its own; see `label_arms.shares_first_round`.

    Files are linked: every stage writes a file anew and puts it in the old one's place, so neither
    trial changes the other's. The round's folder comes last and at once: where it is, all is.
    """
    target = arm.training("points", 0)
    if target.exists():
        return
    for path in (base.validation_points.parent, base.ledger.parent):
        copy_tree(path, arm.root / path.name)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy_tree(base.training("points", 0), partial)
    partial.rename(target)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder by `link`; what a killed process left half written stays behind."""
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(source, target, copy_function=link, ignore=hidden, dirs_exist_ok=True)


def link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Make a hard link to a file in the place of another, or a copy where there are no links."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def clean(trial: Trial) -> None:
    """Delete what no table and no arm needs any more: maps, and weights but the best.

    The base trial keeps all of its first round, for arms that are still to come.
    """
    run = trial.run
    for folder in run.predictions.glob("*/*"):
        if folder.is_dir():
            shutil.rmtree(folder)
    rounds = range(trial.config.round_count)
    if trial.config.trial == BASE_TRIAL:
        trainings = [run.training("dense", 0)]
    else:
        trainings = [run.training(arm, index) for arm in ("points", "random") for index in rounds]
    for folder in trainings:
        (folder / "checkpoints" / "last.pth").unlink(missing_ok=True)
        for name in ("snapshots", "members", "region_labels"):
            shutil.rmtree(folder / name, ignore_errors=True)


def run_trial(planned: Planned, base: Planned, stages: Stages, keep: bool) -> None:
    """Run one trial to its scores; one that has them is left alone.

    Raises:
        UserError: a stage failed, or the settings cannot be meant.
    """
    folder = planned.folder
    with locked(folder / "bench.lock", f"it runs {folder}") as lock:
        is_base = planned.trial == BASE_TRIAL
        base_config = None if is_base else settings.resolve(base.flags)
        config = begin(planned, base_config)
        trial = Trial(config, planned.supervision, stages, Journal(folder), lock)
        if not trial.scored:
            if base_config is None:
                run_base(trial)
            else:
                run_arm(trial, base_config, needs_base(planned, base))
        if not keep:
            clean(trial)


def run_all(
    trials: Sequence[tuple[Planned, Planned]], stages: Stages, keep: bool
) -> Iterator[tuple[Planned, str]]:
    """Run trials, `Stages.jobs` at a time; yield each when it has ended, and why it failed or "".

    Args:
        trials: each with the base trial of its seed; those that arms begin with are among them,
            each before all arms of its seed.
        stages: runs their stages.
        keep: leave maps and weights where they are.
    """
    bases: dict[int, Future[str]] = {}

    def work(planned: Planned, base: Planned) -> str:
        needed = planned.trial != BASE_TRIAL and needs_base(planned, base)
        if needed and bases[planned.seed].result():
            return "the base trial of this seed failed"
        try:
            run_trial(planned, base, stages, keep)
        except (UserError, OSError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(stages.jobs) as pool:
        try:
            futures: dict[Future[str], Planned] = {}
            for planned, base in trials:
                future = pool.submit(work, planned, base)
                futures[future] = planned
                if planned.trial == BASE_TRIAL:
                    bases[planned.seed] = future
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stages.stop.set()
            pool.shutdown(cancel_futures=True)


def prepare_data(config: Config, stages: Stages, out: Path) -> None:
    """Draw the made sample data where they are meant, and check the sets once.

    Raises:
        UserError: the sets cannot be trained or tested on.
    """
    log = out / "data.log"
    if config.sample:
        stages.run(["-m", "datasets.sample", "--out", config.data_root], log)
    sets = {"trainset": config.trainset, "testsets": config.testsets}
    stamp, done = out / "data_checked.json", {"data_root": config.data_root, **sets}
    if not stamp.exists() or read_json(stamp) != done:
        flags = [text for name, value in done.items() for text in (f"--{name}", value)]
        stages.run(["-m", "datasets.check", *flags], log)
        write_json(stamp, done)
