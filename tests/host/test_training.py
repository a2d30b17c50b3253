"""Training inside the real host: the file loads everywhere, cancel works, nothing of the host is changed."""

from __future__ import annotations

import hashlib
import time

import pytest
from host_graphs import node, picture, training
from host_server import Host
from PIL import Image
from safetensors import safe_open

import dev


def pixels(host: Host) -> bytes:
    """What a plain graph samples now with the model object that the host holds: only the loader is cached."""
    graph = picture()
    for name in ("yes", "no", "sample"):
        # the host's cache looks at unknown inputs too, its nodes do not
        graph[name]["inputs"]["asked_at"] = time.monotonic_ns()
    (path,) = host.outputs(host.run(graph))
    return Image.open(path).tobytes()


def test_the_base_is_as_before_and_the_file_loads_in_the_hosts_own_loader(host: Host) -> None:
    before = pixels(host)
    graph = training(output_name="loads", steps=3, seed=11) | {
        "again": node(
            "LoraLoader",
            model=["ckpt", 0],
            clip=["ckpt", 1],
            lora_name=["train", 1],
            strength_model=1.0,
            strength_clip=1.0,
        )  # fmt: skip
    }
    plain = picture(prefix="tuned")
    graph |= {name: plain[name] for name in ("yes", "no", "empty", "sample", "decode", "save")}
    for name in ("yes", "no"):
        graph[name]["inputs"]["clip"] = ["again", 1]
    graph["sample"]["inputs"]["model"] = ["again", 0]
    entry = host.run(graph)
    (tuned,) = host.outputs(entry)
    assert Image.open(tuned).tobytes() != before
    # the host knows what is free, so a profile is chosen by it
    assert "MB are free, one batch keeps " in entry["outputs"]["train"]["text"][0]
    assert pixels(host) == before
    path = host.output / "loras" / "loads.safetensors"
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        modules = {name.split(".")[0] for name in names}
        assert len(names) == 3 * len(modules) == 3 * 168
        assert file.metadata()["ss_network_dim"] == "4"
        # the checkpoint behind the wire
        assert file.metadata()["ss_sd_model_name"] == dev.TINY_SDXL.name
        assert file.metadata()["ss_new_sd_model_hash"] == hashlib.sha256(dev.TINY_SDXL.read_bytes()).hexdigest()
    assert not host.complaints()


def test_a_finished_run_is_reused_and_another_never_overwrites_it(host: Host) -> None:
    # settings that no other test trains: a run that another has finished is copied
    first = host.run(training(output_name="kept", seed=31))
    path = host.output / "loras" / "kept.safetensors"
    stamp = path.stat().st_mtime_ns
    # without the results that the host itself kept from the first time
    host.free()
    again = host.run(training(output_name="kept", seed=31))
    assert "holds this very run already" in again["outputs"]["train"]["text"][0]
    other = host.run(training(output_name="kept", seed=32))
    assert "is of another run, so this one becomes kept_2.safetensors" in other["outputs"]["train"]["text"][0]
    assert path.stat().st_mtime_ns == stamp
    assert "Saved kept.safetensors" in first["outputs"]["train"]["text"][0]


def test_a_lora_that_was_deleted_is_trained_once_more_though_the_host_kept_the_result(host: Host) -> None:
    graph, path = training(output_name="deleted", seed=21), host.output / "loras" / "deleted.safetensors"
    host.run(graph)
    path.unlink()
    again = host.run(graph)["outputs"]["train"]
    assert "Saved deleted.safetensors" in again["text"][0] and path.exists()
    # and that result is kept as the first was: asked anew, the node would say that it holds the run already
    assert host.run(graph)["outputs"]["train"] == again


def wait_for_line(host: Host, words: str, since: int, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while words not in host.log_text()[since:]:
        host.check_alive()
        assert time.monotonic() < ends, f"'{words}' never came: {host.log_text()[since:]}"
        time.sleep(0.05)


def test_cancel_takes_effect_at_a_step_and_the_next_queueing_goes_on_from_there(host: Host) -> None:
    before = pixels(host)
    graph = training(output_name="cancelled", steps=60)
    since = len(host.log_text())
    prompt = host.queue(graph)
    wait_for_line(host, "[Mjesec] step ", since)
    host.interrupt(prompt)
    assert "interrupted" in (dev.failure_of(host.wait(prompt, 120)) or "")
    log = host.log_text()[since:]
    assert "Stopped after step " in log
    stopped = int(log.split("Stopped after step ")[1].split(";")[0])
    assert 0 < stopped < 60
    assert not (host.output / "loras" / "cancelled.safetensors").exists()
    assert pixels(host) == before
    report = host.run(graph)["outputs"]["train"]["text"][0]
    assert f"Going on from step {stopped} of 60." in report
    assert (host.output / "loras" / "cancelled.safetensors").exists()


def test_a_loss_that_is_no_number_is_told_with_its_step_and_the_next_prompt_works(host: Host) -> None:
    before = pixels(host)
    # the highest rate that the node takes; what it leaves behind is past all numbers
    graph = training(output_name="burst", steps=8, unet_lr=1.0, text_lr=1.0, alpha=4096.0)
    sentence = r"The loss is not a finite number at step [2-8]: lower the learning rate[;.]"
    with pytest.raises(dev.PromptFailure, match=sentence):
        host.run(graph)
    assert not (host.output / "loras" / "burst.safetensors").exists()
    assert pixels(host) == before
    assert "Saved calm.safetensors" in host.run(training(output_name="calm", seed=22))["outputs"]["train"]["text"][0]


def test_held_out_loss_and_effective_rates_are_told(host: Host) -> None:
    report = host.run(training(output_name="told", validation_images=2, steps=3))["outputs"]["train"]["text"][0]
    assert "Held-out loss: base " in report
    assert "learning rates: text 0.01, unet 0.01." in report
    assert "3 steps of 2 images: 1.50 epochs of 2 steps." in report


def test_a_patched_model_is_what_is_trained_on(host: Host) -> None:
    """The same settings on a MODEL with a LoRA on the wire are another run, on other weights."""
    host.run(training(output_name="first", steps=3))
    graph = training(output_name="second", steps=3)
    graph["merged"] = node(
        "MjesecLoadLora", model=["ckpt", 0], clip=["ckpt", 1], lora_name="first.safetensors", strength_model=1.0,
        strength_clip=1.0,
    )  # fmt: skip
    graph["train"]["inputs"] |= {"model": ["merged", 0], "clip": ["merged", 1]}
    report = host.run(graph)["outputs"]["train"]["text"][0]
    assert "Saved second.safetensors" in report
