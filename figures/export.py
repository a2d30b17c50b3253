"""Figures to files: PNG, SVG, PDF, a LaTeX snippet and manifests, each written whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .files import replacing
from .manifest import figure_manifest, write_manifest_csv, write_manifest_json
from .pdf import save_pdf
from .svg import save_svg

__all__ = [
    "figure_manifest", "latex_snippet", "save_pdf", "save_png", "save_svg", "write_manifest_csv",
    "write_manifest_json",
]  # fmt: skip


def save_png(image: Image.Image, path: Path, dpi: float = 300, metadata: Mapping[str, str] | None = None) -> None:
    """Write `image` with its resolution and text entries (as the host's "prompt" and "workflow").

    Entries outside Latin-1 are stored as international text. Raises ValueError for a key that PNG does not
    take (1 to 79 Latin-1 characters) and OSError, naming the file, if it cannot be written.
    """
    notes = PngInfo()
    for key, text in (metadata or {}).items():
        if not 0 < len(key) < 80 or not key.isascii():
            raise ValueError(f'"{key}" cannot name a text entry of a PNG; use 1 to 79 ASCII characters.')
        notes.add_text(key, text)
    with replacing(path) as file:
        image.save(file, "png", dpi=(dpi, dpi), pnginfo=notes)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def latex_snippet(
    file_name: str, *, caption: str = "", label: str = "", width_mm: float | None = None, pages: int = 1
) -> str:
    """A figure environment for each page of `file_name` (needs graphicx and, for quotes, T1 or Unicode fonts).

    width_mm: printed width; None takes the text width. A page is never higher than nine tenths of the text.
    label: letters, digits and -:._ only, else ValueError.
    pages: how many the file has; with a caption, all bear one number (needs the package caption).
    """
    if label and not re.fullmatch(r"[\w:.\-]+", label):
        raise ValueError(f'"{label}" cannot be a LaTeX label; use letters, digits and - : . _ only.')
    check_latex_name(file_name)
    text, width = latex_text(caption), r"\textwidth" if width_mm is None else f"{width_mm:g}mm"
    lines = ["% needs the package caption: the pages are one figure"] if text and pages > 1 else []
    for number in range(1, pages + 1):
        page = f"page={number}," if pages > 1 else ""
        lines += [r"\begin{figure}[htbp]", *([r"  \ContinuedFloat"] if text and number > 1 else []), r"  \centering"]
        lines += [rf"  \includegraphics[{page}width={width},height=0.9\textheight,keepaspectratio]{{{file_name}}}"]
        if text:
            # the list of figures has the first page alone
            lines += [rf"  \caption{{{text}}}" if number == 1 else rf"  \caption[]{{{text} ({number}/{pages})}}"]
        if label and number == 1:
            lines += [rf"  \label{{{label}}}"]
        lines += [r"\end{figure}"]
    return "\n".join([*lines, ""])


def check_latex_name(file_name: str) -> None:
    """ValueError for a name that \\includegraphics cannot read."""
    if re.search(r"[{}%#\\\n]", file_name):
        raise ValueError(f'LaTeX cannot include a file called "{file_name}"; give it a name without {{ }} % # \\.')


def latex_text(text: str) -> str:
    """`text` with LaTeX's own characters escaped and its lines joined."""
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
