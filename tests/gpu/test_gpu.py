"""Short runs on a CUDA device: what only a GPU can show. Elsewhere these tests skip themselves.

The networks are the demo's tiny SDXL, straight from its file; no host is needed.
"""

from __future__ import annotations

import gc
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from pack.trainer.adapters.adapters import add_adapters
from pack.trainer.dataset.buckets import BucketSettings
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.lora.file import read_lora
from pack.trainer.moons.folder import render_moons
from pack.trainer.runs.control import Control
from pack.trainer.runs.run import Base, Folders, Job, Result, train
from pack.trainer.sdxl.checkpoint import TE1_PREFIX, TE2_PREFIX, UNET_PREFIX, transformers_state
from pack.trainer.sdxl.parts import EOS, Parts, build_text_encoder, build_unet, scaled_linear_alpha_bar
from pack.trainer.settings.options import AdapterSettings, CaptionSettings
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.graphs import NOT_RECORDED
from pack.trainer.training.loop import Step
from PIL import Image
from safetensors.torch import load_file

import dev

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no CUDA device here.")

SIZE = 128
# so much that activations outweigh the workspaces of the libraries; what a recorded step takes no counter tells
LARGE: dict[str, object] = {"batch_size": 16, "cuda_graphs": False, "images": 16}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class Silent:
    """A watcher that keeps the steps and what was said."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.lines: list[str] = []
        # bytes, up to the last step: what is measured and written after it is another matter
        self.peak = 0

    def stage(self, name: str, done: int, total: int) -> None:
        pass

    def step(self, step: Step) -> None:
        self.steps.append(step)
        self.peak = torch.cuda.max_memory_allocated()

    def say(self, line: str) -> None:
        self.lines.append(line)


class Cancel(BaseException):
    """How a host cancels: nothing that `except Exception` would catch."""


class Cancelled(Silent):
    def step(self, step: Step) -> None:
        raise Cancel


def tiny_parts(device: torch.device, dtype: torch.dtype) -> Parts:
    state = {n: t.to(device, dtype) for n, t in load_file(dev.TINY_SDXL).items() if t.is_floating_point()}

    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}

    return Parts(
        build_unet(under(UNET_PREFIX), head_channels=32),
        build_text_encoder(under(TE1_PREFIX), projection=False, heads=1),
        build_text_encoder(transformers_state(under(TE2_PREFIX)), projection=True, heads=1),
        scaled_linear_alpha_bar(),
    )


def averaged(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents without an autoencoder: 8x8 averages of the picture. These tests are about the device."""
    grey = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1).mean(dim=1, keepdim=True), 8)
    mean = (grey * 2 - 1).repeat(1, 4, 1, 1) * 7
    return mean, torch.full_like(mean, 0.1)


def letters_to_ids(caption: str) -> list[int]:
    return [49406, *(ord(letter) + 256 for letter in caption[:60]), EOS]


def words_to_ids(caption: str) -> list[int]:
    return [49406, *(ord(word[0]) + 256 for word in caption.split()), EOS]


def train_on(
    device: str,
    work: Path,
    watcher: Silent | None = None,
    *,
    tokenize: Callable[[str], Sequence[int]] = letters_to_ids,
    control: Control | None = None,
    images: int = 4,
    **changes: object,
) -> Result:
    base: dict[str, object] = {"steps": 6, "rank": 4, "unet_lr": 1e-3, "buckets": BucketSettings((SIZE, SIZE))}
    settings = TrainSettings(**{**base, **changes})  # type: ignore[arg-type]
    if not (work / "moons").exists():
        render_moons(work / "moons", images, SIZE, seed=1)
    place = torch.device(device)
    job = Job(
        dataset=scan_folder(work / "moons"),
        settings=settings,
        base=Base("tiny", f"tiny on {device}", "none"),
        folders=Folders(work / "loras", work / "work"),
        parts=lambda: tiny_parts(place, DTYPES[settings.precision]),
        tokenize=tokenize,
        encode=averaged,
        device=place,
        watcher=watcher or Silent(),
        control=control or Control(),
    )
    return train(job)


