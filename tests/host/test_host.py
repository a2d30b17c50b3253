"""The harness itself, on a real ComfyUI: what it promises to every other test of this folder."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from host_server import Host, StartHost
from PIL import Image

import dev


def saved_image(width: int = 16, color: int = 0x204060, source: str = "EmptyImage") -> dict[str, object]:
    return {
        "1": {
            "class_type": source,
            "inputs": {"width": width, "height": 16, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "plain/image"}},
    }


def test_the_plugin_is_loaded_and_nothing_else_is(host: Host) -> None:
    loaded = {info["python_module"] for info in host.get("/object_info").values()}
    assert {name for name in loaded if name.startswith("custom_nodes.")} <= {
        f"custom_nodes.{dev.ROOT.name}",
        "custom_nodes.tiny_sdxl",
    }
    assert f"custom_nodes.{dev.ROOT.name}" in loaded
    dev.check_loaded(host)


def test_the_tiny_sdxl_is_offered_as_a_checkpoint(host: Host) -> None:
    loader = host.get("/object_info/CheckpointLoaderSimple")["CheckpointLoaderSimple"]
    assert dev.TINY_SDXL.name in loader["input"]["required"]["ckpt_name"][0]


def test_a_graph_runs_and_its_files_are_reported(host: Host) -> None:
    (path,) = host.outputs(host.run(saved_image()))
    assert path.parent == host.output / "plain"
    assert Image.open(path).getpixel((0, 0)) == (0x20, 0x40, 0x60)
    assert host.view(path.name, "plain") == path.read_bytes()


def test_an_uploaded_picture_comes_back_as_it_was(host: Host) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(buffer, "PNG")
    reply = host.upload_image("three by two.png", buffer.getvalue(), "pictures")
    assert (reply["name"], reply["subfolder"]) == ("three by two.png", "pictures")
    assert host.view(reply["name"], reply["subfolder"], "input") == buffer.getvalue()


def test_a_graph_with_an_invalid_value_is_refused_by_name(host: Host) -> None:
    with pytest.raises(dev.PromptFailure, match=r"refused node 1 \(EmptyImage\)") as refusal:
        host.run(saved_image(width=-5))
    assert set(refusal.value.node_errors) == {"1"}


def test_a_graph_of_which_only_one_output_is_valid_is_refused_too(host: Host) -> None:
    bad = {"3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}}
    with pytest.raises(dev.PromptFailure, match=r"refused node 3 \(SaveImage\)"):
        host.run({**saved_image(), **bad})


def test_an_unknown_node_is_refused_with_its_name(host: Host) -> None:
    with pytest.raises(dev.PromptFailure, match="NoSuchNode"):
        host.run(saved_image(source="NoSuchNode"))


def test_a_failing_node_is_named_and_the_next_prompt_works(host: Host) -> None:
    (host.input / "broken.png").write_bytes(b"no picture")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "never"}},
    }
    with pytest.raises(dev.PromptFailure, match=r"node 1 \(LoadImage\) failed: .*broken.png"):
        host.run(graph)
    host.run(saved_image(color=0x010203))


def test_its_log_would_show_a_key_that_was_not_loaded(host: Host, tmp_path: Path) -> None:
    assert host.complaints() == []
    imitation = Host(tmp_path)
    imitation.log.write_text("\x1b[33m[WARNING]\x1b[0m lora key not loaded: lora_unet_x\n", encoding="utf-8")
    assert imitation.complaints() == ["[WARNING] lora key not loaded: lora_unet_x"]


def test_a_second_host_has_arguments_and_files_of_its_own_and_ends_when_it_is_left(
    host: Host, start_host: StartHost
) -> None:
    with start_host("--preview-method", "latent2rgb") as own:
        assert host.url != own.url
        assert "latent2rgb" in own.get("/system_stats")["system"]["argv"]
        for each in (host, own):
            (path,) = each.outputs(each.run(saved_image(color=0x0A0B0C)))
            assert path.is_relative_to(each.output) and path.is_file()
        group = own.pid
        if not dev.WINDOWS:  # process groups are POSIX
            os.killpg(group, 0)
    if not dev.WINDOWS:
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)
    with pytest.raises(dev.Failure, match="ComfyUI ended"):
        own.check_alive()
