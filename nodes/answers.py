"""What all routes of ours have in common: who may ask, and how a refusal reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
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
    """Answers only the host's own page; a Refusal, or a ValueError about the request, becomes {"error": sentence}."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if not is_same_origin(request.headers):
                raise Refusal(403, "Only ComfyUI's own page may ask this.")
            return await handler(request)
        except Refusal as refusal:
            return web.json_response({"error": str(refusal)}, status=refusal.status)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    return answer


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs what reads files beside the host's event loop, which must never wait for a disk."""
    return await asyncio.to_thread(work, *args, **kwargs)


def as_json(value: Any) -> web.Response:
    """Numbers that are not finite would be no JSON: they are refused by a ValueError here, not by the browser."""
    return web.Response(text=json.dumps(value, ensure_ascii=False, allow_nan=False), content_type="application/json")
