"""A cell's settings as a plain graph: what to queue to get the same picture again without the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Graph = dict[str, dict[str, Any]]
_FROM_WIRE = "(lora input)"
_WIRED = {
    "positive": "The sweep took its positive conditioning by wire; here the prompt stands in its place.",
    "negative": "The sweep took its negative conditioning by wire; here the negative prompt stands in its place.",
    "latent": "The sweep started from a latent on a wire; here an empty one stands in its place.",
}


def cell_graph(parameters: Mapping[str, Any]) -> Graph:
    """KSampler and what it needs, in API format, from a cell's record in the cell store.

    A LoRA that came by wire becomes Load LoRA with its lora input open: its file is not known.

    Raises:
        ValueError: the record lacks a setting.
    """
    try:
        return _graph(parameters)
    except KeyError as missing:
        raise ValueError(f"The cell's record has no {missing}; it was made by another version.") from None


def cell_notes(parameters: Mapping[str, Any]) -> list[str]:
    """Where the plain graph cannot be what made the cell, one sentence each."""
    notes = [sentence for name, sentence in _WIRED.items() if name in parameters.get("wired", ())]
    if _uses_lora(parameters) and not parameters["lora_file"]:
        notes.append("The LoRA came by wire: connect it to Load LoRA, or choose its file there.")
    if not _checkpoint(parameters):
        notes.append("Choose the checkpoint: its name is not known.")
    return notes


def _graph(parameters: Mapping[str, Any]) -> Graph:
    graph = {"1": _node("CheckpointLoaderSimple", ckpt_name=_checkpoint(parameters))}
    model, clip = ["1", 0], ["1", 1]
    if _uses_lora(parameters):
        graph["2"] = _node(
            "MjesecLoadLora", model=model, clip=clip, lora_name=parameters["lora_file"] or _FROM_WIRE,
            strength_model=parameters["lora_weight_model"], strength_clip=parameters["lora_weight_clip"],
        )  # fmt: skip
        model, clip = ["2", 0], ["2", 1]
    settings = {name: parameters[name] for name in ("seed", "steps", "cfg", "scheduler", "denoise")}
    return graph | {
        "3": _node("CLIPTextEncode", clip=clip, text=parameters["prompt"]),
        "4": _node("CLIPTextEncode", clip=clip, text=parameters["negative"]),
        "5": _node("EmptyLatentImage", width=parameters["width"], height=parameters["height"], batch_size=1),
        "6": _node(
            "KSampler", model=model, positive=["3", 0], negative=["4", 0], latent_image=["5", 0],
            sampler_name=parameters["sampler"], **settings,
        ),
        "7": _node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": _node("SaveImage", images=["7", 0], filename_prefix="mjesec/cell"),
    }  # fmt: skip


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _checkpoint(parameters: Mapping[str, Any]) -> str:
    return parameters["checkpoint"] or parameters.get("wired_checkpoint", "")


def _uses_lora(parameters: Mapping[str, Any]) -> bool:
    given = bool(parameters["lora_file"]) or "lora" in parameters.get("wired", ())
    return given and (parameters["lora_weight_model"] != 0 or parameters["lora_weight_clip"] != 0)
