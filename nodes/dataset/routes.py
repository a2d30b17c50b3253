"""HTTP routes of the dataset preview and its caption editor.

GET  /mjesec/datasets?folder=input/moon&…   the view of a folder, scanned as Load Image Dataset does with `repeats`,
                                            `default_caption`, `caption_extension` and `caption_table`;
                                            {"reading": [done, of]} until it is: ask again
GET  /mjesec/datasets/{id}                  the view of a dataset that was opened so, or that a node made
GET  /mjesec/datasets/{id}/buckets?resolution=1024&…     what a training makes of it, by Image Options' `buckets`,
                                            `bucket_upscale`, `bucket_step`, `bucket_min`, `bucket_max`
GET  /mjesec/datasets/{id}/image?name=NAME&size=256     a WebP of at most so many pixels a side
GET  /mjesec/datasets/{id}/caption?name=NAME            its text, version, earlier texts
POST /mjesec/datasets/{id}/caption          {"name", "text", "version"}: writes it, if it still is that version (409)

An id lives as long as ComfyUI's process, and names images that were scanned below a registered dataset folder or made
by a node of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ...trainer.dataset.buckets import BucketSettings
from ...trainer.dataset.caption_editor import CaptionConflict, CaptionEditor
from ...trainer.dataset.caption_tables import read_caption_table
from ...trainer.dataset.open_datasets import OnProgress, OpenDataset, OpenDatasets
from ...trainer.dataset.scan import scan_folder
from ...trainer.errors import DatasetError
from ..answers import Refusal, as_json, guarded, in_thread, whole_number
from ..folders import listing_fingerprint, resolve_dataset

# the address holds the hash of the image's file
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}

# those that this process has open
DATASETS = OpenDatasets()


def add_dataset_routes(routes: web.RouteTableDef, datasets: OpenDatasets) -> None:
    @routes.get("/mjesec/datasets")
    @guarded
    async def open_folder(request: web.Request) -> web.StreamResponse:
        found = await in_thread(_scan, datasets, dict(request.query))
        if isinstance(found, tuple):
            return as_json({"reading": found})
        return as_json(await in_thread(found.view))

    @routes.get("/mjesec/datasets/{id}")
    @guarded
    async def show(request: web.Request) -> web.StreamResponse:
        return as_json(await in_thread(_opened(datasets, request).view))

    @routes.get("/mjesec/datasets/{id}/buckets")
    @guarded
    async def show_buckets(request: web.Request) -> web.StreamResponse:
        settings = _bucket_settings(request.query)
        found = await in_thread(_opened(datasets, request).buckets, settings)
        return as_json({"told": _told(settings), **found})

    @routes.get("/mjesec/datasets/{id}/image")
    @guarded
    async def show_image(request: web.Request) -> web.StreamResponse:
        name, size = request.query.get("name", ""), whole_number(request.query, "size", 256)
        data = await in_thread(_opened(datasets, request).picture, name, size)
        return web.Response(body=data, content_type="image/webp", headers=_FOR_EVER)

    @routes.get("/mjesec/datasets/{id}/caption")
    @guarded
    async def show_caption(request: web.Request) -> web.StreamResponse:
        return as_json(await in_thread(_opened(datasets, request).caption, request.query.get("name", "")))

    @routes.post("/mjesec/datasets/{id}/caption")
    @guarded
    async def write_caption(request: web.Request) -> web.StreamResponse:
        opened = _opened(datasets, request)
        try:
            wanted = await request.json()
            name, text, version = (wanted[key] for key in ("name", "text", "version"))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise Refusal(400, 'Send {"name": …, "text": …, "version": …} as JSON.') from None
        if not all(isinstance(value, str) for value in (name, text, version)):
            raise Refusal(400, "name, text and version must be texts.")
        try:
            return as_json(await in_thread(opened.edit, name, text, version))
        except CaptionConflict as conflict:
            raise Refusal(409, str(conflict)) from None


def _scan(datasets: OpenDatasets, query: Mapping[str, str]) -> OpenDataset | tuple[int, int]:
    name = query.get("folder", "")
    folder = resolve_dataset(name)
    extension, table = query.get("caption_extension", ".txt"), query.get("caption_table", "").strip()
    options: dict[str, Any] = {
        "repeats": whole_number(query, "repeats", 1),
        "default_caption": query.get("default_caption", ""),
        "caption_extension": extension,
        "caption_table": table,
    }

    def scan(on_progress: OnProgress) -> OpenDataset:
        dataset = scan_folder(folder, on_progress=on_progress, **options)
        try:
            editor, reason = CaptionEditor(folder, extension), ""
        except DatasetError as error:
            editor, reason = None, str(error)
        return OpenDataset(dataset, editor, read_caption_table(folder / table) if table else None, reason)

    return datasets.scan((name, listing_fingerprint(name), *options.values()), scan)


def _bucket_settings(query: Mapping[str, str]) -> BucketSettings:
    """What a training would refuse is refused by its own rules."""
    side = whole_number(query, "resolution", 1024)
    return BucketSettings(
        resolution=(side, side),
        min_size=whole_number(query, "bucket_min", 256),
        max_size=whole_number(query, "bucket_max", 2048),
        step=whole_number(query, "bucket_step", 64),
        no_upscale=not _is_on(query, "bucket_upscale", usual="off"),
        enabled=_is_on(query, "buckets", usual="on"),
    )


def _is_on(query: Mapping[str, str], name: str, usual: str) -> bool:
    value = query.get(name, usual)
    if value not in ("on", "off"):
        raise Refusal(400, f"{name} is '{value[:40]}'; give on or off.")
    return value == "on"


def _told(settings: BucketSettings) -> str:
    if not settings.enabled:
        return "No buckets: every image is made to cover the square, and what sticks out is cropped."
    sides = f"Sides are multiples of {settings.step}"
    if settings.no_upscale:
        return f"{sides}; images are not enlarged."
    return f"{sides} from {settings.min_size} to {settings.max_size}; images are enlarged where the bucket is larger."


def _opened(datasets: OpenDatasets, request: web.Request) -> OpenDataset:
    opened = datasets.find(request.match_info["id"])
    if opened is None:
        raise Refusal(404, "This dataset is not open any more: open the preview anew, or queue the node again.")
    return opened