def allocated() -> int:
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("parts", ["unet", "unet+text"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_moves_every_trained_module_and_stays_finite(
    tmp_path: Path, precision: str, parts: str, checkpointing: bool
) -> None:
    # the scaler of fp16 starts so high that its first steps overflow and are not taken
    steps = 24 if precision == "fp16" else 6
    result = train_on(
        "cuda", tmp_path, precision=precision, train=parts, gradient_checkpointing=checkpointing, steps=steps
    )
    assert len(result.losses) == steps and all(math.isfinite(loss) for loss in result.losses)
    lora = read_lora(result.path)
    assert all(torch.isfinite(tensor).all() for tensor in lora.values())
    unet_ups = [tensor for name, tensor in lora.items() if name.startswith("lora_unet") and "lora_up" in name]
    assert unet_ups and all(tensor.any() for tensor in unet_ups)
    assert any(name.startswith("lora_te") for name in lora) == (parts == "unet+text")


def test_in_fp32_the_first_loss_is_the_one_of_the_cpu(tmp_path: Path) -> None:
    """Noise, timesteps and initial weights come from the CPU's generators, whatever computes."""
    on_gpu, on_cpu = (
        train_on(device, tmp_path / device, precision="fp32", steps=1).losses[0] for device in ("cuda", "cpu")
    )
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)


def test_a_finished_run_gives_its_memory_back(tmp_path: Path) -> None:
    # the first run leaves the libraries' own workspaces behind
    train_on("cuda", tmp_path, precision="bf16", seed=1)
    before = allocated()
    train_on("cuda", tmp_path, precision="bf16", seed=2)
    assert allocated() <= before


def test_a_cancelled_run_gives_its_memory_back(tmp_path: Path) -> None:
    train_on("cuda", tmp_path, precision="bf16", seed=1)
    before = allocated()
    with pytest.raises(Cancel):
        train_on("cuda", tmp_path, Cancelled(), precision="bf16", seed=2)
    assert allocated() <= before


def test_what_overflows_in_fp16_is_counted_and_not_taken(tmp_path: Path) -> None:
    watcher = Silent()
    train_on("cuda", tmp_path, watcher, precision="fp16", steps=24)
    skipped = sum(not step.taken for step in watcher.steps)
    assert skipped < len(watcher.steps)
    assert any(line.startswith(f"{skipped} steps overflowed") for line in watcher.lines) == (skipped > 0)


def test_long_captions_of_several_lengths_train_with_frozen_encoders(tmp_path: Path) -> None:
    """The encoders are let go once the captions are encoded; a batch of one and of two pieces needs them no more."""
    work = tmp_path / "moons"
    render_moons(work, 4, SIZE, seed=1)
    for number, caption in enumerate(sorted(work.glob("*.txt"))):
        caption.write_text("moon " * (2 if number % 2 else 100), encoding="utf-8")
    result = train_on(
        "cuda", tmp_path, train="unet", batch_size=2, captions=CaptionSettings(tokens=150), tokenize=words_to_ids
    )
    assert all(math.isfinite(loss) for loss in result.losses)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="This GPU knows no fp8."
)
def test_a_base_in_fp8_trains(tmp_path: Path) -> None:
    result = train_on("cuda", tmp_path, precision="bf16", base_storage="fp8")
    plain = train_on("cuda", tmp_path / "plain", precision="bf16")
    assert result.losses == pytest.approx(plain.losses, rel=0.2)
    assert result.losses != plain.losses


def test_the_low_profile_keeps_less_than_the_fast_one(tmp_path: Path) -> None:
    peaks = {}
    for profile in ("fast", "low"):
        train_on("cuda", tmp_path / f"warm {profile}", memory_profile=profile, seed=1, **LARGE)
        before = allocated()
        torch.cuda.reset_peak_memory_stats()
        train_on("cuda", tmp_path / profile, watcher := Silent(), memory_profile=profile, seed=2, **LARGE)
        peaks[profile] = watcher.peak - before
    assert peaks["low"] < 0.8 * peaks["fast"], peaks


