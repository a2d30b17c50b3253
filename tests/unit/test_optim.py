"""Optimizers and schedules: the rates that weights really see."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import tiny_parts
import torch
from pack.trainer.adapter import Adapters, add_adapters
from pack.trainer.optim import effective_rates, gradient_norm, make_optimizer, make_schedule
from pack.trainer.settings import TrainSettings, thesis_settings

RELATIVE = {"optimizer": "adafactor", "adafactor_relative_step": True}


@functools.cache
def some_adapters() -> Adapters:
    adapters = add_adapters(tiny_parts.make_parts(), tiny_parts.make_settings())
    return replace(adapters, modules=adapters.modules[:4] + adapters.modules[-4:])


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
