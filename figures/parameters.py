"""What a sweep can vary: names, labels for print, kinds and limits."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Value = int | float | str
Kind = Literal["int", "float", "text", "choice"]


@dataclass(frozen=True)
class Parameter:
    """One quantity that an axis can run over.

    `label` is what a reader sees, `multiple` what whole numbers must be divisible by, `is_file` marks
    file names (shown without folder and suffix), and `cost` ranks what a change of value costs at run
    time: 0 is free, the highest means that a checkpoint is loaded.
    """

    name: str
    label: str
    kind: Kind
    minimum: int | float | None = None
    maximum: int | float | None = None
    unit: str = ""
    multiple: int = 1
    is_file: bool = False
    cost: int = 0

    def __post_init__(self) -> None:
        if not self.name or not self.label:
            raise ValueError("A parameter needs a name and a label.")
        if self.kind not in ("int", "float", "text", "choice"):
            raise ValueError(f'The kind of {self.name} is "{self.kind}"; use int, float, text or choice.')
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"{self.name} has its minimum {self.minimum} above its maximum {self.maximum}.")

    @property
    def is_number(self) -> bool:
        return self.kind in ("int", "float")

    @property
    def title(self) -> str:
        """Label with the unit in brackets, as it is printed above the values."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def allowed(self) -> str:
        """The allowed values in words, for messages."""
        if self.kind == "text":
            return "any text"
        if self.kind == "choice":
            return "one of the offered names"
        noun = "whole numbers" if self.kind == "int" else "numbers"
        if self.multiple > 1:
            noun += f" divisible by {self.multiple}"
        limits = ((" from", self.minimum), (" to", self.maximum))
        return noun + "".join(f"{word} {limit}" for word, limit in limits if limit is not None)

    def check(self, value: object, choices: Sequence[str] | None = None) -> None:
        """Raise ValueError, which names the value and what is allowed, unless `value` is allowed."""
        if not self.is_number:
            self._check_text(value, choices)
        elif not self._is_allowed_number(value):
            raise ValueError(f"{self.label} cannot be {value!r}; allowed are {self.allowed}.")

    def _is_allowed_number(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if isinstance(value, float) and (self.kind == "int" or not math.isfinite(value)):
            return False
        above = self.minimum is None or value >= self.minimum
        below = self.maximum is None or value <= self.maximum
        return above and below and (self.multiple == 1 or value % self.multiple == 0)

    def _check_text(self, value: object, choices: Sequence[str] | None) -> None:
        if not isinstance(value, str):
            raise ValueError(f"{self.label} cannot be {value!r}; allowed is {self.allowed}.")
        if choices is None or value in choices:
            return
        if not choices:
            raise ValueError(f'{self.label} "{value}" is not known here; there is none at all yet, so add one first.')
        near = difflib.get_close_matches(value, choices, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}" if near else f"choose from {', '.join(choices[:8])}"
        more = "" if near or len(choices) <= 8 else f" and {len(choices) - 8} more"
        raise ValueError(f'{self.label} "{value}" is not known here; {hint}{more}.')


_KNOWN = (
    Parameter("cfg", "CFG scale", "float", 0, 100),
    Parameter("steps", "Sampling steps", "int", 1, 10_000, cost=1),
    Parameter("sampler", "Sampler", "choice", cost=1),
    Parameter("scheduler", "Scheduler", "choice", cost=1),
    Parameter("denoise", "Denoise", "float", 0, 1, cost=1),
    Parameter("seed", "Seed", "int", 0, 2**64 - 1),
    Parameter("width", "Width", "int", 16, 16_384, unit="px", multiple=8, cost=2),
    Parameter("height", "Height", "int", 16, 16_384, unit="px", multiple=8, cost=2),
    Parameter("size", "Size", "text", unit="px", cost=2),
    Parameter("negative", "Negative prompt", "text", cost=3),
    Parameter("prompt_replace", "Prompt with", "text", cost=3),
    Parameter("prompt", "Prompt", "text", cost=3),
    Parameter("lora_weight", "LoRA weight", "float", -100, 100, cost=4),
    Parameter("lora_weight_model", "LoRA weight, U-Net", "float", -100, 100, cost=4),
    Parameter("lora_weight_clip", "LoRA weight, text encoder", "float", -100, 100, cost=3),
    Parameter("lora_file", "LoRA", "choice", is_file=True, cost=5),
    Parameter("checkpoint", "Checkpoint", "choice", is_file=True, cost=6),
)
PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _KNOWN}
COST_RANK: dict[str, int] = {parameter.name: parameter.cost for parameter in _KNOWN}


def parameter_named(name: str) -> Parameter:
    """Look a known parameter up; ValueError names the known ones."""
    if name not in PARAMETERS:
        raise ValueError(f'"{name}" is not a sweep parameter; known are {", ".join(PARAMETERS)}.')
    return PARAMETERS[name]
