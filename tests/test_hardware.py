"""Hardware: threads of PyTorch and the memory of freed tensors."""

import os
import subprocess
import sys

import pytest
import torch

from lfd.hardware import Hardware


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_set_num_threads_for_frames_uses_this_jobs_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "darwin":
        monkeypatch.delattr(os, "sched_getaffinity")
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for hardware, frames, threads in (
        (Hardware(jobs=4), True, 2), (Hardware(jobs=16), True, 1), (Hardware(), False, 1),
        (Hardware(threads=3), False, 3),
    ):  # fmt: skip
        hardware.set_num_threads(frames)
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
