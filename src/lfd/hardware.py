"""The machine: device, threads, precision of matrix products."""

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch

from lfd.errors import Refused


class Device(Enum):
    cpu = "cpu"
    gpu = "gpu"


@dataclass
class Hardware:
    device: Device = Device.cpu
    threads: int = 0  # of PyTorch; 0 = one for vector observations, this job's share of the cores for frames
    jobs: int = 1  # that share this machine's cores; a sweep sets it
    record: bool = True  # record gradient steps and repeat them; false runs every loss in every step

    def __post_init__(self) -> None:
        if self.threads < 0 or self.jobs < 1:
            raise Refused(f"hardware: threads is {self.threads}, jobs {self.jobs}; at least 0 and 1 are expected")

    def open(self) -> torch.device:
        """The device, which must be there."""
        _keep_memory()
        if self.device is Device.gpu and not torch.cuda.is_available():
            raise Refused("hardware=gpu: no CUDA device is visible to PyTorch; set hardware=cpu")
        return torch.device("cuda" if self.device is Device.gpu else "cpu")

    def set_threads(self, frames: bool) -> None:
        """Small networks are faster on one thread than on two, and more threads than cores stall each other."""
        # macOS binds no process to cores, and cannot tell
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        torch.set_num_threads(self.threads or (max(1, cores // self.jobs) if frames else 1))


def memory() -> int:
    """Bytes that this machine, or the container that this is in, has in all."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for told in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or it says "max"
            limits.append(int(Path(told).read_text()))
    return min(limits)


def _keep_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next ones.

    By default it gives large ones back, and a gradient step on frames spends a quarter of its time on fetching them
    again, page by page.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
        mallopt(trim_threshold, 1 << 28)
        mallopt(mmap_threshold, 1 << 25)  # the largest that it takes
