"""How many cores a process is to use: those of the machine, or what it is granted of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from utils import cores
from utils.cores import core_count
from utils.device import Machine, worker_count
from utils.local_trials import Trials

VARIABLES = ("SLURM_CPUS_PER_TASK", "GCO_CORES", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give 64 cores to a process that nothing else limits; return where the quota is looked for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("", "", ""), 64),
        (("12", "", ""), 12),
        (("12", "8", ""), 8),
        (("8", "12", "4"), 2),
        (("", "", "8"), 8),
        (("", "3", "4"), 1),  # no process is without any
        (("100", "200", "1"), 64),
        (("4(x2)", "many", "-1"), 64),
        (("0", "0", "0"), 64),
    ],
)
def test_the_least_of_what_is_granted_is_shared_by_the_processes_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, said: tuple[str, ...], expected: int
) -> None:
    for name, value in zip(VARIABLES, said, strict=True):
        monkeypatch.setenv(name, value)
    assert core_count() == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("1000 100000\n", 1),
        ("max 100000\n", 64),
        ("9900000 100000\n", 64),
        ("", 64),
        ("1", 64),
        ("\udcff", 64),
    ],
)
def test_the_quota_of_a_container_counts(plain: Path, said: str, expected: int) -> None:
    plain.write_text(said, errors="surrogateescape")
    assert core_count() == expected


def test_a_system_that_knows_no_mask_has_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for known, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda known=known: known)
        assert core_count() == expected


def test_loader_processes_are_shared_by_the_processes_of_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 16 processes on four machines, each with four."""
    monkeypatch.setattr("utils.distributed.world", lambda: 16)
    monkeypatch.setenv("GCO_CORES", "24")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(-1, Machine(torch.device("cuda"), torch.float32)) == 6


def test_a_local_trial_is_told_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []

    class Process:
        pid = 1

        def __init__(self, command: list[str], env: dict[str, str], **others: object) -> None:
            started.append(env)

    monkeypatch.setattr("utils.local_trials.subprocess.Popen", Process)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("GCO_CORES", "24")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    Trials(tmp_path, 8, [])._start(1, 0)
    assert (started[0]["GCO_CORES"], started[0]["OMP_NUM_THREADS"]) == ("3", "2")
    monkeypatch.setenv("GCO_CORES", started[0]["GCO_CORES"])
    assert core_count() == 3
