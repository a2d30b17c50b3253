"""What every module here uses: where the checkout lies, how failures are told, and how we speak."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"
# absolute, not resolved: a checkout linked into custom_nodes/ belongs to the ComfyUI around the link
ROOT = Path(os.path.abspath(__file__)).parent.parent


class Failure(Exception):
    """Something the person at the keyboard can mend; the message says what failed and what to do."""


class PromptFailure(Failure):
    """The host refused a prompt or failed on it.

    `node_errors` is the host's answer to an invalid prompt, `entry` its history of one that failed.
    """

    def __init__(
        self,
        message: str,
        *,
        node_errors: Mapping[str, Any] | None = None,
        entry: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.node_errors = dict(node_errors or {})
        self.entry = dict(entry or {})


def say(text: str) -> None:
    print(text, flush=True)


def need(path: Path) -> Path:
    """`path`, a file of the checkout. Raises Failure if it is not there."""
    if not path.is_file():
        raise Failure(f"'{path.relative_to(ROOT)}' is missing from the checkout; restore it with git.")
    return path
