"""The LoRA info: what a LoRA that was just trained tells, the graph that it carries, and foreign files."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from host_graphs import node, training
from host_server import Host

import dev

HOSTILE = "<img src=x onerror=window.hostile=1>"


def info_of(host: Host, name: str) -> dict[str, Any]:
    return host.get(f"/mjesec/loras/{urllib.parse.quote(name, safe='')}")


def refused(host: Host, path: str, headers: dict[str, str] | None = None) -> int:
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(urllib.request.Request(host.url + path, headers=headers or {}), timeout=10)
    return failure.value.code


def put_file(path: Path, metadata: dict[str, Any]) -> None:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def queue_with_workflow(host: Host, graph: dict[str, Any], workflow: dict[str, Any]) -> dict[str, Any]:
    """Queues as the editor does, which sends its own form of the graph along."""
    body = {"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    entry = host.wait(json.loads(host.request("/prompt", body))["prompt_id"], 300)
    assert not dev.failure_of(entry), dev.failure_of(entry)
    return entry


def test_a_trained_lora_tells_how_it_was_made_and_carries_its_graph(host: Host) -> None:
    graph = training(output_name="told")
    graph["words"] = node("MjesecCaptionOptions", settings=["set", 0], **caption_options(host, trigger="mjesec"))
    graph["train"]["inputs"]["settings"] = ["words", 0]
    workflow = {"nodes": [], "links": [], "version": 0.4, "extra": {"note": HOSTILE}}
    entry = queue_with_workflow(host, graph, workflow)
    (name,) = entry["outputs"]["train"]["mjesec_lora"]
    info = info_of(host, name)
    facts = {fact: value for section in info["sections"] for fact, value in section["facts"]}
    assert {"steps": "2", "rank": "4", "checkpoint": "tiny_sdxl.safetensors"}.items() <= facts.items()
    assert info["graph"] == {"prompt": graph, "workflow": workflow}
    assert (info["trigger"], len(info["thumbnails"]) > 3) == ("mjesec", True)
    assert info["tags"] and all(count <= 6 for _, count in info["tags"])
    # the host's own reader, which refuses headers over 1 MiB, and the editor's, which reads these two names
    metadata = host.get("/view_metadata/loras", filename=name)
    assert json.loads(metadata["prompt"]) == graph and json.loads(metadata["workflow"]) == workflow
    # another form of the same graph is the same run; an input that no node has keeps the host's cache out of it
    graph["train"]["inputs"]["another"] = 1
    again = queue_with_workflow(host, graph, {**workflow, "version": 0.5})["outputs"]["train"]
    assert "used as it is" in again["text"][0] and again["mjesec_lora"] == [name]


def caption_options(host: Host, **changed: object) -> dict[str, Any]:
    info = host.get("/object_info/MjesecCaptionOptions")["MjesecCaptionOptions"]
    inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
    values = {name: (spec[1] if len(spec) > 1 else {}).get("default") for name, spec in inputs.items()}
    return {name: value for name, value in {**values, **changed}.items() if name != "settings"}


def test_a_run_that_is_told_not_to_embed_leaves_the_graph_and_pictures_out(host: Host) -> None:
    graph = training(output_name="discreet", seed=7)
    graph["saving"] = node(
        "MjesecCheckpointOptions", settings=["set", 0], validate_every=0, keep_best=False, patience=0, save_every=0,
        state_seconds=0, state_every=0, tensorboard=False, embed_workflow=False,
    )  # fmt: skip
    graph["train"]["inputs"]["settings"] = ["saving", 0]
    (name,) = host.run(graph)["outputs"]["train"]["mjesec_lora"]
    info = info_of(host, name)
    assert info["graph"] is None and info["thumbnails"] == [] and info["sections"]


def test_a_foreign_file_in_a_folder_is_told_as_far_as_it_goes(host: Host) -> None:
    loras = host.output / "loras"
    put_file(loras / "theirs" / "old.safetensors", {"ss_network_dim": "8", "ss_tag_frequency": "{", "x": HOSTILE})
    info = info_of(host, "theirs/old.safetensors")
    assert info["entries"]["x"] == HOSTILE and info["graph"] is None and info["tags"] == []
    put_file(loras / "empty.safetensors", {})
    assert [section["title"] for section in info_of(host, "empty.safetensors")["sections"]] == ["File"]
    (loras / "broken.safetensors").write_bytes(b"broken")
    assert refused(host, "/mjesec/loras/broken.safetensors") == 400


@pytest.mark.parametrize(
    "name", ["none.safetensors", "..%2f..%2fx.safetensors", "..%2fmjesec%2fx", "%2fetc%2fpasswd", "a%00.safetensors"]
)
def test_what_comfyui_does_not_list_is_not_there(host: Host, name: str) -> None:
    assert refused(host, f"/mjesec/loras/{name}") == 404


def test_a_page_from_elsewhere_is_refused(host: Host) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert refused(host, "/mjesec/loras/none.safetensors", headers) == 403
