"""HTTP routes of the figure viewer.

GET /mjesec/sweeps                  {"sweeps": [name…]}, the newest first
GET /mjesec/sweeps/{name}           the manifest
GET /mjesec/cells/{key}             the cell's PNG; ?size=N: a WebP of at most N pixels a side
GET /mjesec/cells/{key}/graph       {"graph": API format}: the cell as a plain KSampler graph
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from ..answers import Refusal, as_json, guarded, in_thread, whole_number
from .files import SweepFiles

# a cell is named by the hash of all that it depends on: under its name it never changes
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}


def add_sweep_routes(routes: web.RouteTableDef, files: Callable[[], SweepFiles]) -> None:
    @routes.get("/mjesec/sweeps")
    @guarded
    async def list_sweeps(request: web.Request) -> web.StreamResponse:
        return as_json({"sweeps": await in_thread(files().names)})

    @routes.get("/mjesec/sweeps/{name}")
    @guarded
    async def show_sweep(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        manifest = await in_thread(files().manifest, name)
        if manifest is None:
            raise Refusal(404, f"There is no sweep '{name}'.")
        return as_json(manifest)

    @routes.get("/mjesec/cells/{key}")
    @guarded
    async def show_cell(request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        if "size" not in request.query:
            path = await in_thread(files().cell, key)
            if path is None:
                raise Refusal(404, f"There is no cell '{key}'.")
            return web.FileResponse(path, headers=_FOR_EVER)
        data = await in_thread(files().tile, key, whole_number(request.query, "size", 256, largest=4096))
        if data is None:
            raise Refusal(404, f"There is no cell '{key}'.")
        return web.Response(body=data, content_type="image/webp", headers=_FOR_EVER)

    @routes.get("/mjesec/cells/{key}/graph")
    @guarded
    async def show_graph(request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        found = await in_thread(files().graph, key)
        if found is None:
            raise Refusal(404, f"There is no cell '{key}'.")
        return as_json({"graph": found})
