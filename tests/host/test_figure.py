"""The Figure node: files for print, pages, what the host serves of them, and what it says where it cannot."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_graphs import node, sweep
from host_server import Host, run_program
from PIL import Image

import dev

NO_LORA = "(lora input)"


def graph(axes: list[tuple[str, str]], sweep_values: dict[str, Any] | None = None, **figure: Any) -> dict[str, Any]:
    found = sweep(NO_LORA, axes, **{"steps": 1, **(sweep_values or {})})
    found["figure"]["inputs"] |= figure
    return found


def words_of(pdf: Path) -> str:
    if program := shutil.which("pdftotext"):
        return subprocess.run([program, "-layout", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    pypdf = pytest.importorskip("pypdf")
    return "\n".join(page.extract_text() for page in pypdf.PdfReader(pdf).pages)


def test_a_figure_for_print_has_live_text_and_tells_every_cell(host: Host) -> None:
    entry = host.run(
        graph(
            [("CFG scale", "2, 4"), ("seed", "11, 12")],
            title="Mjesečeva površina",
            caption="Čađ, đak, šuma & žar: 100 %",
            files="PNG, PDF, SVG",
            manifest=True,
            width_mm=120.0,
            font_size_pt=9.0,
        )
    )
    (png,) = host.outputs(entry)
    with Image.open(png) as image:
        assert image.width / image.info["dpi"][0] * 25.4 == pytest.approx(120, abs=0.5)
    stem = png.name.removesuffix("_.png")
    svg = png.with_name(f"{stem}.svg").read_text(encoding="utf-8")
    labels = ("Mjesečeva površina", "Čađ, đak, šuma", "CFG scale", "Seed", "11", "12", "2", "4")
    for label in labels:
        assert label in svg, label
    latex = png.with_name(f"{stem}.tex").read_text(encoding="utf-8")
    assert (
        rf"\includegraphics[width=120mm,height=0.9\textheight,keepaspectratio]{{{stem}.pdf}}" in latex
        and r"žar: 100 \%" in latex
    )
    told = json.loads(png.with_name(f"{stem}.json").read_text(encoding="utf-8"))
    assert [cell["values"] for cell in told["cells"]] == [
        {"cfg": cfg, "seed": seed} for cfg in (2.0, 4.0) for seed in (11, 12)
    ]
    assert {"mjesec", "comfyui", "torch"} <= told["environment"].keys()
    rows = list(csv.DictReader(png.with_name(f"{stem}.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [row["seed"] for row in rows] == ["11", "12", "11", "12"]
    words = words_of(png.with_name(f"{stem}.pdf"))
    assert all(label in words for label in labels if not label.startswith("Čađ"))
    assert "Čađ" not in words, "the document sets the caption, so that it is not there twice"


def test_further_axes_become_pages(host: Host) -> None:
    axes = [("CFG scale", "2, 4"), ("seed", "11, 12"), ("sampling steps", "1, 2")]
    entry = host.run(graph(axes, files="PNG, PDF", pages=True))
    paths = host.outputs(entry)
    assert len(paths) == 2 and paths[0].read_bytes() != paths[1].read_bytes()
    pdf = paths[0].with_name(paths[0].name.replace("_1_.png", ".pdf"))
    assert "Sampling steps: 1" in words_of(pdf) and "Sampling steps: 2" in words_of(pdf)
    latex = pdf.with_suffix(".tex").read_text(encoding="utf-8")
    size = r"width=\textwidth,height=0.9\textheight,keepaspectratio"
    assert all(rf"\includegraphics[page={page},{size}]{{{pdf.name}}}" in latex for page in (1, 2))


def test_axes_go_where_they_are_placed(host: Host) -> None:
    axes = [("CFG scale", "2, 4"), ("seed", "11, 12"), ("sampling steps", "1, 2")]
    plain, nested = (
        Image.open(host.outputs(host.run(graph(axes, margin=0, gap=0, placement=placement)))[0])
        for placement in ("", "rows: Seed, CFG scale, Sampling steps")
    )
    assert nested.height > 8 * 64 > plain.height and nested.width < plain.width
    paths = host.outputs(host.run(graph(axes, placement="pages: CFG scale")))
    assert len(paths) == 2
    measured = graph(axes, placement="pages: CFG scale; columns: Sampling steps")
    measured["measure"] = node("MjesecMeasureCells", grid=["sweep", 0], measure="contrast", reference=1)
    measured["figure"]["inputs"]["grid"] = ["measure", 0]
    assert len(host.outputs(host.run(measured))) == 2


@pytest.mark.parametrize(
    ("figure", "says"),
    [
        ({"placement": "left: Seed"}, 'The placement "left: Seed" cannot be read'),
        ({"cell_width": 7}, "The figure's cell_width is 7; it must be from 8"),
        ({"font_size_pt": 0.5}, "The figure's font_size_pt is 0.5; it must be from 1"),
        ({"width_mm": 0.5}, "The figure's width_mm is 0.5; it must be from 10"),
        ({"files": "BMP"}, 'The files of a figure are "PNG" or .*, not "BMP"'),
        ({"filename_prefix": "../figure"}, "leads out of the output folder"),
        *(
            ({"filename_prefix": f"unwritten/{name}", "files": "PNG, PDF"}, "LaTeX cannot include a file called")
            for name in ("moon 50%", "moon #1", "a{b}", "a\\b", "%date:yyyy%")
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_sampled(
    host: Host, figure: dict[str, Any], says: str
) -> None:
    with pytest.raises(dev.PromptFailure, match=says) as caught:
        host.run(graph([("CFG scale", "2, 4")], {"seed": 11}, **figure))
    assert not caught.value.entry and not (host.output / "unwritten").exists()


def test_a_placement_of_an_axis_that_there_is_not_is_told_of(host: Host) -> None:
    with pytest.raises(dev.PromptFailure, match='The sweep has no axis "Saed"'):
        host.run(graph([("CFG scale", "2, 4")], {"seed": 11}, placement="rows: Saed"))


def test_a_name_that_comes_by_a_wire_leaves_no_file_if_latex_cannot_read_it(host: Host) -> None:
    found = graph([("CFG scale", "2, 4")], {"seed": 11}, files="PNG, PDF", filename_prefix=["name", 0])
    found["name"] = node("PrimitiveString", value="wired/moon 50%")
    with pytest.raises(dev.PromptFailure, match="LaTeX cannot include"):
        host.run(found)
    assert not list((host.output / "wired").glob("*"))


def test_names_that_the_host_fills_in_and_signs_of_a_png_alone_are_taken(host: Host) -> None:
    for prefix, files in (("filled/%year%-%width%", "PNG, PDF"), ("filled/moon 50% #1", "PNG")):
        (path,) = host.outputs(
            host.run(graph([("CFG scale", "2, 4")], {"seed": 11}, filename_prefix=prefix, files=files))
        )
        assert path.parent == host.output / "filled" and "%year" not in path.name


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What figure_program.py saw."""
    return run_program("figure_program.py", tmp_path_factory.mktemp("base"), timeout=300)


