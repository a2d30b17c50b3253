"""Optimizers and schedules: the rates that weights really see."""

from __future__ import annotations

import functools
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import Adapters, add_adapters
from pack.trainer.errors import SettingsError
from pack.trainer.runs.run import train
from pack.trainer.settings.options import OptimizerSettings
from pack.trainer.settings.training import TrainSettings, thesis_settings
from pack.trainer.training.optim import check_optimizer, effective_rates, gradient_norm, make_optimizer, make_schedule

RELATIVE = {"optimizer": "adafactor", "adafactor_relative_step": True}


@functools.cache
def some_adapters() -> Adapters:
    adapters = add_adapters(tiny_parts.make_parts(), tiny_parts.make_settings())
    te2 = tuple(module for module in adapters.modules if module.part == "te2")[:1]
    return replace(adapters, modules=adapters.modules[:4] + te2 + adapters.modules[-4:])


def build(**changes: object) -> tuple[Adapters, torch.optim.Optimizer, TrainSettings]:
    """Four adapted layers of either group at their fresh values, and an optimizer of their own."""
    settings = tiny_parts.make_settings(**{"weight_decay": 0.0, **changes})
    adapters = some_adapters()
    tiny_parts.start_over(adapters)
    return adapters, make_optimizer(adapters, settings), settings


def rms(weight: torch.Tensor) -> float:
    return weight.detach().double().square().mean().sqrt().item()


def fill_gradients(adapters: Adapters) -> None:
    # of rank one, so that Adafactor's factored second moment is exact and each update has an RMS of 1
    for weight in adapters.parameters():
        weight.grad = torch.ones_like(weight)


@pytest.mark.parametrize("steps_before", [0, 3, 9_999, 39_999, 999_999])
def test_adafactors_rate_of_each_tensor_is_the_papers_formula(steps_before: int) -> None:
    adapters, optimizer, _ = build(**RELATIVE)
    tiny_parts.randomize(adapters, scale=0.2)
    adapters.modules[0].up.data.zero_()  # the smallest scale counts as 1e-3
    if steps_before:
        fill_gradients(adapters)
        optimizer.step()
        for weight in adapters.parameters():
            optimizer.state[weight]["step"] = steps_before
    t = steps_before + 1
    before = [weight.detach().clone() for weight in adapters.parameters()]
    fill_gradients(adapters)
    optimizer.step()
    for weight, old in zip(adapters.parameters(), before, strict=True):
        rate = min(1e-2, 1 / math.sqrt(t)) * max(1e-3, rms(old))
        torch.testing.assert_close(old - weight, torch.full_like(old, rate), rtol=1e-3, atol=1e-7)


def test_the_rates_shown_for_adafactor_are_the_means_of_what_each_group_saw() -> None:
    adapters, optimizer, _ = build(**RELATIVE)
    tiny_parts.randomize(adapters, scale=0.2)
    expected = {
        group: sum(0.01 * max(1e-3, rms(w)) for w in adapters.parameters(group)) / len(adapters.parameters(group))
        for group in ("text", "unet")
    }
    fill_gradients(adapters)
    optimizer.step()
    assert effective_rates(optimizer) == pytest.approx(expected, rel=1e-5)


def test_fresh_adapters_start_at_the_rates_the_thesis_run_had() -> None:
    adapters, optimizer, _ = build(**RELATIVE)
    fill_gradients(adapters)
    optimizer.step()
    module = adapters.modules[-1]
    ups, downs = optimizer.state[module.up], optimizer.state[module.down]
    group = optimizer.param_groups[1]
    assert optimizer._get_lr(group, ups) == pytest.approx(1e-5)
    # 0.01/√(3·fan_in), for a uniform distribution within 1/√fan_in
    assert optimizer._get_lr(group, downs) == pytest.approx(0.01 / math.sqrt(3 * module.down.shape[1]), rel=0.1)


def test_the_thesiss_learning_rate_never_touches_a_weight() -> None:
    weights = []
    for rate in (1e-4, 1.0):
        adapters, optimizer, _ = build(**RELATIVE, unet_lr=rate, text_lr=rate)
        fill_gradients(adapters)
        optimizer.step()
        weights.append({name: tensor.clone() for name, tensor in adapters.tensors().items()})
    tiny_parts.assert_same(*weights)


def test_adafactor_without_relative_step_takes_the_rates_given() -> None:
    _, optimizer, _ = build(optimizer="adafactor", unet_lr=3e-4, text_lr=2e-4)
    assert effective_rates(optimizer) == {"text": 2e-4, "unet": 3e-4}


