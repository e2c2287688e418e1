"""A Slurm cluster of one node for the tests here, which are skipped where it cannot be had."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    """Return a port that is free, as is the one after it."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start the cluster; give the environment variables that lead to it."""
    for program in ("slurmctld", "slurmd", "munged"):
        if not shutil.which(program):
            pytest.skip(
                f"no {program} here: tests/slurm/install.sh installs Slurm (Debian, as root)"
            )
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons are started by root alone")
    folder = tmp_path_factory.mktemp("slurm")
    up = [str(HERE / "up.sh"), str(folder), str(free_port())]
    done = subprocess.run(up, capture_output=True, text=True)
    if done.returncode:
        subprocess.run([str(HERE / "down.sh"), str(folder)])
        pytest.fail(f"the cluster does not start: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([str(HERE / "down.sh"), str(folder)], check=True)
