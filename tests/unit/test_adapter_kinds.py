"""Kinds of adapters, what they leave out, which layers they are on, and the running mean of their weights."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.adapters import modules as adapter_modules
from pack.trainer.adapters.adapters import add_adapters, chosen_layers
from pack.trainer.adapters.modules import LoraModule, principal_factors
from pack.trainer.errors import LoraFileError, SettingsError
from pack.trainer.lora.file import lora_tensors, read_lora
from pack.trainer.runs import session
from pack.trainer.runs.run import train
from pack.trainer.settings.blocks import block_of
from pack.trainer.settings.options import AdapterSettings, EmaSettings
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.data import collate
from pack.trainer.training.loop import Trainer
from pack.trainer.training.noise import step_generator
from peft import LoraConfig, inject_adapter_in_model
from tiny_parts import CPU, Stop, make_examples, make_job, make_settings
from torch import nn


def build(**options: object) -> Trainer:
    """A trainer of its own networks: what is put on a layer cannot be taken off again."""
    settings = make_settings(steps=3, train="unet", adapter=AdapterSettings(**options))
    parts = tiny_parts.make_parts()
    return Trainer(parts, add_adapters(parts, settings), make_examples(), settings, CPU)


def names_of(**options: object) -> list[str]:
    parts = tiny_parts.full_size_parts()
    return list(chosen_layers(parts.unet, "lora_unet_", "unet", AdapterSettings(**options)).values())


def test_with_a_convolution_rank_kohyas_layers_of_the_residual_blocks_join() -> None:
    plain, more = names_of(), names_of(conv_rank=4)
    # 17 residual blocks with two convolutions and a time embedding each, 11 shortcuts, two samplers each way
    assert (len(plain), len(more)) == (722, 722 + 17 * 3 + 11 + 4)
    added = set(more) - set(plain)
    assert {"lora_unet_input_blocks_1_0_in_layers_2", "lora_unet_input_blocks_3_0_op",
            "lora_unet_output_blocks_2_2_conv", "lora_unet_output_blocks_0_0_skip_connection",
            "lora_unet_middle_block_2_emb_layers_1"} <= added  # fmt: skip


def test_convolutions_have_their_own_rank_and_alpha_and_the_rest_has_the_common_one() -> None:
    modules = {m.name: m for m in build(conv_rank=2, conv_alpha=1.0).adapters.modules}
    wide = modules["lora_unet_input_blocks_1_0_in_layers_2"]
    assert (wide.down.shape[0], wide.file_alpha, wide.scale) == (2, 1.0, 0.5)
    for name in ("lora_unet_input_blocks_1_0_emb_layers_1", "lora_unet_output_blocks_0_0_skip_connection"):
        assert (modules[name].down.shape[0], modules[name].file_alpha) == (4, 4.0)


def test_blocks_and_patterns_choose_layers_by_kohyas_names() -> None:
    everything = names_of()
    skipped = names_of(skip_blocks=("MID", "OUT03"))
    assert {block_of(name) for name in set(everything) - set(skipped)} == {"MID", "OUT03"}
    assert names_of(include="attn[12]_to_[kv]$") == [n for n in everything if re.search("attn[12]_to_[kv]$", n)]
    assert names_of(exclude="ff_net") == [n for n in everything if "ff_net" not in n]
    with pytest.raises(SettingsError, match="leave no layer to train"):
        build(include="nothing of the kind")


@pytest.mark.parametrize(
    ("options", "scale", "in_file"),
    [({}, 2.0, 8.0), ({"rank_stabilized": True}, 4.0, 16.0)],
)
def test_rank_stabilized_loras_are_scaled_by_the_root_of_the_rank(options: dict, scale: float, in_file: float) -> None:
    settings = TrainSettings(rank=4, alpha=8.0, train="unet", adapter=AdapterSettings(**options))
    module = add_adapters(tiny_parts.make_parts(), settings).modules[0]
    assert module.scale == settings.scale == scale
    # alpha / rank is what every reader of the file computes
    assert module.file_alpha == in_file


def test_pissas_random_directions_are_the_seeds_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any device: only the CPU's generator is asked, which add_adapters has seeded."""
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(3))
    draws = []
    plain = torch.randn

    def randn(*size: int, **options: object) -> torch.Tensor:
        draws.append(options.get("device", "cpu"))
        return plain(*size, **options)

    monkeypatch.setattr(torch, "randn", randn)
    down, up = principal_factors(matrix, 4, 2.0)
    assert draws == ["cpu"]
    left, values, right = torch.linalg.svd(matrix)
    best = (left[:, :4] * values[:4]) @ right[:4]
    torch.testing.assert_close(2.0 * up @ down, best, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_pissa_follows_the_seed_and_the_hosts_generator_stands_still() -> None:
    settings = make_settings(train="unet", adapter=AdapterSettings(initial="pissa"))
    made = []
    for seed in (1, 2):
        torch.cuda.manual_seed(seed)
        before = torch.cuda.get_rng_state()
        parts = tiny_parts.make_parts()
        for module in parts.modules():
            module.to("cuda")
        made.append(add_adapters(parts, settings).tensors())
        assert torch.equal(torch.cuda.get_rng_state(), before)
    tiny_parts.assert_same(*made)


def test_pissa_starts_where_pefts_does_and_leaves_the_base_alone() -> None:
    weight = torch.randn(24, 16, generator=step_generator(1))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 24, bias=False)
            self.layer.weight = nn.Parameter(weight.clone())

    net = Net()
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=["layer"], init_lora_weights="pissa"), net)
    down, up = principal_factors(weight, 4, 2.0)
    theirs = net.layer.lora_B["default"].weight @ net.layer.lora_A["default"].weight
    torch.testing.assert_close(up @ down, theirs, atol=1e-4, rtol=1e-3)
    # what peft takes out of the base is what stays away from the output here
    torch.testing.assert_close(net.layer.base_layer.weight, weight - 2 * up @ down, atol=1e-4, rtol=1e-3)
    trainer = build(initial="pissa")
    before = tiny_parts.make_parts().unet.state_dict()
    module = trainer.adapters.modules[0]
    assert module.up.abs().max() > 0
    own = {n.replace("base_layer.", ""): t for n, t in trainer.parts.unet.state_dict().items() if "lora_" not in n}
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.items())
    written = lora_tensors(trainer.adapters, "fp32")
    assert written[f"{module.name}.lora_down.weight"].shape[0] == 8


