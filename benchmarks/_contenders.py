"""Who is compared by train.py: trainers inside a ComfyUI, and trainers that are programs of their own."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from _hosts import Graph, node

import dev

RANK = 32
SD_SCRIPTS_TOKENIZERS = ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k")


@dataclass(frozen=True)
class NodeTrainer:
    """A trainer in ComfyUI. ``train`` adds its nodes to a graph; ``progress`` finds 'step/steps' in the log."""

    name: str
    train: Callable[[Graph, int, int], Graph]
    progress: re.Pattern[str]
    batch: int = 1


@dataclass(frozen=True)
class ProgramTrainer:
    """A program. ``command`` makes its command line, from checkpoint, size, steps, device and a folder to work in."""

    name: str
    command: Callable[[Path, int, int, str, Path], list[str]]
    progress: re.Pattern[str]
    # what it prints once its models are in memory, and once it has let go of what it trained; "" where it never does
    loaded: str
    over: str = ""
    batch: int = 1


def loaded(checkpoint: str, size: int) -> Graph:
    """Loads everything and uses it once: text, VAE both ways, one step of the sampler."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "images": node("LoadImageDataSetFromFolder", folder="moon"),
        "latents": node("VAEEncode", pixels=["images", 0], vae=["model", 2]),
        "text": node("CLIPTextEncode", clip=["model", 1], text="moon"),
        "decoded": node("VAEDecode", samples=["latents", 0], vae=["model", 2]),
        "shown": node("PreviewImage", images=["decoded", 0]),
        "empty": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "sampled": node(
            "KSampler", model=["model", 0], positive=["text", 0], negative=["text", 0], latent_image=["empty", 0],
            seed=0, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "saved": node("SaveLatent", samples=["sampled", 0], filename_prefix="warm"),
    }  # fmt: skip


def hosts_trainer(graph: Graph, size: int, steps: int) -> Graph:
    """ComfyUI's node; every input that is not given stands at its default."""
    kept = {name: graph[name] for name in ("model", "images", "latents", "text")}
    return kept | {
        "train": node(
            "TrainLoraNode", model=["model", 0], latents=["latents", 0], positive=["text", 0], steps=steps, rank=RANK,
            training_dtype="bf16", gradient_checkpointing=False, existing_lora="[None]", bypass_mode=True,
        ),
        "keep": node("SaveLoRA", lora=["train", 0], prefix="loras/host", steps=["train", 2]),
    }  # fmt: skip


def _ours(graph: Graph, settings: Graph, last: str) -> Graph:
    """Our node on settings whose last node is ``last``."""
    return {"model": graph["model"], **settings} | {
        "dataset": node("MjesecLoadImageDataset", folder="input/moon", default_caption="moon"),
        "train": node(
            "MjesecTrainLora", model=["model", 0], clip=["model", 1], vae=["model", 2], dataset=["dataset", 0],
            settings=[last, 0],
        ),
    }  # fmt: skip


def _settings(size: int, steps: int, batch: int) -> dict[str, object]:
    return node(
        "MjesecTrainSettings", output_name="ours", steps=steps, resolution=size, batch_size=batch, train="unet",
        rank=RANK, alpha=float(RANK), optimizer="adamw", precision="bf16", gradient_checkpointing=False,
    )  # fmt: skip


def recommended(batch: int) -> Callable[[Graph, int, int], Graph]:
    """U-Net only, fp32 adapters under bf16, gradient clipping, AdamW."""
    return lambda graph, size, steps: _ours(graph, {"settings": _settings(size, steps, batch)}, "settings")


def low_memory(graph: Graph, size: int, steps: int) -> Graph:
    """The same with gradient checkpointing and the frozen base in fp8."""
    spared = {
        "settings": _settings(size, steps, 1),
        "adapter": node("MjesecAdapterOptions", settings=["settings", 0], base_storage="fp8"),
        "memory": node("MjesecMemoryOptions", settings=["adapter", 0], profile="low"),
    }
    return _ours(graph, spared, "memory")


