"""The nodes that measure a sweep, on real cells, a real VAE and a real training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_graphs import node, sweep, training
from host_server import Host
from pack.figures.measures import distance, saturation
from PIL import Image

import dev

NO_LORA = "(lora input)"


def measured(**inputs: Any) -> dict[str, Any]:
    found = sweep(NO_LORA, [("CFG scale", "1, 8"), ("seed", "1, 2")], steps=2, width=64, height=64)
    found["numbers"] = node("MjesecMeasureCells", grid=["sweep", 0], **{"reference": 1, **inputs})
    found["figure"]["inputs"] |= {"grid": ["numbers", 0], "manifest": True}
    return found


def told_by(host: Host, entry: dict[str, Any], figure: str = "figure") -> dict[str, Any]:
    """The manifest beside a figure."""
    (png,) = host.outputs({"outputs": {figure: entry["outputs"][figure]}})
    return json.loads(png.with_name(png.name.replace("_.png", ".json")).read_text(encoding="utf-8"))


@pytest.mark.parametrize("measure", ["saturation", "distance"])
def test_a_heat_map_holds_the_measure_of_every_cell(host: Host, measure: str) -> None:
    told = told_by(host, host.run(measured(measure=measure, reference=2)))
    images = [Image.open(cell["path"]) for cell in told["cells"]]
    expected = [saturation(image) if measure == "saturation" else distance(image, images[1]) for image in images]
    (name,) = [name for name in told["cells"][0] if name.lower().startswith(measure)]
    assert [cell[name] for cell in told["cells"]] == pytest.approx(expected)
    assert len(set(expected)) == 4


def test_a_reference_that_is_not_there_is_refused(host: Host) -> None:
    with pytest.raises(dev.PromptFailure, match="cell 5, but the grid has 4"):
        host.run(measured(measure="distance", reference=5))


def test_a_training_image_is_nearest_to_itself(host: Host) -> None:
    folder = host.output / "mjesec" / "moons" / "6x128_1"
    graph = {key: value for key, value in training().items() if key in ("ckpt", "data")}
    host.run({**graph, "shown": node("PreviewImage", images=["data", 1])})
    own = sorted(folder.glob("*.png"))[3]
    host.upload_image("repeated.png", own.read_bytes())
    graph |= {
        "image": node("LoadImage", image="repeated.png"),
        "scene": node("MjesecNightScene", width=128, height=128, seed=1, x=50.0, y=30.0, diameter=30.0),
        "one": node("MjesecAddToGrid", image=["image", 0], name="repeated"),
        "two": node("MjesecAddToGrid", image=["scene", 0], name="new", grid=["one", 0]),
        "near": node(
            "MjesecNearestTrainingImage", grid=["two", 0], dataset=["data", 0], vae=["ckpt", 2], compare_at=128
        ),
    }
    for key, slot in (("numbers", 0), ("nearest", 1)):
        graph[key] = measured(measure="seconds")["figure"]
        graph[key]["inputs"] |= {"grid": ["near", slot]}
    entry = host.run(graph)
    distances = [cell["Distance to the nearest training image (RMS of the latents)"]
                 for cell in told_by(host, entry, "numbers")["cells"]]  # fmt: skip
    assert distances[0] < 0.01 < distances[1]
    repeated, _ = told_by(host, entry, "nearest")["cells"]
    assert repeated["parameters"]["training image"] == own.name
    assert Image.open(Path(repeated["path"])).tobytes() == Image.open(own).convert("RGB").tobytes()


def by_weight(**settings: Any) -> dict[str, Any]:
    graph = training(output_name="by_weight", steps=6, **{"validation_images": 2, **settings})
    graph["loss"] = node(
        "MjesecLossByWeight", model=["ckpt", 0], clip=["ckpt", 1], vae=["ckpt", 2], dataset=["data", 0],
        settings=["set", 0], lora=["train", 0], lora_name=NO_LORA, weights="0, 0.5, 1", images=2,
    )  # fmt: skip
    graph["text"] = node("PreviewAny", source=["loss", 1])
    return graph


def test_the_loss_falls_with_the_weight_of_a_lora_that_learnt_something(host: Host) -> None:
    report = host.run(by_weight())["outputs"]["loss"]["text"][0]
    rows = [tuple(map(float, row)) for row in re.findall(r"trained on ([\d.]+), held out ([\d.]+)", report)]
    assert len(rows) == 3
    assert rows[0][0] > rows[1][0] and rows[0][0] > rows[2][0]
    assert report.startswith("Least held-out loss at LoRA weight")


def test_settings_that_hold_nothing_out_are_refused(host: Host) -> None:
    with pytest.raises(dev.PromptFailure, match="hold no images out"):
        host.run(by_weight(validation_images=0))


def test_views_show_a_sweep_otherwise_without_sampling_it(host: Host) -> None:
    graph = measured(measure="seconds")
    host.run(graph)
    graph["kept"] = node("MjesecSelectCells", grid=["sweep", 0], keep="CFG scale: 8")
    graph["mean"] = node("MjesecAverageCells", grid=["kept", 0], axis="Seed", show="mean")
    graph["less"] = node("MjesecCompareCells", grid=["kept", 0], reference=1, gain=2.0)
    graph["piece"] = node(
        "MjesecCropCells", grid=["less", 0], x=0.0, y=0.0, width=50.0, height=25.0, enlarge=2, inset=False
    )
    for key in ("mean", "piece"):
        graph[f"{key}_figure"] = measured(measure="seconds")["figure"]
        graph[f"{key}_figure"]["inputs"]["grid"] = [key, 0]
    entry = host.run(graph)
    (mean,) = told_by(host, entry, "mean_figure")["cells"]
    pieces = told_by(host, entry, "piece_figure")["cells"]
    seeds = [np.asarray(Image.open(cell["path"]), int) for cell in told_by(host, entry)["cells"][2:]]
    assert np.array_equal(np.asarray(Image.open(mean["path"])), np.rint(sum(seeds) / 2))
    # the reference less itself is grey throughout
    assert Image.open(pieces[0]["path"]).getcolors() == [(64 * 32, (128, 128, 128))]
    apart = np.clip(128 + 2 * (seeds[1] - seeds[0]), 0, 255)[:16, :32]
    assert np.array_equal(np.asarray(Image.open(pieces[1]["path"]))[::2, ::2], apart)