def test_before_the_first_step_adafactor_has_no_rate() -> None:
    assert effective_rates(build(**RELATIVE)[1]) == {"text": 0.0, "unet": 0.0}


def test_each_trained_part_is_a_group_with_its_own_rate() -> None:
    adapters, optimizer, _ = build(unet_lr=3e-4, text_lr=2e-4)
    assert [(group["name"], group["lr"]) for group in optimizer.param_groups] == [("text", 2e-4), ("unet", 3e-4)]
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert held == [id(weight) for weight in adapters.parameters()]


def test_only_the_unets_group_exists_where_only_the_unet_is_trained() -> None:
    adapters = some_adapters()
    unet_only = replace(adapters, modules=tuple(m for m in adapters.modules if m.group == "unet"))
    optimizer = make_optimizer(unet_only, tiny_parts.make_settings(train="unet", unet_lr=3e-4))
    assert effective_rates(optimizer) == {"unet": 3e-4}


def constant(step: int, warmup: int, steps: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


def cosine(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize(("name", "curve"), [("constant", constant), ("cosine", cosine)])
def test_both_groups_follow_the_schedule(name: str, curve: object, warmup: int) -> None:
    steps = 12
    adapters, optimizer, settings = build(
        schedule=name, warmup_steps=warmup, steps=steps, unet_lr=1e-3, text_lr=5e-4, optimizer="adamw"
    )
    schedule = make_schedule(optimizer, settings)
    for step in range(steps):
        factor = curve(step, warmup, steps)
        assert effective_rates(optimizer) == pytest.approx({"text": 5e-4 * factor, "unet": 1e-3 * factor})
        fill_gradients(adapters)
        optimizer.step()
        schedule.step()


def test_an_optimizer_that_sets_its_own_rates_has_no_schedule() -> None:
    adapters, optimizer, _ = build(**RELATIVE)
    assert make_schedule(optimizer, thesis_settings()) is None


@pytest.mark.parametrize(("maximum", "after"), [(1.0, 1.0), (1000.0, 13.0), (0.0, 13.0)])
def test_the_joint_norm_of_all_gradients_is_clipped(maximum: float, after: float) -> None:
    weights = [
        torch.nn.Parameter(torch.zeros(2)),
        torch.nn.Parameter(torch.zeros(1)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    assert gradient_norm(weights, maximum).item() == pytest.approx(13.0)
    assert math.hypot(*weights[0].grad.tolist(), *weights[1].grad.tolist()) == pytest.approx(after, rel=1e-5)


@pytest.mark.parametrize("maximum", [0.5, 1e6, 0.0])
def test_gradients_that_are_one_tensor_are_clipped_as_torch_does(maximum: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(2**18 + 5))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    joined = weight.grad.clone()
    expected = gradient_norm([weight], maximum)
    torch.testing.assert_close(gradient_norm([weight], maximum, joined), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(joined, weight.grad, rtol=1e-5, atol=0)


def test_the_norm_of_many_gradients_that_are_one_tensor_keeps_its_digits() -> None:
    """fp32 at once is off by 0.16 % here."""
    joined = torch.randn(30_000_000, generator=torch.Generator().manual_seed(1))
    assert gradient_norm([], 0.0, joined).item() == pytest.approx(joined.double().norm().item(), rel=1e-5)


def test_a_device_without_foreach_functions_measures_and_clips_in_its_own_way() -> None:
    # meta has none, as Apple's MPS has none
    weight = torch.nn.Parameter(torch.zeros(2, device="meta"))
    weight.grad = torch.ones_like(weight)
    assert gradient_norm([weight], 1.0).shape == ()


@pytest.mark.parametrize(("device", "fused"), [("cpu", True), ("meta", None)])
def test_adamw_is_fused_where_its_kernel_heeds_the_flag(device: str, fused: bool | None) -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2, device=device))
    module = SimpleNamespace(group="unet", part="unet", weights=lambda: {"lora_up.weight": weight})
    optimizer = make_optimizer(SimpleNamespace(modules=[module]), tiny_parts.make_settings())
    assert optimizer.param_groups[0]["fused"] is fused


# names, and the first step that each takes from gradients of 1 with a rate of 1e-2, as its paper has it
FIRST_STEPS = {
    "adamw": ("torch.optim.AdamW", 1e-2),
    "lion": ("pytorch_optimizer.Lion", 1e-2),
    "torch.optim.SGD": ("torch.optim.SGD", 1e-2),
    "prodigy": ("pytorch_optimizer.Prodigy", None),
    "came": ("pytorch_optimizer.CAME", None),
    "schedulefree": ("pytorch_optimizer.ScheduleFreeAdamW", None),
    "adafactor": ("transformers.Adafactor", None),
    "pytorch_optimizer.Adan": ("pytorch_optimizer.Adan", None),
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_the_optimizer_named_is_the_one_that_steps(name: str) -> None:
    adapters, optimizer, _ = build(optimizer=name, unet_lr=1e-2, text_lr=1e-2, weight_decay=0.0)
    class_name, step = FIRST_STEPS[name]
    assert type(optimizer).__name__ == class_name.rpartition(".")[2]
    before = adapters.modules[0].down.detach().clone()
    fill_gradients(adapters)
    optimizer.step()
    moved = before - adapters.modules[0].down.detach()
    assert moved.abs().max() > 0
    if step is not None:
        torch.testing.assert_close(moved, torch.full_like(moved, step), rtol=1e-3, atol=1e-6)


def with_options(**changes: object) -> dict[str, object]:
    return {"optimizer_options": OptimizerSettings(**changes)}


def test_arguments_reach_the_optimizer_and_stand_above_the_settings() -> None:
    _, optimizer, _ = build(
        optimizer="torch.optim.Adam", **with_options(arguments="betas=(0.8, 0.95), eps=1e-4, weight_decay=0.5")
    )
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.95), 1e-4, 0.5)


def test_the_weight_decay_of_the_settings_reaches_every_optimizer_that_has_one() -> None:
    for name in ("adamw", "lion", "came", "schedulefree", "torch.optim.SGD"):
        assert build(optimizer=name, weight_decay=0.125)[1].param_groups[0]["weight_decay"] == 0.125


@pytest.mark.parametrize(
    ("optimizer", "arguments", "said"),
    [
        ("adamw", "speed=3", "AdamW has no argument 'speed'; it takes betas, eps"),
        # these classes take any argument and never look at it
        ("lion", "speed=3", "Lion has no argument 'speed'"),
        ("pytorch_optimizer.DAdaptAdam", "decouple=True", "write weight_decouple if that is meant"),
        ("prodigy", "use_bias_correction=True", "write bias_correction if that is meant"),
        ("torch.optim.Adam", "lr=1e-3", "the learning rates of the settings count"),
        ("lion", "betas=(2.0, 0.9)", "Lion does not take the arguments"),
        ("torch.optim.Adamm", "", "torch.optim has no optimizer 'Adamm'"),
        ("transformers.AutoModel", "", "transformers has no optimizer 'AutoModel'"),
    ],
)
def test_what_the_library_refuses_is_said_in_one_sentence(optimizer: str, arguments: str, said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        build(optimizer=optimizer, **with_options(arguments=arguments))


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        ("torch.optim.LBFGS", "closure"),
        ("torch.optim.SparseAdam", "dense gradients"),
        ("pytorch_optimizer.AdaLOMO", ""),
        ("pytorch_optimizer.AdaHessian", ""),
        ("pytorch_optimizer.SAM", ""),
        ("pytorch_optimizer.Lookahead", ""),
    ],
)
def test_an_optimizer_that_steps_in_another_way_is_refused_beforehand(optimizer: str, why: str) -> None:
    with pytest.raises(SettingsError, match=rf"'{optimizer}' cannot be used here: .*{why}.*; choose another one"):
        check_optimizer(tiny_parts.make_settings(optimizer=optimizer), tiny_parts.CPU)


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_the_check_lets_every_optimizer_pass_that_steps(name: str) -> None:
    before = torch.random.get_rng_state()
    check_optimizer(tiny_parts.make_settings(optimizer=name, weight_decay=0.0), tiny_parts.CPU)
    check_optimizer(thesis_settings(), tiny_parts.CPU)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_checks_sentences_come_before_an_image_is_read(tmp_path: Path) -> None:
    job = tiny_parts.make_job(tmp_path, tiny_parts.make_settings(optimizer="torch.optim.LBFGS"))
    job.encode = pytest.fail
    with pytest.raises(SettingsError, match="LBFGS"):
        train(job)


def test_adamw_8_bit_steps_as_its_paper_has_it_and_keeps_bytes() -> None:
    pytest.importorskip("bitsandbytes")
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    module = SimpleNamespace(group="unet", part="unet", weights=lambda: {"lora_up.weight": weight})
    settings = tiny_parts.make_settings(optimizer="adamw8bit", unet_lr=1e-2, text_lr=1e-2, weight_decay=0.0)
    check_optimizer(settings, tiny_parts.CPU)
    optimizer = make_optimizer(SimpleNamespace(modules=[module]), settings)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, -1e-2), rtol=1e-2, atol=1e-5)
    assert optimizer.state[weight]["state1"].dtype == torch.uint8


