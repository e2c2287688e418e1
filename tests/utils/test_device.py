"""The device and the precision a config names."""

import pytest
import torch

from utils.device import choose_machine, memory_advice, worker_count
from utils.errors import UserError


def test_a_processor_computes_in_full_precision_unless_told():
    machine = choose_machine("cpu", "auto")
    assert (machine.device.type, machine.dtype) == ("cpu", torch.float32)
    assert choose_machine("cpu", "bf16").dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "gpu", "cuda:x", ""])
def test_devices_that_are_not_for_training_are_refused(device):
    with pytest.raises(UserError, match=f"^--device {device}: use auto, cpu, cuda or cuda:<n>$"):
        choose_machine(device, "auto")


def test_precisions_that_there_are_not_are_refused():
    with pytest.raises(UserError, match=r"^--precision half: use auto, fp32, bf16, fp16$"):
        choose_machine("cpu", "half")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_card_that_is_not_there_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--device {device}: 0 CUDA devices are there"):
        choose_machine(device, "auto")
    assert choose_machine("auto", "auto").device.type == "cpu"


def test_on_a_processor_no_loader_process_is_chosen():
    machine = choose_machine("cpu", "auto")
    assert worker_count(-1, machine) == 0
    assert worker_count(3, machine) == 3


def test_full_shared_memory_is_told_with_what_to_change():
    full = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device"
    with (
        pytest.raises(UserError, match=r"/dev/shm .*, decoding: give --cache_mb 5, or --size 32$"),
        memory_advice("decoding", ["--size 32"], cache_mb=10),
    ):
        raise RuntimeError(full)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    ],
)
def test_what_libraries_call_a_lack_of_memory_is_told_as_such(said):
    with (
        pytest.raises(UserError, match=r"memory on the GPU, a step: give --accumulate 2$"),
        memory_advice("a step", ["--accumulate 2"], cache_mb=10),
    ):
        raise RuntimeError(said)


def test_another_failure_of_the_libraries_is_none():
    with (
        pytest.raises(RuntimeError, match="EXECUTION"),
        memory_advice("a step", ["--accumulate 2"]),
    ):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")
