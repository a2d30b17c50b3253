"""What a number or a name in the settings may be: shared checks, each a sentence that names field and value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ..errors import SettingsError


def whole(name: str, value: int, minimum: int, maximum: int | None = None) -> None:
    """Raises SettingsError for anything but an int from ``minimum`` to ``maximum``."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    if not good or (maximum is not None and value > maximum):
        limit = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise SettingsError(f"{name} is {value!r}; it must be a whole number {limit}.")


def finite(name: str, value: float, minimum: float, maximum: float | None = None) -> None:
    """Raises SettingsError for anything but a finite number from ``minimum`` to ``maximum``."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= minimum
    if not good or (maximum is not None and value > maximum):
        limit = f"of at least {minimum:g}" if maximum is None else f"from {minimum:g} to {maximum:g}"
        raise SettingsError(f"{name} is {value!r}; it must be a finite number {limit}.")


def choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raises SettingsError for anything but one of ``allowed``."""
    if value not in (allowed := tuple(allowed)):
        raise SettingsError(f"{name} is '{value}'; choose one of {', '.join(allowed)}.")


def share(name: str, value: float) -> None:
    """Raises SettingsError for anything but a probability below 1: at 1 nothing would be left."""
    finite(name, value, 0, 1)
    if value == 1:
        raise SettingsError(f"{name} is {value!r}, which would leave nothing; give a share below 1.")


def pattern(name: str, value: str) -> None:
    """Raises SettingsError for text that is no regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise SettingsError(f"{name} '{value}' is not a regular expression ({error}); correct it.") from None
