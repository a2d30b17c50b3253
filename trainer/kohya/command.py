"""The arguments of a training out of a command line: of one alone, in a script of a shell, or without a command."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import SettingsError

SCRIPT = "sdxl_train_network.py"
_CONTINUED = re.compile(r"[\\^`][ \t]*\r?\n")
_COMMENT_LINE = re.compile(r"(?im)^[ \t]*(#|rem[ \t]|::).*$")
# a backslash is a part of Windows' paths, and a # within a word one of that word
_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+|["']""")
_QUOTED = re.compile(r"""(["'])(.*?)\1""", re.DOTALL)
# a word up to what ends a command outside of quotation marks, or sends elsewhere what it prints
_UNTIL_END = re.compile(r"""(?:"[^"]*"|'[^']*'|[^"';&|<>])*""")
_VARIABLE = re.compile(r"\$(?:\{[^}]*\}?|\([^)]*\)?|[A-Za-z_][\w:]*)|%[A-Za-z]\w*%")


def one_line_each(text: str) -> str:
    """A command that goes over several lines on one of them, and no comments."""
    return _CONTINUED.sub(" ", _COMMENT_LINE.sub("", text))


def parse_command(text: str) -> tuple[list[str], tuple[str, ...]]:
    """The words behind the script's name, and the keys before it, which are for what starts the script.

    text: as of ``one_line_each``. A command goes on in lines that begin with an argument, and without a script's name
    all is arguments.

    Raises:
        SettingsError: another script than that of SDXL's LoRA, several commands, or words that cannot be read.
    """
    before, words = _parted(text)
    if not all(map(_is_closed, words)):
        raise SettingsError("The arguments cannot be read; close every quotation mark.")
    for word in words:
        # between single quotation marks a shell looks for none
        if found := _VARIABLE.search(re.sub(r"'[^']*'", "", word)):
            raise SettingsError(
                f"The argument '{word}' holds the variable '{found[0]}', which only a shell knows; write its value."
            )
    words = [_QUOTED.sub(r"\2", word) for word in words]
    return words, tuple(word.partition("=")[0] for word in before if re.match("--[A-Za-z]", word))


def _parted(text: str) -> tuple[list[str], list[str]]:
    """The words before the script's name in its line, and those of its arguments, with their quotation marks."""
    lines = [_WORD.findall(line) for line in text.splitlines() if line.strip()]
    scripts = [(line, place, name) for line, words in enumerate(lines) for place, name in _scripts(words)]
    if not scripts:
        return [], _WORD.findall(text)
    ours = [(lines[line][:place], _behind(lines, line, place)) for line, place, name in scripts if name == SCRIPT]
    if not ours:
        raise SettingsError(
            f"The command line starts {scripts[0][2]}, and only {SCRIPT} trains an SDXL LoRA; give its arguments."
        )
    # a script may also look whether the file is there
    commands = [parts for parts in ours if any(word.startswith("-") for word in parts[1])] or ours
    if len(commands) > 1:
        raise SettingsError(f"The command line starts {SCRIPT} {len(commands)} times; give one command.")
    return commands[0]


def _behind(lines: list[list[str]], line: int, place: int) -> list[str]:
    """The arguments behind a script: in its line and up to the last one that begins with an argument, or is values."""
    words, between = lines[line][place + 1 :], []
    for more in lines[line + 1 :]:
        if any(_scripts(more)):
            break
        between += more
        if more[0].startswith("-") or all(map(_is_value, more)):
            words, between = words + between, []
    return list(_to_the_end(words))


def _is_value(word: str) -> bool:
    """Whether a word is no command of a shell: it is quoted, or of the form that network_args has."""
    return bool(_QUOTED.fullmatch(word) or re.fullmatch(r"\w+=.+", word))


def _scripts(words: list[str]) -> Iterator[tuple[int, str]]:
    """Places and names of what is started in a line."""
    for place, word in enumerate(words):
        plain = _QUOTED.sub(r"\2", word)
        if plain.endswith(".py") and not plain.startswith("-"):
            yield place, re.split(r"[/\\]", plain)[-1]


def _to_the_end(words: list[str]) -> Iterator[str]:
    for word in words:
        kept = _UNTIL_END.match(word)[0] if _is_closed(word) else word
        # what is sent elsewhere has a number
        if kept == word or not re.fullmatch(r"\d?", kept):
            yield kept
        if kept != word:
            return


def _is_closed(word: str) -> bool:
    return word not in ("'", '"')
