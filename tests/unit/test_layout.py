"""Figures: every cell's pixels at its place, every label whole, nothing over anything else."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pack.figures.axes import UNLABELLED, Axis
from pack.figures.cells import Cell, cells
from pack.figures.draw import by_index, render
from pack.figures.fonts import Face, clean, missing_glyphs
from pack.figures.heat_map import plan_heat_map
from pack.figures.layout import Layout, TextRun
from pack.figures.place import letters
from pack.figures.placement import Placement
from pack.figures.plan import plan_figure, plan_pages
from pack.figures.style import FigureStyle
from PIL import Image, ImageChops

CFG = Axis("cfg", (1.0, 7.0, 13.0))
WEIGHT = Axis("lora_weight", (0.0, 1.0))
STEPS = Axis("steps", (10, 20))
SEED = Axis("seed", (1, 2))
NAME = "mjesec_sdxl_rank32_alpha8_lr1e-4_epoch"
LONG = "moon surface, moon’s orbit, ground, rock, čempresi i žuta šuma đurđevca nad Šibenikom"


def picture(cell: Cell, width: int = 96, height: int = 64) -> Image.Image:
    """Noise that no other cell has."""
    seed = [1, *cell.index]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sized(cell: Cell) -> Image.Image:
    return picture(cell, int(cell.get("width") or 96), int(cell.get("height") or 64))


ImageOf = Callable[[Cell], Image.Image | None]
Sizes = dict[tuple[int, ...], tuple[int, int] | None]


def sizes_of(axes: list[Axis], image_of: ImageOf) -> Sizes:
    images = {cell.index: image_of(cell) for cell in cells(axes)}
    return {index: image and image.size for index, image in images.items()}


def layout_of(axes: list[Axis], style: FigureStyle | None = None, **failed: dict) -> Layout:
    return plan_figure(axes, sizes_of(axes, picture), style or FigureStyle(), failed.get("failed"))


def drawn(axes: list[Axis], image_of: ImageOf, style: FigureStyle | None = None) -> Image.Image:
    layout = plan_figure(axes, sizes_of(axes, image_of), style or FigureStyle())
    return render(layout, by_index(axes, image_of))


def texts(layout: Layout, role: str) -> list[str]:
    return [run.text for run in layout.texts if run.role == role]


def ink_box(run: TextRun, layout: Layout) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a run's glyphs on the page."""
    font = Face(layout.style.font, run.size, run.bold).font
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[run.anchor]
    left, top, right, bottom = font.getbbox(run.text, anchor=anchor)
    if run.turned:
        return run.x + top, run.y - right, run.x + bottom, run.y - left
    return run.x + left, run.y + top, run.x + right, run.y + bottom


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


