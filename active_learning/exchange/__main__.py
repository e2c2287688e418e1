"""Questions and answers of a trial, out to other tools and in again.

    python -m active_learning.exchange --trial T --export labelstudio --to tasks.json
    python -m active_learning.exchange --trial T --import labelstudio --from exported.json

Formats: labelstudio (JSON; beside it the labelling interface), cvat (XML 1.1), points (CSV) and, in
only, masks (a folder of ``<name>.png``). Out go all questions and all answers, in numbered parts
where one file would be too large to come back. In come answers to questions that are open, of one
file or several; what stands, stands, and what differs from it is told.
"""

from __future__ import annotations

import glob
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from active_learning.answers import (
    BACKGROUND,
    FOREGROUND,
    Journal,
    Standing,
    check_annotator,
    label_of,
    progress,
    standing,
)
from active_learning.exchange import cvat, label_studio, points_csv
from active_learning.exchange.tasks import Found, Pictures, Taken, Task, Whose, make_tasks, take_in
from active_learning.questions import Question, question_files, read_questions
from datasets.index import Sample, list_sets
from datasets.mask_folder import answers_of_masks
from utils import settings
from utils.errors import UserError, run_script
from utils.locks import held
from utils.registry import look_up
from utils.run_folder import RunFolder

WRITERS: dict[str, Callable[[Path, Sequence[Task]], list[Path]]] = {
    "labelstudio": label_studio.write,
    "cvat": cvat.write,
    "points": points_csv.write,
}
READERS: dict[str, Callable[[Path, Pictures, Whose], list[Found]]] = {
    "labelstudio": label_studio.read,
    "cvat": cvat.read,
    "points": points_csv.read,
}
MASKS = "masks"
SHOWN = 5

Files = list[list[Question]]


def read_masks(
    folder: Path, files: Files, stands: Standing, samples: Sequence[Sample], annotator: str
) -> list[Found]:
    """Return what masks say of all pixels that are open."""
    asked: dict[str, list[tuple[int, int]]] = {}
    for questions in files:
        for image, of_image in progress(questions, stands).items():
            asked.setdefault(image, []).extend((q.x, q.y) for q in of_image.open)
    unique = {image: dict.fromkeys(pixels) for image, pixels in asked.items() if pixels}
    return [
        Found(*pixel, FOREGROUND if on_object else BACKGROUND, annotator, 0.0, "")
        for pixel, on_object in answers_of_masks(folder, unique, samples)
    ]


def bring_in(args: Namespace, run: RunFolder, files: Files, samples: Sequence[Sample]) -> None:
    """Put the answers of files into the journal, and say what fitted."""
    with held(run.lock("annotate"), f"{run.root}, answering,"):
        journal = Journal(run.journal)
        stands = standing(journal.answers())
        whose = Whose(args.annotator or args.take, always=args.annotator is not None)
        if args.take == MASKS:
            found = read_masks(args.source[0], files, stands, samples, whose.name)
        else:
            read, pictures = look_up(READERS, args.take, "format"), Pictures(samples)
            found = [one for path in args.source for one in read(path, pictures, whose)]
        questions = {q.pixel: q for of_file in reversed(files) for q in of_file}
        taken = take_in(found, questions, stands)
        journal.extend(taken.new)
        stands = standing(journal.answers())
    tell(taken, stands)
    each = [one for of_file in files for one in progress(of_file, stands).values()]
    still = {question.pixel for one in each for question in one.open}
    print(f"open questions: {len(still)}")


def tell(taken: Taken, stands: Standing) -> None:
    """Print what became of the answers of files."""
    print(f"answers taken: {len(taken.new)}")
    print(f"said again, as it stands: {taken.known}")
    print(f"not asked about: {taken.not_asked}")
    print(f"contradicting what stands, left out: {len(taken.contradicting)}")
    for one in taken.contradicting[:SHOWN]:
        stood = label_of(stands[one.image, one.x, one.y])
        print(f"  {one.image} ({one.x}, {one.y}): {one.answer} by {one.annotator}, stands {stood}")
    if (more := len(taken.contradicting) - SHOWN) > 0:
        print(f"  and {more} more")


def check(args: Namespace) -> None:
    """Raise `UserError` unless the command line says one thing to do."""
    if bool(args.export) == bool(args.take):
        raise UserError("give either --export FORMAT --to FILE or --import FORMAT --from FILE")
    if args.export:
        look_up(WRITERS, args.export, "format to export")
        if args.to is None or args.source or args.annotator:
            raise UserError("--export needs --to FILE, and neither --from nor --annotator")
    else:
        look_up({**READERS, MASKS: None}, args.take, "format to import")
        if args.source is None or args.to:
            raise UserError("--import needs --from FILE, or the folder of the masks, and no --to")
        if args.take == MASKS and len(args.source) > 1:
            raise UserError("--import masks takes one folder: import from one after the other")
        if args.annotator is not None:
            check_annotator(args.annotator)


def add_arguments(parser: Any) -> None:
    """Add what only the exchange knows to its command line."""
    parser.formatter_class = RawDescriptionHelpFormatter
    flag = parser.add_argument
    flag("--export", metavar="FORMAT", help=f"one of {', '.join(WRITERS)}")
    flag("--to", type=Path, metavar="FILE", help="the file to write")
    told = f"one of {', '.join(READERS)}, {MASKS}"
    flag("--import", dest="take", metavar="FORMAT", help=told)
    told_from = "files, or the folder of the masks"
    flag("--from", dest="source", type=Path, nargs="+", metavar="PATH", help=told_from)
    flag("--annotator", metavar="NAME", help="whose the answers are, whatever the file says")


def _of_earlier(path: Path, written: Sequence[Path]) -> list[str]:
    """Name the files of an export to the same path that this one has not written anew."""
    parts = path.parent.glob(f"{glob.escape(path.stem)}_*{glob.escape(path.suffix)}")
    numbered = [p for p in parts if p.stem.removeprefix(f"{path.stem}_").isdecimal()]
    return [p.name for p in sorted([path, *numbered]) if p.exists() and p not in written]


def main(argv: Sequence[str] | None = None) -> int:
    """Export or import what the command line says; see the module's text."""
    config, args = settings.parse(argv, __doc__, add_arguments)
    check(args)
    run = RunFolder(config.run_folder)
    if args.take and config.oracle != "human":
        raise UserError(
            f"{run.root}: masks answer here (--oracle {config.oracle}), an import would change "
            "nothing: import into a trial with --oracle human"
        )
    files = [read_questions(path) for path in question_files(run)]
    if not files:
        raise UserError(f"{run.root}: nothing has been asked yet: run gco.sh --oracle human first")
    samples = list_sets(config.data_root, config.trainset)
    if args.export:
        stands = standing(Journal(run.journal).answers())
        tasks = make_tasks(files, stands, Pictures(samples))
        written = WRITERS[args.export](args.to, tasks)
        asked = [one for task in tasks for one in task.asked]
        still = sum(not one.answers for one in asked)
        print(f"{written[0]}: {len(tasks)} images, {len(asked)} pixels, {still} of them open")
        if len(written) > 1:
            print(
                f"in {len(written)} parts, {written[0].name} to {written[-1].name}: make each a "
                "project of its own, and give --from what comes back of all"
            )
        if older := _of_earlier(args.to, written):
            print(f"of an earlier export, and not of this one: {', '.join(older)}")
    else:
        bring_in(args, run, files, samples)
    return 0


if __name__ == "__main__":
    run_script(main)
