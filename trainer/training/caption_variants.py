"""Captions that change from step to step: shuffled, thinned out, dropped, drawn from wildcards.

The order of things is that of sd-scripts' process_caption: drop-out, wildcards, kept tags, shuffle, tag drop-out.
"""

from __future__ import annotations

import random
import re

import torch

from ..settings.options import CaptionSettings

_WILDCARD = re.compile(r"\{([^{}]+)\}")
# stand for {{ and }}, which are braces and no choice, while choices are drawn
_BRACES = ("\ufdd0", "\ufdd1")
_JOINED = ", "


def draw_caption(caption: str, settings: CaptionSettings, generator: torch.Generator, epoch: int) -> str:
    """The words that an image is seen with this time. ``epoch`` counts from 0; of several lines one is drawn."""
    # words need shuffles of lists, which torch's generator does not do
    chance = random.Random(int(torch.randint(2**62, (1,), generator=generator)))  # noqa: S311 - not a secret
    if settings.dropout_every_epochs and (epoch + 1) % settings.dropout_every_epochs == 0:
        return ""
    if settings.dropout and chance.random() < settings.dropout:
        return ""
    if settings.wildcards:
        caption = _drawn(caption, chance)
    if settings.shuffle or settings.tag_dropout:
        caption = _varied(caption, settings, chance)
    return _finished(caption, settings)


def fixed_caption(caption: str, settings: CaptionSettings) -> str:
    """A caption with its trigger word and without the mark after which tags may move; of wildcards the same choices
    each time."""
    if settings.wildcards:
        caption = _drawn(caption, random.Random(caption))  # noqa: S311 - not a secret
    return _finished(caption, settings)


def _finished(caption: str, settings: CaptionSettings) -> str:
    if settings.keep_separator and settings.keep_separator in caption:
        parts = [part.strip() for part in caption.split(settings.keep_separator)]
        caption = _joined([part.strip(settings.separator + " ") for part in parts], settings)
    if not settings.trigger:
        return caption
    # whoever ends the trigger with a separator has written it already
    space = " " if settings.trigger.endswith(settings.separator) else f"{settings.separator} "
    return f"{settings.trigger}{space}{caption}" if caption else settings.trigger


def _drawn(caption: str, chance: random.Random) -> str:
    """One of the lines, and one of the choices of every ``{a|b|c}`` in it, inner ones first."""
    if "\n" in caption:
        caption = chance.choice(caption.split("\n"))
    opening, closing = _BRACES
    caption = caption.replace("{{", opening).replace("}}", closing)
    while _WILDCARD.search(caption):
        caption = _WILDCARD.sub(lambda match: chance.choice(match[1].split("|")), caption)
    return caption.replace(opening, "{").replace(closing, "}")


def _varied(caption: str, settings: CaptionSettings, chance: random.Random) -> str:
    kept, loose, end = _parts(caption, settings)
    if settings.shuffle:
        chance.shuffle(loose)
    if settings.tag_dropout:
        loose = [tag for tag in loose if chance.random() >= settings.tag_dropout]
    # with commas, whatever the separator is
    return _JOINED.join([*kept, *loose, *end])


def _parts(caption: str, settings: CaptionSettings) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay, tags that may move, and tags after a second mark, which stay at the end.

    Without a mark empty tags count as well: ``a,, b`` has three.
    """
    if settings.keep_separator and settings.keep_separator in caption:
        first, _, rest = caption.partition(settings.keep_separator)
        middle, _, last = rest.partition(settings.keep_separator)
        return _tags(first, settings), _tags(middle, settings), _tags(last, settings)
    tags = [tag.strip() for tag in caption.strip().split(settings.separator)]
    return tags[: settings.keep_tokens], tags[settings.keep_tokens :], []


def _tags(text: str, settings: CaptionSettings) -> list[str]:
    return [tag for part in text.split(settings.separator) if (tag := part.strip())]


def _joined(tags: list[str], settings: CaptionSettings) -> str:
    return f"{settings.separator} ".join(tag for tag in tags if tag)
