"""What all routes of ours have in common: who may ask, and how a refusal reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from aiohttp import web

from .same_origin import is_same_origin

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
P = ParamSpec("P")
T = TypeVar("T")


class Refusal(Exception):
    """Ends a request with a status and a sentence that says what is wrong."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def guarded(handler: Handler) -> Handler:
    """Answers only the host's own page, with {"error": sentence} for a Refusal, a ValueError about the request and an
    OSError."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if not is_same_origin(request.headers):
                raise Refusal(403, "Only ComfyUI's own page may ask this.")
            return await handler(request)
        except Refusal as refusal:
            return web.json_response({"error": str(refusal)}, status=refusal.status)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        except OSError as error:
            # without the file's path, which is this machine's affair
            reason = error.strerror or type(error).__name__
            told = f"A file cannot be used ({reason}); see that its disk has room and may be read and written."
            return web.json_response({"error": told}, status=500)

    return answer


def whole_number(query: Mapping[str, str], name: str, usual: int, largest: int = 10_000) -> int:
    """A number from 1 to ``largest`` in the request's address; ``usual`` where there is none.

    Raises Refusal.
    """
    text = query.get(name, str(usual))
    # the length first: numbers of thousands of digits take long
    good = len(text) <= 9 and text.isascii() and text.isdecimal() and 1 <= int(text) <= largest
    if not good:
        raise Refusal(400, f"{name} is '{text[:40]}'; give a whole number from 1 to {largest}, such as {usual}.")
    return int(text)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs what reads files beside the host's event loop, which must never wait for a disk."""
    return await asyncio.to_thread(work, *args, **kwargs)


def as_json(value: Any) -> web.Response:
    """Numbers that are not finite would be no JSON: they are refused by a ValueError here, not by the browser."""
    return web.Response(text=json.dumps(value, ensure_ascii=False, allow_nan=False), content_type="application/json")
