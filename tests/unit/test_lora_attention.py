"""An attention with LoRA as one function: the same as layer by layer, forwards and backwards."""

from __future__ import annotations

import pytest
import tiny_parts
import torch
from pack.trainer.adapters import attention
from pack.trainer.adapters.adapters import Adapters, add_adapters
from pack.trainer.adapters.attention import LoraAttention
from pack.trainer.adapters.fused import FusedLora
from pack.trainer.adapters.narrow import NarrowPair, NarrowWeights, stacked
from pack.trainer.adapters.texts import KeptTexts
from pack.trainer.sdxl.attention import DirectAttention
from pack.trainer.sdxl.checkpointing import LEVELS
from pack.trainer.sdxl.parts import Parts
from pack.trainer.settings.options import AdapterSettings, CaptionSettings
from pack.trainer.training.loop import Trainer
from pack.trainer.training.memory import spare
from tiny_parts import assert_same, make_examples, make_settings, make_trainer, weights_of
from torch import nn


def narrowed(adapters: Adapters) -> NarrowWeights:
    """Narrow weights that are not narrow, so that only mistakes make a difference."""
    for module in adapters.modules:
        module.fused.narrow = NarrowPair(module.down, module.up, module.scale, torch.float32)
    narrow = adapters.narrow(accumulates=False)
    assert narrow is not None
    return narrow


def made(**changes: object) -> tuple[Parts, Adapters, NarrowWeights]:
    parts = tiny_parts.make_parts()
    adapters = add_adapters(parts, make_settings(train="unet", precision="fp32", rank=4, alpha=2.0, **changes))
    tiny_parts.randomize(adapters)
    return parts, adapters, narrowed(adapters)


