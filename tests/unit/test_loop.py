"""The training loop on tiny networks of the real kind: losses, gradients, schedules and what stops a run."""

from __future__ import annotations

import math
import signal
from dataclasses import replace

import pytest
import tiny_parts
import torch
from pack.trainer.errors import NonFiniteLoss
from pack.trainer.sdxl.checkpointing import use_checkpointing
from pack.trainer.training import loop
from pack.trainer.training.data import Batch, Plan, collate
from pack.trainer.training.inputs import Inputs
from pack.trainer.training.latents import Latents
from pack.trainer.training.loop import Step, Trainer
from pack.trainer.training.noise import step_generator
from tiny_parts import assert_same, make_examples, make_settings, make_trainer, weights_of


def run(trainer: Trainer) -> list[Step]:
    steps: list[Step] = []
    trainer.run(steps.append)
    return steps


def batch_of(trainer: Trainer, *indices: int) -> Batch:
    chosen = [trainer.examples[index] for index in indices]
    return collate(chosen, [example.latents.mean for example in chosen])


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of the gradients that are held now; layers without one are left out."""
    return {
        f"{module.name}.{kind}": weight.grad.clone()
        for module in trainer.adapters.modules
        for kind, weight in (("down", module.down), ("up", module.up))
        if weight.grad is not None
    }


class Recorder(Trainer):
    """A trainer that keeps the gradients of each step as the optimizer is about to see them."""

    def _update(self, number: int, total: torch.Tensor) -> tuple[float, float, bool]:
        self.recorded = gradients(self)
        return super()._update(number, total)


def record(settings: object, examples: object = None) -> Recorder:
    trainer = make_trainer(settings, examples)
    tiny_parts.randomize(trainer.adapters)
    trainer.__class__ = Recorder
    return trainer


class OneBatch(Trainer):
    """A trainer that sees the same image with the same noise at every step."""

    def inputs(self, batch: Batch, generator: torch.Generator, timesteps: torch.Tensor | None = None) -> Inputs:
        return super().inputs(batch, step_generator(1), torch.tensor([400]))


@pytest.mark.parametrize(("train", "optimizer"), [("unet", "adamw"), ("unet+text", "adafactor")])
def test_the_loss_of_one_batch_falls(train: str, optimizer: str) -> None:
    settings = make_settings(steps=8, unet_lr=1e-2, text_lr=1e-2, train=train, optimizer=optimizer)
    trainer = make_trainer(settings, make_examples(1, spread=0.0))
    trainer.__class__ = OneBatch
    losses = [step.loss for step in run(trainer)]
    assert losses[-1] < 0.97 * losses[0]


def test_the_frozen_base_is_the_same_to_the_last_bit_after_training() -> None:
    trainer = make_trainer(make_settings(steps=3))
    ours = {id(weight) for weight in trainer.adapters.parameters()}
    frozen = [p for module in trainer.parts.modules() for p in module.parameters() if id(p) not in ours]
    before = [p.clone() for p in frozen]
    run(trainer)
    assert all(torch.equal(p, old) for p, old in zip(frozen, before, strict=True))
    assert all(p.grad is None for p in frozen)


def test_the_same_seed_gives_the_same_losses_and_weights_to_the_last_bit() -> None:
    settings = make_settings(steps=3, seed=11)
    first = make_trainer(settings)
    losses, weights = [step.loss for step in run(first)], weights_of(first)
    torch.rand(5)  # the global generator is nobody's business
    second = make_trainer(settings)
    assert [step.loss for step in run(second)] == losses
    tiny_parts.assert_same(weights_of(second), weights)


def test_another_seed_gives_other_losses() -> None:
    losses = [[step.loss for step in run(make_trainer(make_settings(steps=1, seed=seed)))] for seed in (0, 1)]
    assert losses[0] != losses[1]


def test_training_leaves_the_global_generator_alone() -> None:
    trainer = make_trainer(make_settings(steps=1))
    before = torch.get_rng_state()
    run(trainer)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_layers_that_nothing_depends_on_get_no_gradient() -> None:
    trainer = record(make_settings(steps=1))
    run(trainer)
    without = {m.name for m in trainer.adapters.modules} - {name.split(".")[0] for name in trainer.recorded}
    last = f"lora_te1_text_model_encoder_layers_{tiny_parts.TEXT_LAYERS - 1}_"
    # SDXL sees CLIP-L's hidden state before its last layer
    assert len(without) == 6
    assert all(name.startswith(last) for name in without)


def test_accumulated_gradients_are_the_mean_over_the_micro_batches() -> None:
    settings = make_settings(steps=1, gradient_accumulation=2, max_grad_norm=0.0)
    trainer = record(settings)
    (step,) = run(trainer)
    reference, losses = record(settings), []
    for place, indices in enumerate(reference.plan.micro_batches(0)):
        loss = reference.loss(reference.draw(indices, 0, place), step_generator(settings.seed, 2, 0, place))
        (loss / 2).backward()
        losses.append(loss.item())
    assert step.loss == pytest.approx(sum(losses) / 2)
    expected = gradients(reference)
    assert trainer.recorded.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(trainer.recorded[name], gradient, rtol=1e-5, atol=1e-8)


def test_two_batches_of_one_give_the_gradient_of_one_batch_of_two() -> None:
    trainer, timesteps = record(make_settings()), torch.tensor([100, 800])
    trainer.loss(batch_of(trainer, 0, 1), step_generator(3), timesteps).backward()
    together = gradients(trainer)
    trainer.optimizer.zero_grad(set_to_none=True)
    # one generator throughout draws for two single images what it draws for both at once
    generator = step_generator(3)
    for index in range(2):
        (trainer.loss(batch_of(trainer, index), generator, timesteps[index : index + 1]) / 2).backward()
    apart = gradients(trainer)
    scale = max(gradient.abs().max().item() for gradient in together.values())
    assert apart.keys() == together.keys()
    for name, gradient in together.items():
        assert (apart[name] - gradient).abs().max() <= 1e-5 * scale, name


def test_a_step_takes_as_many_images_as_batch_and_accumulation_say() -> None:
    plan = Plan(make_examples(8), make_settings(batch_size=2, gradient_accumulation=2))
    seen = [index for step in range(2) for batch in plan.micro_batches(step) for index in batch]
    assert [len(batch) for batch in plan.micro_batches(0)] == [2, 2]
    assert sorted(seen) == list(range(8))
    assert plan.steps_per_epoch == 2


def poisoned(count: int, index: int) -> tuple:
    """Examples of which one has latents that are no numbers."""
    examples = list(make_examples(count))
    bad = torch.full_like(examples[index].latents.mean, math.nan)
    examples[index] = replace(examples[index], latents=Latents(bad, bad))
    return tuple(examples)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_no_number_stops_the_run_before_it_touches_a_weight(accumulation: int) -> None:
    settings = make_settings(steps=8, gradient_accumulation=accumulation)
    count = 4 * accumulation
    plan = Plan(make_examples(count), settings)
    steps = range(plan.steps_per_epoch)
    # an image that the first step does not see, so that there is a good step to keep
    index, bad_step = next((i, s) for s in steps if s for batch in plan.micro_batches(s) for i in batch)
    trainer = make_trainer(settings, poisoned(count, index))
    with pytest.raises(NonFiniteLoss, match=f"at step {bad_step + 1}:") as caught:
        run(trainer)
    assert caught.value.step == bad_step + 1
    assert trainer.progress.step == bad_step
    assert all(weight.grad is None for weight in trainer.adapters.parameters())
    kept, good = weights_of(trainer), make_trainer(settings, make_examples(count))
    for _ in range(bad_step):
        good.step()
    tiny_parts.assert_same(kept, weights_of(good))


def test_an_infinite_gradient_stops_the_run_before_it_touches_a_weight() -> None:
    trainer = make_trainer(make_settings())
    before = weights_of(trainer)
    hook = trainer.adapters.modules[-1].up.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLoss, match="at step 1:"):
        trainer.step()
    hook.remove()
    tiny_parts.assert_same(weights_of(trainer), before)


@pytest.mark.parametrize("heeded", [True, False])
def test_where_no_flag_is_heeded_the_loss_is_looked_at_before_the_optimizer_steps(
    heeded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "has_all_kernels", lambda device: heeded)
    trainer = make_trainer(make_settings(schedule="constant"), poisoned(1, 0))
    steps = []
    monkeypatch.setattr(trainer.optimizer, "step", lambda: steps.append(1))
    with pytest.raises(NonFiniteLoss, match="at step 1:"):
        trainer.step()
    assert len(steps) == heeded


def test_looking_first_changes_no_weight_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for heeded in (True, False):
        monkeypatch.setattr(loop, "has_all_kernels", lambda device, heeded=heeded: heeded)
        trainer = make_trainer(make_settings(steps=3))
        run(trainer)
        ends.append(weights_of(trainer))
    assert_same(*ends)


def norm_of(recorded: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(gradient.double().square().sum().item() for gradient in recorded.values()))


@pytest.mark.parametrize("maximum", [0.0, 1e-3, 1e6])
def test_gradients_are_clipped_to_their_joint_norm_and_the_norm_before_is_shown(maximum: float) -> None:
    # plain gradient descent would be needed to see the clipped gradient in the weights, so it is taken from inside
    trainer = record(make_settings(steps=1, max_grad_norm=maximum))
    clipped: list[float] = []
    take = trainer.scaler.step
    trainer.scaler.step = lambda optimizer: (clipped.append(norm_of(gradients(trainer))), take(optimizer))
    (step,) = run(trainer)
    whole = norm_of(trainer.recorded)
    assert step.gradient_norm == pytest.approx(whole, rel=1e-4)
    assert clipped == [pytest.approx(min(whole, maximum) if maximum else whole, rel=1e-3)]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_loss_of_fp32(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # any CPU can compute in half precision; older ones are only slow at it
    monkeypatch.setattr("pack.trainer.sdxl.precision.cpu_multiplies", lambda precision: True)
    losses = {}
    for name in (precision, "fp32"):
        trainer = make_trainer(make_settings(steps=2, precision=name))
        losses[name] = [step.loss for step in run(trainer)]
        assert all(weight.dtype == torch.float32 for weight in trainer.adapters.parameters())
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses[precision] != losses["fp32"]


def scaled_gently(trainer: Trainer) -> Trainer:
    """torch's first scale, 65536, overflows at once where the weights are random."""
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    return trainer


