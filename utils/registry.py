"""Look names up in explicit registries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from utils.errors import UserError, closest

Entry = TypeVar("Entry")


def look_up(registry: Mapping[str, Entry], name: str, what: str) -> Entry:
    """Return ``registry[name]``.

    Raises:
        UserError: the name is unknown; the message lists the right ones and the closest match.
    """
    if name in registry:
        return registry[name]
    known = ", ".join(registry)
    raise UserError(f"unknown {what} '{name}'{closest(name, registry)} (known: {known})")
