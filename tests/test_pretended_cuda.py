"""CUDA code on a machine without a GPU: nothing is left on the wrong device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

ROOT = Path(__file__).resolve().parent.parent
RUN = ("-m", "pytest", "-q", "-p", "tests.pretended_cuda", "-p", "no:cacheprovider")

NEEDED = ("_setup_privateuseone_for_python_backend", "_DummyPrivateUse1Hook")

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available()
    or not all(hasattr(backend_registration, name) for name in NEEDED)
    or not hasattr(torch._C, "_ensureCUDADeviceGuardSet"),
    reason="a GPU is there (test_cuda.py uses it), or this PyTorch knows no devices in Python",
)

MISTAKES = """
import torch

from tests.pretended_cuda import SEEN, Pretending, leave


def told(work):
    try:
        work()
    except (RuntimeError, TypeError) as error:
        return str(error)
    return "nothing"


with Pretending():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2)).to("cuda")
    here, there = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8, device="cuda")
    print(told(lambda: net(here)))
    print(told(lambda: there + here))
    print(told(lambda: there.numpy()))
    print(told(lambda: here[torch.tensor([1], device="cuda")]))
    print(told(lambda: torch.stack([there.sum(), here.sum()])))
    print(told(lambda: torch.rand(2, device="cuda", generator=torch.Generator())))
    print(told(lambda: here.index_put_((torch.tensor([0]),), there[:1])))
    net(there).square().sum().backward()
    print(net[0].weight.grad.device, (there + 1).device, there.cpu().device)
    print(there.cpu().numpy().shape, told(lambda: there[torch.tensor([1])] * 2.0))
    print(torch.equal(there.cpu() + there.cpu(), (there + there).cpu()))
    assert SEEN["aten.convolution_backward.default"] == 1
leave(0)
"""


def started(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=800
    )


def test_the_pretended_device_tells_what_a_gpu_would() -> None:
    done = started("-c", MISTAKES)
    assert done.returncode == 0, done.stderr
    mixed = "Expected all tensors to be on the same device: aten."
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{mixed}convolution.default, on the CPU: (2, 3, 8, 8)")
    assert lines[1].startswith(f"{mixed}add.Tensor")
    assert "can't convert cuda:0" in lines[2]
    assert lines[3].startswith(f"{mixed}index.Tensor")
    assert lines[4].startswith(f"{mixed}stack.default") or lines[4].startswith(
        f"{mixed}cat.default"
    )
    assert "for generator" in lines[5]
    assert lines[6].startswith(mixed)
    assert lines[7:] == ["cuda:0 cuda:0 cpu", "(2, 3, 8, 8) nothing", "True"]


def test_a_run_on_the_device_ends_with_its_own_status(tmp_path: Path) -> None:
    failing = tmp_path / "test_failing.py"
    failing.write_text("def test_failing():\n    assert 'it' == 'told'\n")
    done = started(*RUN, str(failing))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    done = started(*RUN, "no_such.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "file or directory not found" in done.stderr


def test_what_a_gpu_is_tested_by_passes_there() -> None:
    # There half precision is full precision: bf16 would only be the same test again.
    done = started(*RUN, "tests/test_cuda.py", "-k", "not bf16")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