PISSA = make_settings(steps=3, adapter=AdapterSettings(initial="pissa"))


def test_pissa_tells_of_every_layer_and_may_be_cancelled_there(tmp_path: Path) -> None:
    log = tiny_parts.Log()
    train(make_job(tmp_path / "whole", replace(PISSA, steps=1), log))
    counts = [log.stages.count(f"initial weights of {part}") for part in ("CLIP-L", "bigG", "the U-Net")]
    assert counts == [tiny_parts.TEXT_MODULES // 2] * 2 + [tiny_parts.U_NET_MODULES]
    cancelled = tiny_parts.Log(stop_at_stage="initial weights of the U-Net")
    with pytest.raises(Stop):
        train(make_job(tmp_path / "cancelled", PISSA, cancelled))
    assert (cancelled.stages.count("initial weights of the U-Net"), cancelled.steps) == (1, [])


def test_pissa_decomposes_nothing_whose_values_a_saved_state_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train(make_job(tmp_path / "straight", PISSA))
    with pytest.raises(Stop):
        train(make_job(tmp_path / "stopped", PISSA, tiny_parts.Log(stop_after=2)))
    monkeypatch.setattr(adapter_modules, "principal_factors", lambda *_: pytest.fail("It was decomposed."))
    resumed = train(make_job(tmp_path / "stopped", PISSA))
    tiny_parts.assert_same(read_lora(resumed.path), read_lora(straight.path))


def test_a_state_that_goes_while_the_networks_are_made_starts_no_run_without_initial_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        train(make_job(tmp_path, PISSA, tiny_parts.Log(stop_after=2)))
    monkeypatch.setattr(session, "choose_profile", lambda *_: state_of(tmp_path).unlink())
    with pytest.raises(LoraFileError, match=r"state\.safetensors' is gone; queue again to begin anew"):
        train(make_job(tmp_path, PISSA))


def state_of(root: Path) -> Path:
    (path,) = (root / "work" / "runs").glob("*/state.safetensors")
    return path


def test_pissa_needs_a_rank_that_every_layer_has() -> None:
    settings = make_settings(rank=40, train="unet", adapter=AdapterSettings(initial="pissa"))
    with pytest.raises(SettingsError, match="pissa need a rank of at most 32 for lora_unet_.*, not 40"):
        add_adapters(tiny_parts.make_parts(), settings)


def module_with(**options: object) -> LoraModule:
    trainer = build(**options)
    tiny_parts.randomize(trainer.adapters)
    trainer.adapters.train(True)
    return next(m for m in trainer.adapters.modules if m.name.endswith("attn1_to_q"))


def added(module: LoraModule, rows: torch.Tensor) -> torch.Tensor:
    """What the adapter adds to its layer's output."""
    return (module.layer(rows) - module.layer.get_base_layer()(rows)).detach()


def test_drop_out_leaves_out_inner_values_ranks_or_the_module_as_kohya_does() -> None:
    rows = torch.randn(3, 5, 32, generator=step_generator(2))
    inner = module_with(dropout=0.5)
    products = rows @ inner.down.T
    with tiny_parts.seeded(3):
        found = added(inner, rows)
    with tiny_parts.seeded(3):
        expected = nn.functional.dropout(products, 0.5) @ inner.up.T
    torch.testing.assert_close(found, expected.detach())

    ranks = module_with(rank_dropout=0.5)
    with tiny_parts.seeded(4):
        found = added(ranks, rows)
    with tiny_parts.seeded(4):
        kept = (torch.rand(3, 4) > 0.5).float()
    expected = (rows @ ranks.down.T * kept[:, None] * 2) @ ranks.up.T
    torch.testing.assert_close(found, expected.detach())

    whole = module_with(module_dropout=0.5)
    seen = {bool(added(whole, rows).any()) for _ in range(40)}
    assert seen == {True, False}
    whole.layer.train(False)
    assert all(added(whole, rows).any() for _ in range(20))


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"rank_dropout": 0.5}, {"module_dropout": 0.5},
                                     {"kind": "loha", "module_dropout": 0.5}, {"kind": "lokr", "rank_dropout": 0.5}],
                         ids=str)  # fmt: skip
