"""Label a trial's questions in a browser: ``python -m active_learning.annotate --trial T``.

Serves until Ctrl-C, through all rounds: questions that come later are taken up, and ``gco.sh`` goes
on with a round when its questions are answered. Only this machine can reach it, unless ``--host``
says otherwise, and then a ``--token`` must be known.
"""

from __future__ import annotations

from collections.abc import Sequence

from active_learning.annotate.queue import ORDERS
from active_learning.annotate.server import HOST, PORT, serve_until
from utils import settings
from utils.cli import Parser
from utils.errors import UserError
from utils.stages import run_stage


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the trial that the command line names; see the module's text."""

    def extend(parser: Parser) -> None:
        """Add the server's own arguments."""
        parser.add_argument("--host", default=HOST, help=f"address to listen at (default: {HOST})")
        parser.add_argument(
            "--port", type=int, help=f"port (default: {PORT}, or the next one that is free)"
        )
        parser.add_argument(
            "--token",
            help="what a browser must know (default: the environment's GCO_TOKEN, which other "
            "users of this machine do not see)",
        )
        parser.add_argument(
            "--order",
            choices=ORDERS,
            default="rows",
            help="an image's questions in rows (default), or mixed with the others'",
        )
        parser.add_argument(
            "--twice", type=float, default=0.05, help="share asked of two people (default: 0.05)"
        )

    config, args = settings.parse(argv, __doc__, extend)
    if not 0 <= args.twice <= 1:
        raise UserError(f"--twice {args.twice}: must be between 0 and 1")
    if not (config.run_folder / "config.json").exists():
        raise UserError(
            f"{config.run_folder}: no such trial: begin it by ./gco.sh {config.trial} "
            "--oracle human"
        )
    serve_until(config, lambda: False, args.host, args.port, args.token, args.twice, args.order)
    return 0


if __name__ == "__main__":
    run_stage(main, together=False)
