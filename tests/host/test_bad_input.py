"""Bad input gets one clear sentence from the real host, and the next prompt works."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from host_graphs import Graph, node, picture, sweep, training
from host_server import Host
from PIL import Image
from safetensors.torch import load_file, save_file

import dev

Change = Callable[[Graph], None]


def said(failure: dev.PromptFailure) -> str:
    """Everything that the host tells its client about a failure."""
    return f"{failure} {json.dumps(failure.node_errors, ensure_ascii=False)}"


def refuse(host: Host, graph: Graph, sentence: str) -> None:
    with pytest.raises(dev.PromptFailure) as failure:
        host.run(graph)
    assert sentence in said(failure.value), said(failure.value)
    assert host.outputs(host.run(picture(steps=1)))


def folder_dataset(folder: str) -> Change:
    def change(graph: Graph) -> None:
        graph["data"] = node(
            "MjesecLoadImageDataset", folder=folder, repeats=1, default_caption="", caption_extension=".txt"
        )

    return change


def setting(**values: object) -> Change:
    def change(graph: Graph) -> None:
        graph["set"]["inputs"].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (folder_dataset("input/nothing-here"), "There is no folder 'input/nothing-here'"),
        (folder_dataset("input/hollow"), "holds no images"),
        (folder_dataset("(no folder of images yet)"), "There is no folder of images yet; put one into"),
        (folder_dataset("input/../output"), "outside the dataset folders"),
        (folder_dataset("/etc"), "outside the dataset folders"),
        (folder_dataset("elsewhere/moon"), "outside the dataset folders"),
        (
            folder_dataset("input/way-out"),
            "leads outside the dataset folders; instead of the link, name the folder that it "
            "lies in as datasets in ComfyUI's extra_model_paths.yaml",
        ),
        (folder_dataset("input"), "The folder 'input' itself is no dataset; choose a folder in it, or make one"),
        (folder_dataset("datasets/"), "The folder 'datasets' itself is no dataset"),
        (folder_dataset("input/all-broken"), "None of the 3 images"),
        (setting(steps=0), "steps"),
        (setting(rank=0), "rank"),
        (setting(unet_lr=-1.0), "unet_lr"),
        (setting(unet_lr=float("nan")), "unet_lr is nan"),
        (setting(text_lr=float("inf")), "text_lr"),
        (setting(output_name="a/b"), "The output name 'a/b' must be a short, plain file name"),
        (setting(output_name=".."), "The output name '..' must be a short, plain file name"),
        (setting(validation_images=6), "validation_images is 6"),
    ],
)
def test_a_training_that_cannot_work_is_refused_in_a_sentence(
    host: Host, tmp_path: Path, change: Change, sentence: str
) -> None:
    (host.input / "hollow").mkdir(exist_ok=True)
    broken = host.input / "all-broken"
    broken.mkdir(exist_ok=True)
    (broken / "zero.png").write_bytes(b"")
    (broken / "words.jpg").write_text("no picture")
    (broken / "cut.png").write_bytes(png(64)[:200])
    outside = host.base / "secret"
    outside.mkdir(exist_ok=True)
    (outside / "a.png").write_bytes(png(64))
    if not (host.input / "way-out").exists():
        (host.input / "way-out").symlink_to(outside, target_is_directory=True)
    graph = training()
    change(graph)
    refuse(host, graph, sentence)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"output_name": "sub/moon"}, "The output name 'sub/moon' must be a short, plain file name"),
        ({"unet_lr": 0.0, "text_lr": 0.0}, "Every learning rate is 0"),
        ({"steps": 4, "warmup_steps": 5}, "warmup_steps is 5, more than the 4 steps"),
        ({"schedule": "sometimes"}, "schedule"),
        ({"unet_lr": 50.0}, "unet_lr is 50.0; it must be from 0.0 to 1.0."),
        ({"steps": 2_000_000}, "steps is 2000000; it must be from 1 to 1000000."),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_runs(
    host: Host, given: dict[str, object], sentence: str
) -> None:
    graph = training()
    setting(**given)(graph)
    with pytest.raises(dev.PromptFailure) as failure:
        host.queue(graph)
    assert sentence in said(failure.value)


def test_a_setting_on_a_wire_is_judged_once_it_is_known(host: Host) -> None:
    graph = training()
    graph["name"] = node("PrimitiveString", value="sub/moon")
    setting(output_name=["name", 0])(graph)
    prompt = host.queue(graph)
    assert "The output name 'sub/moon' must be" in (dev.failure_of(host.wait(prompt, 60)) or "")


def png(side: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("sampling", ["x0", "lcm"])
def test_a_model_that_predicts_something_else_is_refused(host: Host, sampling: str) -> None:
    graph = training()
    graph["other"] = node("ModelSamplingDiscrete", model=["ckpt", 0], sampling=sampling, zsnr=False)
    graph["train"]["inputs"]["model"] = ["other", 0]
    refuse(host, graph, "is not that of SDXL's noise or v-prediction")


def test_a_checkpoint_without_text_encoders_is_refused(host: Host) -> None:
    """The tiny SDXL less its text encoders; the host then hands on no CLIP at all."""
    state = load_file(dev.TINY_SDXL)
    folder = host.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("conditioner.")}
    save_file(bare, folder / "bare.safetensors")
    graph = training()
    graph["ckpt"]["inputs"]["ckpt_name"] = "bare.safetensors"
    refuse(host, graph, "There is no CLIP: the checkpoint has no text encoders")


def test_another_architecture_is_named(host: Host) -> None:
    """A Stable Diffusion 3 of one block, as the host's own loader makes it from a handful of tensors."""
    weights = {
        "joint_blocks.0.context_block.attn.qkv.weight": torch.zeros(192, 64),
        "x_embedder.proj.weight": torch.zeros(64, 16, 2, 2),
        "final_layer.linear.weight": torch.zeros(64, 64),
        "y_embedder.mlp.0.weight": torch.zeros(64, 2048),
        "context_embedder.weight": torch.zeros(64, 4096),
        "pos_embed": torch.zeros(1, 36864, 64),
    }
    folder = host.base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sd3.safetensors")
    graph = training()
    graph["other"] = node("UNETLoader", unet_name="sd3.safetensors", weight_dtype="default")
    graph["train"]["inputs"]["model"] = ["other", 0]
    refuse(host, graph, "The MODEL is SD3, not SDXL")


