"""Ways to spoil a file."""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import torch

HOSTILE = (
    *(None, True, -1, 0, 3, 10**30, 2**63, 1e308, math.nan, math.inf, -math.inf, "", "a", "\0"),
    *("\ud800", "x" * 5000, "../../..", "nan", [], {}, [[]], {"a": {"b": []}}, [None] * 3),
)
"""Values that stand where others should."""

NUMBERS = ("nan", "inf", "-inf", "-1", "1e400", "9" * 30, "9" * 5000, "0x10", "1_0", "", "\u0663")
"""Texts that stand where a number should."""


def spoil(good: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Spoil a file's content in a random way; return what was done, and the content."""
    ways = [flip, cut, shorten, repeat, exchange, insert, change_number, encode, fill]
    way = chance.choice([*ways, spoil_json] if good[:1] in (b"{", b"[") else ways)
    if good[:2] == b"PK":
        way = chance.choice([*ways, spoil_pickle, spoil_pickle])
    if good[:4] == b"\x89PNG":
        way = chance.choice([*ways, resize_png, resize_png])
    return way.__name__, way(good, chance)


def flip(good: bytes, chance: random.Random) -> bytes:
    """Flip up to eight bits."""
    spoilt = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 8))):
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def cut(good: bytes, chance: random.Random) -> bytes:
    """Leave the end out."""
    return good[: chance.choice((0, 1, chance.randrange(len(good)), len(good) - 1))]


def shorten(good: bytes, chance: random.Random) -> bytes:
    """Leave a part out."""
    start = chance.randrange(len(good))
    return good[:start] + good[start + chance.choice((1, 2, 100)) :]


def repeat(good: bytes, chance: random.Random) -> bytes:
    """Write a part twice."""
    start, end = sorted(chance.randrange(len(good)) for _ in range(2))
    return good[:end] + good[start:end] + good[end:]


def exchange(good: bytes, chance: random.Random) -> bytes:
    """Let two parts of one length change places."""
    size = chance.choice((1, 2, 16, 100))
    one, other = (chance.randrange(max(1, len(good) - size)) for _ in range(2))
    spoilt = bytearray(good)
    spoilt[one : one + size], spoilt[other : other + size] = (
        good[other : other + size],
        good[one : one + size],
    )
    return bytes(spoilt)


def insert(good: bytes, chance: random.Random) -> bytes:
    """Insert bytes that text does not hold, or a line."""
    parts = (b"\0", b"\xff\xfe", b"\r", b"\n", b'"', b",,,,,,,,", b"\n\n", chance.randbytes(20))
    at = chance.randrange(len(good))
    return good[:at] + chance.choice(parts) + good[at:]


def change_number(good: bytes, chance: random.Random) -> bytes:
    """Let a number that is written in digits be another, or none."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", good[:100_000]))
    if not found:
        return flip(good, chance)
    number = chance.choice(found)
    return good[: number.start()] + chance.choice(NUMBERS).encode() + good[number.end() :]


def encode(good: bytes, chance: random.Random) -> bytes:
    """Write the text in another encoding, or with other ends of lines."""
    text = good.decode("latin-1")
    way = chance.choice(("utf-16", "utf-32", "utf-8-sig", "crlf", "cr"))
    if way in ("crlf", "cr"):
        return text.replace("\n", "\r\n" if way == "crlf" else "\r").encode("latin-1")
    return text.encode(way)


def fill(good: bytes, chance: random.Random) -> bytes:
    """Replace all of it, as file systems leave it after a power cut."""
    nested = b"[" * 100_000
    return chance.choice(
        (b"\0" * len(good), chance.randbytes(len(good)), nested, b"\n" * 50, b"{}")
    )


def replace_node(value: Any, chance: random.Random, hostile: Sequence[Any] = HOSTILE) -> Any:
    """Return a nested value with one of its parts, at any depth, replaced or left out."""
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        spoilt = copy.copy(value)
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if chance.random() < 0.15:
            del spoilt[key]
        else:
            spoilt[key] = replace_node(value[key], chance, hostile)
        return spoilt
    return chance.choice(hostile)


def spoil_json(good: bytes, chance: random.Random) -> bytes:
    """Replace one value of a JSON file."""
    try:
        value = json.loads(good)
    except ValueError:  # no JSON but in its beginning
        return change_number(good, chance)
    return json.dumps(replace_node(value, chance)).encode()


def spoil_pickle(good: bytes, chance: random.Random) -> bytes:
    """Replace one value of a checkpoint, or its archive by one that unpacks to far more."""
    try:
        state = torch.load(io.BytesIO(good), weights_only=True)
    except Exception:  # an archive of arrays
        return bomb()
    if chance.random() < 0.1:
        return bomb()
    hostile = [value for value in HOSTILE if not isinstance(value, str) or value != "\ud800"]
    hostile += [torch.zeros(()), torch.zeros(3, dtype=torch.int8), torch.zeros(1).expand(10**9)]
    hostile.append(torch.full((2, 2), math.nan))
    written = io.BytesIO()
    torch.save(replace_node(state, chance, hostile), written)
    return written.getvalue()


@functools.cache
def bomb(megabytes: int = 30) -> bytes:
    """Return an archive with parts that unpack to so many megabytes of zeros, each from little."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("archive/data.pkl", "archive/data/0", "name_0.npy"):
            archive.writestr(name, bytes(megabytes * 10**6))
    return written.getvalue()


def resize_png(good: bytes, chance: random.Random) -> bytes:
    """Let a PNG say that it is of another size, its checksum right."""
    sides = (0, 1, 7, 60_000, 2**31 - 1, 2**32 - 1)
    header = b"IHDR" + struct.pack(">II", chance.choice(sides), chance.choice(sides)) + good[24:29]
    return good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]
