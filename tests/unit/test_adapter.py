"""LoRA on SDXL: which layers, under which names, from which numbers, and what stays as it was."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import tiny_parts
import torch
from pack.trainer.adapters.adapters import Adapters, add_adapters
from pack.trainer.adapters.modules import AdapterModule
from pack.trainer.lora.file import lora_tensors
from pack.trainer.sdxl.parts import Parts
from pack.trainer.settings.training import thesis_settings


@pytest.fixture(scope="module")
def full_size() -> Adapters:
    """The thesis's adapters on SDXL of full size, as shapes."""
    return add_adapters(tiny_parts.full_size_parts(), thesis_settings())


def test_sdxl_has_722_adapted_layers_in_the_unet_and_264_in_the_text_encoders(full_size: Adapters) -> None:
    prefixes = [re.match("lora_(unet|te1|te2)_", module.name).group(1) for module in full_size.modules]
    assert {prefix: prefixes.count(prefix) for prefix in prefixes} == {"te1": 72, "te2": 192, "unet": 722}
    assert [module.group for module in full_size.modules] == ["text"] * 264 + ["unet"] * 722


def test_the_thesis_trains_as_many_numbers_as_kohya_wrote(full_size: Adapters) -> None:
    assert sum(module.down.numel() + module.up.numel() for module in full_size.modules) == 114_016_256


def test_the_thesiss_file_has_2958_tensors_of_228_megabytes(full_size: Adapters) -> None:
    def stored(module: AdapterModule) -> AdapterModule:
        # no memory behind them: every element is the same number
        down, up = (torch.zeros(()).expand(weight.shape) for weight in (module.down, module.up))
        held = {"lora_down.weight": down, "lora_up.weight": up}
        return SimpleNamespace(name=module.name, file_alpha=module.file_alpha, in_file=lambda: held)

    one_of_a_kind = {(m.down.shape, m.up.shape): stored(m) for m in full_size.modules}
    sizes = {
        shapes: sum(t.nbytes for t in lora_tensors(Adapters((module,), 32, 8.0), "fp16").values())
        for shapes, module in one_of_a_kind.items()
    }
    assert 3 * len(full_size.modules) == 2958
    assert sum(sizes[m.down.shape, m.up.shape] for m in full_size.modules) == 2 * (114_016_256 + 986) == 228_034_484


