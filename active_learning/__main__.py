"""Ask one round of questions: ``python -m active_learning --trial T --round 3``.

Round 0 asks about random pixels, of the training images (unless ``--first_points`` says otherwise)
and of the validation images. A later round asks where the snapshots of the round before are
uncertain (or at random: ``--arm random``). A round that has been asked is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import config as settings
from active_learning.query import ask_round
from datasets.checked import require_checked
from utils.distributed import barrier, is_main
from utils.errors import UserError
from utils.locks import held
from utils.run_folder import RunFolder
from utils.stages import run_stage


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the round that the command line names; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument(
            "--arm", choices=("points", "random"), default="points", help="default: points"
        )
        parser.add_argument("--round", type=int, default=0, help="default: 0, the first")

    config, args = settings.parse(argv, __doc__, extend)
    settings.check_names(config)
    if not 0 <= args.round < config.rounds:
        raise UserError(f"--round {args.round}: the trial's rounds are 0 to {config.rounds - 1}")
    run = RunFolder(config.run_folder)
    # All arms' answers go into one ledger, which is read at the start and written at the end.
    with (
        held(run.lock("asking"), f"{run.root}, asking,"),
        held(run.arm_lock(args.arm, args.round), f"{run.root}, arm {args.arm},"),
    ):
        if args.round == 0 and is_main():
            # The masks too: the oracle that stands in for a person answers from them.
            require_checked(run.root, config.data_root, config.trainset, masks=True)
        if is_main():
            settings.save(config)
        barrier()
        answered = ask_round(config, args.arm, args.round)
    print(f"{answered}: answered")
    return 0


if __name__ == "__main__":
    run_stage(main)