CASES: dict[str, tuple[list[Axis], FigureStyle]] = {
    "no axis": ([], FigureStyle(title="Mjesec", caption=LONG)),
    "one axis": ([CFG], FigureStyle(title=LONG)),
    "one axis down": ([CFG], FigureStyle(transpose=True, tags=True)),
    "two axes": ([CFG, WEIGHT], FigureStyle(title="Moon", caption="Same seed.", tags=True)),
    "two axes turned": ([CFG, WEIGHT], FigureStyle(transpose=True)),
    "wrapped": ([Axis("steps", tuple(range(1, 8)))], FigureStyle(columns=3, tags=True)),
    "wrapped rows": ([CFG, WEIGHT], FigureStyle(columns=2)),
    "three axes": ([CFG, WEIGHT, STEPS], FigureStyle(theme="dark")),
    "four axes": ([CFG, WEIGHT, STEPS, SEED], FigureStyle(font="serif", tags=True)),
    "long rows": ([CFG, Axis("prompt", ("moon", LONG))], FigureStyle()),
    "long columns": ([Axis("prompt", (LONG, "noć")), CFG], FigureStyle(caption=LONG)),
    "one word": ([Axis("sampler", ("dpmpp_2m_sde_gpu_with_no_end_in_sight_anywhere", "ddim"))], FigureStyle()),
    "print": ([CFG, WEIGHT], FigureStyle(width_mm=80, font_size_pt=9)),
    "no gaps": ([CFG, WEIGHT], FigureStyle(gap=0, margin=0)),
    "long label": ([CFG, Axis("seed", (1,), "the seed of the initial noise, " * 4)], FigureStyle()),
    "many long names": ([Axis("lora_file", tuple(f"{NAME}{number:06d}" for number in range(10)))], FigureStyle()),
    "many names": ([Axis("lora_file", tuple(f"mjesec-{number:06d}" for number in range(9))), CFG], FigureStyle()),
    "many long names and bands": (
        [Axis("lora_file", tuple(f"{NAME}{number:06d}" for number in range(20))), CFG],
        FigureStyle(columns=9, caption=LONG, tags=True),
    ),
    "many prompts": (
        [Axis("prompt", tuple(f"{LONG}, {number}" for number in range(12))), CFG],
        FigureStyle(caption=LONG, width_mm=160, font="serif"),
    ),
    "many prompts nested": (
        [Axis("prompt", tuple(f"{LONG}, {number}" for number in range(3))), CFG, STEPS],
        FigureStyle(placement=Placement.parse("columns: CFG scale, Prompt"), title="Moon"),
    ),
    "many seeds": ([Axis("seed", tuple(10**19 + 7 * number for number in range(12))), CFG], FigureStyle()),
    "many tags": ([Axis("steps", tuple(range(1, 37))), Axis("width", (16,))], FigureStyle(tags=True, gap=0)),
    "sizes": ([Axis("width", (32, 64)), Axis("height", (16, 40))], FigureStyle(title="Veličina")),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[list[Axis], FigureStyle]:
    return CASES[request.param]


def test_every_cell_is_drawn_once_and_to_the_pixel(case: tuple[list[Axis], FigureStyle]) -> None:
    axes, style = case
    page = drawn(axes, sized, style)
    layout = plan_figure(axes, sizes_of(axes, sized), style)
    assert (page.width, page.height) == (layout.width, layout.height)
    assert sorted(cell.index for cell in layout.cells) == [cell.index for cell in cells(axes)]
    for cell in cells(axes):
        box = next(found.box for found in layout.cells if found.index == cell.index)
        cut = page.crop((box.x, box.y, box.x + box.width, box.y + box.height))
        assert ImageChops.difference(cut, sized(cell)).getbbox() is None, f"{cell} differs"


def test_no_text_is_cut_or_over_other_text_or_a_cell(case: tuple[list[Axis], FigureStyle]) -> None:
    axes, style = case
    layout = plan_figure(axes, sizes_of(axes, sized), style)
    boxes = [ink_box(run, layout) for run in layout.texts if run.text]
    pixels = [(cell.box.x, cell.box.y, cell.box.x + cell.box.width, cell.box.y + cell.box.height)
              for cell in layout.cells]  # fmt: skip
    for number, box in enumerate(boxes):
        assert box[0] >= -1 and box[1] >= -1 and box[2] <= layout.width + 1 and box[3] <= layout.height + 1
        assert not any(overlap(box, other) for other in boxes[number + 1 :] + pixels), layout.texts[number].text


def test_no_word_of_a_label_is_lost(case: tuple[list[Axis], FigureStyle]) -> None:
    axes, style = case
    layout = plan_figure(axes, sizes_of(axes, sized), style)
    written = "".join(run.text for run in layout.texts).replace(" ", "")
    wanted = [style.title, style.caption, *(axis.label for axis in axes)]
    wanted += [text for axis in axes for text in axis.texts]
    for text in wanted:
        assert text.replace(" ", "") in written


def place(layout: Layout, index: tuple[int, ...]) -> tuple[int, int]:
    box = next(cell.box for cell in layout.cells if cell.index == index)
    return box.x, box.y


def test_the_first_axis_runs_along_the_columns_and_the_second_along_the_rows() -> None:
    layout = layout_of([CFG, WEIGHT])
    assert place(layout, (0, 0))[1] == place(layout, (2, 0))[1]
    assert place(layout, (0, 0))[0] < place(layout, (1, 0))[0] < place(layout, (2, 0))[0]
    assert place(layout, (1, 0))[0] == place(layout, (1, 1))[0]
    assert place(layout, (1, 0))[1] < place(layout, (1, 1))[1]


def test_transposing_and_placing_change_the_places() -> None:
    turned = layout_of([CFG, WEIGHT], FigureStyle(transpose=True))
    placed = layout_of([CFG, WEIGHT], FigureStyle(placement=Placement.parse("rows: CFG scale")))
    for layout in (turned, placed):
        assert place(layout, (0, 0))[0] == place(layout, (2, 0))[0]
        assert place(layout, (0, 0))[1] == place(layout, (0, 1))[1]


def test_a_header_stands_over_its_column_and_beside_its_row() -> None:
    layout = layout_of([CFG, WEIGHT])
    for at, text in enumerate(CFG.texts):
        header = next(run for run in layout.texts if run.text == text)
        x, y = place(layout, (at, 0))
        assert header.x == pytest.approx(x + 48, abs=1) and header.y < y
    for at, text in enumerate(WEIGHT.texts):
        header = next(run for run in layout.texts if run.text == text and run.role == "value" and run.anchor == "end")
        x, y = place(layout, (0, at))
        assert header.x < x and y < header.y < y + 64


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    axes = [Axis("width", (32, 64, 128)), Axis("height", (32, 64))]
    layout = plan_figure(axes, sizes_of(axes, sized))
    assert [cell.box.width for cell in layout.cells[:3]] == [32, 64, 128]
    first, second, third = (place(layout, (at, 0))[0] for at in range(3))
    assert second - first >= 32 and third - second > 64
    assert place(layout, (0, 1))[1] - place(layout, (0, 0))[1] > 32


def test_wrapping_puts_the_rest_below_with_headers_of_its_own() -> None:
    axes = [Axis("steps", tuple(range(1, 8)))]
    layout = layout_of(axes, FigureStyle(columns=3))
    assert place(layout, (0,))[0] == place(layout, (3,))[0] == place(layout, (6,))[0]
    assert place(layout, (2,))[1] < place(layout, (3,))[1] < place(layout, (6,))[1]
    assert texts(layout, "value") == [str(number) for number in range(1, 8)]
    assert texts(layout, "label") == ["Sampling steps"]


def test_pages_are_headed_by_the_axes_beyond_the_second() -> None:
    axes = [CFG, WEIGHT, STEPS]
    layouts = plan_pages(axes, sizes_of(axes, picture), FigureStyle(pages=True))
    assert [texts(layout, "page") for layout in layouts] == [["Sampling steps: 10"], ["Sampling steps: 20"]]
    assert [{cell.index[2] for cell in layout.cells} for layout in layouts] == [{0}, {1}]
    assert len(plan_pages([CFG, WEIGHT], {}, FigureStyle(pages=True))) == len(plan_pages(axes, {})) == 1


def test_an_axis_can_be_sent_to_the_pages() -> None:
    layouts = plan_pages([CFG, WEIGHT], {}, FigureStyle(placement=Placement.parse("pages: cfg")))
    assert [texts(layout, "page") for layout in layouts] == [[f"CFG scale: {text}"] for text in CFG.texts]


def test_the_axes_of_a_side_nest_in_the_order_in_which_they_are_placed() -> None:
    axes = [CFG, WEIGHT, STEPS]
    for text, order in (("rows: cfg, Sampling steps", [0, 2]), ("Rows: Sampling steps, CFG scale", [2, 0])):
        layout = layout_of(axes, FigureStyle(placement=Placement.parse(text)))
        left = min(cell.box.x for cell in layout.cells)
        column = sorted((cell for cell in layout.cells if cell.box.x == left), key=lambda cell: cell.box.y)
        places = [tuple(cell.index[number] for number in order) for cell in column]
        assert places == sorted(places) and len(places) == 6


def test_a_label_with_a_comma_can_be_placed() -> None:
    axes = [Axis("lora_weight_model", (0.0, 1.0)), CFG, SEED]
    for text in ("rows: LoRA weight, U-Net", 'rows: "LoRA weight, U-Net", Seed; columns: CFG scale'):
        assert Placement.parse(text).numbers(axes)["rows"][0] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("top: CFG scale", 'The placement "top: CFG scale" cannot be read'),
        ("rows", 'The placement "rows" cannot be read'),
        ("rows: cfg; rows: seed", "names rows twice"),
        ('rows: "cfg', "a quote is not closed"),
        ("rows: cgf", 'no axis "cgf"; there are: CFG scale, LoRA weight'),
        ("rows: cfg; pages: CFG scale", "CFG scale is placed twice"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Placement.parse(text).numbers([CFG, WEIGHT])


def test_tags_count_in_reading_order() -> None:
    layout = layout_of([CFG, WEIGHT], FigureStyle(tags=True))
    assert texts(layout, "tag") == ["(a)", "(b)", "(c)", "(d)", "(e)", "(f)"]
    assert [letters(number) for number in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]


def test_a_failed_cell_says_why() -> None:
    axes = [CFG, WEIGHT]
    layout = layout_of(axes, failed={(1, 0): "out of memory"})
    box = next(cell for cell in layout.cells if cell.index == (1, 0))
    assert box.is_missing and (box.box.width, box.box.height) == (96, 64)
    assert " ".join(texts(layout, "reason")) == "failed out of memory"


def test_a_reason_too_long_for_its_cell_becomes_a_note() -> None:
    reason = "CUDA ran out of memory while decoding the latent of this cell: " * 4
    layout = layout_of([CFG, WEIGHT], failed={(1, 0): reason, (2, 1): reason, (0, 0): "another " * 40})
    assert [text for text in texts(layout, "reason") if text.startswith("[")] == ["[1]", "[2]", "[2]"]
    notes = " ".join(texts(layout, "note"))
    assert "[2] " + reason.strip() in notes and notes.startswith("[1] another another")


def test_cells_without_images_take_the_size_of_the_others_and_none_at_all_still_draw() -> None:
    def only_first(cell: Cell) -> Image.Image | None:
        return picture(cell) if cell.index == (0, 0) else None

    layout = plan_figure([CFG, WEIGHT], sizes_of([CFG, WEIGHT], only_first))
    assert {(cell.box.width, cell.box.height) for cell in layout.cells} == {(96, 64)}
    assert texts(layout, "reason") == ["no image"] * 5
    empty = drawn([CFG], lambda cell: None)
    assert empty.width > 3 * 256


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_images_of_every_mode_are_drawn(mode: str) -> None:
    page = drawn([], lambda cell: picture(cell).convert(mode), FigureStyle(margin=0))
    assert page.size == (96, 64)
    assert ImageChops.difference(page, picture(Cell((), ())).convert(mode).convert("RGB")).getbbox() is None


def test_transparency_shows_the_page() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    page = drawn([], lambda cell: clear, FigureStyle(theme="dark", margin=0))
    assert page.getpixel((4, 4)) == (0x17, 0x18, 0x1B)


def test_a_cell_width_scales_the_cells_on_request() -> None:
    layout = layout_of([CFG], FigureStyle(cell_width=48))
    assert {(cell.box.width, cell.box.height) for cell in layout.cells} == {(48, 32)}
    page = drawn([CFG], picture, FigureStyle(cell_width=48))
    assert page.size == (layout.width, layout.height)


@pytest.mark.parametrize("width_mm", [60, 120, 160])
def test_text_has_the_points_asked_for_at_the_printed_width(width_mm: float) -> None:
    def large(cell: Cell) -> Image.Image:
        return Image.new("RGB", (512, 512))

    layout = plan_figure([CFG, WEIGHT], sizes_of([CFG, WEIGHT], large), FigureStyle(width_mm=width_mm, font_size_pt=9))
    assert layout.size_mm[0] == pytest.approx(width_mm)
    size = next(run.size for run in layout.texts if run.role == "value")
    assert size / layout.dpi * 72 == pytest.approx(9, rel=0.03)


@pytest.mark.parametrize(("side", "least", "most"), [(64, 11, 11), (128, 11, 16), (512, 20, 40), (1024, 34, 80)])
def test_text_grows_with_the_cells(side: int, least: int, most: int) -> None:
    layout = plan_figure([CFG], {cell.index: (side, side) for cell in cells([CFG])})
    assert least <= next(run.size for run in layout.texts if run.role == "value") <= most


def test_equal_figures_have_equal_pixels() -> None:
    first, second = (drawn([CFG, WEIGHT], picture, FigureStyle(title="č")) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_only_one_cell_need_be_in_memory_at_a_time() -> None:
    alive: list[int] = []
    most: list[int] = []

    def tracked(cell: Cell) -> Image.Image:
        image = picture(cell)
        alive.append(1)
        weakref.finalize(image, alive.pop)
        most.append(len(alive))
        return image

    render(layout_of([CFG, WEIGHT]), by_index([CFG, WEIGHT], tracked))
    assert max(most) <= 2 and len(most) == 6


@pytest.mark.parametrize(
    ("text", "limit", "lines"),
    [
        ("moon over pine trees", 1000, ("moon over pine trees",)),
        ("moon\nsun", 1000, ("moon", "sun")),
        ("", 100, ("",)),
        ("  moon\t over ", 1000, ("moon over",)),
    ],
)
def test_wrapping_keeps_lines_and_tidies_blanks(text: str, limit: float, lines: tuple[str, ...]) -> None:
    assert Face("sans", 12).wrap(text, limit) == lines


@pytest.mark.parametrize("limit", [10, 30, 60, 120, 300])
def test_wrapped_lines_fit_and_lose_nothing(limit: float) -> None:
    face = Face("serif", 12)
    lines = face.wrap(LONG + " dpmpp_2m_sde_gpu", limit)
    assert all(face.width(line) <= limit or len(line) == 1 for line in lines)
    assert "".join(lines).replace(" ", "") == (LONG + "dpmpp_2m_sde_gpu").replace(" ", "")


def test_shortened_text_ends_in_an_ellipsis_and_fits() -> None:
    face = Face("sans", 12)
    lines = face.shorten(LONG, 100, 2)
    assert len(lines) == 2 and lines[1].endswith("…") and face.widest(lines) <= 100
    assert face.shorten("moon", 100, 2) == ("moon",)


def test_characters_are_composed_and_croatian_has_its_glyphs() -> None:
    assert clean("c\u030c\u0000\u202e s\u030c") == "č š"
    for family in ("sans", "serif"):
        assert missing_glyphs("čćđšžČĆĐŠŽ €„“–×", family) == ""


def test_a_missing_glyph_is_reported_and_not_fatal() -> None:
    layout = layout_of([CFG], FigureStyle(title="Moon 月"))
    assert layout.warnings == ("The font DejaVu Sans Bold has no glyph for 月; a box stands in its place.",)
    assert layout_of([CFG], FigureStyle(title="Čć")).warnings == ()


def test_glyphs_are_looked_for_in_the_face_that_draws_them() -> None:
    # DejaVu Serif has this one in its regular face only
    assert layout_of([CFG], FigureStyle(font="serif", caption="ℝ")).warnings == ()
    (told,) = layout_of([CFG], FigureStyle(font="serif", title="ℝ")).warnings
    assert told == "The font DejaVu Serif Bold has no glyph for ℝ; a box stands in its place."


def test_text_that_is_read_from_right_to_left_is_told_of() -> None:
    for word in ("ירח", "قمر"):
        (told,) = layout_of([CFG], FigureStyle(caption=f"Moon, {word}: one seed.")).warnings
        assert told.startswith(f'The figure sets "{word}:" from left to right, though it is read from right to left;')
    assert layout_of([CFG], FigureStyle(caption="γ, Ж, →")).warnings == ()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"font": "comic"}, '"sans" or "serif", not "comic"'),
        ({"theme": "pink"}, '"light" or "dark", not "pink"'),
        ({"dpi": 0}, "dpi is 0"),
        ({"width_mm": float("nan")}, "width_mm is nan"),
        ({"columns": 0}, "columns is 0"),
        ({"gap": -1}, "gap is -1"),
        ({"font_size_pt": 1000}, "font_size_pt is 1000"),
    ],
)
def test_a_style_refuses_what_cannot_be_drawn(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FigureStyle(**arguments)


def test_two_axes_of_one_parameter_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match='Two axes vary "cfg"'):
        plan_figure([CFG, CFG], {})


