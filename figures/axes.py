"""An axis of a sweep: one parameter and the values it takes, in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import PurePosixPath

from .parameters import PARAMETERS, Parameter, Value
from .values import parse_values

UNLABELLED = " "
_DIGITS, _ALL_DIGITS = 6, 17


def format_value(value: Value, digits: int = _DIGITS) -> str:
    """A value as a reader writes it: 0.8, never 0.8000000001; 7, never 7.0; large whole numbers in full."""
    if isinstance(value, float) and math.isfinite(value):
        rounded = Decimal(f"{value:.{digits}g}").normalize()
        return f"{rounded:f}" if -6 < rounded.adjusted() < 15 else f"{value:.{digits}g}"
    return str(value)


@dataclass(frozen=True)
class Axis:
    """One parameter and its values.

    parameter: name in PARAMETERS, or any other name of the sampler's (then `label` defaults to the name).
    values: int, float or str, at least one; order and duplicates are kept.
    label: printed beside the values; empty takes the parameter's own, a blank (`UNLABELLED`) prints none.
    names: printed instead of the values, one for each; empty prints the values.
    """

    parameter: str
    values: tuple[Value, ...]
    label: str = ""
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.parameter:
            raise ValueError("An axis needs the name of its parameter.")
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "names", tuple(self.names))
        if not self.values:
            raise ValueError(f"The axis of {self.parameter} has no values; give at least one.")
        if self.names and len(self.names) != len(self.values):
            raise ValueError(f"The axis has {len(self.values)} values but {len(self.names)} names for them.")
        known = PARAMETERS.get(self.parameter)
        for value in self.values:
            _check(self.parameter, known, value)
        if not self.label:
            object.__setattr__(self, "label", known.title if known else self.parameter)

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def parse(cls, parameter: str, text: str, label: str = "", *, choices: Sequence[str] | None = None) -> Axis:
        """The axis that `text` describes; see `parse_values` for the grammar and the errors."""
        return cls(parameter, parse_values(parameter, text, choices=choices), label)

    def with_label(self, label: str, names: Sequence[str] = ()) -> Axis:
        """The same axis under another label and, if given, other names for its values."""
        return replace(self, label=label, names=tuple(names))

    @property
    def texts(self) -> tuple[str, ...]:
        """What is printed for each value: decimals as many as the finest needs, files without suffix."""
        if self.names:
            return self.names
        known = PARAMETERS.get(self.parameter)
        if known is not None and known.is_file:
            return _file_texts(self.values)
        return _aligned(_told_apart(self.values))


def _check(name: str, known: Parameter | None, value: Value) -> None:
    if known is not None:
        known.check(value)
    elif isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{name} cannot be {value!r}; an axis takes numbers and text.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} cannot be {value}; an axis takes finite numbers.")


def _told_apart(values: Sequence[Value]) -> list[str]:
    """As few digits as leave no two different values alike, six of them at least."""
    for digits in range(_DIGITS, _ALL_DIGITS + 1):
        texts = [format_value(value, digits) for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def _aligned(texts: list[str]) -> tuple[str, ...]:
    """0.8 beside 1 reads as 0.8 and 1.0; texts that are no plain decimals stay as they are."""
    fractions = [_fraction(text) for text in texts]
    most = max((len(fraction) for fraction in fractions if fraction is not None), default=0)
    if most == 0 or None in fractions:
        return tuple(text if text.strip() else "(empty)" for text in texts)
    return tuple(f"{Decimal(text):.{most}f}" for text in texts)


def _fraction(text: str) -> str | None:
    whole, _, fraction = text.removeprefix("-").partition(".")
    return fraction if whole.isdecimal() and (fraction.isdecimal() or not fraction) else None


def _file_texts(values: Sequence[Value]) -> tuple[str, ...]:
    full = [str(value).replace("\\", "/") for value in values]
    short = [PurePosixPath(name).stem for name in full]
    return tuple(short if len(set(short)) == len(set(full)) else full)
