"""What depends on the kind of a device, where no such device is at hand."""

from __future__ import annotations

import sys

import pytest
import torch
from pack.trainer import device as device_module
from pack.trainer.device import has_all_kernels, no_spill

CUDA = torch.device("cuda", 0)


def test_foreach_and_fused_kernels_are_whole_on_cuda_and_the_cpu_alone() -> None:
    assert [has_all_kernels(torch.device(kind)) for kind in ("cuda", "cpu", "mps", "xpu")] == [True, True, False, False]


# platform, kernel's release, and whether the driver goes on in system memory
SYSTEMS = [
    ("win32", "10", True),
    ("linux", "5.15.167.4-microsoft-standard-WSL2", True),
    ("linux", "6.8.0-1021-gcp", False),
    ("darwin", "24.1.0", False),
]


@pytest.mark.parametrize(("platform", "release", "spills"), SYSTEMS)
def test_a_full_gpu_is_an_error_wherever_windows_own_driver_would_go_on(
    platform: str, release: str, spills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(device_module.platform, "release", lambda: release)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 16 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 8 << 30)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: limits.append(share))
    with no_spill(CUDA):
        assert limits == ([0.75] if spills else [])
    assert limits == ([0.75, 1.0] if spills else [])
    with no_spill(torch.device("cpu")):
        assert len(limits) == 2 * spills