def test_importing_the_package_loads_nothing_heavy() -> None:
    root = Path(__file__).absolute().parents[2]
    code = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('figures', {str(root / 'figures' / '__init__.py')!r})\n"
        "pack = u.module_from_spec(spec); sys.modules['figures'] = pack; spec.loader.exec_module(pack)\n"
        "assert all(hasattr(pack, name) for name in pack.__all__)\n"
        "print({'numpy', 'matplotlib', 'torch', 'comfy', 'nodes', 'trainer'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_values_too_long_for_many_columns_are_numbered_and_listed_below() -> None:
    prompts = Axis("prompt", tuple(f"{LONG}, {number}" for number in range(12)))
    layout = layout_of([prompts, WEIGHT], FigureStyle(caption="One seed."))
    above = [run for run in texts_of(layout, "value") if run.anchor == "middle"]
    assert [run.text for run in above] == [str(number) for number in range(1, 13)]
    assert [run.text for run in texts_of(layout, "label")].count("Prompt") == 2, "the list bears the axis's label"
    listed = [run.text for run in texts_of(layout, "legend")]
    assert " ".join(listed).startswith(f"1 {prompts.texts[0]} 2 {prompts.texts[1]} 3 ")
    lowest = max(cell.box.y + cell.box.height for cell in layout.cells)
    (caption,) = texts_of(layout, "caption")
    assert all(lowest < run.y < caption.y for run in texts_of(layout, "legend"))


