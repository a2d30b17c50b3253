"""HTTP routes of training runs: list them, read their curves, pause, resume, stop, save, sample.

    GET  /mjesec/runs                       {"runs": [RUN…]}, the newest first
    GET  /mjesec/runs/{id}?since=N          {"run": RUN, "points": […], "samples": […]} of steps after N
    POST /mjesec/runs/{id}/{pause|resume|stop|save|sample}   {"ok": true}, or {"error": sentence} with 404 or 409

The websocket event ``mjesec.run`` carries a RUN with its new ``points``; a point replaces one of the same step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from ..trainer.registry import Runs
from ..trainer.run_status import ENDED
from .same_origin import is_same_origin

WISHES = ("pause", "resume", "stop", "save", "sample")
Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_run_routes(routes: web.RouteTableDef, runs: Runs) -> None:
    """Put the routes into the host's table. Files are read in a thread, so that the host's loop never waits."""

    @routes.get("/mjesec/runs")
    @_guarded
    async def list_runs(request: web.Request) -> web.Response:
        statuses = await asyncio.to_thread(runs.all)
        return web.json_response({"runs": [status.as_dict() for status in statuses]})

    @routes.get("/mjesec/runs/{id}")
    @_guarded
    async def show_run(request: web.Request) -> web.Response:
        run, since = request.match_info["id"], request.query.get("since", "0")
        status = await asyncio.to_thread(runs.status, run)
        if status is None:
            return _refusal(404, f"There is no run '{run}'.")
        if not since.isdecimal() or len(since) > 9:
            return _refusal(400, f"since is '{since}'; give the last step that you have, such as 0.")
        curve = await asyncio.to_thread(runs.curve, run, int(since))
        return web.json_response({"run": status.as_dict(), **curve})

    @routes.post("/mjesec/runs/{id}/{wish}")
    @_guarded
    async def ask(request: web.Request) -> web.Response:
        run, wish = request.match_info["id"], request.match_info["wish"]
        if wish not in WISHES:
            return _refusal(404, f"A run can be asked to {', '.join(WISHES)}, not to '{wish}'.")
        live = runs.live(run)
        if live is None or live.status.state in ENDED:
            known = live is not None or await asyncio.to_thread(runs.status, run) is not None
            return _refusal(409, "The run has ended.") if known else _refusal(404, f"There is no run '{run}'.")
        try:
            getattr(live.control, wish)()
        except ValueError as error:
            return _refusal(409, str(error))
        return web.json_response({"ok": True})


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.Response:
        if not is_same_origin(request.headers):
            return _refusal(403, "Only ComfyUI's own page may ask this.")
        return await handler(request)

    return guarded


def _refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
