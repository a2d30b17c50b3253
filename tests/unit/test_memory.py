"""Too little memory: measured beforehand, spared in announced steps, and in the end a sentence with the cure."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_parts
import torch
from pack.trainer.errors import MemoryShortage
from pack.trainer.lora.file import read_lora
from pack.trainer.runs.run import Result, train
from pack.trainer.sdxl.parts import TOKENS, Parts
from pack.trainer.sdxl.tokens import caption_ids, stack_ids
from pack.trainer.settings.options import CaptionSettings
from pack.trainer.settings.run_options import ValidationSettings
from pack.trainer.shortage import is_out_of_memory
from pack.trainer.training.conditioning import Conditioner
from pack.trainer.training.loop import Trainer
from pack.trainer.training.memory import (
    LEVELS,
    choose_profile,
    kept_bytes,
    optimizer_bytes,
    release_text_encoders,
    retreat,
    spare,
)
from pack.trainer.training.noise import step_generator
from pack.trainer.training.processes import Processes
from tiny_parts import Log, make_examples, make_job, make_settings, make_trainer

BATCHED = make_settings(steps=3, train="unet", batch_size=4)
Refuse = Callable[[Any, torch.Tensor], bool]


def short_of_memory(refuse: Refuse) -> Callable[[], Parts]:
    """Networks whose allocator fails where ``refuse(unet, noisy)`` says so, with CUDA's own error."""

    def parts() -> Parts:
        made = tiny_parts.make_parts()

        def before(unet: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            if torch.is_grad_enabled() and refuse(unet, inputs[0]):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        made.unet.register_forward_pre_hook(before)
        return made

    return parts


def run(root: Path, refuse: Refuse, log: Log | None = None) -> Result:
    return train(replace(make_job(root, BATCHED, log), parts=short_of_memory(refuse)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(make_job(tmp_path_factory.mktemp("whole"), BATCHED))


def assert_close(result: Result, other: Result) -> None:
    mine, theirs = read_lora(result.path), read_lora(other.path)
    assert result.losses == pytest.approx(other.losses, rel=1e-5)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_checkpointing_comes_first_and_is_announced(tmp_path: Path, whole: Result) -> None:
    result = run(tmp_path, lambda unet, noisy: not unet.is_gradient_checkpointing)
    assert "too little memory for step 1: gradient checkpointing is on from here" in result.report
    assert "pieces" not in result.report
    assert_close(result, whole)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_then_smaller_pieces_of_the_same_batch(tmp_path: Path, whole: Result) -> None:
    result = run(tmp_path, lambda unet, noisy: not unet.is_gradient_checkpointing or len(noisy) > 1)
    said = [line for line in result.report.splitlines() if "too little memory" in line]
    assert [line.split(": ")[1].split(" from here")[0] for line in said] == [
        "gradient checkpointing is on",
        "batches are computed in pieces of 2",
        "batches are computed in pieces of 1",
    ]
    assert_close(result, whole)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_in_the_end_a_sentence_says_what_to_change_and_nothing_is_lost(tmp_path: Path, whole: Result) -> None:
    calls = 0

    def refuse(unet: Any, noisy: torch.Tensor) -> bool:
        nonlocal calls
        calls += 1
        return calls > 2

    with pytest.raises(MemoryShortage, match="too little memory for step 3, .* choose a lower resolution"):
        run(tmp_path, refuse)
    log = Log()
    resumed = train(make_job(tmp_path, BATCHED, log))
    assert [step.step for step in log.steps] == [3]
    assert_close(resumed, whole)


def test_a_failure_that_is_not_of_memory_is_no_reason_to_retreat(tmp_path: Path) -> None:
    def refuse(unet: Any, noisy: torch.Tensor) -> bool:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        run(tmp_path, refuse)


def test_the_cpus_own_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a matmul"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1"))


def test_what_a_batch_keeps_grows_with_the_batch_and_is_measured_without_a_trace() -> None:
    kept = []
    for size in (1, 2):
        trainer = make_trainer(make_settings(train="unet", batch_size=size))
        before = tiny_parts.weights_of(trainer)
        kept.append(kept_bytes(trainer))
        tiny_parts.assert_same(tiny_parts.weights_of(trainer), before)
        assert all(weight.grad is None for weight in trainer.adapters.parameters())
    assert 1.7 < kept[1] / kept[0] < 2.1
    assert kept_bytes(trainer, kept[1]) == kept[1] < kept_bytes(trainer, kept[1] - 1)
    # more than the U-Net's input and less than all that the process could have
    assert 2**18 < kept[0] < 2**30


def test_nothing_of_the_measurement_is_held() -> None:
    trainer = make_trainer(make_settings(train="unet"))
    held: list[weakref.ref[torch.Tensor]] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        held.append(weakref.ref(output))

    hooks = [m.register_forward_hook(keep) for m in trainer.parts.unet.modules() if isinstance(m, torch.nn.SiLU)]
    kept_bytes(trainer)
    for hook in hooks:
        hook.remove()
    assert held
    assert [ref for ref in held if ref() is not None] == []


def test_each_level_of_checkpointing_keeps_less_than_the_one_before_and_gives_the_same_gradients() -> None:
    trainer = make_trainer(make_settings(train="unet"))
    kept, gradients = [], []
    try:
        for level in LEVELS:
            spare(trainer, level)
            kept.append(kept_bytes(trainer))
            trainer.loss(trainer.draw((0,), 0, 0), step_generator(0, 0)).backward()
            gradients.append([weight.grad.clone() for weight in trainer.adapters.parameters("unet")])
            trainer.optimizer.zero_grad()
    finally:
        spare(trainer, LEVELS[0])
    assert sorted(kept, reverse=True) == kept and len(set(kept)) == len(LEVELS), kept
    for others in gradients[1:]:
        for one, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_auto_takes_the_first_level_that_fits() -> None:
    trainer = make_trainer(make_settings(train="unet"))
    try:
        spare(trainer, "all transformers")
        needed = kept_bytes(trainer) + optimizer_bytes(trainer)
        told = choose_profile(trainer, lambda: int(needed * 1.16))
        assert trainer.checkpointing == "all transformers", told
        assert "with gradient checkpointing of the outer transformers" in told
        assert told.endswith("gradient checkpointing is on for all transformers.")
    finally:
        spare(trainer, LEVELS[0])


def test_of_several_processes_each_counts_its_own_rows() -> None:
    whole, half = (make_trainer(make_settings(train="unet", batch_size=size)) for size in (3, 2))
    expected = kept_bytes(half)
    whole.processes = Processes(1, 2)
    assert kept_bytes(whole) == pytest.approx(expected, rel=1e-3)


def test_sizes_beside_cuda_graphs_need_their_memory_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(make_settings(train="unet", batch_size=3))
    # four images: batches of three and of one
    assert trainer.plan.num_shapes() == 2
    needed = kept_bytes(trainer) + optimizer_bytes(trainer)
    try:
        for records in (False, True):
            monkeypatch.setattr(Trainer, "records_graphs", records)
            told = choose_profile(trainer, lambda: int(needed * 1.16))
            assert (trainer.checkpointing == LEVELS[0]) is not records, told
            assert ("in and beside CUDA graphs" in told) is records
    finally:
        spare(trainer, LEVELS[0])


WITHOUT_A_CURE = {
    "alone": (Processes(), True, "for step 1, also with gradient checkpointing and one image at a time"),
    "one of two": (Processes(1, 2), True, "for step 1 in one of 2 processes: set memory_profile to low or"),
    "before the update": (Processes(), True, "for the weight update of step 1: choose an optimizer that keeps less"),
    "amid the update": (Processes(), False, "for the weight update of step 1: choose an optimizer that keeps less"),
}


@pytest.mark.parametrize("name", WITHOUT_A_CURE)
def test_what_was_not_tried_is_not_told(name: str) -> None:
    trainer = make_trainer(make_settings(train="unet"))
    trainer.processes, trainer.whole, words = WITHOUT_A_CURE[name]
    trainer.retryable = name == "alone"
    if name == "alone":
        spare(trainer, LEVELS[-1])
    try:
        with pytest.raises(MemoryShortage, match=re.escape(words)):
            retreat(trainer, MemoryError())
    finally:
        spare(trainer, LEVELS[0])


PROFILES = {
    "auto, enough": ({}, 2**40, False, "no gradient checkpointing."),
    "auto, too little": ({}, 2**10, True, "is on for everything. That may not be enough: choose a lower resolution"),
    "low": ({"memory_profile": "low"}, 2**40, True, "as set"),
    "fast": ({"memory_profile": "fast"}, 2**10, False, "as set"),
    "fast, set by hand": ({"memory_profile": "fast", "gradient_checkpointing": True}, 2**10, True, "as set"),
}


@pytest.mark.parametrize("name", PROFILES)
def test_the_profile_follows_settings_and_free_memory_and_is_told_before_the_run(name: str) -> None:
    changes, free, expected, words = PROFILES[name]
    trainer = make_trainer(make_settings(train="unet", **changes))
    try:
        told = choose_profile(trainer, lambda: free)
        assert words in told
        assert ("may not be enough" in told) == ("may not be enough" in words)
        assert trainer.parts.unet.is_gradient_checkpointing == expected
    finally:
        trainer.parts.unet.disable_gradient_checkpointing()


def test_a_run_says_how_it_spares_memory_before_its_first_step(tmp_path: Path) -> None:
    class Early(Log):
        def step(self, step: object) -> None:
            assert any("are free, one batch keeps" in line for line in job.lines)

    job = replace(make_job(tmp_path, replace(BATCHED, steps=1), Early()), free_bytes=lambda: 2**40)
    assert "no gradient checkpointing." in train(job).report


def test_the_profile_is_no_part_of_the_run(tmp_path: Path, whole: Result) -> None:
    first = train(make_job(tmp_path, BATCHED))
    again = train(make_job(tmp_path, replace(BATCHED, memory_profile="low")))
    assert (again.reused, again.path) == (True, first.path)


def test_frozen_text_encoders_can_go_once_the_captions_are_encoded() -> None:
    parts = tiny_parts.make_parts()
    long = CaptionSettings(tokens=150)
    examples = tuple(
        replace(example, tokens=caption_ids("moon " * length, long, tiny_parts.tokenize)[0])
        for example, length in zip(make_examples(3), (1, 3, 100), strict=True)
    )
    # of one piece and of two: in a batch the shorter ones are filled up
    tokens = stack_ids([example.tokens for example in examples])
    assert tokens.shape[2] == 2 * TOKENS
    before = make_trainer(make_settings(train="unet", captions=long)).condition(tokens)
    condition = Conditioner(parts, long, torch.device("cpu"), [], trained=False)
    trainer = make_trainer(make_settings(train="unet", captions=long))
    trainer.condition = condition
    assert release_text_encoders(trainer, examples)
    assert {w.device.type for encoder in (parts.te1, parts.te2) for w in encoder.parameters()} == {"meta"}
    for left, right in zip(condition(tokens), before, strict=True):
        assert torch.equal(left, right)


def test_text_encoders_that_are_trained_stay() -> None:
    trainer = make_trainer(make_settings())
    assert not release_text_encoders(trainer, make_examples(1))
    assert trainer.loss(trainer.draw((0,), 0, 0), step_generator(0, 0)).isfinite()


def test_networks_that_do_not_fit_are_a_sentence(tmp_path: Path) -> None:
    def parts() -> Parts:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(MemoryShortage, match="too little memory to make the networks of the run: train in bf16"):
        train(replace(make_job(tmp_path, BATCHED), parts=parts))


@pytest.mark.parametrize("allowed", [0, 8], ids=["of the base", "on the way"])
def test_a_measurement_that_does_not_fit_is_a_sentence(tmp_path: Path, allowed: int) -> None:
    """``allowed``: evaluations that still find memory; the base's are eight timesteps of two images in pieces of 4."""
    seen = 0

    def parts() -> Parts:
        made = tiny_parts.make_parts()

        def before(unet: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            nonlocal seen
            seen += not torch.is_grad_enabled()
            if not torch.is_grad_enabled() and seen > allowed:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        made.unet.register_forward_pre_hook(before)
        return made

    settings = replace(BATCHED, validation_images=2, validation=ValidationSettings(every=1))
    with pytest.raises(MemoryShortage, match="too little memory to measure the held-out loss: choose a lower"):
        train(replace(make_job(tmp_path, settings), parts=parts))
    assert seen > allowed
