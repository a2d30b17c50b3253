"""A sweep of four hundred cells: no more memory than four, files that open, and every label in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from host_graphs import sweep
from host_server import Host, StartHost
from PIL import Image

CFGS = [f"{1.5 + number / 4:.2f}" for number in range(20)]
SEEDS = [str(number) for number in range(201, 221)]


def figure_of(host: Host, cfgs: list[str], seeds: list[str]) -> Path:
    graph = sweep(
        "(lora input)", [("CFG scale", ", ".join(cfgs)), ("seed", ", ".join(seeds))], steps=1,
        mode="fast", sampler="euler",
    )  # fmt: skip
    graph["figure"]["inputs"] |= {"files": "PNG, PDF, SVG", "width_mm": 160.0, "manifest": True}
    entry = host.run(graph)
    assert f"{len(cfgs) * len(seeds)} computed" in entry["outputs"]["sweep"]["text"][0]
    return host.outputs(entry)[0]


def peak_of(host: Host) -> int:
    """The most resident memory that the host has ever held, in bytes."""
    status = Path(f"/proc/{host.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture(scope="module")
def figure(start_host: StartHost) -> tuple[Path, float]:
    """The figure of 20 × 20 cells, and the host's peak beside that of a sweep of 2 × 2."""
    with start_host() as host:
        figure_of(host, ["2.5", "3.5"], ["7", "8"])
        before = peak_of(host)
        large = figure_of(host, CFGS, SEEDS)
        return large, peak_of(host) / before


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_four_hundred_cells_take_no_more_memory_than_four(figure: tuple[Path, float]) -> None:
    assert figure[1] <= 1.10


def test_png_and_svg_open_and_the_svg_holds_every_cell_and_label(figure: tuple[Path, float]) -> None:
    png, _ = figure
    with Image.open(png) as image:
        image.load()
        assert image.width > 20 * 64 and image.height > 20 * 64
    root = ElementTree.parse(beside(png, "svg")).getroot()  # noqa: S314 - our own file
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {*CFGS, *SEEDS, "CFG scale", "Seed"} <= texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}image"))) == 400


def test_every_label_is_found_in_the_pdf(figure: tuple[Path, float]) -> None:
    program = shutil.which("pdftotext")
    if program is None and not os.environ.get("MJESEC_BROWSER_REQUIRED"):
        pytest.skip("pdftotext (poppler-utils) is not installed")
    assert program, "MJESEC_BROWSER_REQUIRED is set, but there is no pdftotext (apt-get install poppler-utils)"
    done = subprocess.run([program, beside(figure[0], "pdf"), "-"], capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert {*CFGS, *SEEDS, "CFG", "scale", "Seed"} <= set(words)


def beside(png: Path, ending: str) -> Path:
    return png.with_name(png.name.replace("_.png", f".{ending}"))