def texts_of(unet: nn.Module, *seeds: int) -> torch.Tensor:
    """A context of one text for each seed."""
    size = 77, unet.config.cross_attention_dim
    return torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def outcome(
    unet: nn.Module, narrow: NarrowWeights, processor: DirectAttention, context: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The guess, and the gradients of latents, all adapters, and of the context where none is given."""
    unet.set_attn_processor(processor)
    if context is None:
        context = texts_of(unet, 1, 2).requires_grad_()
    generator, count = torch.Generator().manual_seed(1), len(context)
    noisy = torch.randn(count, 4, 8, 8, generator=generator).requires_grad_()
    pooled = torch.randn(count, unet.config.projection_class_embeddings_input_dim - 6 * 256, generator=generator)
    extra = {"text_embeds": pooled, "time_ids": torch.arange(6.0 * count).view(count, 6)}
    narrow.renew()
    with narrow.in_use():
        guess = unet(noisy, 500, encoder_hidden_states=context, added_cond_kwargs=extra, return_dict=False)[0]
        (guess * torch.linspace(-1, 1, guess.numel()).view_as(guess)).sum().backward()
    narrow.widen()
    for weight in narrow.weights:
        weight.grad = None
    narrow.collect()
    joined = narrow.joined_gradient()
    assert joined is not None
    return [guess.detach(), noisy.grad, joined.clone(), *([] if context.grad is None else [context.grad])]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each attention that is computed, whether as one function."""
    asked: list[bool] = []
    plain = attention._layers_of

    def layers_of(*args: object, **kwargs: object) -> object:
        layers = plain(*args, **kwargs)
        asked.append(layers is not None)
        return layers

    monkeypatch.setattr(attention, "_layers_of", layers_of)
    return asked


# of fp8 each weight is widened into one room, where it holds until the next one is
@pytest.mark.parametrize("storage", ["as given", "fp8"])
def test_guess_and_gradients_are_those_of_layer_by_layer(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _, narrow = made(base_storage=storage)
    asked = counted(monkeypatch)
    expected = outcome(parts.unet, narrow, DirectAttention())
    assert asked == []
    for ours, theirs in zip(outcome(parts.unet, narrow, LoraAttention(KeptTexts())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5 * float(theirs.abs().max()))
    assert asked == [True] * 22


@pytest.mark.parametrize("level", ["all transformers", "everything"])
def test_it_may_be_computed_again_in_the_backward_pass(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pack.trainer.sdxl.checkpointing import use_checkpointing

    parts, _, narrow = made()
    expected = outcome(parts.unet, narrow, DirectAttention())
    use_checkpointing(parts, level, text=False, drops=False)
    asked = counted(monkeypatch)
    for ours, theirs in zip(outcome(parts.unet, narrow, LoraAttention(KeptTexts())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5 * float(theirs.abs().max()))
    assert asked == [True] * 44


def products_counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each product of an attention's layers with the base's weights, the rows."""
    seen: list[int] = []
    plain = FusedLora.base_rows

    def base_rows(layer: FusedLora, rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return plain(layer, rows)

    monkeypatch.setattr(FusedLora, "base_rows", base_rows)
    return seen


def test_what_frozen_layers_make_of_a_text_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _, narrow = made()
    seen, processor = products_counted(monkeypatch), LoraAttention(KeptTexts())
    # of 11 cross-attentions; of several texts at once nothing is kept
    for *seeds, products in [(1, 22), (2, 22), (1, 0), (1, 0), (2, 0), (1, 2, 22), (1, 2, 22), (3, 22), (1, 0)]:
        seen.clear()
        context = texts_of(parts.unet, *seeds)
        ours = outcome(parts.unet, narrow, processor, context)
        assert seen.count(77 * len(seeds)) == products, seeds
        assert len(seen) - products == (4 + 2) * 11
        for one, expected in zip(ours, outcome(parts.unet, narrow, DirectAttention(), context), strict=True):
            torch.testing.assert_close(one, expected, rtol=2e-4, atol=2e-5 * float(expected.abs().max()))
        fresh = LoraAttention(KeptTexts())
        assert all(map(torch.equal, ours, outcome(parts.unet, narrow, fresh, context)))


def test_a_context_that_was_written_over_is_another() -> None:
    parts, _, narrow = made()
    processor, context = LoraAttention(KeptTexts()), texts_of(parts.unet, 1)
    before = outcome(parts.unet, narrow, processor, context)
    context.copy_(texts_of(parts.unet, 2))
    after = outcome(parts.unet, narrow, processor, context)
    assert not torch.equal(before[0], after[0])
    assert all(map(torch.equal, after, outcome(parts.unet, narrow, LoraAttention(KeptTexts()), context)))


@pytest.mark.parametrize("most", [0, 2**16, 2**18])
def test_no_more_is_kept_than_there_is_room_for(most: int) -> None:
    parts, _, narrow = made()
    texts = KeptTexts(most_bytes=most)
    for seed in (1, 2, 3, 1, 2, 4):
        context = texts_of(parts.unet, seed)
        ours = outcome(parts.unet, narrow, LoraAttention(texts), context)
        fresh = LoraAttention(KeptTexts())
        assert all(map(torch.equal, ours, outcome(parts.unet, narrow, fresh, context))), seed
    held = sum(text.nbytes + sum(each.nbytes for each in products.values()) for text, products in texts._seen)
    assert held <= most
    assert (held > 0) == (most > 0)


def test_nothing_is_kept_where_memory_is_scarce_or_captions_vary() -> None:
    trainer = make_trainer(make_settings(train="unet", precision="bf16", batch_size=1))
    trainer.step()
    assert trainer.texts._seen
    spare(trainer, LEVELS[-1])
    trainer.step()
    assert not trainer.texts._seen
    # the networks are shared among tests
    spare(trainer, LEVELS[0])
    varied = make_settings(train="unet", precision="bf16", batch_size=1, captions=CaptionSettings(shuffle=True))
    trainer = Trainer(
        trainer.parts, trainer.adapters, make_examples(), varied, tiny_parts.CPU, tokenize=tiny_parts.tokenize
    )
    trainer.step()
    assert not trainer.texts._seen


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_training_learns_the_same_to_the_bit_whether_texts_are_kept(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(train="unet", precision=precision, batch_size=1, steps=6)
    seen, learnt, computed = products_counted(monkeypatch), [], []
    for kept in (True, False):
        seen.clear()
        trainer = make_trainer(settings)
        trainer.texts.keep(kept)
        for _ in range(6):
            trainer.step()
        learnt.append(weights_of(trainer))
        computed.append(seen.count(77))
    assert_same(*learnt)
    # four captions in six steps
    assert computed == [4 * 22, 6 * 22]


def test_a_layer_without_an_adapter_and_one_that_is_looked_at_are_computed_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts, adapters, narrow = made(adapter=AdapterSettings(exclude="attn2_to_k"))
    looked: list[torch.Tensor] = []
    layer = next(m.layer for m in adapters.modules if m.name.endswith("attn1_to_v"))
    layer.register_forward_hook(lambda _, __, out: looked.append(out))
    asked = counted(monkeypatch)
    expected = outcome(parts.unet, narrow, DirectAttention())
    for ours, theirs in zip(outcome(parts.unet, narrow, LoraAttention(KeptTexts())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-5 * float(theirs.abs().max()))
    assert asked == [False, False] + [True, False] * 10
    assert len(looked) == 2


def test_without_gradients_or_adapters_the_base_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, adapters, narrow = made()
    attn = next(module for name, module in parts.unet.named_modules() if name.endswith("attn1"))
    hidden = torch.randn(1, 9, attn.query_dim)
    asked = counted(monkeypatch)
    attn.set_processor(LoraAttention(KeptTexts()))
    narrow.renew()
    with narrow.in_use():
        with torch.no_grad():
            shown = attn(hidden)
        assert asked == []
        torch.testing.assert_close(attn(hidden), shown, rtol=1e-4, atol=1e-5)
        with adapters.disabled():
            base = attn(hidden)
    assert asked == [True, False]
    attn.set_processor(DirectAttention())
    with adapters.disabled():
        assert torch.equal(attn(hidden), base)
    assert not torch.allclose(base, shown)


def test_many_scores_go_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _, narrow = made()
    monkeypatch.setattr(attention, "MOST_SCORES", 100)
    asked = counted(monkeypatch)
    outcome(parts.unet, narrow, LoraAttention(KeptTexts()))
    # of 4 and 16 positions, seen from themselves and from 77 tokens, only 4² are fewer
    assert asked == [True] * 6


def test_matrices_that_follow_one_another_are_one() -> None:
    whole = torch.arange(24.0)
    first, second, third = whole[:8].view(2, 4), whole[8:20].view(3, 4), whole[20:].view(2, 2)
    together = stacked([first, second])
    assert together is not None
    assert torch.equal(together, torch.cat([first, second]))
    assert together.data_ptr() == whole.data_ptr()
    assert stacked([second, first]) is None
    assert stacked([second, third]) is None
    assert stacked([first, second.clone()]) is None
