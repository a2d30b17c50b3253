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
    found = sweep(NO_LORA, [("CFG scale", "1, 8"), ("seed", "1, 2")], steps=2)
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


def test_numbers_are_averaged_with_their_spread(host: Host) -> None:
    graph = measured(measure="saturation")
    graph["mean"] = node("MjesecAverageCells", grid=["numbers", 0], axis="Seed", show="mean")
    graph["mean_figure"] = measured(measure="seconds")["figure"]
    graph["mean_figure"]["inputs"]["grid"] = ["mean", 0]
    entry = host.run(graph)
    (name,) = [name for name in told_by(host, entry)["cells"][0] if name.startswith("Saturation")]
    every = [cell[name] for cell in told_by(host, entry)["cells"]]
    means = told_by(host, entry, "mean_figure")["cells"]
    assert [cell[f"{name}, mean ± sample standard deviation over Seed"] for cell in means] == pytest.approx(
        [np.mean(every[:2]), np.mean(every[2:])]
    )
    assert [cell["standard deviation"] for cell in means] == pytest.approx(
        [np.std(every[:2], ddof=1), np.std(every[2:], ddof=1)]
    )


def test_a_loss_has_a_mean_too_and_its_manifest_tells_the_models(host: Host) -> None:
    graph = by_weight()
    graph["mean"] = node("MjesecAverageCells", grid=["loss", 0], axis="images", show="mean")
    graph["figure"] = measured(measure="seconds")["figure"]
    graph["figure"]["inputs"]["grid"] = ["mean", 0]
    told = told_by(host, host.run(graph))
    assert len(told["cells"]) == 3 and all(cell["standard deviation"] > 0 for cell in told["cells"])
    assert {"model", "clip", "vae", "lora"} <= told["hashes"].keys()
    assert told["environment"]["comfyui"] and "moon" in " ".join(told["prompts"])


def test_groups_whose_cells_have_all_failed_are_drawn_as_failed(host: Host) -> None:
    graph = training(output_name="for_views", steps=1)
    host.run(graph)
    (host.output / "loras" / "unreadable.safetensors").write_bytes(b"nothing")
    graph = sweep(NO_LORA, [("LoRA file", "for_views.safetensors, unreadable.safetensors"), ("seed", "1, 2")], steps=1)
    graph["mean"] = node("MjesecAverageCells", grid=["sweep", 0], axis="Seed", show="mean")
    graph["figure"]["inputs"] |= {"grid": ["mean", 0], "manifest": True}
    entry = host.run(graph)
    assert "2 failed" in entry["outputs"]["sweep"]["text"][0]
    made, failed = told_by(host, entry)["cells"]
    assert "path" in made and "unreadable.safetensors" in failed["error"]


def test_held_out_images_are_no_neighbours(host: Host) -> None:
    graph = {key: value for key, value in training(validation_images=3).items() if key != "train"}
    host.run({**graph, "shown": node("PreviewImage", images=["data", 1])})
    folder = host.output / "mjesec" / "moons" / "6x128_1"
    names = sorted(path.name for path in folder.glob("*.png"))
    link: dict[str, Any] = {}
    for name in names:
        host.upload_image(name, (folder / name).read_bytes())
        graph[name] = node("LoadImage", image=name)
        graph[f"grid {name}"] = node("MjesecAddToGrid", image=[name, 0], name=name, **link)
        link = {"grid": [f"grid {name}", 0]}
    graph["near"] = node(
        "MjesecNearestTrainingImage", **link, dataset=["data", 0], vae=["ckpt", 2], compare_at=64, settings=["set", 0]
    )
    report = host.run(graph | {"text": node("PreviewAny", source=["near", 2])})["outputs"]["near"]["text"][0]
    nearest = dict(re.findall(r"image (\S+): (\S+)", report))
    assert len(nearest) == 6
    # three are their own nearest; the others, held out, are near to one of these
    assert sum(name == own for name, own in nearest.items()) == 3
    assert len(set(nearest.values())) <= 3


def test_a_cell_is_picked_and_cells_are_set_into_an_image(host: Host) -> None:
    graph = measured(measure="seconds")
    graph["picked"] = node("MjesecPickCell", grid=["sweep", 0], cell="CFG scale: 8\nSeed: 2")
    graph["saved"] = node("SaveImage", images=["picked", 0], filename_prefix="picked")
    graph["black"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    graph["mask"] = node("SolidMask", value=0.0, width=64, height=64)
    graph["half"] = node("SolidMask", value=1.0, width=32, height=64)
    graph["both"] = node("MaskComposite", destination=["mask", 0], source=["half", 0], x=0, y=0, operation="add")
    graph["set"] = node("MjesecCompositeCells", grid=["sweep", 0], image=["black", 0], mask=["both", 0])
    graph["figure"]["inputs"]["grid"] = ["set", 0]
    entry = host.run(graph)
    (saved,) = dev.output_files({"outputs": {"saved": entry["outputs"]["saved"]}}, host.output)
    last = np.asarray(Image.open(told_by(host, host.run(measured(measure="seconds")))["cells"][3]["path"]))
    assert np.array_equal(np.asarray(Image.open(saved)), last)
    composed = np.asarray(Image.open(told_by(host, entry)["cells"][3]["path"]))
    assert np.array_equal(composed[:, :32], last[:, :32]) and not composed[:, 32:].any()
    assert entry["outputs"]["figure"]["mjesec_sweep"] == [""], "it shows other pictures than the sweep has"
    graph["picked"]["inputs"]["cell"] = "CFG scale: 8"
    with pytest.raises(dev.PromptFailure, match="names 2 cells; give one value of each of: Seed"):
        host.run(graph)
