"""Networks from checkpoints: the settings stored beside the weights say what to build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.saliency_net import SaliencyNet
from utils.checkpoints import load_checkpoint, load_weights_into
from utils.device import Machine
from utils.errors import UserError


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
    lacking = [name for name in ("backbone", "width", "size") if name not in settings]
    if lacking:
        raise UserError(f"{path}: its settings lack {', '.join(lacking)}: train it again")
    model = SaliencyNet(settings["backbone"], settings["width"])
    load_weights_into(model, state, path)
    model = model.to(machine.device, memory_format=machine.memory_format)
    return model.eval(), settings
