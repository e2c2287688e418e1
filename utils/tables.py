"""CSV files a person can read, and tables for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import write_text


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV with a header line, whole or not at all; values absent from a row stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as lines of a CSV without its header."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV with a header line; every value is text.

    Raises:
        UserError: the file is missing, is not UTF-8, lacks one of ``columns``, or has a line with
            too few or too many values, an empty one included (named by its number).
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise UserError(
                    f"{path}: the first line lacks {', '.join(missing)}: it must name the columns "
                    f"{','.join(columns)}"
                )
            rows = []
            for values in reader:
                if len(values) != len(header):
                    raise UserError(
                        f"{path}, line {reader.line_num}: {len(header)} values are needed: mend "
                        "the line or delete the file"
                    )
                rows.append(dict(zip(header, values, strict=True)))
            return rows
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: run the stage that makes it first") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}): save it as UTF-8 or delete it") from None
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: not readable as CSV ({error}): mend or delete it"
        ) from None


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table for the terminal: the first column flush left, the others flush right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)
