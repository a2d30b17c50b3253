"""Keyword arguments as text, such as ``betas=(0.9, 0.99), eps=1e-8``: literals alone, nothing is ever evaluated."""

from __future__ import annotations

import ast

from .errors import SettingsError


def parse_arguments(text: str) -> dict[str, object]:
    """The arguments by name; values are Python literals: numbers, strings, True, False, None, tuples, lists.

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
