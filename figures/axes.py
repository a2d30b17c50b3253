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
# significant ones: that are printed at first, that a float holds, and that arithmetic leaves free of noise
_DIGITS, _ALL_DIGITS, _NOISE_FREE = 6, 17, 12


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
        """What is printed for each value: decimals as many as the finest exact one needs, files without suffix."""
        if self.names:
            return self.names
        known = PARAMETERS.get(self.parameter)
        if known is not None and known.is_file:
            return _file_texts(self.values)
        return tuple(text if text.strip() else "(empty)" for text in _value_texts(self.values))


def _check(name: str, known: Parameter | None, value: Value) -> None:
    if known is not None:
        known.check(value)
    elif isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{name} cannot be {value!r}; an axis takes numbers and text.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} cannot be {value}; an axis takes finite numbers.")


def _value_texts(values: Sequence[Value]) -> tuple[str, ...]:
    """Numbers with equally many decimals, whatever else in its own way; more digits where two would be alike."""
    if all(_is_plain(value) for value in values):
        numbers, least = [Decimal(value) for value in values], max(_decimals(value) for value in values)
        written = [tuple(f"{number:.{most}f}" for number in numbers) for most in range(least, _ALL_DIGITS + 1)]
    else:
        written = [tuple(format_value(value, most) for value in values) for most in range(_DIGITS, _ALL_DIGITS + 1)]
    return next((texts for texts in written if len(set(texts)) == len(set(values))), written[-1])


def _is_plain(value: Value) -> bool:
    """Whether it is a number that a reader writes without an exponent."""
    return not isinstance(value, str) and format_value(value).removeprefix("-").replace(".", "", 1).isdecimal()


def _decimals(value: int | float) -> int:
    """As many as the number has, if it has no more than six digits; else two, or what three digits take: 0.667."""
    exact = Decimal(value) if isinstance(value, int) else Decimal(f"{value:.{_NOISE_FREE}g}").normalize()
    if exact == exact.to_integral_value():
        return 0
    if len(exact.as_tuple().digits) <= _DIGITS:
        return -int(exact.as_tuple().exponent)
    return max(2, 2 - exact.adjusted())


def _file_texts(values: Sequence[Value]) -> tuple[str, ...]:
    full = [str(value).replace("\\", "/") for value in values]
    short = [PurePosixPath(name).stem for name in full]
    return tuple(short if len(set(short)) == len(set(full)) else full)