def test_a_picture_is_decoded_once_for_each_file_that_shows_it(written: dict[str, Any]) -> None:
    assert written["read"] == [3, 3, 3, 3]


@pytest.mark.parametrize(("name", "says"), [("gone", "is gone"), ("no picture", "damaged"), ("cut off", "damaged")])
def test_a_picture_that_cannot_be_read_is_told_of_and_leaves_no_file(
    written: dict[str, Any], name: str, says: str
) -> None:
    told, files = written["broken"][name]
    assert says in told and "queue the sweep again" in told and files == 0


def test_figures_and_charts_that_are_written_at_once_have_names_of_their_own(written: dict[str, Any]) -> None:
    stems = ["figure_00002", "figure_00003"]
    assert written["at once"] == [f"{stem}{end}" for stem in stems for end in (".pdf", ".svg", ".tex", "_.png")]
    assert sorted(written["charts"]) == ["print/loss_00001.svg", "print/loss_00002.svg"]


def test_latex_that_has_no_room_is_told_of_and_not_left_empty(written: dict[str, Any]) -> None:
    told, left = written["no room"]
    assert told.startswith('Could not write "') and told.endswith("check the folder and its free space.")
    assert ".tex" in told and left == []


def test_margin_gap_and_their_defaults(host: Host) -> None:
    sizes = []
    for margin, gap in ((-1, -1), (0, 0), (100, 0)):
        (path,) = host.outputs(host.run(graph([("CFG scale", "2, 4")], {"seed": 11}, margin=margin, gap=gap)))
        sizes.append(Image.open(path).size)
    assert sizes[1] < sizes[0] and sizes[2][0] == sizes[1][0] + 200
    assert sizes[1][0] == 2 * 64


