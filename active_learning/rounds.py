"""One round of questions in its two steps: its pixels are chosen, then the oracle answers."""

from __future__ import annotations

from pathlib import Path

from active_learning.query import Pool
from utils.device import choose_machine, make_deterministic, memory_advice
from utils.distributed import is_main


def choose_round(pool: Pool, arm: str, round_index: int) -> None:
    """Write down the pixels of a round, unless that is done; round 0's and the validation's.

    Of several processes all take part.

    Raises:
        UserError: the rounds before are not there, or a file is damaged; names the file.
    """
    config = pool.config
    if config.deterministic:
        make_deterministic()
    if not config.schedule[round_index]:
        if is_main():
            pool.choose_nothing(arm, round_index)
    elif arm == "points" and round_index > 0:
        if not pool.run.points(arm, round_index).exists():
            machine = choose_machine(config.device, config.precision)
            what = f"asking about {config.at_a_time} images of {config.size} pixels at a time"
            with memory_advice(what, ["--device cpu"], pool.cache_mb):
                pool.choose_uncertain(round_index, machine)
    elif is_main():  # nothing is computed that others could share
        if round_index == 0:
            pool.choose_validation()
            pool.choose_first()
        else:
            pool.choose_random(round_index)


def answer_round(pool: Pool, arm: str, round_index: int) -> Path:
    """Make the points file of a round whose pixels are chosen, unless it is there; return its path.

    Round 0 makes that of the validation images too. Of several processes the first one works.

    Raises:
        UserError: as for `Pool.answer`.
    """
    if is_main():
        if round_index == 0:
            pool.answer_validation()
        pool.answer(arm, round_index)
    return pool.run.points(arm, round_index)
