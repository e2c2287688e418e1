"""Networks from checkpoints: the settings stored beside the weights say what to build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.saliency_net import Parts, SaliencyNet
from utils.checkpoints import check_weights, load_checkpoint, load_weights_into
from utils.device import Machine
from utils.errors import UserError


def parts_of(settings: Mapping[str, Any], classes: int) -> Parts:
    """Return the network's parts that the settings of a trial switch on.

    Settings that a checkpoint from before a switch lacks leave it off.

    Args:
        settings: the fields of a trial's config, as plain values.
        classes: number of classes among the training groups.
    """

    def on(name: str) -> bool:
        return bool(settings.get(name))

    return Parts(
        fine=settings.get("decoder") == "fine",
        relation=settings.get("relation", "none"),
        contrast=on("contrast"),
        classes=classes if on("classify") else 0,
        masked_classes=on("classify_masked"),
        mask_operation=settings.get("mask_operation", "x"),
        binarise=settings.get("binarise", "none"),
        binarise_k=settings.get("binarise_k", 300.0),
        refiner=settings.get("refiner", "none"),
        levels=on("losses_others"),
    )


NEEDED = {"backbone": str, "width": int, "size": int}
"""Settings without which a checkpoint says nothing of its network, and their types."""


def _is(kind: type, settings: Any, name: str) -> bool:
    value = settings.get(name) if isinstance(settings, Mapping) else None
    return isinstance(value, kind) and not isinstance(value, bool) and value not in (0, "")


def _build(path: Path, state: Mapping[str, Any]) -> SaliencyNet:
    """Build the network of a checkpoint, once its weights are known to be of its shapes.

    Without memory at first: settings that are damaged may speak of a network of any size.
    """
    settings, classes = state["config"], state.get("classes", 0)
    try:
        parts = parts_of(settings, classes)
        with torch.device("meta"):
            shapes = SaliencyNet(settings["backbone"], settings["width"], parts)
    except UserError as error:
        raise UserError(f"{path}: its settings cannot be meant: {error}") from None
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: its settings cannot be meant ({reason}): train it again"
        ) from None
    check_weights(shapes, state, path)
    return SaliencyNet(settings["backbone"], settings["width"], parts)


def load_model(path: Path, machine: Machine) -> tuple[SaliencyNet, dict[str, Any]]:
    """Build the network of a checkpoint or snapshot and load its weights.

    Args:
        path: the file.
        machine: the network is put on its device, in its memory layout.

    Returns:
        The network in eval mode, and the settings it was trained with.

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    state = load_checkpoint(path)
    settings = state["config"]
    lacking = [name for name, kind in NEEDED.items() if not _is(kind, settings, name)]
    if lacking:
        raise UserError(f"{path}: its settings lack {', '.join(lacking)}: train it again")
    model = _build(path, state)
    load_weights_into(model, state, path)
    model = model.to(machine.device, memory_format=machine.memory_format)
    return model.eval(), settings
