"""A module that a training step leaves out is not in the graph, so that no optimizer moves it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import Adapters, add_adapters
from pack.trainer.adapters.modules import AdapterModule
from pack.trainer.sdxl.checkpointing import LEVELS, use_checkpointing
from pack.trainer.sdxl.parts import Parts
from pack.trainer.settings.options import AdapterSettings
from pack.trainer.training.data import collate
from pack.trainer.training.loop import Trainer
from pack.trainer.training.noise import step_generator
from tiny_parts import CPU, make_examples, make_settings

KINDS: dict[str, dict[str, Any]] = {
    "lora": {}, "rslora": {"rank_stabilized": True}, "pissa": {"initial": "pissa"},
    "loha": {"kind": "loha"}, "lokr": {"kind": "lokr", "lokr_factor": 4},
}  # fmt: skip
SHARE = 0.5


def build(kind: str, **changes: object) -> tuple[Parts, Adapters, Trainer]:
    options = AdapterSettings(module_dropout=SHARE, **KINDS[kind])
    settings = make_settings(**{"train": "unet", "steps": 8, "adapter": options, **changes})
    parts = tiny_parts.make_parts()
    adapters = add_adapters(parts, settings)
    with torch.no_grad():
        for number, weight in enumerate(adapters.parameters()):
            weight.add_(torch.randn(weight.shape, generator=step_generator(number)) * 0.05)
    return parts, adapters, Trainer(parts, adapters, make_examples(), settings, CPU)


def used(adapters: Adapters) -> set[str]:
    """Names of the modules that have gradients, which all of a module's weights have or none."""
    out = set()
    for module in adapters.modules:
        held = {weight.grad is not None for weight in module.weights().values()}
        assert len(held) == 1, module.name
        if held.pop():
            out.add(module.name)
    return out


def learn(trainer: Trainer, place: int) -> None:
    batch = collate(trainer.examples[:1], [trainer.examples[0].latents.mean])
    with trainer._dropping(0, place):
        trainer.loss(batch, step_generator(0), torch.tensor([500])).backward()


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_is_left_out_is_the_base_and_its_weights_get_no_gradient(kind: str) -> None:
    _, adapters, trainer = build(kind)
    learn(trainer, 0)
    first = used(adapters)
    assert 0.3 < len(first) / len(adapters.modules) < 0.7
    # a module that some micro-batch used has a gradient
    learn(trainer, 1)
    both = used(adapters)
    assert first < both
    trainer.optimizer.zero_grad(set_to_none=True)
    learn(trainer, 1)
    assert both == first | used(adapters)


def copied(module: AdapterModule) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in module.weights().values()]


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_neither_momentum_nor_decay_moves_a_module_that_a_step_leaves_out(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, adapters, trainer = build(kind)
    seen: list[set[str]] = []
    update = trainer._update

    def watched(*given: object) -> object:
        seen.append(used(adapters))
        return update(*given)

    monkeypatch.setattr(trainer, "_update", watched)
    still = 0
    for _ in range(6):
        before = {module.name: copied(module) for module in adapters.modules}
        trainer.step()
        for module in adapters.modules:
            same = [torch.equal(*pair) for pair in zip(copied(module), before[module.name], strict=True)]
            assert all(same) if module.name not in seen[-1] else not any(same), module.name
        # those with momentum of an earlier step are those that zeros would not hold still
        still += len(set().union(*seen[:-1]) - seen[-1])
    assert still > len(adapters.modules)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_again_leaves_the_same_modules_out(kind: str) -> None:
    gradients = []
    for level in (LEVELS[0], LEVELS[-1]):
        parts, adapters, trainer = build(kind, train="unet+text")
        use_checkpointing(parts, level, text=True, drops=True)
        trainer.adapters.train(False)
        learn(trainer, 3)
        gradients.append([weight.grad for weight in adapters.parameters()])
    assert len({grad is None for grad in gradients[0]}) == 2
    for plain, again in zip(*gradients, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_draws_once_a_forward_pass(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, adapters, trainer = build(kind)
    (module,) = [m for m in adapters.modules if m.name == "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"]
    base = module.layer.get_base_layer()
    x = torch.randn(2, 5, base.in_features, generator=step_generator(4))
    with torch.no_grad():
        whole = module.layer(x)
    module.layer.train(True)
    for draw in (0.0, SHARE - 1e-3, SHARE, 0.999):
        draws = []

        def rand(*size: int, number: float = draw, seen: list[Any] = draws, **_: object) -> torch.Tensor:
            seen.append(size)
            return torch.full(size, number)

        monkeypatch.setattr(torch, "rand", rand)
        out = module.layer(x)
        monkeypatch.undo()
        # peft draws once more for LoHa and LoKr, to leave out a share of nothing
        ours = 2 if kind in ("loha", "lokr") and draw >= SHARE else 1
        assert draws == [(1,)] * ours
        if draw >= SHARE:
            torch.testing.assert_close(out.detach(), whole)
        elif kind != "pissa":
            torch.testing.assert_close(out.detach(), base(x))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_a_step_may_leave_out_every_module(kind: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, adapters, trainer = build(kind, precision=precision, schedule="constant_with_warmup", warmup_steps=4)
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *size, **how: rand(*size, **how) * 0)
    before = tiny_parts.weights_of(trainer)
    learn(trainer, 0)
    assert used(adapters) == set()
    loss, norm, taken = trainer.step()
    assert (loss > 0, norm, taken) == (True, 0.0, True)
    assert trainer.progress.losses == [loss]
    assert trainer.schedule.last_epoch == 1
    tiny_parts.assert_same(tiny_parts.weights_of(trainer), before)
    monkeypatch.undo()
    trainer.step()
    assert trainer.progress.step == 2
