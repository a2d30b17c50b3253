"""The thesis's run against a reference that shares no code with the trainer: losses, gradients and 20 steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import plain_reference as plain
import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import Adapters, add_adapters
from pack.trainer.dataset.buckets import BucketSettings
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.settings.training import TrainSettings, thesis_settings
from pack.trainer.training.data import Example, prepare
from pack.trainer.training.latents import LatentsCache
from pack.trainer.training.loop import Trainer
from PIL import Image

STEPS = 20
TOLERANCE = 1e-5
SETTINGS = thesis_settings(
    steps=STEPS, precision="fp32", seed=2024, rank=8, alpha=2.0, buckets=BucketSettings(resolution=(128, 128))
)
# width, height, the bucket that a side floored to 64 gives, and a caption; none has to be resized
IMAGES = [
    (100, 80, (64, 64), "a full moon"),
    (150, 100, (128, 64), "moon"),
    (70, 140, (64, 128), " ".join(f"word{n}" for n in range(90))),
    (90, 110, (64, 64), ""),
    (130, 120, (128, 64), "the moon behind pines at night"),
    (64, 64, (64, 64), "a crescent"),
]


@dataclass
class Record:
    """What one side did: the loss of every step, its gradients after clipping, norms, and weights by kohya's key."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[plain.State] = field(default_factory=list)
    rates: list[dict[str, float]] = field(default_factory=list)
    start: plain.State = field(default_factory=dict)
    weights: plain.State = field(default_factory=dict)


def write_images(folder: Path) -> Path:
    folder.mkdir()
    for index, (width, height, _, caption) in enumerate(IMAGES):
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"  {caption}\nsecond line", "utf-8")
    return folder


class Recorder(Trainer):
    """Keeps what the optimizer is about to see."""

    record: Record

    def _update(self, number: int, total: torch.Tensor) -> tuple[float, float, bool]:
        seen: plain.State = {}
        step = self.optimizer.step

        def keep(*args: object) -> object:
            seen.update({k: p.grad.clone() for k, p in named(self.adapters).items() if p.grad is not None})
            return step(*args)

        self.optimizer.step = keep
        try:
            loss, norm, taken = super()._update(number, total)
        finally:
            del self.optimizer.step
        self.record.norms.append(norm)
        self.record.gradients.append(seen)
        self.record.rates.append(rates_of(self))
        return loss, norm, taken


def named(adapters: Adapters) -> plain.State:
    return {f"{m.name}.{kind}": weight for m in adapters.modules for kind, weight in (("down", m.down), ("up", m.up))}


def rates_of(trainer: Trainer) -> dict[str, float]:
    """What transformers' Adafactor multiplied each tensor's update with."""
    names = {id(p): name for name, p in named(trainer.adapters).items()}
    optimizer = trainer.optimizer
    return {
        names[id(p)]: float(optimizer._get_lr(group, optimizer.state[p]))
        for group in optimizer.param_groups
        for p in group["params"]
        if p in optimizer.state
    }


def examples_of(folder: Path, settings: TrainSettings) -> tuple[Example, ...]:
    cache = LatentsCache(folder.parent / "latents", "vae", tiny_parts.encode)
    return prepare(scan_folder(str(folder)), settings, cache, tiny_parts.tokenize, lambda done, of: None)


def run_ours(folder: Path) -> Record:
    parts = tiny_parts.make_parts()
    adapters = add_adapters(parts, SETTINGS)
    trainer = Recorder(parts, adapters, examples_of(folder, SETTINGS), SETTINGS, tiny_parts.CPU)
    trainer.record = record = Record(start={name: p.detach().clone() for name, p in named(adapters).items()})
    trainer.run(lambda step: record.losses.append(step.loss))
    record.weights = {name: p.detach() for name, p in named(adapters).items()}
    return record


def latents_of(folder: Path) -> list[torch.Tensor]:
    """The centre of each image through the VAE: one draw of the posterior, kept for good."""
    out = []
    for index, (width, height, bucket, _) in enumerate(IMAGES):
        left, top = (width - bucket[0]) // 2, (height - bucket[1]) // 2
        pixels = np.asarray(Image.open(folder / f"{index}.png"), np.float32) / 255
        crop = torch.from_numpy(pixels[None, top : top + bucket[1], left : left + bucket[0]].copy())
        mean, std = tiny_parts.encode(crop)
        noise = torch.randn(mean.shape[1:], generator=plain.draw(SETTINGS.seed, 0, index))
        out.append((mean[0] + std[0] * noise).double() * 0.13025)
    return out