SITES = [
    *(f"input_blocks_{index}_1" for index in (4, 5, 7, 8)),
    "middle_block_1",
    *(f"output_blocks_{index}_1" for index in range(6)),
]
DEPTHS = {**dict.fromkeys(SITES, 10), **dict.fromkeys(["input_blocks_4_1", "input_blocks_5_1", *SITES[-3:]], 2)}
BLOCK = [f"attn{n}_to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]
LAYER = ["self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2"]


def test_names_are_kohyas(full_size: Adapters) -> None:
    expected = {f"lora_unet_{site}_{end}" for site in SITES for end in ("proj_in", "proj_out")}
    expected |= {
        f"lora_unet_{site}_transformer_blocks_{block}_{part}"
        for site, depth in DEPTHS.items()
        for block in range(depth)
        for part in BLOCK
    }
    for encoder, layers in (("te1", 12), ("te2", 32)):
        expected |= {f"lora_{encoder}_text_model_encoder_layers_{i}_{part}" for i in range(layers) for part in LAYER}
    assert {module.name for module in full_size.modules} == expected
    assert len(full_size.modules) == len(expected)


def test_each_name_stands_for_the_layer_it_names(full_size: Adapters) -> None:
    shapes = {module.name: (module.down.shape[1], module.up.shape[0]) for module in full_size.modules}
    assert shapes["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"] == (640, 640)
    assert shapes["lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"] == (2048, 640)
    assert shapes["lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj"] == (1280, 10240)
    assert shapes["lora_unet_output_blocks_2_1_transformer_blocks_0_ff_net_2"] == (5120, 1280)
    assert shapes["lora_te1_text_model_encoder_layers_0_mlp_fc1"] == (768, 3072)
    assert shapes["lora_te2_text_model_encoder_layers_31_mlp_fc2"] == (5120, 1280)


def test_the_unet_alone_can_be_trained() -> None:
    parts = tiny_parts.make_parts()
    adapters = add_adapters(parts, tiny_parts.make_settings(train="unet"))
    assert adapters.groups() == ["unet"]
    assert len(adapters.modules) == tiny_parts.U_NET_MODULES
    assert not any("lora" in name for name, _ in parts.te1.named_modules())


def build(dtype: torch.dtype = torch.float32, **changes: object) -> tuple[Parts, Adapters]:
    parts = tiny_parts.make_parts(dtype)
    return parts, add_adapters(parts, tiny_parts.make_settings(**changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapters_are_trained_in_fp32_on_a_base_of_any_precision(dtype: torch.dtype) -> None:
    parts, adapters = build(dtype)
    trained = adapters.parameters()
    assert len(trained) == 2 * (tiny_parts.U_NET_MODULES + tiny_parts.TEXT_MODULES)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in trained)
    frozen = {id(p) for module in parts.modules() for p in module.parameters()} - {id(p) for p in trained}
    assert not any(p.requires_grad for module in parts.modules() for p in module.parameters() if id(p) in frozen)


def test_down_is_kaiming_uniform_and_up_is_zero() -> None:
    _, adapters = build(rank=16)
    for module in adapters.modules:
        bound = module.down.shape[1] ** -0.5
        assert not module.up.any(), module.name
        assert module.down.abs().max() <= bound, module.name
        assert module.down.std().item() == pytest.approx(bound / 3**0.5, rel=0.2), module.name


def test_the_same_seed_gives_the_same_adapters_and_another_gives_others() -> None:
    first, second, other = (build(seed=seed)[1].tensors() for seed in (7, 7, 8))
    tiny_parts.assert_same(first, second)
    assert not any(torch.equal(first[name], other[name]) for name in first if "down" in name)


def test_drawing_adapters_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build(seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_output_is_the_bases_plus_alpha_over_rank_times_up_times_down() -> None:
    parts = tiny_parts.make_parts()
    base = dict(parts.unet.named_modules())["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    adapters = add_adapters(parts, tiny_parts.make_settings(rank=4, alpha=1.0))
    tiny_parts.randomize(adapters)
    (module,) = [m for m in adapters.modules if m.name == "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"]
    x = torch.randn(3, base.in_features, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module.layer(x), base(x) + 0.25 * x @ module.down.T @ module.up.T)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_plain_formula(bias: bool) -> None:
    parts, adapters = build()
    tiny_parts.randomize(adapters)
    # to_q has no bias, to_out has one
    end = "to_out_0" if bias else "to_q"
    (module,) = [m for m in adapters.modules if m.name == f"lora_unet_middle_block_1_transformer_blocks_0_attn1_{end}"]
    base = module.layer.get_base_layer()
    assert (base.bias is not None) == bias
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, base.in_features, generator=generator).requires_grad_()
    weighting = torch.randn(2, 3, base.out_features, generator=generator)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return base(x) + x @ module.down.T @ module.up.T

    given, expected = (
        torch.autograd.grad((function(x) * weighting).sum(), (x, module.down, module.up))
        for function in (module.layer, plain)
    )
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def predict(parts: Parts) -> torch.Tensor:
    from pack.trainer.sdxl.parts import encode_text

    example = tiny_parts.make_examples(1)[0]
    context, pooled = encode_text(parts, example.tokens[:, None])
    extra = {"text_embeds": pooled, "time_ids": example.time_ids[None]}
    noisy = example.latents.mean[None] * parts.latent_scale
    return parts.unet(noisy, torch.tensor([500]), encoder_hidden_states=context, added_cond_kwargs=extra).sample


def test_fresh_adapters_change_nothing() -> None:
    # the halves of a gate are products of their own, which round unlike the whole
    torch.testing.assert_close(predict(build()[0]), predict(tiny_parts.make_parts()), rtol=1e-5, atol=1e-5)


def test_disabled_adapters_give_the_bases_output_to_the_last_bit() -> None:
    parts, adapters = build()
    tiny_parts.randomize(adapters)
    base, tuned = predict(tiny_parts.make_parts()), predict(parts)
    with adapters.disabled():
        assert torch.equal(predict(parts), base)
    assert not torch.allclose(tuned, base)
    assert torch.equal(predict(parts), tuned)
    assert all(weight.requires_grad for weight in adapters.parameters())


def test_adapters_are_enabled_again_after_an_error() -> None:
    parts, adapters = build()
    tiny_parts.randomize(adapters)
    tuned = predict(parts)
    with pytest.raises(KeyError), adapters.disabled():
        raise KeyError
    assert torch.equal(predict(parts), tuned)


def test_the_bases_weights_stay_the_very_tensors_that_were_given() -> None:
    parts = tiny_parts.make_parts()
    before = {p.data_ptr(): p.detach().clone() for module in parts.modules() for p in module.parameters()}
    adapters = add_adapters(parts, tiny_parts.make_settings())
    ours = {weight.data_ptr() for weight in adapters.parameters()}
    after = {p.data_ptr(): p for module in parts.modules() for p in module.parameters() if p.data_ptr() not in ours}
    assert after.keys() == before.keys()
    assert all(torch.equal(after[address], before[address]) for address in before)


def test_the_tensors_by_kohyas_keys_are_the_weights_themselves() -> None:
    _, adapters = build()
    tensors = adapters.tensors()
    module = adapters.modules[0]
    assert tensors[f"{module.name}.lora_up.weight"].data_ptr() == module.up.data_ptr()
    assert len(tensors) == 2 * len(adapters.modules)
    assert not any(tensor.requires_grad for tensor in tensors.values())
