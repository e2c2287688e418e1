"""Checkpoints: written whole or not at all, read without running code, config inside."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.files import atomic_path

FORMAT = 2
"""Counted up when the same weights come to mean another network."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) under ``path``, whole or not at all.

    Raises:
        UserError: the disk is full or may not be written.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"format": FORMAT, **state}, file)
        except RuntimeError as error:
            # PyTorch's archive writer tells a full disk as a RuntimeError of its own.
            raise _write_error(path, error) from error


def _write_error(path: Path, error: RuntimeError) -> UserError:
    return UserError(f"cannot write {path} ({str(error).splitlines()[0]}): is the disk full?")


def load_checkpoint(path: Path, keys: tuple[str, ...] = ("model", "config")) -> dict[str, Any]:
    """Read a checkpoint on the CPU, with ``weights_only=True``.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of this project (``keys`` lack).
    """
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a checkpoint: name a .pth file in it") from None
    except PermissionError:
        raise
    except Exception as error:
        # A damaged pickle makes the reader raise nearly anything (IndexError, AssertionError,
        # TypeError, ...), and each means the same to the user.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise UserError(
            f"{path}: damaged or not a checkpoint ({reason}): name another file; if a stage made "
            "this one, delete it and run that stage again"
        ) from None
    ours = isinstance(state, dict) and {"model", "config"} <= state.keys()
    made = state.get("format", 1) if ours else FORMAT
    if not isinstance(made, int) or made != FORMAT:
        said = made if isinstance(made, int) else "unknown"
        raise UserError(
            f"{path}: a checkpoint of another version of this project (format {said}, not "
            f"{FORMAT}), whose network was another: train again"
        )
    missing = [key for key in keys if not isinstance(state, dict) or key not in state]
    if missing:
        raise UserError(
            f"{path}: not a checkpoint of this project (it lacks {', '.join(missing)}); weights of "
            "a backbone go to --backbone_weights"
        )
    return state


def check_archive(path: str | os.PathLike[str]) -> None:
    """Check the archive that a checkpoint is: PyTorch loads one whose bits have flipped.

    Raises:
        zipfile.BadZipFile: it is no archive, a part of it does not have its checksum, or parts are
            packed, which PyTorch never does (some kilobytes could unpack to all of the memory).
        OSError: it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
        if packed or sum(part.file_size for part in parts) > os.path.getsize(path):
            raise zipfile.BadZipFile("its parts are packed")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} does not have its checksum")


def load_weights_into(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load ``state["model"]`` into ``model``.

    Raises:
        UserError: the weights are of another architecture; names the first key that differs.
    """
    check_weights(model, state, path)
    model.load_state_dict(state["model"])


def check_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Check that ``state["model"]`` holds the weights of ``model``, by their names and shapes.

    Raises:
        UserError: as for `load_weights_into`.
    """
    mine, theirs = model.state_dict(), state["model"]
    if not isinstance(theirs, dict) or not all(map(torch.is_tensor, theirs.values())):
        raise _other_architecture(path, state, "its model is no dictionary of tensors")
    for key in mine:
        if key not in theirs:
            raise _other_architecture(path, state, f"{key} is missing")
        if mine[key].shape != theirs[key].shape:
            shapes = f"{tuple(theirs[key].shape)} there, {tuple(mine[key].shape)} here"
            raise _other_architecture(path, state, f"{key} is {shapes}")
    for key in theirs:
        if key not in mine:
            raise _other_architecture(path, state, f"{key} is not part of this network")


def _other_architecture(path: Path, state: dict[str, Any], what: str) -> UserError:
    config = state.get("config")
    made = config.get("backbone", "unknown") if isinstance(config, dict) else "unknown"
    return UserError(
        f"{path}: a checkpoint of another architecture ({what}; its backbone is {made}): use the "
        "settings it was trained with"
    )


def fingerprint(path: Path) -> str:
    """Return a short hash of a file's content.

    Raises:
        UserError: the file is missing.
    """
    digest = hashlib.blake2b(digest_size=12)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    return digest.hexdigest()
