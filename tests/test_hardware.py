"""Hardware: threads of PyTorch and the memory of freed tensors."""

import os
import subprocess
import sys

import pytest
import torch

from lfd import hardware
from lfd.hardware import Hardware, MatmulPrecision


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_set_up_torch_for_frames_uses_this_jobs_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "darwin":
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for settings, frames, threads in (
        (Hardware(jobs=4), True, 2), (Hardware(jobs=16), True, 1), (Hardware(), False, 1),
        (Hardware(threads=3), False, 3),
    ):  # fmt: skip
        settings.set_up_torch(frames)
        assert torch.get_num_threads() == threads


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_torch_device_keeps_the_memory_of_freed_tensors() -> None:
    program = (
        "import resource, torch; from lfd.hardware import Hardware; from lfd.nets import NatureCNN\n"
        "Hardware().torch_device()\n"
        "net, frames = NatureCNN((4, 84, 84)), torch.zeros(32, 4, 84, 84, dtype=torch.uint8)\n"
        "def faults(steps):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(steps): net(frames).sum().backward()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(15)\n"
        "print(faults(10) / 10)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200  # pages; 600 and more if memory is given back


@pytest.mark.parametrize(
    ("capability", "error", "precision"),
    [("AVX512", 3e-7, "medium"), ("AVX512", 3e-3, "highest"), ("AVX2", 3e-7, "highest")],
)
def test_matmul_precision_auto_takes_medium_where_its_products_are_accurate(
    monkeypatch: pytest.MonkeyPatch, capability: str, error: float, precision: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(hardware, "_product_error", lambda left, right: error)
    hardware.medium_is_accurate.cache_clear()
    try:
        Hardware().set_up_torch(False)
        assert torch.get_float32_matmul_precision() == precision
        for other in MatmulPrecision.highest, MatmulPrecision.medium:
            Hardware(matmul_precision=other).set_up_torch(False)
            assert torch.get_float32_matmul_precision() == other.value
    finally:
        hardware.medium_is_accurate.cache_clear()
        torch.set_float32_matmul_precision("highest")


def test_product_error_tells_bfloat16_from_float32() -> None:
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    assert hardware._product_error(left, right) < hardware.MATMUL_ERROR
    assert hardware._product_error(left.bfloat16(), right.bfloat16()) > 100 * hardware.MATMUL_ERROR
