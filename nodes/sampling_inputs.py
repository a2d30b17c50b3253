"""Inputs that several nodes have in common: the size of a picture, and how it is sampled."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io


def size_inputs(of: str, most: int = 8192) -> list[io.Int.Input]:
    """``width`` and ``height`` in pixels, up to ``most``; ``of`` goes on after 'Width ' in the tooltip."""
    return [
        io.Int.Input(side, default=1024, min=64, max=most, step=8, tooltip=f"{side.capitalize()} {of}.")
        for side in ("width", "height")
    ]


def sampling_inputs(
    seed: str, *, most_steps: int = 10_000, sampler: str | None = None, scheduler: str | None = None
) -> list[io.Int.Input | io.Float.Input | io.Combo.Input]:
    """``seed``, whose tooltip is given, ``steps``, ``cfg``, ``sampler`` and ``scheduler``, as the host's KSampler has.

    sampler, scheduler: the ones that are chosen at first; the host's first without them.
    """
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip=seed,
        ),
        io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=most_steps,
            tooltip="Sampling steps of each image: more take longer and change it less and less.",
        ),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="CFG scale: how strongly the prompt is enforced; too high over-saturates.",
        ),
        io.Combo.Input(
            "sampler",
            options=comfy.samplers.KSampler.SAMPLERS,
            default=sampler,
            tooltip="How the noise is taken away; those called ancestral or sde add new noise at each step.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default=scheduler,
            tooltip="How the noise levels are spaced over the steps; karras spends more on details.",
        ),
    ]
