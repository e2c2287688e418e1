"""The environment that gco.sh makes on first use: once, whoever begins together."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

PYTHON = """#!/usr/bin/env bash
case "$*" in
    *"-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo venv >> "$NOTES" ;;
    *"pip install"*) sleep 1; echo "${FAILS:-installed}" >> "$NOTES"; [ -z "${FAILS:-}" ] ;;
esac
"""
"""Stands for Python: makes an environment that holds itself."""

SET_UP = """
set -euo pipefail
ROOT="$PWD"
source "$ROOT/utils/environment.sh"
use_environment "$ROOT/requirements.txt" running
echo "$PYTHON"
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository without an environment, and a Python that costs no download."""
    (tmp_path / "utils").mkdir()
    shutil.copy(ROOT / "utils" / "environment.sh", tmp_path / "utils")
    (tmp_path / "requirements.txt").write_text("torch\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    return tmp_path


def begin(repo: Path, **more: str) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if k != "GCO_PYTHON"}
    env |= {"PATH": f"{repo / 'bin'}:{env['PATH']}", "NOTES": str(repo / "notes"), **more}
    command = ["bash", "-c", SET_UP]
    return subprocess.Popen(command, cwd=repo, env=env, stdout=subprocess.PIPE, text=True)


def notes(repo: Path) -> list[str]:
    return (repo / "notes").read_text().split()


@pytest.mark.skipif(not shutil.which("flock"), reason="without flock nobody waits")
def test_those_that_begin_together_set_up_once(repo: Path) -> None:
    running = [begin(repo) for _ in range(3)]
    told = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert told == {str(repo / ".venv/bin/python")}
    assert notes(repo) == ["venv", "installed"]


def test_what_failed_is_set_up_again_and_what_is_there_is_not(repo: Path) -> None:
    assert begin(repo, FAILS="failed").wait() != 0
    for _ in range(2):
        assert begin(repo).wait() == 0
    assert notes(repo) == ["venv", "failed", "venv", "installed"]
    (repo / "requirements.txt").write_text("torch\nscipy\n")
    assert begin(repo).wait() == 0
    assert notes(repo)[4:] == ["venv", "installed"]


def test_a_python_of_ones_own_is_taken_as_it_is(repo: Path) -> None:
    process = begin(repo, GCO_PYTHON="/some/python")
    assert process.communicate()[0] == "/some/python\n"
    assert not (repo / ".venv").exists()