def test_a_clip_of_another_model_is_named(host: Host) -> None:
    folder = host.base / "models" / "text_encoders"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(3072, 768)}, folder / "sd1.safetensors")
    graph = training()
    graph["other"] = node("CLIPLoader", clip_name="sd1.safetensors", type="stable_diffusion")
    graph["train"]["inputs"]["clip"] = ["other", 0]
    refuse(host, graph, "The CLIP is SD1ClipModel, not SDXL's pair")


def test_a_vae_of_another_model_is_named(host: Host) -> None:
    folder = host.base / "models" / "vae"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"taesd_decoder.1.weight": torch.zeros(64, 16, 3, 3)}, folder / "wide.safetensors")
    graph = training()
    graph["other"] = node("VAELoader", vae_name="wide.safetensors")
    graph["train"]["inputs"]["vae"] = ["other", 0]
    refuse(host, graph, "The VAE makes latents of 16 channels, SDXL's have 4; connect the VAE of the same checkpoint.")


def test_odd_images_and_captions_are_handled_and_reported(host: Host) -> None:
    folder = host.input / "odd"
    folder.mkdir(exist_ok=True)
    for mode in ("RGB", "RGBA", "LA", "P", "L", "1"):
        (folder / f"{mode}.png").write_bytes(png(160, mode))
    grey = Image.radial_gradient("L").resize((160, 160))
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    grey.convert("I;16").save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.resize((200, 140)).save(folder / "turned.jpg", exif=exif)
    grey.save(folder / "moving.gif", save_all=True, append_images=[grey.rotate(90)])
    (folder / "zero.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(png(160)[:300])
    (folder / "RGB.txt").write_bytes("mjesečina nad šumom".encode("cp1250"))
    (folder / "L.txt").write_text("moon " * 100)
    graph = training(output_name="odd")
    folder_dataset("input/odd")(graph)
    graph["data"]["inputs"] |= {"clip": ["ckpt", 1], "settings": ["set", 0]}
    entry = host.run(graph)
    report = entry["outputs"]["data"]["text"][0]
    for words in ("Images: 10", "Broken files, skipped: 2", "zero.png", "cut.png", "Captions missing: 8",
                  "Captions not in UTF-8: 1", "Captions over 75 tokens: 1", "Animated", "Buckets: "):  # fmt: skip
        assert words in report, report
    assert "100 tokens" in entry["outputs"]["train"]["text"][0]


def swept(axes: list[tuple[str, str]], **values: object) -> Graph:
    graph = sweep("(lora input)", axes, **values)
    graph["text"] = node("PreviewAny", source=["sweep", 1])
    return graph


@pytest.mark.parametrize(
    ("axes", "values", "words"),
    [
        ([("CFG scale", "1-10(+0)")], {}, "1-10(+0)"),
        ([("CFG scale", " , ")], {}, "is empty"),
        ([("sampler", "euler, eulr")], {}, 'Sampler "eulr" is not known here; did you mean'),
        ([("size", "512by512")], {}, '"512by512" is no size'),
        ([("LoRA weight", "0, 1")], {}, "no LoRA is connected to lora"),
        ([("CFG scale", "1-100"), ("seed", "1-100")], {}, "The axes make 10000 cells, more than the 400"),
        ([("prompt: search and replace", "comet, moon")], {}, 'looks for its first value "comet"'),
        ([("CFG scale", "1"), ("CFG scale", "2")], {}, 'Two axes vary "cfg"'),
        ([("size", "64x64"), ("width", "64")], {}, "use one or the other"),
        ([("LoRA file", "nowhere.safetensors")], {}, 'LoRA "nowhere.safetensors" is not known here'),
        ([("LoRA file: all epochs of a run", "nothing")], {}, "There is no LoRA of a run 'nothing'"),
        ([("LoRA weight", "0,6, 0,8, 1,0")], {}, "write decimals with a point, as in 0.6, 0.8"),
    ],
)  # fmt: skip
def test_an_axis_that_makes_no_sense_is_refused_with_its_own_words(
    host: Host, axes: list[tuple[str, str]], values: dict[str, object], words: str
) -> None:
    refuse(host, swept(axes, **values), words)


@pytest.mark.parametrize(
    ("parameter", "values", "told"),
    [
        ("prompt", "moon, night", '2 values: "moon", "night"'),
        ("prompt", '"moon, night"', '1 value: "moon, night"'),
        ("CFG scale", "0-1[3]", "3 values: 0.0, 0.5, 1.0"),
        ("seed", "1-30", f"30 values: {', '.join(map(str, range(1, 25)))} and 6 more"),
    ],
)
def test_an_axis_shows_the_values_that_it_read(host: Host, parameter: str, values: str, told: str) -> None:
    graph = {"axis": node("MjesecSweepAxis", parameter=parameter, values=values)}
    graph["seen"] = node("PreviewAny", source=["axis", 0])
    assert host.run(graph)["outputs"]["axis"]["text"] == [told]


def test_a_sweep_with_a_lora_of_another_architecture_is_refused(host: Host) -> None:
    folder = host.output / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    names = "lora_unet_double_blocks_0_qkv.lora_down.weight", "lora_unet_double_blocks_0_qkv.lora_up.weight"
    save_file({names[0]: torch.zeros(4, 8), names[1]: torch.zeros(8, 4)}, folder / "foreign.safetensors")
    graph = swept([("LoRA weight", "0.5, 1")])
    graph["sweep"]["inputs"]["lora_name"] = "foreign.safetensors"
    refuse(host, graph, "None of the LoRA's 1 modules fits this MODEL")


def test_cells_that_cannot_be_written_are_told_of(host: Host) -> None:
    blocked = host.output / "mjesec" / "cells"
    moved = blocked.with_name("cells_aside")
    if blocked.exists():
        blocked.rename(moved)
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file where the folder should be")
    try:
        refuse(host, swept([("CFG scale", "1, 2")], seed=987, steps=1), "Could not write")
    finally:
        blocked.unlink()
        if moved.exists():
            moved.rename(blocked)


def test_a_lora_that_fits_nothing_is_refused(host: Host) -> None:
    folder = host.output / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"lora_unet_double_blocks_0_qkv.lora_down.weight": torch.zeros(4, 8),
         "lora_unet_double_blocks_0_qkv.lora_up.weight": torch.zeros(8, 4)},
        folder / "alien.safetensors",
    )  # fmt: skip
    graph = picture()
    graph["own"] = node(
        "MjesecLoadLora", model=["ckpt", 0], clip=["ckpt", 1], lora_name="alien.safetensors", strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    graph["sample"]["inputs"]["model"] = ["own", 0]
    refuse(host, graph, "None of the LoRA's 1 modules fits this MODEL")