def test_adamw_is_the_fused_one() -> None:
    assert build(optimizer="adamw")[1].param_groups[0]["fused"] is True


def test_a_library_that_is_missing_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(SettingsError, match="needs bitsandbytes, .* install it .* or choose adamw"):
        build(optimizer="adamw8bit")


def test_each_text_encoder_can_have_a_rate_of_its_own() -> None:
    rates = {"unet_lr": 1e-3, "text_lr": 2e-3}
    assert effective_rates(build(**rates, **with_options(te1_lr=5e-4))[1]) == {"te1": 5e-4, "te2": 2e-3, "unet": 1e-3}
    both = effective_rates(build(**rates, **with_options(te1_lr=0.0, te2_lr=7e-4))[1])
    assert both == {"te1": 0.0, "te2": 7e-4, "unet": 1e-3}


def test_with_lora_plus_the_up_matrices_have_a_multiple_of_the_rate() -> None:
    adapters, optimizer, _ = build(unet_lr=1e-3, text_lr=5e-4, **with_options(lora_plus_ratio=16.0))
    assert effective_rates(optimizer) == {"text": 5e-4, "text up": 8e-3, "unet": 1e-3, "unet up": 16e-3}
    ups = {id(module.up) for module in adapters.modules}
    held = {g["name"]: {id(p) for p in g["params"]} for g in optimizer.param_groups}
    assert held["text up"] | held["unet up"] == ups
    assert not (held["text"] | held["unet"]) & ups


