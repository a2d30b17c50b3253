"""The dataset preview's routes: a folder looked through, a caption edited on disk, and nothing outside the folders."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from host_graphs import node
from host_server import Host
from PIL import Image

HOSTILE = "<img src=x onerror=window.hostile=1>"


@pytest.fixture(scope="module")
def folder(host: Host) -> Path:
    root = host.input / "looked"
    for name in ("a.png", "10_moon/b.png", f"{HOSTILE}.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 128), (len(name), 90, 160)).save(root / name)
    (root / "a.txt").write_text("a moon", encoding="utf-8")
    (root / f"{HOSTILE}.txt").write_text(HOSTILE, encoding="utf-8")
    (root / "broken.png").write_bytes(b"no image")
    return root


def look(host: Host, **query: str) -> dict[str, Any]:
    ends = time.monotonic() + 60
    while "reading" in (view := host.get("/mjesec/datasets", **query)):
        assert time.monotonic() < ends
    return view


def ask(
    host: Host, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(host.url + path, data, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.loads(refusal.read())


def query(**values: str) -> str:
    return urllib.parse.urlencode(values)


def test_a_folder_is_looked_through_before_anything_was_queued(host: Host, folder: Path) -> None:
    view = look(host, folder="input/looked", repeats="3", default_caption="default")
    images = {image["name"]: image for image in view["images"]}
    assert {name: (image["caption"], image["repeats"]) for name, image in images.items()} == {
        f"{HOSTILE}.png": (HOSTILE, 3),
        "a.png": ("a moon", 3),
        "10_moon/b.png": ("moon", 10),
    }
    assert [entry["name"] for entry in view["others"] if "Broken" in entry["told"]] == ["broken.png"]
    assert str(host.base) not in json.dumps(view) and view["read_only"] == ""

    found = host.get(f"/mjesec/datasets/{view['id']}/buckets", resolution="256")
    assert found["buckets"] == [{"size": [128, 128], "images": 3, "with_repeats": 16, "lost": 20.0, "enlarged": 0}]
    assert found["told"] == "Sides are multiples of 64; images are not enlarged."
    tile = host.request(f"/mjesec/datasets/{view['id']}/image?{query(name='a.png', size='64')}")
    with Image.open(io.BytesIO(tile)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (64, 51))


def test_buckets_are_those_that_the_options_make(host: Host, folder: Path) -> None:
    path = f"/mjesec/datasets/{look(host, folder='input/looked')['id']}/buckets"

    def sizes(**options: str) -> list[list[int]]:
        return [bucket["size"] for bucket in host.get(path, resolution="256", **options)["buckets"]]

    assert sizes(bucket_step="32") == [[160, 128]]
    assert sizes(bucket_upscale="on", bucket_min="128", bucket_max="512") == [[256, 256]]
    assert sizes(buckets="off") == [[256, 256]]
    for options, told in (
        ({"bucket_step": "48"}, "must be a multiple of 32"),
        ({"bucket_upscale": "on", "bucket_max": "128"}, "must reach"),
        ({"buckets": "perhaps"}, "give on or off"),
        ({"resolution": "0"}, "give a whole number"),
    ):
        status, answer = ask(host, f"{path}?{query(**options)}")
        assert status == 400 and told in answer["error"]


def test_a_caption_is_saved_the_former_text_kept_and_the_node_runs_again(host: Host, folder: Path) -> None:
    graph = {
        "data": node(
            "MjesecLoadImageDataset", folder="input/looked", repeats=1, default_caption="", caption_extension=".txt"
        ),
        "show": node("PreviewAny", source=["data", 2]),
    }
    host.run(graph)
    path = f"/mjesec/datasets/{look(host, folder='input/looked')['id']}/caption"
    before = host.get(path, name="a.png")
    status, after = ask(host, path, {"name": "a.png", "text": "a full moon", "version": before["version"]})
    assert (status, after["text"], after["earlier"]) == (200, "a full moon", ["a moon"])
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a full moon"
    kept = (folder / ".mjesec_captions.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["text"] for line in kept.splitlines()] == ["a moon"]
    # what was read when the editor was opened is no longer there
    status, told = ask(host, path, {"name": "a.png", "text": "mine", "version": before["version"]})
    assert status == 409 and "changed on disk" in told["error"]
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a full moon"
    # the graph is not answered from the host's cache: the listing's fingerprint has seen the edit
    assert "data" in host.run(graph)["outputs"] and not cached(host, graph, "data", changed=False)
    edited = host.get(path, name="a.png")
    ask(host, path, {"name": "a.png", "text": "again", "version": edited["version"]})
    assert not cached(host, graph, "data", changed=True)


def cached(host: Host, graph: dict[str, Any], name: str, *, changed: bool) -> bool:
    """Whether a node of a graph is answered from the cache; if not ``changed``, it must be, and False is returned."""
    messages = host.run(graph)["status"]["messages"]
    kept = next(message[1]["nodes"] for message in messages if message[0] == "execution_cached")
    if not changed:
        assert name in kept
        return False
    return name in kept


def test_what_a_node_made_is_looked_at_but_not_edited(host: Host) -> None:
    graph = {
        "moons": node("MjesecMoonDataset", count=2, size=64, seed=5),
        "both": node("MjesecCombineDatasets", dataset=["moons", 0], regularisation=["moons", 0]),
        "show": node("PreviewAny", source=["both", 2]),
    }
    outputs = host.run(graph)["outputs"]
    for name, count in (("moons", 2), ("both", 4)):
        (opened,) = outputs[name]["mjesec_dataset"]
        view = host.get(f"/mjesec/datasets/{opened}")
        assert view["totals"]["images"] == count and "nodes" in view["read_only"]
        image = view["images"][0]["name"]
        status, told = ask(host, f"/mjesec/datasets/{opened}/caption", {"name": image, "text": "x", "version": ""})
        assert status == 400 and "nodes" in told["error"]


@pytest.mark.parametrize(
    "name", ["", "input", "input/", "input/..", "input/looked/../..", "/etc", "output/x", "input/none", "models/loras"]
)
def test_folders_outside_the_dataset_folders_are_refused(host: Host, folder: Path, name: str) -> None:
    status, told = ask(host, f"/mjesec/datasets?{query(folder=name)}")
    assert status == 400 and "folder" in told["error"]


def test_a_link_that_leads_out_is_refused(host: Host, folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (host.input / "link").symlink_to(tmp_path)
    assert ask(host, f"/mjesec/datasets?{query(folder='input/link')}")[0] == 400


@pytest.mark.parametrize("name", ["../a.png", "broken.png", "a.txt", "/etc/passwd", ""])
def test_what_is_no_image_of_the_dataset_is_neither_shown_nor_written(host: Host, folder: Path, name: str) -> None:
    path = f"/mjesec/datasets/{look(host, folder='input/looked')['id']}"
    assert ask(host, f"{path}/image?{query(name=name)}")[0] == ask(host, f"{path}/caption?{query(name=name)}")[0] == 400
    assert ask(host, f"{path}/caption", {"name": name, "text": "x", "version": ""})[0] == 400


def test_an_image_is_never_taken_for_a_caption(host: Host, folder: Path) -> None:
    before = (folder / "a.png").read_bytes()
    view = look(host, folder="input/looked", caption_extension=".png")
    assert "are no captions" in view["read_only"]
    body = {"name": "a.png", "text": "x", "version": ""}
    assert ask(host, f"/mjesec/datasets/{view['id']}/caption", body)[0] == 400
    assert (folder / "a.png").read_bytes() == before


@pytest.mark.parametrize("body", [[], {}, {"name": "a.png", "text": 7, "version": ""}, "x"])
def test_a_senseless_edit_is_refused(host: Host, folder: Path, body: object) -> None:
    path = f"/mjesec/datasets/{look(host, folder='input/looked')['id']}/caption"
    assert ask(host, path, body)[0] == 400


@pytest.mark.parametrize(
    "path",
    ["datasets/" + "0" * 32, "datasets/..%2f..%2fx", "datasets/x/buckets", "datasets/x/image", "datasets/x/caption"],
)
def test_what_is_not_open_is_not_there(host: Host, path: str) -> None:
    assert ask(host, f"/mjesec/{path}")[0] == 404


@pytest.mark.parametrize(
    "changed", [{"repeats": "0"}, {"repeats": "x"}, {"caption_extension": "a/b"}, {"caption_table": "../x"}]
)
def test_senseless_options_are_refused_in_a_sentence(host: Host, folder: Path, changed: dict[str, str]) -> None:
    status, told = ask(host, f"/mjesec/datasets?{query(folder='input/looked', **changed)}")
    assert status == 400 and told["error"]


def test_what_the_disk_refuses_is_told_in_a_sentence_without_a_path(host: Host) -> None:
    status, told = ask(host, f"/mjesec/datasets?{query(folder='input/' + 'x' * 300)}")
    assert status == 500 and "File name too long" in told["error"] and str(host.base) not in told["error"]


def test_a_page_from_elsewhere_is_refused(host: Host, folder: Path) -> None:
    opened = look(host, folder="input/looked")["id"]
    version = host.get(f"/mjesec/datasets/{opened}/caption", name="10_moon/b.png")["version"]
    body = {"name": "10_moon/b.png", "text": "theirs", "version": version}
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for path, sent in ((f"datasets?{query(folder='input/looked')}", None), (f"datasets/{opened}/caption", body)):
            assert ask_any(host, f"/mjesec/{path}", sent, headers) == 403
    assert not (folder / "10_moon" / "b.txt").exists()


def ask_any(host: Host, path: str, body: object, headers: dict[str, str]) -> int:
    """The status alone: the host itself refuses some of these, without JSON."""
    data = None if body is None else json.dumps(body).encode()
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(urllib.request.Request(host.url + path, data, headers), timeout=10)
    return failure.value.code
