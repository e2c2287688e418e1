"""Logs of a training: a CSV a person can read, and TensorBoard."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from utils.tables import write_rows


class TrainingLog:
    """One row an epoch in ``log.csv``, and the same numbers in TensorBoard.

    The rows travel in the checkpoint, so that a resumed training keeps a whole log. The training
    lives on without TensorBoard: when its file cannot be written, that is told once.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]]) -> None:
        self.path = folder / "log.csv"
        self.rows = rows
        self.board: _Board | None = None
        self.folder = folder / "tensorboard"
        try:
            # Epochs count from 1; those after the checkpoint are done again, and hidden.
            self.board = _Board(self.folder, purge_step=len(rows) + 1 if rows else None)
        except OSError as error:
            self._leave_board(error)

    def add(self, row: Mapping[str, float]) -> None:
        """Add an epoch's numbers.

        Raises:
            UserError: ``log.csv`` cannot be written.
        """
        self.rows.append(dict(row))
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        write_rows(self.path, columns, (_rounded(row) for row in self.rows))
        if self.board is not None:
            try:
                scalars = {name: value for name, value in row.items() if name != "epoch"}
                self.board.add(scalars, int(row["epoch"]))
            except OSError as error:
                self._leave_board(error)

    def _leave_board(self, error: OSError) -> None:
        self._close_board()
        print(
            f"warning: {self.folder}: {error.strerror}: TensorBoard shows no more of this "
            f"training; {self.path} holds it all",
            file=sys.stderr,
        )

    def _close_board(self) -> None:
        if self.board is not None:
            self.board.close()
            self.board = None

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_board()


class _Board:
    """Writer of TensorBoard's event files that writes at once.

    ``SummaryWriter`` writes in a thread of its own, which prints a traceback when the disk is full.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        # Imported here: it takes a while, and only a training writes for TensorBoard.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.events = event_pb2
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.writer = RecordWriter(open(folder / name, "wb"))  # noqa: SIM115  see close
        try:
            self._write(file_version="brain.Event:2")
            if purge_step is not None:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._write(step=purge_step, session_log=start)
        except OSError:
            self.close()
            raise

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(step=step, summary=Summary(value=values))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.writer.close()

    def _write(self, **fields: Any) -> None:
        event = self.events.Event(wall_time=time.time(), **fields)
        self.writer.write(event.SerializeToString())
        self.writer.flush()


def _rounded(row: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in row.items()}