class Reference:
    """The run in plain torch and double precision, from the same initial adapters."""

    def __init__(self, folder: Path, start: plain.State) -> None:
        self.weights = {key: value.double().requires_grad_() for key, value in start.items()}
        names = {key.rpartition(".")[0] for key in start}
        pairs = {name: (self.weights[f"{name}.down"], self.weights[f"{name}.up"]) for name in names}
        self.te1, self.te2, self.unet = (
            plain.Network({k: t.double() for k, t in state.items()}, prefix, pairs, 2.0 / 8)
            for state, prefix in (
                (tiny_parts.text_state(False), "lora_te1_"),
                (tiny_parts.text_state(True), "lora_te2_"),
                (tiny_parts.unet_state(), "lora_unet_"),
            )
        )
        self.latents = latents_of(folder)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        self.kept = (1 - betas).cumprod(0)

    def loss(self, step: int, index: int) -> torch.Tensor:
        width, height, bucket, caption = IMAGES[index]
        random = plain.draw(SETTINGS.seed, 2, step, 0)
        timestep = torch.randint(0, 1000, (1,), generator=random)
        noise = torch.randn(1, *self.latents[index].shape, generator=random).double()
        noisy = self.kept[timestep].sqrt() * self.latents[index] + (1 - self.kept[timestep]).sqrt() * noise
        words = [tiny_parts.tokenize(caption)[1:-1]]
        context, pooled = plain.condition(self.te1, self.te2, words, tiny_parts.TEXT_HEADS)
        sizes = torch.tensor([plain.kohya_size_ids(width, height, bucket)]).double()
        guess = plain.unet(self.unet, noisy, timestep, context, pooled, sizes, tiny_parts.HEAD_CHANNELS)
        return (guess - noise).square().mean()

    def run(self) -> Record:
        record, optimizer = Record(), plain.Adafactor(list(self.weights.values()))
        sizes = [bucket for _, _, bucket, _ in IMAGES]
        batches = [batch for epoch in range(4) for batch in plain.order(sizes, 1, SETTINGS.seed, epoch)]
        for step, (index,) in enumerate(batches[:STEPS]):
            loss = self.loss(step, index)
            loss.backward()
            record.losses.append(loss.item())
            record.norms.append(plain.clip_joint_norm(optimizer.parameters, 1.0))
            record.gradients.append({k: p.grad for k, p in self.weights.items() if p.grad is not None})
            optimizer.step()
            record.rates.append({k: optimizer.rates[i] for i, k in enumerate(self.weights) if i in optimizer.rates})
            for p in optimizer.parameters:
                p.grad = None
        record.weights = {key: value.detach() for key, value in self.weights.items()}
        return record


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Record]:
    folder = write_images(tmp_path_factory.mktemp("parity") / "images")
    ours = run_ours(folder)
    return ours, Reference(folder, ours.start).run()


def apart(ours: plain.State, theirs: plain.State) -> float:
    """Relative distance of two sets of tensors, each taken as one long vector."""
    assert ours.keys() == theirs.keys()
    left, right = (torch.cat([state[key].double().flatten() for key in sorted(state)]) for state in (ours, theirs))
    return ((left - right).norm() / right.norm()).item()


def worst(ours: plain.State, theirs: plain.State) -> float:
    """The largest relative distance of single tensors."""
    return max(apart({"": ours[key]}, {"": theirs[key]}) for key in ours)


def test_the_losses_of_20_steps_are_the_references(records: tuple[Record, Record]) -> None:
    ours, theirs = records
    assert len(ours.losses) == STEPS
    assert ours.losses == pytest.approx(theirs.losses, rel=TOLERANCE)


def test_the_gradients_of_20_steps_are_the_references(records: tuple[Record, Record]) -> None:
    ours, theirs = records
    assert ours.norms == pytest.approx(theirs.norms, rel=TOLERANCE)
    for mine, reference in zip(ours.gradients, theirs.gradients, strict=True):
        assert apart(mine, reference) <= TOLERANCE
        # a single tensor may be the small difference of large numbers; a wrong one is off by far more
        assert worst({k: g for k, g in mine.items() if reference[k].norm() > 1e-6}, reference) <= 50 * TOLERANCE


def test_the_weights_after_20_steps_are_the_references(records: tuple[Record, Record]) -> None:
    ours, theirs = records
    assert apart(ours.weights, theirs.weights) <= TOLERANCE
    assert worst({k: w for k, w in ours.weights.items() if theirs.weights[k].any()}, theirs.weights) <= 10 * TOLERANCE
    # the run has moved the weights by more than the tolerance could hide
    assert apart(ours.weights, ours.start) > 1000 * TOLERANCE


def test_adafactors_rate_of_every_tensor_and_step_is_the_formula(records: tuple[Record, Record]) -> None:
    ours, theirs = records
    for mine, reference in zip(ours.rates, theirs.rates, strict=True):
        assert mine.keys() == reference.keys()
        assert mine == pytest.approx(reference, rel=TOLERANCE)
