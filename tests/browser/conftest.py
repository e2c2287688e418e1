"""A browser for the tests here, which are skipped where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
FLAGS += " disable-component-update disable-sync"
ACTION = 20_000  # milliseconds after which something that ought to come does not


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium without a window."""
    driver = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install -r tests/requirements.txt"
    )
    named = [os.environ.get("GCO_CHROMIUM", "chromium"), *NAMES]
    program = next(filter(None, map(shutil.which, named)), None)
    if program is None:
        pytest.skip("no Chromium here: tests/browser/install.sh installs it (Debian, as root)")
    with driver.sync_playwright() as playwright:
        flags = [f"--{flag}" for flag in FLAGS.split()]
        started = playwright.chromium.launch(executable_path=program, args=flags)
        yield started
        started.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a page as someone of his own; it must raise no error."""
    pages: list[Page] = []
    faults: list[str] = []

    def open_page(**options: object) -> Page:
        options = {"viewport": {"width": 1100, "height": 700}, **options}
        page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
        page.set_default_timeout(ACTION)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: faults.append(said.text) if "Security Policy" in said.text else None,
        )
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert faults == []
