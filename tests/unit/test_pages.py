"""The base's weights in the kernel's large pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from pack.trainer.sdxl import pages
from pack.trainer.sdxl.pages import use_large_pages

MB = 2**20


def nobody(name: str, done: int, total: int) -> None: ...


def large_bytes(tensor: torch.Tensor) -> int:
    """Bytes in large pages of the mappings that hold the tensor."""
    first, held = tensor.data_ptr(), 0
    inside = False
    for line in Path("/proc/self/smaps").read_text("ascii", errors="replace").splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(each, 16) for each in bounds.groups())
            inside = start < first + tensor.nbytes and end > first
        elif inside and line.startswith("AnonHugePages:"):
            held += int(line.split()[1]) * 1024
    return held


def test_weights_go_to_large_pages_and_stay_as_they_are() -> None:
    if not pages._page_bytes():
        pytest.skip("no large pages here")
    weights = [torch.randn(1024, 2048, generator=torch.Generator().manual_seed(n)) for n in range(12)]
    before, places = [weight.clone() for weight in weights], [weight.data_ptr() for weight in weights]
    told: list[tuple[str, int, int]] = []
    moved = use_large_pages(weights, lambda *stage: told.append(stage))
    if not moved:
        pytest.skip("this kernel does not move memory when asked, or has no room")
    assert moved >= 64 * MB
    assert sum(map(large_bytes, weights)) >= 64 * MB
    assert [weight.data_ptr() for weight in weights] == places
    assert all(map(torch.equal, weights, before))
    assert told[-1][1] == told[-1][2] <= 96


def test_only_whole_pages_of_neighbours_are_asked_for() -> None:
    whole = torch.empty(40 * MB, dtype=torch.uint8)
    first, gap, second = whole[: 9 * MB], 4096, whole[9 * MB + 4096 : 20 * MB]
    assert first.data_ptr() + first.numel() + gap == second.data_ptr()
    asked = list(pages._pieces([whole, whole[5:]], 2 * MB))
    assert all(place % (2 * MB) == 0 and size % (2 * MB) == 0 for place, size in asked)
    assert all(size <= pages._AT_ONCE * 2 * MB for _, size in asked)
    assert asked[0][0] >= whole.data_ptr()
    assert asked[-1][0] + asked[-1][1] <= whole.data_ptr() + whole.numel()
    assert sum(size for _, size in asked) >= 36 * MB


def test_tensors_too_small_for_a_page_ask_for_nothing() -> None:
    assert list(pages._pieces([torch.zeros(10)], 2 * MB)) == []


def test_what_lies_in_the_cache_anyway_is_left_alone() -> None:
    told: list[object] = []
    assert use_large_pages([torch.zeros(5 * MB)], lambda *stage: told.append(stage)) == 0
    assert told == []


@pytest.mark.parametrize("enabled", ["always madvise [never]", None])
def test_an_administrator_who_wants_none_is_heeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, enabled: str | None
) -> None:
    monkeypatch.setattr(pages, "_SETTINGS", tmp_path)
    if enabled is not None:
        (tmp_path / "enabled").write_text(enabled)
        (tmp_path / "hpage_pmd_size").write_text("2097152")
    assert use_large_pages([torch.zeros(20 * MB)], nobody) == 0


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert use_large_pages([torch.zeros(20 * MB)], nobody) == 0


def test_memory_of_another_kind_does_not_end_it(tmp_path: Path) -> None:
    """As that of a file, of which a part lies before the weights."""
    if not pages._page_bytes():
        pytest.skip("no large pages here")
    path = tmp_path / "weights"
    path.write_bytes(bytes(6 * pages._AT_ONCE * 2 * MB))
    filed = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
    weights = sorted([filed, torch.ones(128 * MB, dtype=torch.uint8)], key=torch.Tensor.data_ptr)
    alone = use_large_pages([torch.ones(128 * MB, dtype=torch.uint8)], nobody)
    assert use_large_pages(weights, nobody) >= alone - 4 * MB


def test_a_cancel_ends_it() -> None:
    if not pages._page_bytes():
        pytest.skip("no large pages here")

    def cancel(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use_large_pages([torch.zeros(20 * MB)], cancel)
