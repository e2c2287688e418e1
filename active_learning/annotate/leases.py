"""Who holds which question, for as long as he or she gives a sign of life."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from active_learning.questions import Pixel


class Leases:
    """Which pixel is with whom, and until when."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._holder: dict[Pixel, str] = {}
        self._alive: dict[str, float] = {}
        self._lock = threading.Lock()

    def renew(self, annotator: str) -> None:
        """Note a sign of life; from any thread."""
        with self._lock:
            self._alive[annotator] = self._clock()

    def alive(self) -> set[str]:
        """Return the annotators who are at work; to any thread."""
        least = self._clock() - self._seconds
        with self._lock:
            return {name for name, seen in self._alive.items() if seen > least}

    def taken(self, annotator: str) -> set[Pixel]:
        """Return the pixels that others hold."""
        alive = self.alive()
        return {p for p, who in self._holder.items() if who != annotator and who in alive}

    def replace(self, annotator: str, pixels: Iterable[Pixel]) -> None:
        """Let these pixels, and no others, be with an annotator."""
        self._holder = {p: who for p, who in self._holder.items() if who != annotator}
        self._holder |= dict.fromkeys(pixels, annotator)
