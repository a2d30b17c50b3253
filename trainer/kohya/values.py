"""Keys of a kohya configuration, read one by one with their types, and a ledger of what became of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from .keys import MUST_BE_OFF, NO_EFFECT, OTHER_FAMILIES

Default = TypeVar("Default")
Fields = dict[str, object]
"""Fields of the settings by name, on their way there."""
Arguments = dict[str, str]
"""What network_args or optimizer_args give, as written."""


class Keys:
    """The values under their keys. Every key ends up honoured, idle (with the reason) or refused (with the cure)."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = dict(values)
        self.honoured: dict[str, object] = {}
        self.idle: dict[str, str] = {}
        self.refused: dict[str, str] = {}

    def given(self, name: str) -> bool:
        """Whether the key is there and not empty."""
        return not is_empty(self._values.get(name))

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if is_empty(value):
            return False
        if str(value).lower() in ("true", "1"):
            return True
        return self._wrong(name, value, "true or false", default=False)

    def number(self, name: str, default: float) -> float:
        value = self._take(name)
        if is_empty(value):
            return default
        try:
            number = float(str(value)) if not isinstance(value, bool) else math.nan
        except ValueError:
            number = math.nan
        return number if math.isfinite(number) else self._wrong(name, value, "a number", default)

    def whole(self, name: str, default: int) -> int:
        # not by way of a float, which holds no seed over 2^53
        if re.fullmatch(r"-?\d{1,300}", str(self._values.get(name))):
            return int(str(self._take(name)))
        number = self.number(name, default)
        return int(number) if number == int(number) else self._wrong(name, number, "a whole number", default)

    def text(self, name: str, default: str = "") -> str:
        value = self._take(name)
        return default if is_empty(value) else str(value)

    def choice(self, name: str, default: str, allowed: Iterable[str]) -> str:
        value, allowed = self.text(name, default), tuple(allowed)
        return value if value in allowed else self._wrong(name, value, f"one of {', '.join(allowed)}", default)

    def numbers(self, name: str) -> list[float]:
        """Numbers from a list, or from text with spaces or commas between them."""
        value = self._take(name)
        if is_empty(value):
            return []
        pieces = value if isinstance(value, list) else [p for p in re.split(r"[\s,]+", str(value).strip("()[] ")) if p]
        try:
            return [float(piece) for piece in pieces]
        except (TypeError, ValueError):
            return self._wrong(name, value, "numbers", default=[])

    def arguments(self, name: str, *, quoted: bool = False) -> dict[str, str]:
        """``key=value`` pieces from a list, or from text with spaces between them.

        quoted: values are Python literals, whose quotation marks belong to them.
        """
        value = self._take(name)
        if is_empty(value):
            return {}
        pieces = [str(p) for p in value] if isinstance(value, list) else str(value).split()
        pieces = [piece.strip() for piece in pieces if piece.strip()]
        if wrong := [piece for piece in pieces if not re.fullmatch(r"\w+\s*=.+", piece, re.DOTALL)]:
            return self._wrong(name, wrong[0], "key=value pieces", default={})
        parted = (piece.partition("=") for piece in pieces)
        return {key.strip(): text.strip() if quoted else text.strip().strip("'\"") for key, _, text in parted}

    def idle_for(self, reason: str, *names: str, unread: bool = False) -> None:
        """These keys change nothing in this run, for one reason; ``unread``: only those that nothing has read."""
        for name in names:
            if name in self._values and not (unread and name in self.honoured):
                self.idle[name] = reason
                self.honoured.pop(name, None)

    def refuse(self, name: str, cure: str) -> None:
        """``cure``: why it cannot be honoured, and what to do, without a full stop."""
        self.tell(name, f"{name} = {_shown(self._values.get(name))} cannot be honoured: {cure}.")

    def tell(self, name: str, sentence: str) -> None:
        """Refuse a key with a whole sentence; of several all are told."""
        told = self.refused.get(name, "").splitlines()
        self.refused[name] = "\n".join(dict.fromkeys([*told, sentence]))

    def finish(self) -> None:
        """Look up every key that nothing has read."""
        for name, value in self._values.items():
            if name in self.honoured or name in self.idle or name in self.refused:
                continue
            if is_empty(value):
                self.idle[name] = "it is empty"
            elif name in NO_EFFECT:
                self.idle[name] = NO_EFFECT[name]
            elif name in OTHER_FAMILIES:
                self.idle[name] = "it belongs to another family of models"
            elif name in MUST_BE_OFF:
                if is_off(name, value):
                    self.idle[name] = "this value turns it off"
                else:
                    self.refuse(name, MUST_BE_OFF[name][1])
            else:
                self.refuse(name, self._unknown(name))

    def _unknown(self, name: str) -> str:
        known = [*NO_EFFECT, *MUST_BE_OFF, *self.honoured, *READ]
        near = get_close_matches(name, known, n=1, cutoff=0.75)
        hint = f"; write {near[0]} if that is meant, or remove it" if near else "; remove it"
        return f"sd-scripts' SDXL LoRA training has no such key{hint}"

    def _take(self, name: str) -> object:
        value = self._values.get(name)
        if name in self._values and value not in (None, "", [], {}):
            self.honoured[name] = value
        return value

    def _wrong(self, name: str, value: object, wanted: str, default: Default) -> Default:
        self.refuse(name, f"it must be {wanted}, not {_shown(value)}")
        return default


# keys that are read under conditions, for the hint about a misspelt one
READ = (
    "network_dim", "network_alpha", "learning_rate", "unet_lr", "text_encoder_lr", "optimizer_type", "optimizer_args",
    "train_batch_size", "max_train_steps", "max_train_epochs", "resolution", "train_data_dir", "mixed_precision",
    "save_precision", "network_train_unet_only", "noise_offset", "min_snr_gamma", "lr_scheduler", "lr_warmup_steps",
)  # fmt: skip


def is_empty(value: object) -> bool:
    """Whether a key with this value is as good as none."""
    return value is None or value is False or value in ("", [], {}, "false", "False", "None")


def is_off(name: str, value: object) -> bool:
    """Whether the key is as good as none, by what it does."""
    off = MUST_BE_OFF[name][0] if name in MUST_BE_OFF else ()
    return is_empty(value) or any(
        str(value) == str(o) or (_numeric(value) and _numeric(o) and float(value) == float(o))  # type: ignore[arg-type]
        for o in off
    )


def _numeric(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _shown(value: object) -> str:
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def argument_number(keys: Keys, arguments: Arguments, name: str, default: float, key: str = "network_args") -> float:
    """A number out of ``arguments``, which it is taken out of."""
    text = arguments.pop(name, "None")
    try:
        number = default if text in ("None", "") else float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    keys.refuse(key, f"{name}={text} is no number; correct it")
    return default


def whole_argument(keys: Keys, arguments: Arguments, name: str, default: int) -> int:
    """The same for a whole number of network_args."""
    number = argument_number(keys, arguments, name, default)
    if number == int(number):
        return int(number)
    keys.refuse("network_args", f"{name}={number:g} is no whole number; correct it")
    return default


def note_idle(keys: Keys, arguments: Arguments, reasons: Mapping[str, str]) -> None:
    """Take out the arguments that change nothing, and note why."""
    for name in [name for name in arguments if name in reasons]:
        del arguments[name]
        keys.idle[f"network_args {name}"] = reasons[name]
