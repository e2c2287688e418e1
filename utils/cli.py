"""Command lines whose faults are told in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.errors import UserError, closest


def _command() -> str | None:
    """Return how a module of a package was started; None: a script, whose name says it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec and f"python -m {spec.name.removesuffix('.__main__')}"


class Parser(argparse.ArgumentParser):
    """An argument parser whose faults are `UserError`, with the closest flag named.

    Flags must be spelled out, so that one added later never changes what an abbreviation means.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **{"prog": _command(), **options})

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`, where argparse would print its usage and leave."""
        raise UserError(f"{message} (--help lists every flag)")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse the arguments without the program's name; None: those of the process.

        A flag that cannot be done without is better checked by the caller: argparse would tell that
        ``required=True`` is missing before a misspelling of it is seen.

        Raises:
            UserError: a flag is unknown, or a value is missing or of the wrong type.
        """
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            name = unknown[0].split("=")[0]
            raise UserError(f"unknown flag {name}{closest(name, flags)} (--help lists every flag)")
        return namespace


def parse_weights(text: str) -> dict[str, float]:
    """Return the names and weights of ``bce=1+iou=0.5``; a weight left out is 1.

    Raises:
        argparse.ArgumentTypeError: a name is given twice, or a weight is no number.
    """
    weights: dict[str, float] = {}
    for part in filter(None, text.split("+")):
        name, _, number = part.partition("=")
        if name in weights:
            raise argparse.ArgumentTypeError(f"'{name}' is given twice in '{text}': keep one")
        try:
            weights[name] = float(number or 1)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"weight '{number}' of '{name}' is not a number: write it like bce=1+iou=0.5"
            ) from None
    return weights
