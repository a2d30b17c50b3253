"""A run in the real host obeys the routes: pause, resume, stop, save; and its history outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from host_graphs import node, training
from host_server import Host, StartHost, setup_from_environment
from PIL import Image
from safetensors import safe_open

import dev


def run_named(host: Host, name: str) -> dict[str, Any] | None:
    return next((run for run in host.get("/mjesec/runs")["runs"] if run["name"] == name), None)


def wait_for(host: Host, name: str, seconds: float = 120, **wanted: object) -> dict[str, Any]:
    """The run of that name once its fields are as wanted; `step` is the least step."""
    ends = time.monotonic() + seconds
    while True:
        host.check_alive()
        run = run_named(host, name)
        least = int(wanted.get("step", 0))
        others = {key: value for key, value in wanted.items() if key != "step"}
        if run and run["step"] >= least and all(run[key] == value for key, value in others.items()):
            return run
        assert time.monotonic() < ends, f"{name} is {run}, not {wanted}"
        time.sleep(0.05)


def ask(host: Host, run: dict[str, Any], wish: str) -> tuple[int, dict[str, Any]]:
    try:
        return 200, json.loads(host.request(f"/mjesec/runs/{run['id']}/{wish}", {}))
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.loads(refusal.read())


def test_pause_resume_save_and_stop(host: Host) -> None:
    graph = training(output_name="obeys", steps=2000)
    prompt = host.queue(graph)
    run = wait_for(host, "obeys", state="training", step=1)
    assert (run["node_id"], run["prompt_id"], run["steps"]) == ("train", prompt, 2000)
    assert run["wishes"] == ["pause", "stop", "save"]
    assert run["memory_mb"] is None or run["memory_mb"] > 0
    assert ask(host, run, "pause") == (200, {"ok": True})
    paused = wait_for(host, "obeys", state="paused")
    assert ask(host, run, "pause")[0] == ask(host, run, "save")[0] == 409
    assert paused["wishes"] == ["resume", "stop"]
    time.sleep(0.3)
    assert wait_for(host, "obeys", state="paused")["step"] == paused["step"]
    assert ask(host, run, "resume") == (200, {"ok": True})
    wait_for(host, "obeys", state="training", step=paused["step"] + 1)
    assert ask(host, run, "save") == (200, {"ok": True})
    loras = host.output / "loras"
    ends = time.monotonic() + 60
    while not list(loras.glob("obeys-step*.safetensors")):
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert ask(host, run, "stop") == (200, {"ok": True})
    entry = host.wait(prompt, 120)
    assert dev.failure_of(entry) is None
    report = entry["outputs"]["train"]["text"][0]
    stopped = wait_for(host, "obeys", state="stopped")
    assert f"Stopped at step {stopped['step']} of 2000 as asked; queue again to go on from there." in report
    assert (loras / f"obeys-step{stopped['step']:08d}.safetensors").exists()
    assert not (loras / "obeys.safetensors").exists()
    assert ask(host, run, "stop") == (409, {"error": "The run has ended."})
    assert stopped["wishes"] == []
    curve = host.get(f"/mjesec/runs/{run['id']}", since=str(stopped["step"] - 2))
    assert [point["step"] for point in curve["points"]] == [stopped["step"] - 1, stopped["step"]]
    # the same graph again: the host must not answer with the results that it kept
    again = host.queue(graph)
    wait_for(host, "obeys", state="training", step=stopped["step"] + 1)
    host.interrupt(again)
    host.wait(again, 120)
    assert run_named(host, "obeys")["state"] == "stopped"


def test_an_interrupt_ends_a_pause(host: Host) -> None:
    prompt = host.queue(training(output_name="pauses", steps=2000))
    run = wait_for(host, "pauses", state="training", step=1)
    ask(host, run, "pause")
    paused = wait_for(host, "pauses", state="paused")
    # the console tells of a pause once, not every two seconds for as long as it lasts
    time.sleep(5)
    assert host.log_text().count(f"paused: {paused['step']}/2000") == 1
    host.interrupt(prompt)
    assert "interrupted" in (dev.failure_of(host.wait(prompt, 60)) or "")
    ended = run_named(host, "pauses")
    assert (ended["state"], ended["step"]) == ("stopped", paused["step"])


def test_a_stop_while_images_are_encoded_ends_the_prompt(host: Host) -> None:
    folder = host.input / "many"
    folder.mkdir()
    for number in range(100):
        Image.effect_noise((256, 256), 40 + number).convert("RGB").save(folder / f"{number:03d}.png", compress_level=1)
    graph = training(output_name="encodes", resolution=256)
    graph["data"] = node(
        "MjesecLoadImageDataset", folder="input/many", repeats=1, default_caption="", caption_extension=".txt"
    )
    prompt = host.queue(graph)
    run = wait_for(host, "encodes", state="preparing")
    assert ask(host, run, "stop") == (200, {"ok": True})
    assert "interrupted" in (dev.failure_of(host.wait(prompt, 60)) or "")
    ended = run_named(host, "encodes")
    assert (ended["state"], ended["step"]) == ("stopped", 0)
    assert "before the first step" in ended["message"]
    assert not (host.output / "loras" / "encodes.safetensors").exists()


@contextlib.contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """What a shell put into the background was born deaf to it, and so would be its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_a_host_that_is_ended_saves_its_training_first(start_host: StartHost) -> None:
    with hearing_ctrl_c(), start_host() as host:
        host.queue(training(output_name="ended", steps=5000))
        run = wait_for(host, "ended", state="training", step=5)
        # as a terminal does
        os.killpg(host.pid, signal.SIGINT)
        ends = time.monotonic() + 60
        with pytest.raises(dev.Failure):
            while time.monotonic() < ends:
                host.check_alive()
                time.sleep(0.1)
        log = host.log_text()
        assert "the training ends its step and saves its state first" in log and "Fatal Python error" not in log
        folder = host.output / "mjesec" / "runs" / run["id"]
        last = json.loads((folder / "log.jsonl").read_text("utf-8").splitlines()[-1])
        assert (last["event"], last["state"]) == ("end", "stopped") and last["step"] >= 5
        with safe_open(folder / "state.safetensors", framework="numpy") as state:
            assert json.loads(state.metadata()["mjesec"])["step"] == last["step"]


