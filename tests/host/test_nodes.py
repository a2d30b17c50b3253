"""What every node promises, and the nodes that no other test of this folder runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from host_graphs import node, picture, training
from host_server import Host
from PIL import Image

import dev


def schemas(host: Host) -> Iterator[tuple[str, dict[str, object]]]:
    for name, info in host.get("/object_info").items():
        if info["python_module"] == f"custom_nodes.{dev.ROOT.name}":
            yield name, info


def test_the_plugins_nodes_are_these(host: Host) -> None:
    assert {name for name, _ in schemas(host)} == {
        "MjesecLoadImageDataset",
        "MjesecDatasetFromImages",
        "MjesecMoonDataset",
        "MjesecTrainSettings",
        "MjesecThesisSettings",
        "MjesecLoadKohyaConfig",
        "MjesecOptimizerOptions",
        "MjesecLossOptions",
        "MjesecAdapterOptions",
        "MjesecCaptionOptions",
        "MjesecImageOptions",
        "MjesecCombineDatasets",
        "MjesecCheckpointOptions",
        "MjesecTrainingSamples",
        "MjesecMemoryOptions",
        "MjesecTrainLora",
        "MjesecLossChart",
        "MjesecLoadLora",
        "MjesecSweepAxis",
        "MjesecSweep",
        "MjesecDenoisingStrip",
        "MjesecAddToGrid",
        "MjesecNightScene",
        "MjesecSelectCells",
        "MjesecCropCells",
        "MjesecCompareCells",
        "MjesecAverageCells",
        "MjesecPickCell",
        "MjesecCompositeCells",
        "MjesecMeasureCells",
        "MjesecNearestTrainingImage",
        "MjesecLossByWeight",
        "MjesecFigure",
    }


def test_every_node_every_input_and_every_output_explains_itself(host: Host) -> None:
    for name, info in schemas(host):
        assert info["category"].startswith("Mjesec/"), name
        assert info["description"], name
        assert all(info["output_tooltips"]), name
        for inputs in info["input"].values():
            for key, (_, *options) in inputs.items():
                if key not in ("unique_id", "prompt", "extra_pnginfo"):
                    assert options[0].get("tooltip"), f"{name}.{key} has no tooltip"


def test_images_on_wires_become_a_dataset(host: Host) -> None:
    graph = training(output_name="from_wires", batch_size=1)
    graph["red"] = node("EmptyImage", width=128, height=128, batch_size=2, color=0xFF0000)
    graph["data"] = node("MjesecDatasetFromImages", images=["red", 0], captions=["words", 0], repeats=3)
    graph["words"] = node("StringConcatenate", string_a="a red", string_b="square", delimiter=" ")
    entry = host.run(graph)
    report = entry["outputs"]["data"]["text"][0]
    assert "Images: 2 (6 with repeats)" in report
    assert "Duplicates: 1" in report
    assert (host.output / "loras" / "from_wires.safetensors").exists()


def test_folders_of_images_are_offered_and_those_of_masks_are_not(host: Host) -> None:
    for name in ("offered/a.png", "offered/masks/a.png", "offered/masks/deep/a.png", "offered/2_moon/masks/a.png",
                 "offered/2_moon/a.png", "party/masks/a.png", "party/.hidden/a.png"):  # fmt: skip
        path = host.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    info = host.get("/object_info/MjesecLoadImageDataset")["MjesecLoadImageDataset"]
    offered = info["input"]["required"]["folder"][1]["options"]
    made = {name for name in offered if name.startswith(("input/offered", "input/party"))}
    # masks of nothing may be pictures of masks
    assert made == {"input/offered", "input/offered/2_moon", "input/party/masks"}


def test_the_contact_sheet_of_a_dataset_is_told_of_image_by_image(host: Host) -> None:
    folder = host.input / "sheets"
    folder.mkdir()
    for name in ("a", "b", "c", "d", "e"):
        Image.new("RGB", (64, 64), (0, 0, ord(name))).save(folder / f"{name}.png")
    read = node(
        "MjesecLoadImageDataset", folder="input/sheets", repeats=1, default_caption="", caption_extension=".txt"
    )
    both = node("MjesecCombineDatasets", dataset=["read", 0])
    before = len(host.log_text())
    host.run({"read": read, "both": both, "show": node("PreviewImage", images=["both", 1])})
    assert host.log_text()[before:].count("contact sheet: 5/5") == 2


def test_images_of_wires_that_were_deleted_are_written_again(host: Host) -> None:
    images = host.output / "mjesec" / "images"
    before = set(images.glob("*"))
    graph = {
        "green": node("EmptyImage", width=64, height=64, batch_size=3, color=0x00FF00),
        "data": node("MjesecDatasetFromImages", images=["green", 0], repeats=1),
        "show": node("PreviewImage", images=["data", 1]),
    }
    host.run(graph)
    (folder,) = set(images.glob("*")) - before
    made = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    # all of them, and one alone
    for delete in (shutil.rmtree, lambda folder: (folder / "samples" / "00001.png").unlink()):
        delete(folder)
        assert "Images: 3" in host.run(graph)["outputs"]["data"]["text"][0]
        assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == made


def test_images_of_wires_that_cannot_be_written_are_told_of_and_leave_no_part(host: Host) -> None:
    images = host.output / "mjesec" / "images"
    before = set(images.glob("*"))
    graph = {
        "blue": node("EmptyImage", width=64, height=64, batch_size=2, color=0x0000FF),
        "data": node("MjesecDatasetFromImages", images=["blue", 0], repeats=1),
        "show": node("PreviewImage", images=["data", 1]),
    }
    host.run(graph)
    (folder,) = set(images.glob("*")) - before
    shutil.rmtree(folder)
    (folder / "samples" / "00001.png").mkdir(parents=True)
    with pytest.raises(dev.PromptFailure, match=r"'00001.png' could not be written to '.*samples' .*queue again\."):
        host.run(graph)
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["00000.png", "00000.txt", "00001.png"]
    shutil.rmtree(folder)


def test_too_few_captions_are_refused(host: Host) -> None:
    graph = training()
    graph["red"] = node("EmptyImage", width=64, height=64, batch_size=3, color=0xFF0000)
    graph["words"] = node("CreateList", **{"inputs.input0": "one", "inputs.input1": "two"})
    graph["data"] = node("MjesecDatasetFromImages", images=["red", 0], captions=["words", 0], repeats=1)
    with pytest.raises(dev.PromptFailure, match="There are 3 images and 2 captions"):
        host.run(graph)


def test_a_caption_with_half_a_character_is_refused_by_its_number(host: Host) -> None:
    graph = training()
    graph["red"] = node("EmptyImage", width=64, height=64, batch_size=2, color=0xFF0000)
    graph["words"] = node("CreateList", **{"inputs.input0": "a moon", "inputs.input1": "half \ud83c of a moon"})
    graph["data"] = node("MjesecDatasetFromImages", images=["red", 0], captions=["words", 0], repeats=1)
    with pytest.raises(dev.PromptFailure, match="Caption 2 holds half of a character, which no file can hold; write"):
        host.run(graph)


def test_load_lora_says_what_matched_and_equals_the_hosts_loader(host: Host) -> None:
    host.run(training(output_name="for_loading", steps=3))
    own = picture()
    own["own"] = node(
        "MjesecLoadLora",
        model=["ckpt", 0],
        clip=["ckpt", 1],
        lora_name="for_loading.safetensors",
        strength_model=0.7,
        strength_clip=0.7,
    )
    for name in ("yes", "no"):
        own[name]["inputs"]["clip"] = ["own", 1]
    own["sample"]["inputs"]["model"] = ["own", 0]
    entry = host.run(own)
    assert entry["outputs"]["own"]["text"] == ["132 modules matched in the U-Net, 36 in the text encoders."]
    (ours,) = host.outputs(entry)
    (theirs,) = host.outputs(host.run(picture(lora="for_loading.safetensors", weight=0.7)))
    assert Image.open(ours).tobytes() == Image.open(theirs).tobytes()


def test_a_loss_chart_is_drawn_from_our_losses(host: Host) -> None:
    graph = training(output_name="charted", steps=5)
    graph["chart"] = node(
        "MjesecLossChart", loss_map=["train", 2], title="Loss", width=640, height=360, smoothing=0, theme="light"
    )
    graph["save"] = node("SaveImage", images=["chart", 0], filename_prefix="chart")
    (path,) = (p for p in host.outputs(host.run(graph)) if p.name.startswith("chart"))
    assert Image.open(path).size == (640, 360)


def test_a_loss_chart_is_written_for_print_and_says_what_the_loss_is(host: Host) -> None:
    graph = training(output_name="charted_huber", steps=5)
    loss = {name: widget[1]["default"] for name, widget in widgets_of(host, "MjesecLossOptions").items()}
    graph["loss"] = node("MjesecLossOptions", settings=["set", 0])
    graph["loss"]["inputs"].update({**loss, "kind": "huber", "min_snr_gamma": 5.0})
    graph["train"]["inputs"]["settings"] = ["loss", 0]
    graph["chart"] = node(
        "MjesecLossChart", loss_map=["train", 2], title="Gubitak", width=1890, height=1000, smoothing=0,
        theme="light", files="PDF, SVG", filename_prefix="print/v1.2 loss", width_mm=160.0, font="serif",
        language="Hrvatski",
    )  # fmt: skip
    for number in (1, 2):
        graph["chart"]["inputs"]["smoothing"] = number
        told = host.run(graph)["outputs"]["chart"]["text"]
        assert told == [f"Written: print/v1.2 loss_0000{number}.pdf, print/v1.2 loss_0000{number}.svg."]
    svg = (host.output / "print" / "v1.2 loss_00002.svg").read_text("utf-8")
    assert "gubitak (huber, min-SNR 5)" in svg and "korak" in svg
    assert (host.output / "print" / "v1.2 loss_00002.pdf").read_bytes().startswith(b"%PDF")


def widgets_of(host: Host, kind: str) -> dict[str, Any]:
    inputs = host.get(f"/object_info/{kind}")[kind]["input"]
    each = {**inputs["required"], **inputs.get("optional", {})}
    return {name: widget for name, widget in each.items() if len(widget) > 1 and "default" in widget[1]}


def test_a_run_that_the_cache_answers_tells_the_page_again_what_its_nodes_show(host: Host) -> None:
    """A page that was reloaded has forgotten it: the host resends what output nodes show, and what these show."""
    graph = {
        "1": node("MjesecMoonDataset", count=2, size=64, seed=5),
        "2": node("PreviewImage", images=["1", 1]),
    }
    first, again = host.run(graph)["outputs"], host.run(graph)["outputs"]
    assert first["1"]["mjesec_dataset"] == again["1"]["mjesec_dataset"], "it was rendered again, not answered"
    assert first == again


def test_moons_that_were_deleted_are_rendered_again_and_kept_as_before(host: Host) -> None:
    folder = host.output / "mjesec" / "moons" / "2x64_6"
    graph = {
        "1": node("MjesecMoonDataset", count=2, size=64, seed=6),
        "2": node("PreviewImage", images=["1", 1]),
    }
    host.run(graph)
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    again = host.run(graph)["outputs"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    assert host.run(graph)["outputs"] == again, "it was rendered once more, not answered"


def test_every_node_that_shows_something_is_shown_again(host: Host) -> None:
    """Those that hand a picture or text to the page are the output nodes and these."""
    kept = {name for name, info in schemas(host) if info["has_intermediate_output"]}
    assert kept == {
        "MjesecLoadImageDataset",
        "MjesecDatasetFromImages",
        "MjesecMoonDataset",
        "MjesecCombineDatasets",
        "MjesecLoadKohyaConfig",
        "MjesecOptimizerOptions",
        "MjesecLossOptions",
        "MjesecCaptionOptions",
        "MjesecImageOptions",
        "MjesecAdapterOptions",
        "MjesecCheckpointOptions",
        "MjesecMemoryOptions",
        "MjesecLoadLora",
        "MjesecSweepAxis",
        "MjesecSweep",
        "MjesecDenoisingStrip",
        "MjesecNightScene",
        "MjesecMeasureCells",
        "MjesecNearestTrainingImage",
        "MjesecLossByWeight",
    }
