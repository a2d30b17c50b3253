"""The graph of one cell: what is upstream of Sweep, then plain nodes that give the cell's pixels on their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .provenance import upstream
from .shot import Shot

Graph = dict[str, dict[str, Any]]
_WIRES = ("model", "clip", "vae", "lora", "positive_conditioning", "negative_conditioning", "latent")
_FIRST = 1_000_000  # ids of the plain nodes, above those that an editor gives


def graph_of_cell(prompt: Mapping[str, Mapping[str, Any]], sweep: str, shot: Shot) -> Graph:
    """An API-format graph whose one SaveImage holds the cell of ``shot``.

    prompt: the graph that ran. sweep: the id of its Sweep. LoRAs, texts, latent and sampling become Load LoRA,
    CLIPTextEncode, EmptyLatentImage and KSampler; whatever made the wires stays as it was.
    """
    inputs = prompt[sweep]["inputs"]
    wires = {name: list(inputs[name]) for name in _WIRES if isinstance(inputs.get(name), (list, tuple))}
    graph: Graph = {}
    if shot.checkpoint:
        loader = _add(graph, "CheckpointLoaderSimple", ckpt_name=shot.checkpoint)
        wires |= {"model": [loader, 0], "clip": [loader, 1], "vae": [loader, 2]}
    model, clip = _with_lora(graph, wires, shot)
    texts = {
        side: wires.get(f"{side}_conditioning") or [_add(graph, "CLIPTextEncode", clip=clip, text=text), 0]
        for side, text in (("positive", shot.prompt), ("negative", shot.negative))
    }
    start = wires.get("latent") or [
        _add(graph, "EmptyLatentImage", width=shot.width, height=shot.height, batch_size=1), 0,
    ]  # fmt: skip
    sampled = _add(
        graph, "KSampler", model=model, **texts, latent_image=start, seed=shot.seed, steps=shot.steps, cfg=shot.cfg,
        sampler_name=shot.sampler, scheduler=shot.scheduler, denoise=shot.denoise,
    )  # fmt: skip
    image = _add(graph, "VAEDecode", samples=[sampled, 0], vae=wires["vae"])
    _add(graph, "SaveImage", images=[image, 0], filename_prefix="mjesec/cell")
    own = [value for node in graph.values() for value in node["inputs"].values()]
    return {**upstream(prompt, own), **graph}


def _with_lora(graph: Graph, wires: Mapping[str, list[Any]], shot: Shot) -> tuple[list[Any], list[Any]]:
    """MODEL and CLIP with the cell's LoRA; without one where its weight is 0."""
    if not shot.uses_lora or not (shot.lora_file or "lora" in wires):
        return wires["model"], wires["clip"]
    given = {"lora": wires["lora"]} if not shot.lora_file else {}
    loaded = _add(
        graph, "MjesecLoadLora", model=wires["model"], clip=wires["clip"], lora_name=shot.lora_file or "(lora input)",
        strength_model=shot.lora_weight_model, strength_clip=shot.lora_weight_clip, **given,
    )  # fmt: skip
    return [loaded, 0], [loaded, 1]


def _add(graph: Graph, kind: str, **inputs: Any) -> str:
    key = str(_FIRST + len(graph))
    graph[key] = {"class_type": kind, "inputs": inputs}
    return key