def test_an_fp16_step_that_overflows_is_counted_and_not_taken() -> None:
    trainer = scaled_gently(make_trainer(make_settings(steps=3, precision="fp16")))
    before, scale = weights_of(trainer), trainer.scaler.get_scale()

    def spoil(_: object, __: object, out: torch.Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda gradient: gradient * math.inf)

    hook = trainer.adapters.modules[-1].layer.register_forward_hook(spoil)
    loss, norm, taken = trainer.step()
    assert (taken, trainer.progress.step, trainer.progress.skipped) == (False, 1, 1)
    assert math.isfinite(loss)
    tiny_parts.assert_same(weights_of(trainer), before)
    assert trainer.scaler.get_scale() == scale / 2
    hook.remove()
    assert [step.taken for step in run(trainer)] == [True, True]
    assert trainer.progress.skipped == 1


def test_unscaled_fp16_gradients_are_nearly_those_of_fp32() -> None:
    half, full = (make_trainer(make_settings(steps=1, precision=precision)) for precision in ("fp16", "fp32"))
    norms = [run(trainer)[0].gradient_norm for trainer in (scaled_gently(half), full)]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


@pytest.mark.parametrize("train", ["unet", "unet+text"])
# what transformers is to drop would be a line in every user's console
@pytest.mark.filterwarnings("error::FutureWarning")
def test_checkpointing_changes_neither_loss_nor_gradient(train: str) -> None:
    from pack.trainer.training.memory import choose_profile

    recorded, losses = [], []
    for checkpointing in (False, True):
        settings = make_settings(steps=1, gradient_checkpointing=checkpointing, train=train)
        trainer = record(settings)
        choose_profile(trainer, None)
        assert trainer.parts.unet.is_gradient_checkpointing == checkpointing
        in_text = {getattr(module, "gradient_checkpointing", None) for module in trainer.parts.te1.modules()} - {None}
        assert in_text == {checkpointing and train == "unet+text"}
        losses.append(run(trainer)[0].loss)
        recorded.append(trainer.recorded)
        use_checkpointing(trainer.parts, "nothing", text=True, drops=False)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert recorded[0].keys() == recorded[1].keys()
    for name, gradient in recorded[0].items():
        torch.testing.assert_close(recorded[1][name], gradient, rtol=1e-4, atol=1e-7)