# a worker that, its run saved, lets go of networks while the interpreter ends
FREES_MEMORY = """
import importlib.util, sys, threading, time
comfyui, module = sys.argv.pop(1), sys.argv.pop(1)
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.enable_args_parsing()
import torch
from comfy.model_management import processing_interrupted
spec = importlib.util.spec_from_file_location("leaving", module)
leaving = importlib.util.module_from_spec(spec)
spec.loader.exec_module(leaving)
begun = threading.Event()

def work():
    with leaving.saved_when_the_host_ends():
        begun.set()
        while not processing_interrupted():
            time.sleep(0.01)
        print("saved", flush=True)
    while True:
        held = [torch.zeros(1000) for _ in range(100_000)]

threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


def test_the_worker_frees_nothing_while_the_host_ends() -> None:
    module = dev.ROOT / "nodes" / "training" / "leaving.py"
    setup = setup_from_environment()
    command = [setup.python, "-c", FREES_MEMORY, setup.comfyui, module, "--cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "saved\n"), done.stderr


def test_what_cannot_be_asked_is_refused_in_a_sentence(host: Host) -> None:
    unknown = {"id": "f" * 32}
    assert ask(host, unknown, "stop") == (404, {"error": f"There is no run '{'f' * 32}'."})
    status, reply = ask(host, unknown, "explode")
    assert status == 404
    assert "pause, resume, stop, save, sample" in reply["error"]
    with pytest.raises(urllib.error.HTTPError) as refusal:
        host.get(f"/mjesec/runs/{'f' * 32}")
    assert refusal.value.code == 404


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}],
    ids=lambda headers: next(iter(headers.values())),
)
@pytest.mark.parametrize(("path", "data"), [("/mjesec/runs", None), (f"/mjesec/runs/{'f' * 32}/stop", b"")])
def test_a_page_from_elsewhere_is_refused(host: Host, path: str, data: bytes | None, headers: dict[str, str]) -> None:
    request = urllib.request.Request(host.url + path, data=data, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)
    assert refusal.value.code == 403
