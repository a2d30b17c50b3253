"""Files of a figure: whole or not at all, with live text and every pixel."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from pack.figures.axes import Axis
from pack.figures.cells import Cell, cells
from pack.figures.draw import by_index, render
from pack.figures.export import (
    figure_manifest,
    latex_snippet,
    save_pdf,
    save_png,
    save_svg,
    write_manifest_csv,
    write_manifest_json,
)
from pack.figures.files import free_stem, replacing
from pack.figures.layout import Layout
from pack.figures.plan import plan_figure, plan_pages
from pack.figures.style import FigureStyle
from PIL import Image, ImageChops

AXES = [Axis("cfg", (1.0, 7.0)), Axis("lora_weight", (0.0, 1.0))]
FAILED = {(1, 1): "out of memory"}
STYLE = FigureStyle(title="Težina <LoRA> & $šum$ đ", caption='Isti "seed"; č ć đ š ž.', width_mm=120)
SVG = "{http://www.w3.org/2000/svg}"


def picture(cell: Cell) -> Image.Image | None:
    pixels = np.random.default_rng([1, *cell.index]).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return None if cell.index in FAILED else Image.fromarray(pixels)


def sizes_of(axes: list[Axis]) -> dict[tuple[int, ...], tuple[int, int]]:
    return {cell.index: (64, 48) for cell in cells(axes) if cell.index not in FAILED}


@pytest.fixture
def layout() -> Layout:
    return plan_figure(AXES, sizes_of(AXES), STYLE, FAILED)


IMAGES = by_index(AXES, picture)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one.convert("RGB"), other).getbbox() is None


def shown() -> list[Image.Image]:
    return [image for cell in cells(AXES) if (image := picture(cell)) is not None]


def test_a_png_keeps_pixels_resolution_and_text(tmp_path: Path, layout: Layout) -> None:
    page = render(layout, IMAGES)
    path = tmp_path / "new folder" / "figure.png"
    save_png(page, path, layout.dpi, {"workflow": '{"nodes": []}', "title": "Šum i 月"})
    with Image.open(path) as read:
        assert same(read, page)
        assert read.info["dpi"][0] == pytest.approx(layout.dpi, rel=1e-3)
        assert read.text == {"workflow": '{"nodes": []}', "title": "Šum i 月"}


@pytest.mark.parametrize("key", ["", "x" * 80, "ž"])
def test_a_png_entry_needs_a_short_plain_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="cannot name a text entry"):
        save_png(Image.new("RGB", (4, 4)), tmp_path / "a.png", metadata={key: "x"})
    assert list(tmp_path.iterdir()) == []


def test_an_svg_holds_live_text_and_every_pixel(tmp_path: Path, layout: Layout) -> None:
    save_svg(layout, IMAGES, tmp_path / "figure.svg")
    root = ElementTree.parse(tmp_path / "figure.svg").getroot()  # noqa: S314 - our own file
    assert root.get("width") == "120.000mm" and root.get("viewBox") == f"0 0 {layout.width} {layout.height}"
    assert [text.text for text in root.iter(f"{SVG}text")] == [run.text for run in layout.texts]
    assert STYLE.title in {text.text for text in root.iter(f"{SVG}text")}
    data = [image.get("href", "").partition(",")[2] for image in root.iter(f"{SVG}image")]
    embedded = [Image.open(io.BytesIO(base64.b64decode(text))) for text in data]
    assert len(embedded) == 3
    assert all(any(same(one, image) for one in embedded) for image in shown())


def streams(pdf: bytes) -> list[tuple[bytes, bytes]]:
    """Dictionary and data of each stream."""
    parts = re.finditer(rb"<<((?:(?!endobj).)*?)>>\s*stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return [(part[1], part[2]) for part in parts]


def pdf_image(about: bytes, data: bytes) -> Image.Image:
    """An image stream is what PNG calls IDAT: wrap it up and let Pillow undo the predictor."""
    width, height = (int(re.search(rb"/%s (\d+)" % side, about)[1]) for side in (b"Width", b"Height"))  # type: ignore[index]

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(png))


def test_a_pdf_holds_every_pixel_and_text_in_truetype(tmp_path: Path, layout: Layout) -> None:
    save_pdf(layout, IMAGES, tmp_path / "figure.pdf")
    pdf = (tmp_path / "figure.pdf").read_bytes()
    embedded = [pdf_image(about, data) for about, data in streams(pdf) if b"/Subtype /Image" in about]
    assert len(embedded) == 3
    assert all(any(same(one, image) for one in embedded) for image in shown())
    assert b"/FontFile2" in pdf and b"/ToUnicode" in pdf and b"/Type3" not in pdf
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", pdf)
    assert box is not None and float(box[1]) == pytest.approx(120 / 25.4 * 72, abs=0.01)


def test_a_pdf_has_a_page_for_each_layout(tmp_path: Path) -> None:
    axes = [*AXES, Axis("seed", (1, 2, 3))]
    pages = plan_pages(axes, sizes_of(axes), FigureStyle(pages=True))
    save_pdf(pages, by_index(axes, picture), tmp_path / "pages.pdf")
    assert len(re.findall(rb"/Type /Page\b(?!s)", (tmp_path / "pages.pdf").read_bytes())) == 3
    with pytest.raises(ValueError, match="at least one page"):
        save_pdf([], IMAGES, tmp_path / "none.pdf")


def test_a_pdf_tells_nothing_of_its_fonts_where_everything_is_logged(
    layout: Layout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        level = logging.getLogger("fontTools").level
        save_pdf(layout, IMAGES, tmp_path / "figure.pdf")
    assert [record.name for record in caplog.records if record.name.startswith("fontTools")] == []
    assert logging.getLogger("fontTools").level == level


@pytest.mark.parametrize("save", [save_pdf, save_svg])
def test_equal_figures_make_equal_files(tmp_path: Path, layout: Layout, save: Callable) -> None:
    for name in ("one", "two"):
        save(layout, IMAGES, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_manifest_tells_every_cell(tmp_path: Path) -> None:
    records = {(0, 0): {"seconds": 1.5, "file": "č.png"}, (1, 1): {"error": "out, of memory"}}
    manifest = figure_manifest(AXES, records, version="1", drift=float("nan"), folder=tmp_path)
    write_manifest_json(manifest, tmp_path / "figure.json")
    read = json.loads((tmp_path / "figure.json").read_text("utf-8"))
    assert read["drift"] is None and read["version"] == "1" and read["folder"] == str(tmp_path)
    assert [axis["values"] for axis in read["axes"]] == [[1.0, 7.0], [0.0, 1.0]]
    assert [cell["index"] for cell in read["cells"]] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert read["cells"][0] == {
        "index": [0, 0], "values": {"cfg": 1.0, "lora_weight": 0.0}, "seconds": 1.5, "file": "č.png",
    }  # fmt: skip

    write_manifest_csv(manifest, tmp_path / "figure.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "figure.csv").read_text("utf-8-sig"))))
    assert [row["cell"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["cfg"] == "1.0" and rows[0]["file"] == "č.png" and rows[0]["error"] == ""
    assert rows[3]["error"] == "out, of memory" and rows[3]["seconds"] == ""


def test_a_latex_snippet_escapes_what_latex_reads_as_commands() -> None:
    assert latex_snippet("fig.pdf", caption="A & B_1: 50 % of\n{x} \\ ~^", label="fig:cfg", width_mm=120) == (
        "\\begin{figure}[htbp]\n"
        "  \\centering\n"
        "  \\includegraphics[width=120mm,height=0.9\\textheight,keepaspectratio]{fig.pdf}\n"
        "  \\caption{A \\& B\\_1: 50 \\% of \\{x\\} \\textbackslash{} \\textasciitilde{}\\textasciicircum{}}\n"
        "  \\label{fig:cfg}\n"
        "\\end{figure}\n"
    )
    assert "\\textwidth" in latex_snippet("fig.pdf") and "caption" not in latex_snippet("fig.pdf")


def test_a_latex_snippet_has_a_float_for_every_page() -> None:
    size = "width=\\textwidth,height=0.9\\textheight,keepaspectratio"
    assert latex_snippet("fig.pdf", caption="Moon", label="fig:moon", pages=2) == (
        "% needs the package caption: the pages are one figure\n"
        "\\begin{figure}[htbp]\n"
        "  \\centering\n"
        f"  \\includegraphics[page=1,{size}]{{fig.pdf}}\n"
        "  \\caption{Moon}\n"
        "  \\label{fig:moon}\n"
        "\\end{figure}\n"
        "\\begin{figure}[htbp]\n"
        "  \\ContinuedFloat\n"
        "  \\centering\n"
        f"  \\includegraphics[page=2,{size}]{{fig.pdf}}\n"
        "  \\caption[]{Moon (2/2)}\n"
        "\\end{figure}\n"
    )
    assert "ContinuedFloat" not in latex_snippet("fig.pdf", pages=2), "it would count a figure that has no number"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_the_pages_of_a_figure_fit_the_pages_of_a_document(tmp_path: Path) -> None:
    axes = [Axis("cfg", (1.0, 7.0)), Axis("steps", tuple(range(1, 13))), Axis("seed", (1, 2))]
    pages = plan_pages(axes, sizes_of(axes), FigureStyle(pages=True))
    save_pdf(pages, by_index(axes, picture), tmp_path / "fig.pdf")
    snippet = latex_snippet("fig.pdf", caption="Moon", label="fig:moon", pages=2)
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\usepackage{graphicx,caption}\\begin{document}\n"
        f"{snippet}{latex_snippet('fig.pdf', caption='Sun')}See \\ref{{fig:moon}}.\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "Overfull" not in done.stdout and "too large" not in done.stdout, done.stdout
    assert "newlabel{fig:moon}{{1}" in (tmp_path / "main.aux").read_text()
    lists = (tmp_path / "main.aux").read_text().count("contentsline {figure}{\\numberline {2}")
    assert lists == 1, "both pages of the first figure count as one"


@pytest.mark.parametrize(
    ("file_name", "label", "says"), [("a.pdf", "a b", "LaTeX label"), ("50%.pdf", "", "a name without")]
)
def test_what_latex_cannot_take_is_said(file_name: str, label: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        latex_snippet(file_name, label=label)


def test_an_error_while_writing_leaves_the_earlier_file(tmp_path: Path, layout: Layout) -> None:
    def broken(index: tuple[int, ...]) -> Image.Image | None:
        raise RuntimeError("the cell's file is gone")

    for save in (save_svg, save_pdf):
        path = tmp_path / "figure"
        path.write_text("earlier")
        with pytest.raises(RuntimeError, match="is gone"):
            save(layout, broken, path)
        assert path.read_text() == "earlier"
        assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="Could not write .*figure.png"), replacing(tmp_path / "file" / "figure.png"):
        pass


def test_another_files_fault_keeps_its_own_message(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cell.png"), replacing(tmp_path / "figure.png"):
        Image.open(tmp_path / "cell.png")
    assert list(tmp_path.iterdir()) == []


def test_a_stem_that_is_in_use_is_nobody_elses(tmp_path: Path) -> None:
    with free_stem(tmp_path, "moon", 1) as first, free_stem(tmp_path, "moon", 1) as second:
        assert (first, second) == ("moon_00001", "moon_00002")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("there", "stem"),
    [("moon_00004_1_.png", "moon_00005"), ("moon_00004.pdf", "moon_00005"), ("moon_000041_.png", "moon_00004")],
)
def test_a_stem_is_not_that_of_files_that_came_since_the_number_was_looked_up(
    tmp_path: Path, there: str, stem: str
) -> None:
    (tmp_path / there).touch()
    with free_stem(tmp_path, "moon", 4) as free:
        assert free == stem
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_a_folder_in_which_no_stem_can_be_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Could not write .*file.moon_00001_.part"):
        free_stem(tmp_path / "file", "moon", 1).__enter__()
