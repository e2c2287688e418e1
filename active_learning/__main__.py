"""Ask one round of questions: ``python -m active_learning --trial T --round 3``.

Round 0 asks about random pixels, of the training images (unless ``--first_points`` says otherwise)
and of the validation images. A later round asks where the snapshots of the last round that was
trained are uncertain (or at random: ``--arm random``); one that only trains again (``--retrain``)
asks nothing, which is written down. A round that has been asked is left alone; one that was
interrupted goes on with the images that were not looked at.

Where people answer (``--oracle human``), the questions are written down, and a server puts them to
people in a browser; the round goes on when all are answered. With ``--no_wait`` it ends with status
3 while some are open. Several processes (torchrun) only write the questions: one alone asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from active_learning.answers import Journal, standing
from active_learning.asking import read_checked
from active_learning.kappa import write_agreement
from active_learning.people import Unanswered, wait_for_answers
from active_learning.query import Pool
from active_learning.rounds import answer_round, choose_round
from datasets.checked import require_checked
from models import require_weights
from utils import settings
from utils.distributed import barrier, is_main, world
from utils.locks import held
from utils.run_folder import RunFolder
from utils.stages import run_stage
from utils.stopping import EXIT_WAITING


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the round that the command line names; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument(
            "--arm", choices=("points", "random"), default="points", help="default: points"
        )
        parser.add_argument("--round", type=int, default=0, help="default: 0, the first")

    config, args = settings.parse(argv, __doc__, extend)
    settings.check_names(config)
    settings.check_round(config, args.round)
    run = RunFolder(config.run_folder)
    # All arms' answers go into one ledger, which is read at the start and written at the end.
    with (
        held(run.lock("asking"), f"{run.root}, asking,"),
        held(run.arm_lock(args.arm, args.round), f"{run.root}, arm {args.arm},"),
    ):
        if args.round == 0 and is_main():
            # The masks too, where the oracle that stands in for a person answers from them.
            masks = config.oracle == "mask"
            require_checked(run.root, config.data_root, config.trainset, masks)
        if is_main():
            settings.save(config)
        barrier()
        pool = Pool(config)
        choose_round(pool, args.arm, args.round)
        if config.oracle == "human" and not run.points(args.arm, args.round).exists():
            if world() > 1:
                # A person takes longer than processes wait for each other.
                print("the questions are chosen: run this in one process to have them answered")
                return 0
            if args.round == 0:
                # It is now that weights which cannot be had are to be told, not after an hour.
                require_weights(config.backbone, config.backbone_weights)
            if not _answered_by_people(pool, args.arm, args.round):
                return EXIT_WAITING
        answered = answer_round(pool, args.arm, args.round)
    print(f"{answered}: {'answered' if config.schedule[args.round] else 'nothing is asked'}")
    return 0


def _answered_by_people(pool: Pool, arm: str, round_index: int) -> bool:
    """Wait for people, and write the points; tell whether all is answered.

    Raises:
        UserError: what would be asked does not fit the images, so that no answer could be used.
    """
    config, run = pool.config, pool.run
    for path in _asked(run, arm, round_index):
        read_checked(path, pool.validation if path == run.validation_questions else pool.samples)
    while wait_for_answers(config, _asked(run, arm, round_index)):
        # An answer that is taken back just now is waited for anew.
        with suppress(Unanswered):
            answer_round(Pool(config), arm, round_index)
            write_agreement(run.agreement, standing(Journal(run.journal).answers()))
            return True
    return False


def _asked(run: RunFolder, arm: str, round_index: int) -> list[Path]:
    """Return the questions files of a round that are to be answered."""
    pairs = [(run.questions(arm, round_index), run.points(arm, round_index))]
    if round_index == 0:
        pairs.insert(0, (run.validation_questions, run.validation_points))
    return [asked for asked, answered in pairs if not answered.exists()]


if __name__ == "__main__":
    run_stage(main)
