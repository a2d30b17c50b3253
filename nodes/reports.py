"""A node's report: an output by its wire, and a text that the editor shows on the node itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import ui

_MOST_LINES = 30


def report_shown(text: str) -> dict[str, Any]:
    """What a node hands on as its `ui`: the text, and that of it which the extension shows on the node."""
    return {**ui.PreviewText(text).as_dict(), "mjesec_report": [on_node(text)]}


def on_node(text: str) -> str:
    """A text as the extension shows it on a node."""
    lines = text.split("\n")
    # a node grows with its text
    if more := len(lines) - min(len(lines), _MOST_LINES):
        lines = [*lines[:_MOST_LINES], f"… and {more} more lines; the output report has all of them"]
    return as_plain("\n".join(lines))


def as_plain(text: str) -> str:
    """The text in a form that the editor shows as it is: it takes such a text for HTML in one renderer, in the other
    for Markdown, and captions and file names are in it.
    """

    def code(found: re.Match[str]) -> str:
        return "".join(f"&#{ord(letter)};" for letter in found[0].replace(" ", "\N{NO-BREAK SPACE}"))

    # spaces at a line's start would make it a block of code, two at its end keep the line's end
    return "  \n".join(re.sub(r"^ +|[^\w\s]|_", code, line) for line in text.expandtabs(2).split("\n"))


def some(texts: Sequence[str], between: str = ", ", most: int = 3) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more
