"""LoHa and LoKr begin, learn and drop ranks as those of LyCORIS and sd-scripts do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import add_adapters
from pack.trainer.adapters.modules import ADAPTER, AdapterModule
from pack.trainer.lora.file import lora_tensors
from pack.trainer.settings.options import AdapterSettings
from pack.trainer.training.noise import step_generator
from tiny_parts import make_settings
from torch import nn

RANK, ALPHA = 4, 2.0
LOHA = {"kind": "loha", "conv_rank": 3, "conv_alpha": 2.0}
# on 64 channels a smaller factor of 2 leaves w2 in two parts, at the conv rank of 40 it is whole
LOKR = {"kind": "lokr", "lokr_factor": 2, "conv_rank": 40, "conv_alpha": 3.0}
# split evenly, the linear layers have whole factors and others
EVEN = {"kind": "lokr"}
KINDS = {"loha": LOHA, "lokr": LOKR, "even lokr": EVEN}
Factors = Mapping[str, torch.Tensor]


def modules_of(kind: str, seed: int = 1, **more: object) -> tuple[AdapterModule, ...]:
    options = AdapterSettings(**KINDS[kind], **more)
    adapters = add_adapters(
        tiny_parts.make_parts(), make_settings(rank=RANK, alpha=ALPHA, seed=seed, train="unet", adapter=options)
    )
    adapters.train(False)
    return adapters.modules


def is_whole(module: AdapterModule) -> bool:
    return {"lokr_w1", "lokr_w2"} <= module.weights().keys()


# the standard deviation of each factor by its shape: normal, or kaiming-uniform with a = √5, 1/√(3·fan_in)
LYCORIS: dict[str, Callable[[torch.Size], float]] = {
    "hada_w1_a": lambda _: 0.1,
    "hada_w1_b": lambda _: 1.0,
    "hada_w2_a": lambda _: 0.0,
    "hada_w2_b": lambda _: 1.0,
    "lokr_w1": lambda shape: (3 * shape[1]) ** -0.5,
    "lokr_w2": lambda _: 0.0,
    "lokr_w2_a": lambda shape: (3 * shape[1]) ** -0.5,
    "lokr_w2_b": lambda _: 0.0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_factor_is_drawn_as_lycoris_draws_it(kind: str) -> None:
    drawn: dict[str, list[torch.Tensor]] = {}
    for module in modules_of(kind):
        for key, weight in module.weights().items():
            deviation = LYCORIS[key](weight.shape)
            drawn.setdefault(key, []).append((weight.detach() / (deviation or 1.0)).flatten())
            if kind != "loha":
                assert weight.abs().max() <= deviation * 3**0.5 + 1e-6, module.name
    assert drawn.keys() == {key for key in LYCORIS if key.startswith("hada" if kind == "loha" else "lokr")}
    for key, pieces in drawn.items():
        wanted = 1.0 if LYCORIS[key](torch.Size((4, 4))) else 0.0
        assert torch.cat(pieces).std().item() == pytest.approx(wanted, abs=0.03), key


@pytest.mark.parametrize("kind", KINDS)
def test_the_initial_change_is_nothing_and_follows_from_the_seed_alone(kind: str) -> None:
    first, again, other = (modules_of(kind, seed) for seed in (7, 7, 8))
    for own, same, another in zip(first, again, other, strict=True):
        assert not own.layer.get_delta_weight(ADAPTER).any(), own.name
        for key, weight in own.weights().items():
            assert weight.dtype == torch.float32 and weight.requires_grad
            assert torch.equal(weight, same.weights()[key])
            assert not weight.any() or not torch.equal(weight, another.weights()[key])


@pytest.mark.parametrize("kind", ["lokr", "even lokr"])
def test_two_whole_factors_are_scaled_by_1_whatever_alpha_is(kind: str) -> None:
    modules = modules_of(kind)
    assert {is_whole(module) for module in modules} == {True, False}
    for module in modules:
        rank = module.layer.r[ADAPTER]
        alpha = ALPHA if rank == RANK else 3.0
        assert module.layer.scaling[ADAPTER] == (1.0 if is_whole(module) else alpha / rank)
        # as LyCORIS writes it
        assert module.file_alpha == (rank if is_whole(module) else alpha)


def change_in_host(factors: Factors, shape: torch.Size) -> torch.Tensor:
    """comfy/weight_adapter/loha.py and lokr.py: what a loaded file adds to the weight at strength 1."""
    alpha, rank = factors["alpha"], None
    if "hada_w1_a" in factors:
        rank = factors["hada_w1_b"].shape[0]
        change = (factors["hada_w1_a"] @ factors["hada_w1_b"]) * (factors["hada_w2_a"] @ factors["hada_w2_b"])
    else:
        first, second = factors["lokr_w1"], factors.get("lokr_w2")
        if second is None:
            rank = factors["lokr_w2_b"].shape[0]
            second = factors["lokr_w2_a"] @ factors["lokr_w2_b"]
        change = torch.kron(first[(...,) + (None,) * (second.ndim - 2)], second)
    return change.reshape(shape) * (1.0 if rank is None else alpha / rank)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_makes_the_host_change_the_weight_as_training_did(kind: str) -> None:
    settings = make_settings(rank=RANK, alpha=ALPHA, train="unet", adapter=AdapterSettings(**KINDS[kind]))
    adapters = add_adapters(tiny_parts.make_parts(), settings)
    adapters.train(False)
    with torch.no_grad():
        for number, weight in enumerate(adapters.parameters()):
            weight.add_(torch.randn(weight.shape, generator=step_generator(number)) * 0.1)
    file = lora_tensors(adapters, "fp32")
    for module in adapters.modules:
        start = f"{module.name}."
        factors = {key.removeprefix(start): tensor for key, tensor in file.items() if key.startswith(start)}
        trained = module.layer.get_delta_weight(ADAPTER).detach()
        found = change_in_host(factors, module.layer.get_base_layer().weight.shape)
        torch.testing.assert_close(found, trained, rtol=1e-4, atol=1e-6)
        x = torch.randn(2, *inputs_of(module), generator=step_generator(0))
        with torch.no_grad():
            added = module.layer(x) - module.layer.get_base_layer()(x)
        torch.testing.assert_close(added, applied(module, x, found), rtol=1e-3, atol=1e-4)


def inputs_of(module: AdapterModule) -> tuple[int, ...]:
    base = module.layer.get_base_layer()
    return (base.in_channels, 6, 6) if isinstance(base, nn.Conv2d) else (5, base.in_features)


def applied(module: AdapterModule, x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    base = module.layer.get_base_layer()
    if isinstance(base, nn.Conv2d):
        return nn.functional.conv2d(x, change, stride=base.stride, padding=base.padding)
    return nn.functional.linear(x, change)


def lycoris_factors(kind: str, like: Factors, number: int) -> dict[str, torch.Tensor]:
    """Fresh factors of these shapes as LyCORIS draws them, by another generator than ours."""
    generator = step_generator(99, number)
    out = {}
    for key, weight in like.items():
        deviation = LYCORIS[key](weight.shape)
        if kind == "loha":
            drawn = torch.randn(weight.shape, generator=generator) * deviation
        else:
            drawn = (torch.rand(weight.shape, generator=generator) * 2 - 1) * deviation * 3**0.5
        out[key] = drawn.requires_grad_()
    return out


def learnt(weights: list[torch.Tensor], change: Callable[[], torch.Tensor], goal: torch.Tensor) -> float:
    """Norm of the change after ten steps of AdamW towards a goal."""
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    for _ in range(10):
        optimizer.zero_grad()
        (change() - goal).square().mean().backward()
        optimizer.step()
    return change().detach().norm().item()


GROUPS = [
    ("loha", nn.Linear, False), ("loha", nn.Conv2d, False), ("lokr", nn.Linear, False), ("lokr", nn.Conv2d, True),
    ("even lokr", nn.Linear, True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "layer", "whole"), GROUPS)
def test_as_much_is_learnt_in_ten_steps_as_with_lycoris(kind: str, layer: type[nn.Module], whole: bool) -> None:
    # the factors of a single small layer are too few numbers for two draws to be alike
    chosen = [m for m in modules_of(kind) if is_whole(m) == whole and isinstance(m.layer.get_base_layer(), layer)][:24]
    ours = theirs = 0.0
    for number, module in enumerate(chosen):
        held, rank = module.weights(), module.layer.r[ADAPTER]
        # where both are whole, change_in_host knows of no alpha: the scale is 1
        alpha = torch.tensor(ALPHA if rank == RANK else KINDS[kind].get("conv_alpha"))
        reference = lycoris_factors(kind, held, number)
        factors = {**reference, "alpha": alpha}
        shape = module.layer.get_base_layer().weight.shape
        goal = torch.randn(shape, generator=step_generator(3, number)) * 0.1
        ours += learnt(list(held.values()), lambda m=module: m.layer.get_delta_weight(ADAPTER), goal)
        theirs += learnt(list(reference.values()), lambda f=factors, s=shape: change_in_host(f, s), goal)
    assert ours > 0
    assert ours == pytest.approx(theirs, rel=0.15)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_rank_drop_out_leaves_out_outputs_and_scales_the_others_up(kind: str) -> None:
    modules = modules_of(kind, rank_dropout=0.4)
    for layer in (nn.Linear, nn.Conv2d):
        module = next(m for m in modules if isinstance(m.layer.get_base_layer(), layer))
        with torch.no_grad():
            for number, weight in enumerate(module.weights().values()):
                weight.add_(torch.randn(weight.shape, generator=step_generator(number)))
        plain = module.layer.get_delta_weight(ADAPTER).detach()
        module.layer.train(True)
        with tiny_parts.seeded(5):
            found = module.layer.get_delta_weight(ADAPTER)
        with tiny_parts.seeded(5):
            kept = torch.rand(plain.shape[0]) > 0.4
        assert 0 < kept.sum() < len(kept)
        torch.testing.assert_close(found[kept], plain[kept] / 0.6)
        assert not found[~kept].any()
        x = torch.randn(2, *inputs_of(module), generator=step_generator(0))
        with tiny_parts.seeded(5):
            added = module.layer(x) - module.layer.get_base_layer()(x)
        assert added.any()