def test_prodigys_estimate_is_part_of_the_rate_shown() -> None:
    adapters, optimizer, _ = build(optimizer="prodigy", unet_lr=1.0, text_lr=1.0)
    for _ in range(3):
        fill_gradients(adapters)
        optimizer.step()
    assert effective_rates(optimizer)["unet"] == optimizer.param_groups[-1]["d"] < 1


def curve_of(schedule: str, steps: int, **options: object) -> list[float]:
    adapters, optimizer, settings = build(
        schedule=schedule, steps=steps, unet_lr=1.0, text_lr=1.0, **with_options(**options)
    )
    scheduler = make_schedule(optimizer, settings)
    rates = []
    for _ in range(steps):
        rates.append(effective_rates(optimizer)["unet"])
        optimizer.step()
        scheduler.step()
    return rates


CURVES = [
    ("linear", {}, [1, 0.75, 0.5, 0.25]),
    ("constant_with_warmup", {}, [1, 1, 1, 1]),
    ("polynomial", {"power": 2.0}, [1, 0.5625, 0.25, 0.0625]),
    ("cosine_with_restarts", {"cycles": 2}, [1, 0.5, 1, 0.5]),
    ("piecewise_constant", {"step_rules": "1:1,0.5:3,0.1"}, [1, 0.5, 0.5, 0.1]),
]


@pytest.mark.parametrize(("schedule", "options", "expected"), CURVES, ids=[c[0] for c in CURVES])
def test_every_schedule_has_its_curve_and_its_numbers(
    schedule: str, options: dict[str, object], expected: list[float]
) -> None:
    assert curve_of(schedule, 4, **options) == pytest.approx(expected, abs=1e-6)


def test_schedule_free_weights_are_averaged_to_look_at_and_come_back_to_the_bit() -> None:
    trainer = tiny_parts.make_trainer(tiny_parts.make_settings(steps=3, optimizer="schedulefree", train="unet"))
    for _ in range(3):
        trainer.step()
    before = tiny_parts.weights_of(trainer)
    with trainer.evaluating():
        inside = tiny_parts.weights_of(trainer)
        state = trainer.optimizer.state[trainer.adapters.modules[0].up]
        beta1 = trainer.optimizer.param_groups[0]["betas"][0]
    tiny_parts.assert_same(tiny_parts.weights_of(trainer), before)
    # Defazio et al. (2024): training is at y = (1 - β₁) z + β₁ x, the result is x
    name = f"{trainer.adapters.modules[0].name}.lora_up.weight"
    torch.testing.assert_close(before[name], (1 - beta1) * state["z"] + beta1 * inside[name])
    assert not torch.equal(inside[name], before[name])


def test_an_optimizer_whose_state_no_file_holds_is_refused_beforehand() -> None:
    """Else the first save, pause or cancel of a long run would be its end."""
    with pytest.raises(
        SettingsError, match=r"'pytorch_optimizer\.Kron' holds what no saved state can .*choose another"
    ):
        check_optimizer(tiny_parts.make_settings(optimizer="pytorch_optimizer.Kron"), tiny_parts.CPU)