def test_names_of_one_beginning_stay_different_over_many_columns() -> None:
    for name in ("mjesec_", NAME, 3 * NAME):
        files = Axis("lora_file", tuple(f"{name}{number:06d}" for number in range(10)))
        layout = layout_of([files, WEIGHT])
        heads = [run.text for run in layout.texts if run.role == "value" and run.anchor == "middle"]
        assert len(set(heads)) >= len(files) and not any("…" in run.text for run in layout.texts)


def texts_of(layout: Layout, role: str) -> list[TextRun]:
    return [run for run in layout.texts if run.role == role]


def many_columns(width_mm: float | None, columns: int = 20, side: int = 128, **axis: Any) -> Layout:
    own = Axis("cfg", tuple(1 + number / 4 for number in range(columns))) if not axis else Axis(**axis)
    axes = [own, Axis("lora_weight", tuple(number / 20 for number in range(20)))]
    sizes = dict.fromkeys(product(range(len(own)), range(20)), (side, side))
    return plan_figure(axes, sizes, FigureStyle(width_mm=width_mm, caption="One line."))


@pytest.mark.parametrize("columns", [4, 10, 20, 40])
@pytest.mark.parametrize("side", [64, 128, 1024])
def test_headers_of_a_figure_for_print_are_no_smaller_than_six_points(columns: int, side: int) -> None:
    layout = many_columns(160, columns, side)
    least = min(run.size for run in texts_of(layout, "value")) / layout.dpi * 72
    assert least >= 5.8