def test_steps_are_told_as_they_happen() -> None:
    trainer = make_trainer(make_settings(steps=4, schedule="cosine", unet_lr=1e-3, text_lr=5e-4))
    steps = run(trainer)
    assert [(step.step, step.steps) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert trainer.progress.losses == [step.loss for step in steps]
    assert steps[-1].eta == 0
    assert steps[0].eta == pytest.approx(3 * steps[0].seconds_per_step)


def test_the_rates_told_with_a_step_are_those_it_was_taken_with() -> None:
    trainer = make_trainer(make_settings(steps=4, schedule="cosine", unet_lr=1e-3, text_lr=5e-4))
    factors = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    told = [step.rates for step in run(trainer)]
    assert told == [pytest.approx({"text": 5e-4 * factor, "unet": 1e-3 * factor}) for factor in factors]


def test_what_the_watcher_raises_ends_the_run_after_that_step() -> None:
    trainer = make_trainer(make_settings(steps=4))

    def stop(step: Step) -> None:
        if step.step == 2:
            raise tiny_parts.Stop

    with pytest.raises(tiny_parts.Stop):
        trainer.run(stop)
    assert (trainer.progress.step, len(trainer.progress.losses)) == (2, 2)


@pytest.mark.parametrize(("latents", "same"), [("sample_once", True), ("resample", False)])
def test_latents_are_drawn_once_for_good_or_anew_at_every_step(latents: str, same: bool) -> None:
    trainer = make_trainer(make_settings(latents=latents))
    first, later = (trainer.draw([2], step, 0).latents for step in (0, 1))
    assert torch.equal(first, later) is same
    assert torch.equal(first, trainer.draw([2], 0, 0).latents)
    spread = (first - trainer.examples[2].latents.mean).std().item()
    assert spread == pytest.approx(0.5, rel=0.3)


def test_each_image_of_a_batch_has_a_posterior_sample_of_its_own() -> None:
    example = make_examples(1)[0]
    trainer = make_trainer(make_settings(), (example, example))
    drawn = trainer.draw([0, 1], 0, 0).latents
    assert not torch.equal(drawn[0], drawn[1])


def test_a_v_prediction_model_is_trained_towards_v() -> None:
    trainer, t = make_trainer(make_settings()), 600
    guesses: list[torch.Tensor] = []
    hook = trainer.parts.unet.register_forward_hook(lambda module, args, out: guesses.append(out[0]))
    noise = torch.randn(1, 4, 8, 8, generator=step_generator(0))
    x0, a = batch_of(trainer, 0).latents * 0.13025, trainer.parts.alpha_bar[t]
    for prediction, goal in (("epsilon", noise), ("v_prediction", a.sqrt() * noise - (1 - a).sqrt() * x0)):
        trainer.parts.prediction = prediction
        with torch.no_grad():
            loss = trainer.loss(batch_of(trainer, 0), step_generator(0), torch.tensor([t]))
        torch.testing.assert_close(loss, (guesses[-1] - goal).square().mean())
    hook.remove()


def test_frozen_text_encoders_are_asked_once_for_each_caption() -> None:
    trainer = make_trainer(make_settings(train="unet", steps=8))
    asked: list[int] = []
    hook = trainer.parts.te2.register_forward_hook(lambda module, args, out: asked.append(len(args[0])))
    run(trainer)
    hook.remove()
    assert asked == [1] * 4


def test_remembered_text_is_what_the_encoders_would_give() -> None:
    frozen, trained = make_trainer(make_settings(train="unet")), make_trainer(make_settings())
    tokens = batch_of(frozen, 2, 0, 2).tokens
    with torch.no_grad():
        for _ in range(2):
            for given, expected in zip(frozen.condition(tokens), trained.condition(tokens), strict=True):
                torch.testing.assert_close(given, expected)


def test_the_next_steps_batch_is_drawn_before_this_ones_numbers_are_read() -> None:
    trainer = make_trainer(make_settings(steps=2, batch_size=1, gradient_accumulation=2))
    drawn: list[tuple[int, int]] = []
    draw = trainer.draw
    trainer.draw = lambda indices, step, place: (drawn.append((step, place)), draw(indices, step, place))[1]
    trainer.step()
    assert drawn == [(0, 0), (0, 1), (1, 0)]
    trainer.step()
    # and nothing twice, nor beyond the last step
    assert drawn == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_step_that_overflows_counts_for_no_schedule() -> None:
    """As with accelerate, whose scheduler stands still where the scaler skipped the optimizer."""
    trainer = make_trainer(make_settings(steps=4, precision="fp16", schedule="linear"))
    rate = trainer.optimizer.param_groups[0]["lr"]
    # so that it overflows on a CPU too that computes in fp32 in place of fp16
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
    assert trainer.step()[2] is False
    assert trainer.optimizer.param_groups[0]["lr"] == rate
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    assert trainer.step()[2] is True
    assert trainer.optimizer.param_groups[0]["lr"] < rate


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_weights_are_changed_waits_until_the_step_is_whole(number: int) -> None:
    """Whoever goes on from there must not take the step a second time."""
    settings = make_settings(steps=2)
    whole = make_trainer(settings)
    run(whole)
    wanted = weights_of(whole)
    halted = make_trainer(settings)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = [signal.signal(kind, interrupt) for kind in (signal.SIGINT, signal.SIGTERM)]
    try:
        # when AdamW is done with the weights and nothing else is
        hook = halted.optimizer.register_step_post_hook(lambda *_: signal.raise_signal(number))
        with pytest.raises(KeyboardInterrupt):
            halted.step()
        assert (halted.progress.step, len(halted.progress.losses)) == (1, 1)
        hook.remove()
        run(halted)
        assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == [interrupt, interrupt]
    finally:
        for kind, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(kind, handler)
    assert halted.progress.losses == whole.progress.losses
    assert_same(weights_of(halted), wanted)