def test_drop_out_follows_from_the_step_and_is_off_where_a_run_is_measured(options: dict[str, object]) -> None:
    trainer = build(**options)
    with torch.no_grad():
        for number, weight in enumerate(trainer.adapters.parameters()):
            weight.add_(torch.randn(weight.shape, generator=step_generator(number)) * 0.2)
    batch = collate(trainer.examples[:1], [trainer.examples[0].latents.mean])
    steps = torch.tensor([500])

    def loss(*place: int) -> float:
        with torch.no_grad(), trainer._dropping(*place):
            return trainer.loss(batch, step_generator(0), steps).item()

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(step, 0) for step in range(8)}) > 1
    measured = {trainer.loss_per_image(batch, step_generator(0), steps).item() for _ in range(3)}
    assert len(measured) == 1


KINDS = {
    "dora": {"dora": True},
    "pissa": {"initial": "pissa"},
    "loha": {"kind": "loha", "conv_rank": 2},
    "lokr": {"kind": "lokr", "lokr_factor": 4},
    "drop-out": {"dropout": 0.3, "rank_dropout": 0.3, "module_dropout": 0.1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_any_kind_goes_on_as_if_it_had_never_stopped(kind: str, tmp_path: Path) -> None:
    settings = make_settings(steps=3, train="unet", adapter=AdapterSettings(**KINDS[kind]), ema=EmaSettings(0.5))
    straight = train(make_job(tmp_path / "straight", settings))
    with pytest.raises(Stop):
        train(make_job(tmp_path / "stopped", settings, tiny_parts.Log(stop_after=2)))
    resumed = train(make_job(tmp_path / "stopped", settings))
    tiny_parts.assert_same(read_lora(resumed.path), read_lora(straight.path))
    plain = train(make_job(tmp_path / "plain", replace(settings, adapter=AdapterSettings())))
    assert plain.losses != straight.losses


def test_the_running_mean_is_the_formula_and_is_what_a_run_is_judged_by() -> None:
    settings = make_settings(steps=3, train="unet", ema=EmaSettings(0.15))
    trainer = tiny_parts.make_trainer(settings)
    mean = [weight.detach().clone() for weight in trainer.adapters.parameters()]
    # at first (1 + t) / (10 + t)
    for decay in (1 / 10, 0.15, 0.15):
        trainer.step()
        weights = trainer.adapters.parameters()
        mean = [decay * m + (1 - decay) * w.detach() for m, w in zip(mean, weights, strict=True)]
    last = tiny_parts.weights_of(trainer)
    with trainer.evaluating():
        for found, wanted in zip(trainer.adapters.parameters(), mean, strict=True):
            torch.testing.assert_close(found.detach(), wanted)
    tiny_parts.assert_same(tiny_parts.weights_of(trainer), last)


def test_the_running_mean_is_saved_instead_of_the_weights_or_beside_them(tmp_path: Path) -> None:
    files = {}
    for name, ema in (("off", EmaSettings()), ("instead", EmaSettings(0.5)), ("beside", EmaSettings(0.5, "beside"))):
        train(make_job(tmp_path / name, make_settings(steps=2, train="unet", ema=ema)))
        files[name] = {path.name: read_lora(path) for path in (tmp_path / name / "loras").iterdir()}
    assert set(files["off"]) == set(files["instead"]) == {"mjesec.safetensors"}
    assert set(files["beside"]) == {"mjesec.safetensors", "mjesec-ema.safetensors"}
    tiny_parts.assert_same(files["beside"]["mjesec.safetensors"], files["off"]["mjesec.safetensors"])
    tiny_parts.assert_same(files["beside"]["mjesec-ema.safetensors"], files["instead"]["mjesec.safetensors"])
    name = "lora_unet_middle_block_1_proj_in.lora_up.weight"
    assert not torch.equal(files["off"]["mjesec.safetensors"][name], files["instead"]["mjesec.safetensors"][name])


def rounded_to(weight: torch.Tensor, storage: str) -> torch.Tensor:
    """What is left of a weight in a storage."""
    if storage == "fp8":
        return weight.to(torch.float8_e4m3fn).float()
    if storage == "int8":
        rows = weight.flatten(1)
        step = rows.abs().amax(dim=1, keepdim=True) / 127
        return ((rows / step).round() * step).view_as(weight)
    functional = pytest.importorskip("bitsandbytes").functional
    packed, state = functional.quantize_4bit(weight.flatten(1).contiguous(), blocksize=64, quant_type="nf4")
    return functional.dequantize_4bit(packed, state).view_as(weight)


# the first and last layers and the embeddings, on which the whole network hangs
LEFT_WIDE = ("conv_in", "conv_out", "time_embedding", "add_embedding")
STORED = [
    ("fp8", {}, "fp32"), ("fp8", {}, "bf16"), ("fp8", {"dora": True}, "fp32"),
    ("fp8", {"kind": "loha", "conv_rank": 2}, "bf16"), ("int8", {}, "fp32"), ("int8", {}, "bf16"),
    ("int8", {"initial": "pissa", "conv_rank": 2}, "fp32"), ("int8", {"kind": "lokr"}, "fp32"), ("nf4", {}, "fp32"),
]  # fmt: skip


@pytest.mark.parametrize(("storage", "options", "precision"), STORED, ids=str)
def test_a_packed_base_is_trained_on_as_if_it_were_rounded(
    storage: str, options: dict[str, object], precision: str
) -> None:
    if storage == "nf4":
        pytest.importorskip("bitsandbytes")
    settings = make_settings(
        train="unet", precision=precision, base_storage=storage, adapter=AdapterSettings(**options)
    )
    rounded, given = tiny_parts.make_parts(), tiny_parts.make_parts()
    before = {name: weight.clone() for name, weight in given.unet.state_dict().items()}
    held = dict(given.unet.named_parameters())
    layers = {n: m for n, m in rounded.unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    adapters = add_adapters(given, settings)
    plain = add_adapters(rounded, replace(settings, base_storage="as given"))
    with torch.no_grad():
        for name, layer in layers.items():
            if not name.startswith(LEFT_WIDE):
                layer.weight.copy_(rounded_to(layer.weight, storage))
    assert all(torch.equal(weight, before[name]) for name, weight in held.items())
    losses, graded = [], []
    for parts, own in ((given, adapters), (rounded, plain)):
        trainer = Trainer(parts, own, make_examples(1, spread=0.0), settings, CPU)
        losses.append([trainer.step()[0] for _ in range(2)])
        graded.append(tiny_parts.weights_of(trainer))
        with own.disabled(), torch.no_grad():
            batch = collate(trainer.examples[:1], [trainer.examples[0].latents.mean])
            losses[-1].append(trainer.loss_per_image(batch, step_generator(0), torch.tensor([500])).item())
    # bf16 rounds in another order where layers are not fused
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if precision == "fp32" else 0.02)
    # the file is a plain adapter's
    assert graded[0].keys() == graded[1].keys()


@pytest.mark.parametrize(("storage", "most"), [("fp8", 1.0), ("int8", 1.05), ("nf4", 0.6)])
def test_a_packed_base_takes_a_byte_a_weight_or_half_of_one(storage: str, most: float) -> None:
    if storage == "nf4":
        pytest.importorskip("bitsandbytes")
    parts = tiny_parts.make_parts()
    count = sum(m.weight.numel() for n, m in parts.unet.named_modules()
                if isinstance(m, nn.Linear | nn.Conv2d) and not n.startswith(LEFT_WIDE))  # fmt: skip
    own = {id(weight): weight for weight in parts.unet.parameters()}
    add_adapters(parts, make_settings(train="unet", base_storage=storage))
    wide = [n for n, w in parts.unet.named_parameters() if id(w) in own and w.ndim > 1]
    assert all(name.startswith(LEFT_WIDE) for name in wide), wide
    packed = [b for n, b in parts.unet.named_buffers() if n.endswith((".packed", ".scale"))]
    packed += [w for w in parts.unet.parameters() if w.dtype == torch.float8_e4m3fn]
    # the rest of a small network's scales weighs more than a large one's
    assert sum(tensor.nbytes for tensor in packed) <= most * count * 1.1


def test_without_bitsandbytes_nf4_names_it_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    job = make_job(tmp_path, make_settings(base_storage="nf4"))
    job.encode = pytest.fail
    with pytest.raises(SettingsError, match="base_storage nf4 needs bitsandbytes, .* or choose int8"):
        train(job)


@pytest.mark.parametrize("change", [1e-4, 1e-3, 5e-3])
def test_pissas_file_keeps_a_change_that_is_small_beside_where_it_started(change: float) -> None:
    """Rounded to half precision as files are; A₀ and B₀ are a hundred times as large as what training moves."""
    module = module_with(initial="pissa")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight, start in zip((module.down, module.up), module.initial, strict=True):
            start.copy_(torch.randn(start.shape, generator=generator) * 0.3)
            weight.copy_(start + torch.randn(start.shape, generator=generator) * change)
    down, up = module.initial
    wanted = module.up.double() @ module.down.double() - up.double() @ down.double()
    held = {name: tensor.half().double() for name, tensor in module.in_file().items()}
    got = held["lora_up.weight"] @ held["lora_down.weight"]
    assert (got - wanted).norm() <= 2e-3 * wanted.norm()
