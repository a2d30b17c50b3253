"""LoRA layers as one function each, their narrow weights, and Adafactor by stacks: the same as what they stand for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import add_adapters
from pack.trainer.adapters.narrow import NarrowPair, NarrowWeights
from pack.trainer.training.adafactor import StackedAdafactor
from pack.trainer.training.loop import Trainer
from tiny_parts import make_settings
from torch import nn
from transformers.optimization import Adafactor

SHAPES = [(4, 16), (24, 4), (4, 16), (4, 16), (24, 4), (3, 5)]


def blocks_of(unet: nn.Module) -> Iterator[nn.Module]:
    return (module for name, module in unet.named_modules() if name.endswith(".ff.net.0"))


@pytest.mark.parametrize("alpha", [4.0, 3.0])
def test_a_gate_with_its_layer_is_what_peft_and_diffusers_make_of_them(alpha: float) -> None:
    parts = tiny_parts.make_parts()
    adapters = add_adapters(parts, make_settings(train="unet", precision="fp32", rank=4, alpha=alpha))
    tiny_parts.randomize(adapters)
    gate = next(blocks_of(parts.unet))
    layer = gate.proj
    x = torch.randn(2, 5, layer.in_features)
    out = torch.randn(2, 5, layer.out_features // 2)
    weights = layer.lora_A["mjesec"].weight, layer.lora_B["mjesec"].weight

    def run(forward: object) -> list[torch.Tensor]:
        given = x.clone().requires_grad_()
        made = forward(given)  # type: ignore[operator]
        return [made, *torch.autograd.grad((made * out).sum(), [given, *weights])]

    assert "gated" in gate.forward.__name__
    fused = run(gate.forward)
    layer.forward = type(layer).forward.__get__(layer)
    plain = run(type(gate).forward.__get__(gate))
    for left, right in zip(fused, plain, strict=True):
        torch.testing.assert_close(left, right, rtol=2e-5, atol=2e-5)


def test_a_gate_without_adapters_is_the_bases_own() -> None:
    parts = tiny_parts.make_parts()
    adapters = add_adapters(parts, make_settings(train="unet"))
    tiny_parts.randomize(adapters)
    gate = next(blocks_of(parts.unet))
    x = torch.randn(1, 3, gate.proj.in_features)
    with adapters.disabled():
        hidden, opening = gate.proj.get_base_layer()(x).chunk(2, dim=-1)
        assert torch.equal(gate(x), hidden * nn.functional.gelu(opening))


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 1), (2, 3)])
def test_steps_through_narrow_weights_are_nearly_those_in_fp32(batch: int, accumulation: int) -> None:
    # moves that are large beside what fp32 rounds off the weights
    rates = {"unet_lr": 0.1, "text_lr": 0.1}
    changes = {"steps": 3, "batch_size": batch, "gradient_accumulation": accumulation, **rates}
    ends = []
    for precision in ("bf16", "fp32"):
        settings = make_settings(precision=precision, optimizer="torch.optim.SGD", **changes)
        trainer = tiny_parts.make_trainer(settings)
        tiny_parts.randomize(trainer.adapters)
        before = trainer.adapters.tensors()
        held = {name: tensor.clone() for name, tensor in before.items()}
        losses: list[float] = []
        trainer.run(lambda step, losses=losses: losses.append(step.loss))
        ends.append((losses, {name: tensor - held[name] for name, tensor in trainer.adapters.tensors().items()}))
    (half, moved), (full, expected) = ends
    assert half == pytest.approx(full, rel=0.02)
    joined = [torch.cat([tensor.flatten() for tensor in each.values()]) for each in (moved, expected)]
    assert (joined[0] - joined[1]).norm() < 0.1 * joined[1].norm()


def test_gradients_of_micro_batches_are_added_and_scaled() -> None:
    pairs = [NarrowPair(*weights_of_layer(), scale, torch.bfloat16) for scale in (0.5, 1.0)]
    narrow = NarrowWeights(pairs, accumulates=True)
    narrow.renew()
    for pair, scale in zip(pairs, (0.5, 1.0), strict=True):
        assert torch.equal(pair.low, pair.down.bfloat16())
        assert torch.equal(pair.high, pair.up.bfloat16() * scale)
    ones = torch.ones(1, 3), torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 4)
    for factor in (1.0, 2.0, 4.0):
        with narrow.in_use():
            rows, inner, through, grad = (one.bfloat16() for one in ones)
            pairs[0].add_gradients(rows * factor, inner * factor, through, [grad])
            # twice in one pass, once in halves
            for grads in ([grad], list(grad.chunk(2, dim=1))):
                pairs[1].add_gradients(rows * factor, inner * factor, through, grads)
        narrow.widen()
        narrow.collect()
    for pair, sums in zip(pairs, ((7.0, 3.5), (14.0, 14.0)), strict=True):
        for weight, value in zip((pair.down, pair.up), sums, strict=True):
            assert torch.equal(weight.grad, torch.full_like(weight, value))
    joined = torch.cat(
        [weight.grad.flatten() for part in ("down", "up") for weight in (getattr(p, part) for p in pairs)]
    )
    assert torch.equal(narrow.joined_gradient(), joined)


def weights_of_layer() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4, 2))


def test_layers_that_a_pass_does_not_reach_have_no_gradient_of_an_earlier_one() -> None:
    """As a text encoder's last layer: optimizers leave it alone."""
    pairs = [NarrowPair(*weights_of_layer(), 1.0, torch.bfloat16) for _ in range(2)]
    narrow = NarrowWeights(pairs, accumulates=False)
    values = [torch.randn(5, size).bfloat16() for size in (3, 2, 2, 4)]
    for reached in (pairs, pairs[:1]):
        with narrow.in_use():
            for pair in reached:
                pair.add_gradients(*values[:3], values[3:])
        narrow.widen()
        for weight in (w for pair in pairs for w in (pair.down, pair.up)):
            weight.grad = None
        narrow.collect()
    assert pairs[1].down.grad is None
    assert pairs[1].up.grad is None
    torch.testing.assert_close(pairs[0].down.grad, (values[2].T @ values[0]).float())
    expected = sum(weight.grad.square().sum() for weight in (pairs[0].down, pairs[0].up)).sqrt()
    torch.testing.assert_close(narrow.joined_gradient().norm(), expected)
    # as where several processes' gradients were put in their place
    pairs[0].down.grad = pairs[0].down.grad.clone()
    assert narrow.joined_gradient() is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.1},
        {"scale_parameter": False},
        {"relative_step": False, "lr": 1e-2},
        {"warmup_init": True},
        {"beta1": 0.9},
        {"clip_threshold": 0.1},
    ],
    ids=lambda changes: ", ".join(changes) or "as it is",
)
def test_adafactor_by_stacks_is_adafactor(changes: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(1)
    starts = [torch.randn(shape, generator=generator) * scale for scale, shape in enumerate(SHAPES)]
    gradients = [[torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(20)]
    # the up matrices are zero at first, and the down matrices then have no gradient
    gradients[0][0].zero_()
    ends = []
    for kind in (Adafactor, StackedAdafactor):
        weights = [nn.Parameter(start.clone()) for start in starts]
        optimizer = kind(weights, **changes)
        for number, step in enumerate(gradients):
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            if not changes:
                # as that of a layer that no gradient reaches
                weights[3].grad = None
            if number % 3 == 1:
                # as that of a module that was dropped out: it is behind the others of its shape from then on
                weights[0].grad = None
            optimizer.step()
            if number == 9:
                # as a run that was interrupted
                held = optimizer.state_dict()
                optimizer = kind(weights, **changes)
                optimizer.load_state_dict(held)
        ends.append((weights, optimizer.state_dict()["state"]))
    (expected, states), (made, own) = ends
    for left, right in zip(made, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)
    assert own.keys() == states.keys()
    for number, state in states.items():
        assert own[number].keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(torch.as_tensor(own[number][key]), torch.as_tensor(value), rtol=1e-5, atol=1e-7)


def test_a_step_that_is_not_finite_touches_nothing_and_ends_the_run() -> None:
    """The fused optimizer has been told to step before anybody has looked."""
    from pack.trainer.errors import NonFiniteLoss

    trainer: Trainer = tiny_parts.make_trainer(make_settings(steps=3, optimizer="adamw", precision="fp32"))
    trainer.step()
    before = {name: tensor.clone() for name, tensor in trainer.adapters.tensors().items()}
    state = {k: v.clone() for k, v in trainer.optimizer.state[trainer.adapters.parameters()[0]].items()}
    hook = trainer.adapters.modules[0].up.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteLoss):
        trainer.step()
    hook.remove()
    tiny_parts.assert_same(trainer.adapters.tensors(), before)
    tiny_parts.assert_same(trainer.optimizer.state[trainer.adapters.parameters()[0]], state)
