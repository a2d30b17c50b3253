"""HTTP route of the LoRA info.

GET /mjesec/loras/{name}    what the file's metadata tell, and the graph that made it; the name as ComfyUI lists it
"""

from __future__ import annotations

from pathlib import Path

import folder_paths
from aiohttp import web

from ...trainer.lora.info import lora_info
from ..answers import Refusal, as_json, guarded, in_thread


def add_lora_routes(routes: web.RouteTableDef) -> None:
    @routes.get("/mjesec/loras/{name:.+}")
    @guarded
    async def show_lora(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = await in_thread(_path_of, name)
        if path is None:
            raise Refusal(404, f"There is no LoRA '{name}'; choose one from the list.")
        return as_json({"name": name, **await in_thread(lora_info, path)})


def _path_of(name: str) -> Path | None:
    """The file, if ComfyUI itself offers one of that name: nothing else has one."""
    listed = name in folder_paths.get_filename_list("loras") and name.lower().endswith(".safetensors")
    path = folder_paths.get_full_path("loras", name) if listed else None
    return None if path is None else Path(path)
