"""Values that are typed as text: keyword arguments, colours, lists of numbers. Nothing is ever evaluated."""

from __future__ import annotations

import ast
import re

from ..errors import SettingsError


def parse_arguments(text: str) -> dict[str, object]:
    """``betas=(0.9, 0.99), eps=1e-8`` as arguments by name; values are Python literals: numbers, text, tuples, lists.

    Raises:
        SettingsError: anything else, quoting the piece that cannot be read.
    """
    example = "write them as betas=(0.9, 0.99), eps=1e-8."
    try:
        call = ast.parse(f"f({text.strip()})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SettingsError(f"The arguments '{text}' cannot be read; {example}") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise SettingsError(f"The arguments '{text}' are not all name=value; {example}")
    out: dict[str, object] = {}
    for keyword in call.keywords:
        try:
            value = ast.literal_eval(keyword.value)
        except ValueError:
            piece = ast.unparse(keyword.value)
            raise SettingsError(f"The argument value '{piece}' is no plain number, text or tuple; {example}") from None
        if keyword.arg is None:
            raise SettingsError(f"The arguments '{text}' are not all name=value; {example}")
        out[keyword.arg] = value
    return out


def parse_color(text: str) -> tuple[int, int, int]:
    """``#ffffff`` as red, green and blue from 0 to 255. Raises SettingsError."""
    match = re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text.strip())
    if match is None:
        raise SettingsError(f"The colour '{text}' cannot be read; write it as #rrggbb, such as #ffffff.")
    red, green, blue = (int(part, 16) for part in match.groups())
    return red, green, blue


def parse_whole_numbers(text: str) -> tuple[int, ...]:
    """``512, 768`` as numbers; nothing for empty text. Raises SettingsError."""
    parts = [part for part in re.split(r"[,\s]+", text.strip()) if part]
    if wrong := [part for part in parts if not re.fullmatch(r"\d{1,9}", part)]:
        raise SettingsError(f"'{wrong[0]}' is no whole number; write numbers with commas, such as 512, 768.")
    return tuple(map(int, parts))


def parse_words(text: str) -> tuple[str, ...]:
    """``IN04, MID`` as words; nothing for empty text."""
    return tuple(word for word in re.split(r"[,\s]+", text.strip()) if word)