def test_a_glyph_that_the_font_lacks_is_told_of(host: Host) -> None:
    entry = host.run(graph([("CFG scale", "2, 4")], {"seed": 11}, caption="月 over the sea"))
    assert "has no glyph for 月" in entry["outputs"]["figure"]["text"][0]


def test_a_folder_that_cannot_be_written_is_named(host: Host) -> None:
    (host.output / "blocked").write_text("a file")
    with pytest.raises(dev.PromptFailure, match="blocked"):
        host.run(graph([("CFG scale", "2, 4")], {"seed": 11}, filename_prefix="blocked/figure"))


def strip_graph(**values: Any) -> dict[str, Any]:
    found = {key: value for key, value in graph([]).items() if key in ("ckpt", "figure")}
    found |= {
        "yes": node("CLIPTextEncode", clip=["ckpt", 1], text="moon"),
        "no": node("CLIPTextEncode", clip=["ckpt", 1], text=""),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    }
    run: dict[str, Any] = {"seed": 5, "steps": 3, "cfg": 4.0, "scheduler": "normal", "denoise": 1.0}
    wires: dict[str, Any] = {"model": ["ckpt", 0], "positive": ["yes", 0], "negative": ["no", 0]}
    own = {"sampler": "euler_ancestral", "at_steps": "0, 2, 3", "show": "both", **values}
    found["strip"] = node("MjesecDenoisingStrip", vae=["ckpt", 2], latent_image=["empty", 0], **wires, **run, **own)
    found["figure"]["inputs"] |= {"grid": ["strip", 0], "margin": 0, "gap": 0}
    found["plain"] = node(
        "KSampler", latent_image=["empty", 0], sampler_name=own["sampler"], **wires, **{**run, "cfg": 4.0}
    )
    for name, latent in (("ours", ["strip", 1]), ("hosts", ["plain", 0])):
        found[f"{name}_decoded"] = node("VAEDecode", samples=latent, vae=["ckpt", 2])
        found[name] = node("SaveImage", images=[f"{name}_decoded", 0], filename_prefix=name)
    return found


def test_a_strip_ends_in_ksamplers_image_and_begins_in_noise(host: Host) -> None:
    entry = host.run(strip_graph())
    ours, hosts = (
        np.asarray(Image.open(host.outputs({"outputs": {name: entry["outputs"][name]}})[0]))
        for name in ("ours", "hosts")
    )
    assert np.array_equal(ours, hosts)
    (path,) = host.outputs({"outputs": {"figure": entry["outputs"]["figure"]}})
    figure = np.asarray(Image.open(path).convert("RGB"))
    # the three columns of both rows stand at the right edge, without margin
    strip = figure[:, -3 * 64 :]
    starts = [y for y in range(len(strip) - 63) if np.array_equal(strip[y : y + 64, 128:], ours)]
    assert len(starts) == 2, "both rows end in the finished image"
    noisy, predicted = (strip[y : y + 64] for y in starts)
    distance = [np.abs(noisy[:, x : x + 64].astype(int) - ours).mean() for x in (0, 64, 128)]
    assert distance[0] > distance[1] > distance[2] == 0
    assert np.abs(predicted[:, 64:128].astype(int) - ours).mean() < distance[1]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"at_steps": "0, 9"}, "after step 9, but the run has 3 steps"),
        ({"at_steps": "soon"}, '"soon" is neither a number nor a range'),
        ({"sampler": "dpm_fast"}, "dpm_fast does not show its steps"),
    ],
)
def test_a_strip_says_what_it_cannot_show(host: Host, values: dict[str, Any], says: str) -> None:
    with pytest.raises(dev.PromptFailure, match=says):
        host.run(strip_graph(**values))


