import os
import sys

import pytest
import torch

from lfd.hardware import Hardware


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_frames_get_this_jobs_share_of_the_cores(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
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
        hardware.set_threads(frames)
        assert torch.get_num_threads() == threads
