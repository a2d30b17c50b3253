"""The figure viewer's routes: a sweep on disk by its name, its cells as tiles and as plain graphs, and nothing else."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import pytest
from host_graphs import sweep
from host_server import Host
from PIL import Image


@pytest.fixture(scope="module")
def shown(host: Host) -> dict[str, Any]:
    """The manifest as the viewer gets it, of a sweep of two cells."""
    graph = sweep("(lora input)", [("CFG scale", "2, 4")], steps=2)
    entry = host.run(graph)
    (name,) = entry["outputs"]["figure"]["mjesec_sweep"]
    assert entry["outputs"]["sweep"]["mjesec_sweep"] == [name]
    return host.get(f"/mjesec/sweeps/{name}")


def refused(host: Host, path: str, headers: dict[str, str] | None = None) -> int:
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(urllib.request.Request(host.url + path, headers=headers or {}), timeout=10)
    return failure.value.code


def test_a_sweep_is_listed_and_tells_no_path_of_the_machine(host: Host, shown: dict[str, Any]) -> None:
    assert host.get("/mjesec/sweeps")["sweeps"][0] == shown["name"]
    assert [cell["values"] for cell in shown["cells"]] == [{"cfg": 2.0}, {"cfg": 4.0}]
    assert str(host.base) not in json.dumps(shown)


def test_a_cell_is_served_whole_and_as_a_tile_of_the_size_asked(host: Host, shown: dict[str, Any]) -> None:
    key = shown["cells"][0]["key"]
    whole = Image.open(io.BytesIO(host.request(f"/mjesec/cells/{key}")))
    tile = Image.open(io.BytesIO(host.request(f"/mjesec/cells/{key}?size=32")))
    assert (whole.format, whole.size, tile.format, tile.size) == ("PNG", (64, 64), "WEBP", (32, 32))


def test_a_cells_plain_graph_makes_its_very_pixels(host: Host, shown: dict[str, Any]) -> None:
    key = shown["cells"][1]["key"]
    graph = host.get(f"/mjesec/cells/{key}/graph")["graph"]
    with Image.open(io.BytesIO(host.request(f"/mjesec/cells/{key}"))) as cell:
        # what the editor reads when the PNG is dropped on it
        assert json.loads(cell.info["prompt"]) == graph
        expected = np.asarray(cell.convert("RGB"))
    (path,) = host.outputs(host.run(graph))
    assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), expected)


@pytest.mark.parametrize(
    "path", ["sweeps/..%2f..%2fx", "sweeps/20260101-000000-000000000", "cells/" + "0" * 64, "cells/x"]
)
def test_what_is_no_name_of_ours_is_not_there(host: Host, path: str) -> None:
    assert refused(host, f"/mjesec/{path}") == 404


def test_a_page_from_elsewhere_is_refused(host: Host, shown: dict[str, Any]) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert refused(host, f"/mjesec/sweeps/{shown['name']}", headers) == 403


def test_a_broken_cell_is_refused_in_a_sentence(host: Host, shown: dict[str, Any]) -> None:
    key = "f" * 64
    path = host.output / "mjesec" / "cells" / key[:2] / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = host.request(f"/mjesec/cells/{shown['cells'][0]['key']}")
    for data in (b"no image", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(urllib.error.HTTPError) as failure:
            urllib.request.urlopen(f"{host.url}/mjesec/cells/{key}?size=32", timeout=10)
        assert failure.value.code == 400
        assert json.loads(failure.value.read())["error"] == "The cell's file is damaged; queue the sweep again."


@pytest.mark.parametrize("size", ["", "0", "-1", "a", "1e9", "99999", "²", "1" + "0" * 9])
def test_a_senseless_size_is_refused(host: Host, shown: dict[str, Any], size: str) -> None:
    assert refused(host, f"/mjesec/cells/{shown['cells'][0]['key']}?size={urllib.parse.quote(size)}") == 400
