"""What decides an image besides the wires, and how the axes of a sweep change it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...figures import Axis, Cell

_SIZE = re.compile(r"(\d{2,5})\s*[x×*]\s*(\d{2,5})")
WEIGHTS = ("lora_weight", "lora_weight_model", "lora_weight_clip")
_TEXT = {"prompt": "positive", "prompt_replace": "positive", "negative": "negative"}
_SIZES = ("size", "width", "height")
# how often the host's samplers ask the model in a step; once where nothing is said
EVALUATIONS = {
    "heun": 2, "heunpp2": 3, "exp_heun_2_x0": 2, "exp_heun_2_x0_sde": 2, "dpm_2": 2, "dpm_2_ancestral": 2,
    "dpmpp_2s_ancestral": 2, "dpmpp_2s_ancestral_cfg_pp": 2, "dpmpp_sde": 2, "dpmpp_sde_gpu": 2, "seeds_2": 2,
    "seeds_3": 3, "sa_solver_pece": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """One image's parameters. ``cfg`` is the CFG scale, sizes are pixels.

    lora_file, checkpoint: names as the host lists them; empty takes what is on the wires.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    width: int
    height: int
    lora_weight_model: float
    lora_weight_clip: float
    lora_file: str = ""
    checkpoint: str = ""

    @property
    def uses_lora(self) -> bool:
        # weight 0 is the base itself, as in the host's LoraLoader
        return self.lora_weight_model != 0 or self.lora_weight_clip != 0

    @property
    def first_asked(self) -> Shot:
        """All that the model's first prediction depends on, but for latents and sigmas: equal where that is shared."""
        return replace(self, cfg=1.0, steps=1, sampler="", scheduler="", denoise=1.0)

    @property
    def work(self) -> float:
        """Megapixels times steps times model evaluations a step: what sampling time goes with."""
        evaluations = EVALUATIONS.get(self.sampler, 1) * (1 if self.cfg == 1 else 2)
        return self.width * self.height / 1e6 * self.steps * evaluations


def size_of(text: str) -> tuple[int, int]:
    """``512x768`` as width and height in pixels.

    Raises:
        ValueError: quotes the text.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text}" is no size; write width x height, as in 1024x768.')
    width, height = int(match[1]), int(match[2])
    if width % 8 or height % 8 or min(width, height) < 16 or max(width, height) > 16_384:
        raise ValueError(f'The size "{text}" cannot be made; both numbers must be divisible by 8, from 16 to 16384.')
    return width, height


def shot_of(base: Shot, cell: Cell, axes: Sequence[Axis]) -> Shot:
    """``base`` with the cell's values."""
    values: dict[str, object] = dict(cell.values)
    if "lora_weight" in values:
        both = values.pop("lora_weight")
        values = {"lora_weight_model": both, "lora_weight_clip": both, **values}
    if "size" in values:
        width, height = size_of(str(values.pop("size")))
        values |= {"width": width, "height": height}
    replacement = values.pop("prompt_replace", None)
    shot = replace(base, **values)  # type: ignore[arg-type]
    if replacement is None:
        return shot
    sought = next(str(axis.values[0]) for axis in axes if axis.parameter == "prompt_replace")
    return replace(shot, prompt=shot.prompt.replace(sought, str(replacement)))


@dataclass(frozen=True)
class Wires:
    """Which of Sweep's optional sockets are connected."""

    lora: bool = False
    positive: bool = False
    negative: bool = False
    latent: bool = False


def check_axes(base: Shot, axes: Sequence[Axis], wires: Wires) -> None:
    """Refuse axes that could change nothing or contradict each other or a wire.

    Raises:
        ValueError: names the axis and the cure.
    """
    labels = {axis.parameter: axis.label for axis in axes}
    for axis in axes:
        _check_wires(axis, wires)
        if axis.parameter in WEIGHTS and not wires.lora and "lora_file" not in labels and not base.lora_file:
            raise ValueError(
                f"An axis varies {axis.label}, but no LoRA is connected to lora; connect one or drop the axis."
            )
        if axis.parameter == "prompt_replace":
            _check_replacement(base, axes, str(axis.values[0]))
        if axis.parameter == "size":
            for value in axis.values:
                size_of(str(value))
    if "lora_weight" in labels and ("lora_weight_model" in labels or "lora_weight_clip" in labels):
        raise ValueError(
            "One axis varies the LoRA weight of U-Net and text encoders together and another one of them alone; "
            "use one or the other."
        )
    if "size" in labels and ("width" in labels or "height" in labels):
        raise ValueError("One axis varies the size and another width or height; use one or the other.")


def half_effects(base: Shot, axes: Sequence[Axis], wires: Wires) -> list[str]:
    """Sentences about what has less effect than its name says, or none."""
    varied = {axis.parameter for axis in axes}
    told = []
    if "checkpoint" in varied:
        told.append(
            "Each checkpoint of the axis comes with its own text encoders and VAE: what is connected to model, clip "
            "and vae, and whatever nodes have changed of it, is in none of these cells."
        )
    return [*told, *_of_lora(base, varied, wires)]


def _of_lora(base: Shot, varied: set[str], wires: Wires) -> list[str]:
    """That a LoRA does not reach what was encoded before."""
    weighed = varied & {"lora_weight", "lora_file"}
    sockets = [f"{side}_conditioning" for side in ("positive", "negative") if getattr(wires, side)]
    if not sockets or not (weighed or ((wires.lora or base.lora_file) and base.lora_weight_clip)):
        return []
    reached = "the U-Net alone" if len(sockets) == 2 else "the U-Net and the other text alone"
    return [
        f"The LoRA reaches {reached}: {' and '.join(sockets)} {'is' if len(sockets) == 1 else 'are'} encoded already, "
        "with whatever LoRA the text encoders had then."
    ]


def _check_wires(axis: Axis, wires: Wires) -> None:
    socket = _TEXT.get(axis.parameter, "")
    if socket and getattr(wires, socket):
        raise ValueError(
            f"An axis varies {axis.label}, but {socket}_conditioning is connected and its text cannot be changed; "
            "disconnect one."
        )
    if axis.parameter == "checkpoint" and (wires.positive or wires.negative):
        raise ValueError(
            "An axis varies the checkpoint, but positive_conditioning or negative_conditioning holds text "
            "encoded by one of them; disconnect it."
        )
    if axis.parameter == "lora_weight_clip" and wires.positive and wires.negative:
        raise ValueError(
            f"An axis varies {axis.label}, but positive_conditioning and negative_conditioning are encoded "
            "already; disconnect them."
        )
    if axis.parameter == "lora_file" and wires.lora:
        raise ValueError(f"An axis varies {axis.label}, but lora is connected and goes before it; disconnect one.")
    if axis.parameter in _SIZES and wires.latent:
        raise ValueError(f"An axis varies {axis.label}, but latent is connected and has a size; disconnect one.")


def _check_replacement(base: Shot, axes: Sequence[Axis], sought: str) -> None:
    prompts = next((axis.values for axis in axes if axis.parameter == "prompt"), (base.prompt,))
    for prompt in prompts:
        if not sought or sought not in str(prompt):
            raise ValueError(
                f'Search and replace looks for its first value "{sought}", which the prompt "{prompt}" does not hold.'
            )