def test_values_too_wide_for_many_columns_stand_upright_and_whole() -> None:
    seeds = tuple(10**19 + 7 * number for number in range(12))
    layout = many_columns(160, parameter="seed", values=seeds)
    above = [run for run in texts_of(layout, "value") if run.turned]
    assert [run.text for run in above] == [str(seed) for seed in seeds]
    tops = [cell.box.y for cell in layout.cells]
    for run in above:
        half = Face("sans", run.size).width(run.text) / 2
        assert run.y + half <= min(tops) and run.y - half >= 0


def test_a_number_is_never_broken() -> None:
    seeds = (18446744073709551615, 1)
    for axes in ([Axis("seed", seeds)], [CFG, Axis("seed", seeds)]):
        sizes = dict.fromkeys((cell.index for cell in cells(axes)), (64, 64))
        texts = [run.text for run in plan_figure(axes, sizes).texts]
        assert str(seeds[0]) in texts


def test_captions_of_one_and_of_several_lines_begin_alike() -> None:
    starts = set()
    for caption in ("Short.", LONG):
        layout = layout_of([CFG, WEIGHT], FigureStyle(caption=caption))
        starts |= {(run.x, run.anchor) for run in texts_of(layout, "caption")}
    assert len(starts) == 1


def test_images_of_one_row_begin_at_one_height() -> None:
    axes = [Axis("image", ("small", "large"), UNLABELLED)]
    layout = plan_figure(axes, {(0,): (64, 64), (1,): (128, 128)})
    assert len({cell.box.y for cell in layout.cells}) == 1
    assert [run.text for run in layout.texts] == ["small", "large"], "a blank label is not drawn"


def test_the_numbers_of_a_heat_map_have_equal_decimals() -> None:
    def numbers(*values: float, spreads: Any = None) -> list[str]:
        axes = [Axis("seed", tuple(range(len(values))))]
        (layout,), _ = plan_heat_map(axes, {(at,): value for at, value in enumerate(values)}, spreads=spreads)
        return [run.text for run in layout.texts if run.colour]

    assert numbers(0.1, 0.095) == ["0.100", "0.095"]
    assert numbers(12.34, 5.0, 0.04) == ["12.34", "5.00", "0.04"]
    assert numbers(1234.0, 7.0) == ["1234", "7.00"], "where they are too far apart, each in its own way"
    assert numbers(1.5, 2.0, spreads={(0,): 0.25, (1,): None}) == ["1.50", "± 0.25", "2.00"]