def test_a_gpu_that_is_full_makes_the_run_retreat_and_say_so(tmp_path: Path) -> None:
    """A real shortage: all but some room is taken, so that a step without checkpointing cannot fit."""
    watcher = Silent()
    train_on("cuda", tmp_path / "warm", seed=1, **LARGE)
    allocated()
    torch.cuda.reset_peak_memory_stats()
    train_on("cuda", tmp_path / "whole", whole := Silent(), memory_profile="fast", seed=2, **LARGE)
    needed = whole.peak
    allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.75 * needed / total)
    try:
        result = train_on("cuda", tmp_path, watcher, memory_profile="fast", seed=3, **LARGE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("There is too little memory for step" in line for line in watcher.lines)
    assert all(math.isfinite(loss) for loss in result.losses)


@pytest.mark.parametrize("initial", ["kaiming", "pissa"])
def test_a_run_is_the_same_twice_and_leaves_the_hosts_random_numbers_alone(tmp_path: Path, initial: str) -> None:
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    adapter = AdapterSettings(initial=initial)
    losses = [
        train_on("cuda", tmp_path / str(number), precision="fp32", adapter=adapter, steps=2).losses
        for number in range(2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_paused_run_lends_its_memory_and_ends_like_one_that_was_not(tmp_path: Path) -> None:
    straight = train_on("cuda", tmp_path / "straight", precision="fp32", steps=4)
    held = []

    class Pausing(Silent):
        def step(self, step: Step) -> None:
            super().step(step)
            if step.step == 2:
                control.pause()

        def stage(self, name: str, done: int, total: int) -> None:
            if name == "paused" and not held:
                held.append(allocated())
                control.resume()

    control = Control()
    before = allocated()
    paused = train_on("cuda", tmp_path / "paused", Pausing(), precision="fp32", steps=4, control=control)
    assert held and held[0] - before < 2**20
    # a GPU adds in another order each time
    assert paused.losses == pytest.approx(straight.losses, rel=1e-3)


def test_a_base_that_is_packed_never_lies_on_the_gpu_as_it_was_given(tmp_path: Path) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    settings = TrainSettings(precision="bf16", base_storage="fp8", rank=4, train="unet")
    before = allocated()
    torch.cuda.reset_peak_memory_stats()
    parts = tiny_parts(cpu, torch.bfloat16)
    given = sum(weight.nbytes for weight in parts.unet.parameters())
    add_adapters(parts, settings, cuda)
    tensors = [*parts.unet.parameters(), *parts.unet.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cuda"}
    assert torch.cuda.max_memory_allocated() - before < given


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "fp16", "steps": 24},
        {"train": "unet+text", "batch_size": 2},
        {"gradient_accumulation": 3},
        {"memory_profile": "low"},
        {"base_storage": "fp8"},
        {"alpha": 3.0},
        {"max_grad_norm": 0.0},
    ],
    ids=lambda changes: ", ".join(changes) or "as it is",
)
def test_recorded_steps_learn_what_told_steps_learn(tmp_path: Path, changes: dict[str, object]) -> None:
    given: dict[str, object] = {"precision": "bf16", "steps": 9, **changes}
    watcher = Silent()
    told = train_on("cuda", tmp_path / "told", cuda_graphs=False, **given)
    recorded = train_on("cuda", tmp_path / "recorded", watcher, cuda_graphs=True, **given)
    assert not any("CUDA graphs" in line for line in watcher.lines)
    assert recorded.losses == pytest.approx(told.losses, rel=1e-2)
    for (name, left), right in zip(read_lora(told.path).items(), read_lora(recorded.path).values(), strict=True):
        assert (left.float() - right.float()).norm() <= 0.05 * left.float().norm() + 1e-6, name


@pytest.mark.parametrize("adapter", [AdapterSettings(dora=True), AdapterSettings(conv_rank=4)], ids=["dora", "conv"])
def test_steps_that_cannot_be_recorded_say_so(tmp_path: Path, adapter: AdapterSettings) -> None:
    watcher = Silent()
    train_on("cuda", tmp_path, watcher, precision="bf16", steps=3, adapter=adapter)
    assert NOT_RECORDED in watcher.lines


def test_steps_of_two_sizes_are_recorded_and_replayed_in_turn(tmp_path: Path) -> None:
    """Their graphs share memory: what one leaves must not reach the other."""
    folder = tmp_path / "recorded" / "moons"
    render_moons(folder, 4, SIZE, seed=1)
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        if number % 2:
            with Image.open(path) as image:
                image.crop((0, 0, SIZE, SIZE // 2)).save(path)
    shutil.copytree(folder, tmp_path / "told" / "moons")
    losses = [
        train_on(
            "cuda", tmp_path / name, precision="bf16", steps=24, cuda_graphs=name == "recorded",
            buckets=BucketSettings((SIZE, SIZE), 64, 256, 64, enabled=True),
        ).losses
        for name in ("told", "recorded")
    ]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_what_was_recorded_is_forgotten_with_its_memory(tmp_path: Path) -> None:
    train_on("cuda", tmp_path, precision="bf16", seed=1)
    before = allocated(), torch.cuda.memory_reserved()
    train_on("cuda", tmp_path, precision="bf16", steps=12, seed=2)
    assert allocated() <= before[0]
    assert torch.cuda.memory_reserved() <= before[1]


def test_a_step_waits_for_the_gpu_once(tmp_path: Path) -> None:
    """Everything else of a step is only queued: CUDA's own watch counts what waits."""
    counts: list[int] = []

    class Watching(Silent):
        def step(self, step: Step) -> None:
            counts.append(len(caught))
            caught.clear()
            torch.cuda.set_sync_debug_mode("warn")

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_on("cuda", tmp_path, Watching(), precision="bf16", steps=6, gradient_accumulation=2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # the first steps warm up
    assert counts[3:] and max(counts[3:]) <= 1, counts