def test_images_of_any_origin_stand_side_by_side(host: Host) -> None:
    found = {"figure": graph([])["figure"]}
    found["scene"] = node("MjesecNightScene", width=128, height=64, seed=1, x=50.0, y=30.0, diameter=30.0)
    found["mask"] = node("MaskToImage", mask=["scene", 1])
    found["one"] = node("MjesecAddToGrid", image=["scene", 0], name="scene")
    found["two"] = node("MjesecAddToGrid", image=["mask", 0], name="mask", grid=["one", 0])
    found["figure"]["inputs"] |= {"grid": ["two", 0], "margin": 0, "gap": 0}
    (path,) = host.outputs({"outputs": {"figure": host.run(found)["outputs"]["figure"]}})
    named = Image.open(path)
    assert named.width == 2 * 128 and named.height > 64
    found["one"]["inputs"]["name"] = found["two"]["inputs"]["name"] = ""
    (path,) = host.outputs({"outputs": {"figure": host.run(found)["outputs"]["figure"]}})
    assert Image.open(path).size == (2 * 128, 64), "what has no name has no header"
    found["two"]["inputs"]["grid"] = ["swept", 0]
    found |= {"swept" if key == "sweep" else key: value for key, value in graph([("CFG scale", "2")]).items()
              if key in ("ckpt", "sweep", "axis0")}  # fmt: skip
    with pytest.raises(dev.PromptFailure, match="The grid comes from a sweep"):
        host.run(found)


@pytest.mark.parametrize("view", [None, "MjesecCropCells", "MjesecSelectCells"])
def test_what_is_transparent_shows_the_page(host: Host, view: str | None) -> None:
    found = {"figure": graph([])["figure"]}
    found["red"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0xFF0000)
    found["none"] = node("SolidMask", value=0.0, width=64, height=64)
    found["half"] = node("SolidMask", value=1.0, width=32, height=64)
    found["mask"] = node("MaskComposite", destination=["none", 0], source=["half", 0], x=0, y=0, operation="add")
    found["cut"] = node("JoinImageWithAlpha", image=["red", 0], alpha=["mask", 0])
    found["grid"] = node("MjesecAddToGrid", image=["cut", 0], name="half")
    crop = {"x": 0.0, "y": 0.0, "width": 100.0, "height": 100.0, "enlarge": 1, "inset": False}
    if view:
        found["view"] = node(view, grid=["grid", 0], **(crop if view == "MjesecCropCells" else {"keep": "image: half"}))
    wire = ["view" if view else "grid", 0]
    for theme, page in (("light", (255, 255, 255)), ("dark", (0x17, 0x18, 0x1B))):
        found["figure"]["inputs"] |= {"grid": wire, "margin": 0, "gap": 0, "theme": theme, "files": "PNG, PDF, SVG"}
        (path,) = host.outputs({"outputs": {"figure": host.run(found)["outputs"]["figure"]}})
        cell = np.asarray(Image.open(path))[-64:]
        assert (cell[:, :32] == page).all() and (cell[:, 32:64] == (255, 0, 0)).all()
    found["picked"] = node("MjesecPickCell", grid=["grid", 0], cell="image: half")
    found["saved"] = node("SaveImage", images=["picked", 0], filename_prefix="picked")
    (path,) = host.outputs({"outputs": {"saved": host.run(found)["outputs"]["saved"]}})
    assert Image.open(path).getpixel((0, 0)) == (255, 255, 255)
