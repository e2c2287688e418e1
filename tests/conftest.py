"""Shared by all tests: one thread each (tests run side by side), and a little made data."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

from datasets import images
from datasets.sample import make_sample

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts what runs in its background so; what the tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes is the machine's matter, and no test's.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with 16 training and 6 test images of about 64 pixels. Do not write into it."""
    return make_sample(tmp_path_factory.mktemp("sample") / "data", train=16, test=6, size=64)


@pytest.fixture
def tiny(sample_root: Path, tmp_path: Path) -> list[str]:
    """Flags of a trial that takes seconds: two rounds of two points, a narrow network, 32 px.

    Without a further training at their end, but where a test gives a ``--retrain`` after these.
    """
    return [
        *("--trial", "tiny", "--runs", str(tmp_path / "runs"), "--data_root", str(sample_root)),
        *("--trainset", "SAMPLE-TR", "--testsets", "SAMPLE-TE", "--backbone", "mobilenet_v2"),
        *("--backbone_weights", "none", "--width", "8", "--size", "32", "--batch_size", "4"),
        *("--epochs", "2", "--snapshots", "2", "--rounds", "2", "--points_per_image", "4"),
        *("--retrain", "0"),
        *("--validation_fraction", "0.2", "--device", "cpu", "--average", "0.5"),
    ]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose size as a picture has been read since, whoever did so."""
    found: list[str] = []
    size_of = images.image_size

    def counted(path: str | os.PathLike[str]) -> tuple[int, int]:
        found.append(Path(path).name)
        return size_of(path)

    for module in list(sys.modules.values()):
        if vars(module).get("image_size") is size_of:
            monkeypatch.setattr(module, "image_size", counted)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: "test_pipeline" not in item.nodeid)


def pytest_sessionfinish(exitstatus: int) -> None:
    """End the loader processes of trainings that failed, whose tracebacks are kept.

    They do not heed the SIGTERM by which Python would end them, and it would wait for ever.
    """
    if exitstatus:
        for child in multiprocessing.active_children():
            child.kill()
