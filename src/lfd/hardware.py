"""The configuration group `hardware`: device, threads and recorded gradient steps."""

import ctypes
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

import torch

from lfd.errors import UserError


class Device(Enum):
    """Where networks are computed; `gpu` is a CUDA device."""

    cpu = "cpu"
    gpu = "gpu"


class MatmulPrecision(Enum):
    """Kernels of float32 products on the CPU: PyTorch's default (highest), or oneDNN's (medium).

    auto is medium on processors with AVX-512 where its products are as accurate as float32.
    """

    auto = "auto"
    highest = "highest"
    medium = "medium"


MATMUL_ERROR = 2e-6  # largest relative error of products, in the Frobenius norm, that auto accepts


@dataclass
class Hardware:
    """Device, threads and the recording of gradient steps of a run."""

    device: Device = Device.cpu
    threads: int = 0  # threads of PyTorch; 0 = one for vector observations, this job's share of the cores for frames
    jobs: int = 1  # number of jobs that share this machine's cores; a sweep sets it
    matmul_precision: MatmulPrecision = MatmulPrecision.auto  # kernels of float32 products on the CPU
    record: bool = True  # record a gradient step once and replay it; false runs every loss in every step

    def __post_init__(self) -> None:
        for name, low in (("threads", 0), ("jobs", 1)):
            if getattr(self, name) < low:
                raise UserError(f"hardware.{name}: expected {low} or more, got {getattr(self, name)}")

    def torch_device(self) -> torch.device:
        """The device. Raises UserError if it is a GPU and PyTorch finds none."""
        _keep_freed_memory()
        if self.device is Device.gpu and not torch.cuda.is_available():
            raise UserError("hardware=gpu: expected a CUDA device, but PyTorch finds none; set hardware=cpu")
        return torch.device("cuda" if self.device is Device.gpu else "cpu")

    def set_up_torch(self, frames: bool) -> None:
        """Sets PyTorch's threads and its kernels of float32 products.

        `frames` is True if observations are images, whose networks gain from threads.
        """
        torch.set_num_threads(self.threads or (self.num_cores() if frames else 1))
        precision = self.matmul_precision
        if precision is MatmulPrecision.auto:
            precision = MatmulPrecision.medium if medium_is_accurate() else MatmulPrecision.highest
        torch.set_float32_matmul_precision(precision.value)

    def num_cores(self) -> int:
        """This job's share of the cores, at least 1."""
        # macOS binds no process to cores and has no sched_getaffinity
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        return max(1, cores // self.jobs)


@cache
def medium_is_accurate() -> bool:
    """True if this processor has AVX-512 and its products of precision "medium" have the accuracy of float32.

    With AMX they are computed in bfloat16, with a relative error of about 3e-3.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    before, generator = torch.get_float32_matmul_precision(), torch.Generator().manual_seed(0)
    torch.set_float32_matmul_precision("medium")
    try:
        return all(
            _product_error(torch.randn(256, inner, generator=generator), torch.randn(inner, 256, generator=generator))
            <= MATMUL_ERROR
            for inner in (16, 64, 256, 1024)
        )
    finally:
        torch.set_float32_matmul_precision(before)


def _product_error(left: torch.Tensor, right: torch.Tensor) -> float:
    """The relative error of the product of matrices [N, K] and [K, M], in the Frobenius norm."""
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())


def total_memory() -> int:
    """Total memory of this machine, or of the container that this process runs in, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit_file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such file, or it says "max"
            limits.append(int(Path(limit_file).read_text()))
    return min(limits)


def check_memory(what: str, needed: int) -> None:
    """Raises UserError if `what` needs more bytes of memory than this machine has."""
    if needed > (available := total_memory()):
        raise UserError(f"{what}: {needed:,} bytes of memory are needed, this machine has {available:,}; choose less")


def check_disk(what: str, needed: int, folder: Path) -> None:
    """Raises UserError if `what` needs more bytes than are free where `folder` is, or will be made."""
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if needed > free:
        raise UserError(f"{what}: {needed:,} bytes on disk are needed, {free:,} are free; choose less")


def _keep_freed_memory() -> None:
    """Makes glibc keep the memory of freed tensors for later ones.

    By default glibc returns large blocks to the system, and a gradient step on frames spends a quarter of its time on
    fetching them again, page by page.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has no mallopt
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
        mallopt(trim_threshold, 1 << 28)
        mallopt(mmap_threshold, 1 << 25)  # the largest value that mallopt accepts