def thesis(graph: Graph, size: int, steps: int) -> Graph:
    """The thesis's settings: with both text encoders, Adafactor; fp16 on a GPU, bf16 on a CPU."""
    settings = node("MjesecThesisSettings", output_name="thesis", steps=steps, resolution=size, train="unet+text")
    return _ours(graph, {"settings": settings}, "settings")


def _diffusers(checkpoint: Path, size: int, steps: int, device: str, work: Path) -> list[str]:
    program = Path(__file__).with_name("_diffusers_loop.py")
    return [sys.executable, str(program), str(checkpoint), str(size), str(steps), str(RANK), device]


def sd_scripts(folder: Path, python: Path, tokenizer: Path) -> ProgramTrainer:
    """kohya-ss/sd-scripts in ``folder``, run by ``python``, which has its requirements.

    Rank 32 on the U-Net alone, bf16, text encoders' outputs and latents cached. tokenizer: CLIP's vocab.json and
    merges.txt, which it would download.
    """

    def command(checkpoint: Path, size: int, steps: int, device: str, work: Path) -> list[str]:
        for name in SD_SCRIPTS_TOKENIZERS:
            place = work / "tokenizers" / name
            place.mkdir(parents=True)
            for file in ("vocab.json", "merges.txt", "special_tokens_map.json"):
                shutil.copy(tokenizer / file, place / file)
            # ComfyUI's own says 8192, and sd-scripts pads to it
            (place / "tokenizer_config.json").write_text('{"model_max_length": 77}', "utf-8")
        options = {
            "pretrained_model_name_or_path": checkpoint, "train_data_dir": work / "data", "output_dir": work / "out",
            "output_name": "kohya", "resolution": f"{size},{size}", "max_train_steps": steps, "network_dim": RANK,
            "network_alpha": RANK, "network_module": "networks.lora", "optimizer_type": "AdamW",
            "learning_rate": "1e-4", "mixed_precision": "bf16", "train_batch_size": 1, "save_precision": "fp16",
            "tokenizer_cache_dir": work / "tokenizers", "max_data_loader_n_workers": 0, "caption_extension": ".txt",
        }  # fmt: skip
        flags = ("cache_latents", "cache_text_encoder_outputs", "network_train_unet_only", "no_half_vae", "sdpa")
        given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return [str(python), str(folder / "sdxl_train_network.py"), *given, *(f"--{flag}" for flag in flags)]

    progress = re.compile(r"\| (\d+)/(\d+) \[")
    return ProgramTrainer("kohya-ss/sd-scripts", command, progress, loaded="create LoRA network")


def contenders(device: str) -> dict[str, NodeTrainer | ProgramTrainer]:
    """By the names that --rows takes; ours is compared with host."""
    bar, steps = re.compile(r"\| (\d+)/(\d+) \["), re.compile(r"\[Mjesec\] step (\d+)/(\d+),")
    host = NodeTrainer("ComfyUI's TrainLoraNode, bypass mode", hosts_trainer, bar)
    ours = NodeTrainer("Mjesec", recommended(1), steps)
    theses = NodeTrainer("Mjesec, thesis settings (with text encoders)", thesis, steps)
    if device == "cuda":
        return {
            "ours": ours,
            "ours4": NodeTrainer("Mjesec, batch 4", recommended(4), steps, batch=4),
            "thesis": theses,
            "low": NodeTrainer("Mjesec, low memory (checkpointing, fp8 base)", low_memory, steps),
            # it keeps what it took
            "host": host,
        }
    loop = re.compile(r"^step (\d+)/(\d+) ", re.MULTILINE)
    diffusers = ProgramTrainer("diffusers' script's loop (560 modules)", _diffusers, loop, "loaded", "over")
    return {"host": host, "ours": ours, "thesis": theses, "diffusers": diffusers}


def tokenizer_folder(comfyui: Path) -> Path:
    """CLIP's tokenizer as ComfyUI ships it."""
    folder = comfyui / "comfy" / "sd1_tokenizer"
    if not (folder / "vocab.json").is_file():
        raise dev.Failure(f"'{comfyui}' has no CLIP tokenizer in comfy/sd1_tokenizer, which sd-scripts needs.")
    return folder
