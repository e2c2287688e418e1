"""Logs of a training: a CSV a person can read, and TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from utils.tables import write_rows


class TrainingLog:
    """One row an epoch in ``log.csv``, and the same numbers in TensorBoard.

    The rows travel in the checkpoint, so that a resumed training keeps a whole log.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]]) -> None:
        # Imported here: it takes seconds, and only a training writes for TensorBoard.
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "log.csv"
        self.rows = rows
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(rows))

    def add(self, row: Mapping[str, float]) -> None:
        """Add an epoch's numbers."""
        self.rows.append(dict(row))
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        write_rows(self.path, columns, (_rounded(row) for row in self.rows))
        for name, value in row.items():
            if name != "epoch":
                self.board.add_scalar(name, value, int(row["epoch"]))

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.board.close()


def _rounded(row: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in row.items()}
