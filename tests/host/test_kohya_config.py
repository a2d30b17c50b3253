"""Load kohya config in a real host: pasted text, a file under input, and the training that follows."""

from __future__ import annotations

import pytest
from host_graphs import Graph, node, training
from host_server import Host

import dev

THESIS = (dev.ROOT / "tests" / "unit" / "data" / "thesis_config.toml").read_text("utf-8")


def kohya(text: str = "", file: str = "the text below", **changes: object) -> Graph:
    graph = training()
    inputs = {"output_name": "", "steps": 2, "resolution": 128, "seed": -1, "precision": "auto", **changes}
    graph["set"] = node("MjesecLoadKohyaConfig", file=file, text=text, **inputs)
    return graph


def test_the_thesiss_configuration_trains_as_pasted_text(host: Host) -> None:
    graph = kohya(THESIS, dataset=["data", 0], clip=["ckpt", 1], output_name="pasted")
    entry = host.run(graph)
    report = entry["outputs"]["set"]["text"][0]
    assert "2 steps of 1 image: 0.33 epochs of 6 steps." in report
    assert "The GUI's epoch = 20 does not count" in report
    assert "0 of 6 captions are longer than 75 tokens; 0 tokens are cut." in report
    trained = entry["outputs"]["train"]["text"][0]
    assert "rank 32, alpha 8" in trained
    assert (host.output / "loras" / "pasted.safetensors").exists()


def test_a_file_under_input_is_offered_and_read_anew_when_it_changes(host: Host) -> None:
    folder = host.input / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.toml").write_text("resolution = 128\nnetwork_dim = 4\noutput_name = 'from_file'\n", "utf-8")
    offered = host.get("/object_info/MjesecLoadKohyaConfig")["MjesecLoadKohyaConfig"]["input"]["required"]["file"]
    assert "configs/a.toml" in str(offered)
    graph = kohya(file="configs/a.toml")
    del graph["train"]
    graph["show"] = node("PreviewAny", source=["set", 1])
    assert "network_dim = 4" in host.run(graph)["outputs"]["show"]["text"][0]
    (folder / "a.toml").write_text("resolution = 128\nnetwork_dim = 8\n", "utf-8")
    assert "network_dim = 8" in host.run(graph)["outputs"]["show"]["text"][0]


@pytest.mark.parametrize("name", ["../secret.toml", "/etc/passwd", "configs/none.toml", "configs/../../a.toml"])
def test_a_file_elsewhere_is_refused(name: str, host: Host) -> None:
    with pytest.raises(dev.PromptFailure, match="input folder"):
        host.run(kohya(file=name))


def test_an_options_node_behind_it_tells_what_it_replaces(host: Host) -> None:
    config = "resolution = 128\nnetwork_dim = 4\nshuffle_caption = true\nkeep_tokens = 2\ncaption_dropout_rate = 0.1\n"
    graph = kohya(config, output_name="replaced")
    widgets = {
        "shuffle": False, "keep_tokens": 2, "keep_separator": "", "separator": ",", "dropout": 0.0,
        "tag_dropout": 0.0, "dropout_every_epochs": 0, "wildcards": False, "tokens": "75", "long_captions": "comfyui",
    }  # fmt: skip
    graph["words"] = node("MjesecCaptionOptions", settings=["set", 0], trigger="mjesec", **widgets)
    graph["train"]["inputs"]["settings"] = ["words", 0]
    told = host.run(graph)["outputs"]["words"]["text"][0].splitlines()
    assert told == ["Replaced: shuffle on → off, dropout 0.1 → 0.", "Set: trigger nothing → mjesec."]


def test_a_key_that_cannot_be_honoured_stops_the_graph_with_its_cure(host: Host) -> None:
    with pytest.raises(dev.PromptFailure, match="color_aug = True cannot be honoured: colours are not varied"):
        host.run(kohya(THESIS + "color_aug = true\n"))
