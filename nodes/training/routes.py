"""HTTP routes of training runs: list them, read their curves, pause, resume, stop, save, sample.

    GET  /mjesec/runs                       {"runs": [RUN…], "older": N}: the newest first, and how many are left out
    GET  /mjesec/runs/{id}?since=N          {"run": RUN, "points": […], "samples": […]} of steps after N
    POST /mjesec/runs/{id}/{pause|resume|stop|save|sample}   {"ok": true}, or {"error": sentence} with 404 or 409

The websocket event ``mjesec.run`` carries a RUN with its new ``points`` and ``samples``; a point replaces one of the
same step. A RUN's ``wishes`` are what may be asked of it now.
"""

from __future__ import annotations

from aiohttp import web

from ...trainer.runs.registry import Runs
from ..answers import Refusal, as_json, guarded, in_thread

WISHES = ("pause", "resume", "stop", "save", "sample")


def add_run_routes(routes: web.RouteTableDef, runs: Runs) -> None:
    """Put the routes into the host's table. Files are read in a thread, so that the host's loop never waits."""

    @routes.get("/mjesec/runs")
    @guarded
    async def list_runs(request: web.Request) -> web.StreamResponse:
        listed, older = await in_thread(runs.all_told)
        return as_json({"runs": listed, "older": older})

    @routes.get("/mjesec/runs/{id}")
    @guarded
    async def show_run(request: web.Request) -> web.StreamResponse:
        run, since = request.match_info["id"], request.query.get("since", "0")
        told = await in_thread(runs.told, run)
        if told is None:
            raise Refusal(404, f"There is no run '{run}'.")
        if not since.isdecimal() or len(since) > 9:
            raise Refusal(400, f"since is '{since}'; give the last step that you have, such as 0.")
        curve = await in_thread(runs.curve, run, int(since))
        return as_json({"run": told, **curve})

    @routes.post("/mjesec/runs/{id}/{wish}")
    @guarded
    async def ask(request: web.Request) -> web.StreamResponse:
        run, wish = request.match_info["id"], request.match_info["wish"]
        if wish not in WISHES:
            raise Refusal(404, f"A run can be asked to {', '.join(WISHES)}, not to '{wish}'.")
        live = runs.live(run)
        if live is None:
            known = await in_thread(runs.status, run) is not None
            raise Refusal(409, "The run has ended.") if known else Refusal(404, f"There is no run '{run}'.")
        try:
            live.ask(wish)
        except ValueError as error:
            raise Refusal(409, str(error)) from None
        return as_json({"ok": True})
