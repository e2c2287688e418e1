"""Shared by all tests: one thread each (tests run side by side), and a little made data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from datasets.sample import make_sample

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with 16 training and 6 test images of about 64 pixels. Do not write into it."""
    return make_sample(tmp_path_factory.mktemp("sample") / "data", train=16, test=6, size=64)
