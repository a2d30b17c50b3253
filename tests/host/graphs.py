"""API-format graphs that several tests start from; each call makes a new one, so a test may change what it likes."""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]
CHECKPOINT = "tiny_sdxl.safetensors"

TRAIN_SETTINGS: dict[str, Any] = {
    "output_name": "test",
    "steps": 2,
    "resolution": 128,
    "batch_size": 2,
    "rank": 4,
    "alpha": 4.0,
    "unet_lr": 1e-2,
    "text_lr": 1e-2,
    "train": "unet+text",
    "seed": 0,
    "precision": "fp32",
    "validation_images": 0,
    "optimizer": "adamw",
    "schedule": "constant",
    "warmup_steps": 0,
    "gradient_accumulation": 1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "save_every_epochs": 0,
    "save_precision": "fp32",
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def training(**settings: Any) -> Graph:
    """Checkpoint (ckpt), Moons (data), settings (set) and the training (train)."""
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "data": node("MjesecMoonDataset", count=6, size=128, seed=1),
        "set": node("MjesecTrainSettings", **{**TRAIN_SETTINGS, **settings}),
        "train": node(
            "MjesecTrainLora",
            model=["ckpt", 0],
            clip=["ckpt", 1],
            vae=["ckpt", 2],
            dataset=["data", 0],
            settings=["set", 0],
        ),
    }


# few pixels: what is asked of pictures here holds at any size, and decoding takes longest of all
SIDE = 64


def picture(*, lora: str | None = None, weight: float = 1.0, prefix: str = "plain", **sampler: Any) -> Graph:
    """A plain graph of core nodes: one image with KSampler, perhaps through the host's LoraLoader."""
    values: dict[str, Any] = {
        "seed": 3,
        "steps": 3,
        "cfg": 5.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "normal",
        "denoise": 1.0,
        **sampler,
    }
    graph = {"ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)}
    model, clip = ["ckpt", 0], ["ckpt", 1]
    if lora is not None:
        graph["lora"] = node(
            "LoraLoader", model=model, clip=clip, lora_name=lora, strength_model=weight, strength_clip=weight
        )
        model, clip = ["lora", 0], ["lora", 1]
    return graph | {
        "yes": node("CLIPTextEncode", clip=clip, text="moon"),
        "no": node("CLIPTextEncode", clip=clip, text=""),
        "empty": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
        "sample": node(
            "KSampler", model=model, positive=["yes", 0], negative=["no", 0], latent_image=["empty", 0], **values
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix=prefix),
    }


def sweep(lora_name: str, axes: list[tuple[str, str]], **values: Any) -> Graph:
    """A sweep (sweep) of ``axes`` = (parameter, values) with a LoRA file, and its figure (figure)."""
    graph = {"ckpt": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)}
    link: dict[str, Any] = {}
    for number, (parameter, text) in enumerate(axes):
        graph[f"axis{number}"] = node("MjesecSweepAxis", parameter=parameter, values=text, **link)
        link = {"axes": [f"axis{number}", 0]}
    inputs: dict[str, Any] = {
        "prompt": "moon",
        "negative": "",
        "width": SIDE,
        "height": SIDE,
        "seed": 3,
        "steps": 3,
        "cfg": 5.0,
        "sampler": "euler_ancestral",
        "scheduler": "normal",
        "lora_weight": 1.0,
        "lora_name": lora_name,
        **values,
    }
    graph["sweep"] = node("MjesecSweep", model=["ckpt", 0], clip=["ckpt", 1], vae=["ckpt", 2], **link, **inputs)
    graph["figure"] = node(
        "MjesecFigure",
        grid=["sweep", 0],
        filename_prefix="figures/sweep",
        title="",
        caption="",
        theme="light",
        font="sans",
        transpose=False,
        columns=0,
        cell_width=0,
        tags=False,
        dpi=300,
    )
    return graph
