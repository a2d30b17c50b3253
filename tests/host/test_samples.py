"""Samples in the middle of a training are KSampler's own pictures, and what is learnt does not know of them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from host_graphs import node, picture, training
from host_server import Host
from PIL import Image
from safetensors.torch import load_file

import dev


def sampling(**values: Any) -> dict[str, Any]:
    inputs = {
        "prompts": "moon\n\nforest at day",
        "negative": "",
        "every": 2,
        "width": 64,
        "height": 64,
        "seed": 3,
        "steps": 3,
        "cfg": 5.0,
        "sampler": "euler_ancestral",
        "scheduler": "normal",
        "strength": 0.8,
        **values,
    }
    return node("MjesecTrainingSamples", **inputs)


def with_samples(name: str, steps: int, **values: Any) -> dict[str, Any]:
    graph = training(output_name=name, steps=steps, precision="bf16")
    graph["samples"] = sampling(**values)
    graph["train"]["inputs"]["samples"] = ["samples", 0]
    return graph


def test_samples_are_the_ksamplers_and_training_does_not_know_of_them(host: Host) -> None:
    host.run(training(output_name="unseen", steps=4, precision="bf16"))
    loras = host.output / "loras"
    # a finished run would not be trained again under another name
    (loras / "unseen.safetensors").rename(loras / "before.safetensors")
    entry = host.run(with_samples("seen", 4))
    assert (loras / "seen.safetensors").read_bytes() != b""
    seen, unseen = (load_file(loras / f"{name}.safetensors") for name in ("seen", "before"))
    assert seen.keys() == unseen.keys()
    assert [name for name in seen if not seen[name].equal(unseen[name])] == []

    (folder,) = (host.output / "mjesec" / "samples").glob("seen-*")
    names = [f"step{step:08d}_{number:02d}.png" for step in (2, 4) for number in (0, 1)]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert [image["filename"] for image in entry["outputs"]["train"]["images"]] == names[2:]
    (path,) = host.outputs(host.run(picture(lora="seen.safetensors", weight=0.8)))
    last = Image.open(folder / names[2])
    assert last.tobytes() == Image.open(path).convert("RGB").tobytes()
    assert last.tobytes() != Image.open(folder / names[0]).tobytes()
    told = json.loads(last.text["mjesec"])
    assert (told["prompt"], told["training_step"], told["cfg"]) == ("moon", 4, 5.0)

    run = next(run for run in host.get("/mjesec/runs")["runs"] if run["name"] == "seen")
    samples = host.get(f"/mjesec/runs/{run['id']}", since="2")["samples"]
    assert [(s["step"], s["filename"], s["subfolder"], s["prompt"]) for s in samples] == [
        (4, name, f"mjesec/samples/seen-{run['id'][:8]}", prompt)
        for name, prompt in zip(names[2:], ("moon", "forest at day"), strict=True)
    ]
    assert entry["outputs"]["train"]["mjesec_run"] == [run["id"]]
    assert not host.complaints()


def test_each_sample_that_is_no_image_is_told_and_costs_no_other(host: Host) -> None:
    # one step of this scheduler divides by nothing
    graph = with_samples("no picture", 2)
    graph["samples"] = sampling(steps=1, scheduler="kl_optimal", sampler="euler")
    host.run(graph)
    told = host.log_text()
    for prompt in ("moon", "forest at day"):
        assert f"No sample of step 2 for '{prompt}': Sampling ended in numbers that are not finite" in told
    assert "The samples of step 2 could not be drawn" not in told


def test_a_sample_now_is_drawn_when_asked_for(host: Host) -> None:
    graph = with_samples("asked", 2000, every=0, prompts="moon")
    prompt = host.queue(graph)
    ends, run = time.monotonic() + 120, None
    while run is None or not run["step"]:
        assert time.monotonic() < ends
        run = next((run for run in host.get("/mjesec/runs")["runs"] if run["name"] == "asked"), None)
    folder = host.output / "mjesec" / "samples" / f"asked-{run['id'][:8]}"
    assert not folder.exists()
    host.request(f"/mjesec/runs/{run['id']}/sample", {})
    while not list(folder.glob("*.png") if folder.exists() else []):
        host.check_alive()
        assert time.monotonic() < ends
        time.sleep(0.05)
    host.interrupt(prompt)
    host.wait(prompt, 60)
    assert len(list(folder.glob("*.png"))) == 1


@pytest.mark.parametrize(("prompts", "words"), [(" \n ", "prompts is empty"), ("a\n" * 17, "prompts has 17 lines")])
def test_prompts_that_cannot_be_drawn_are_refused(host: Host, prompts: str, words: str) -> None:
    with pytest.raises(dev.PromptFailure, match=words):
        host.run(with_samples("refused", 1, prompts=prompts))
