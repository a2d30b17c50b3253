"""Kohya's keys of network, optimizer and schedule mean what sd-scripts and the libraries behind it make of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pack.trainer.errors import SettingsError
from pack.trainer.kohya.configuration import KohyaRun, read_kohya
from pack.trainer.kohya.report import report
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.optim import make_optimizer

LYCORIS = 'network_module = "lycoris.kohya"\nnetwork_args = ["preset=attn-mlp", '


def run(*lines: str) -> KohyaRun:
    return read_kohya("\n".join(["resolution = 1024", *lines])).run(None, in_graph=True)


def optimizer(name: str, *arguments: str) -> TrainSettings:
    return run("learning_rate = 1", f'optimizer_type = "{name}"', f"optimizer_args = {list(arguments)}").settings


def group_of(settings: TrainSettings) -> dict[str, object]:
    """The first parameter group of the optimizer that the settings ask for."""
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    module = SimpleNamespace(group="unet", part="unet", weights=lambda: {"lora_up.weight": weight})
    return make_optimizer(SimpleNamespace(modules=[module]), settings).param_groups[0]


@pytest.mark.parametrize("algorithm", ["lora", "locon", "loha", "lokr"])
def test_the_preset_of_lycoris_that_is_trained_here_adapts_no_convolution(algorithm: str) -> None:
    result = run(LYCORIS + f'"algo={algorithm}", "conv_dim=1", "conv_alpha=1", "use_tucker=True"]')
    assert result.settings.adapter.conv_rank == 0
    for name in ("conv_dim", "conv_alpha", "use_tucker"):
        assert result.idle[f"network_args {name}"] == "LyCORIS' preset=attn-mlp adapts no convolution"


@pytest.mark.parametrize("module", ["networks.lora", "networks.loha", "networks.lokr"])
def test_sd_scripts_own_networks_adapt_convolutions(module: str) -> None:
    lines = [f'network_module = "{module}"', 'network_args = ["conv_dim=4", "conv_alpha=2"]']
    adapter = run(*lines).settings.adapter
    assert (adapter.conv_rank, adapter.conv_alpha) == (4, 2)


def test_conv_alpha_alone_is_idle_and_conv_dim_of_0_is_refused() -> None:
    assert run('network_args = ["conv_alpha=2"]').idle["network_args conv_alpha"] == "conv_dim is not given"
    with pytest.raises(SettingsError, match="conv_dim=0 adapts residual blocks without their 3×3 convolutions; remove"):
        run('network_args = ["conv_dim=0"]')


@pytest.mark.parametrize("module", ["networks.lora", "lycoris.kohya"])
def test_both_text_encoders_get_the_first_of_two_rates(module: str) -> None:
    network = LYCORIS + '"algo=lora"]' if module == "lycoris.kohya" else f'network_module = "{module}"'
    result = run(network, "text_encoder_lr = [1e-5, 2e-5]")
    assert result.settings.rates[1:] == (1e-5, 1e-5)
    told = result.idle["text_encoder_lr after its first value"]
    assert told == f"{module} gives both text encoders the first one"
    assert run(network, "text_encoder_lr = [0, 1e-4]").settings.train == "unet"


def test_loha_and_lokr_take_two_rates_of_the_text_encoders() -> None:
    result = run('network_module = "networks.lokr"', "text_encoder_lr = [1e-5, 2e-5, 3e-5]")
    assert result.settings.rates[1:] == (1e-5, 2e-5)
    assert result.idle["text_encoder_lr after its second value"] == "SDXL has two text encoders"
    assert (
        "text_encoder_lr after its second value"
        not in run(
            'network_module = "networks.lokr"', "text_encoder_lr = [1e-5, 2e-5, 3e-5]", "network_train_unet_only = true"
        ).idle
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("DAdaptSGD", {"momentum": 0.0}),
        ("DAdaptLion", {"betas": (0.9, 0.99), "weight_decouple": True}),
        ("DAdaptAdaGrad", {"eps": 1e-6}),
        ("DAdaptAdam", {"betas": (0.9, 0.999), "weight_decouple": False, "eps": 1e-8}),
        ("dadaptation.DAdaptSGD", {"momentum": 0.0}),
        ("SGDNesterov", {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_an_optimizer_has_the_defaults_of_the_class_that_sd_scripts_takes(name: str, values: dict[str, object]) -> None:
    group = group_of(optimizer(name))
    assert {key: group[key] for key in values} == values


def test_a_given_argument_stands_above_those_defaults() -> None:
    assert group_of(optimizer("DAdaptSGD", "momentum=0.5"))["momentum"] == 0.5
    assert group_of(optimizer("DAdaptLion", "betas=0.8,0.9"))["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("DAdaptation", "its preprint's estimate of the step is not that of DAdaptAdam; write DAdaptAdam"),
        ("DAdaptAdamPreprint", "its preprint's estimate"),
        ("dadaptation.experimental.DAdaptAdamPreprint", "its preprint's estimate"),
        ("DAdaptAdan", "divides by other moments of the gradients; write DAdaptAdam"),
        ("DAdaptAdanIP", "no library here has it; write DAdaptAdam"),
    ],
)
def test_an_optimizer_that_no_library_here_computes_alike_is_refused_with_another(name: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"optimizer_type = .* cannot be honoured: .*{says}"):
        optimizer(name)


def test_prodigy_is_refused_where_it_would_go_another_way() -> None:
    with pytest.raises(SettingsError, match="decouple=False: the decay would have to be added .* remove decouple"):
        optimizer("Prodigy", "decouple=False", "weight_decay=0.1")
    with pytest.raises(SettingsError, match="betas=0,0.99: without momentum .* give a first value above 0"):
        optimizer("Prodigy", "betas=0,0.99")
    assert optimizer("Prodigy", "decouple=False").optimizer_options.arguments == "weight_decouple=False"
    assert optimizer("Prodigy", "decouple=True", "weight_decay=0.1").weight_decay == 0.1


def test_an_alpha_of_0_is_the_rank() -> None:
    settings = run("network_dim = 16", "network_alpha = 0", 'network_args = ["conv_dim=8", "conv_alpha=0"]').settings
    assert (settings.alpha, settings.adapter.conv_alpha) == (16, 8)
    assert run(LYCORIS + '"algo=loha"]', "network_alpha = 0.0").settings.scale == 1


UNET, TEXT = '"loraplus_unet_lr_ratio=16"', '"loraplus_text_encoder_lr_ratio=4"'


@pytest.mark.parametrize(
    "frozen", ["text_encoder_lr = 0", "text_encoder_lr = [0, 1e-4]", "network_train_unet_only = 1"]
)
def test_lora_plus_counts_for_the_parts_that_are_trained(frozen: str) -> None:
    result = run(frozen, f"network_args = [{UNET}, {TEXT}]")
    assert result.settings.optimizer_options.lora_plus_ratio == 16
    assert result.idle["network_args loraplus_text_encoder_lr_ratio"] == "this part is not trained"


def test_lora_plus_of_the_text_encoders_counts_where_the_unet_has_a_rate_of_0() -> None:
    result = run("unet_lr = 0", "text_encoder_lr = 1e-4", f"network_args = [{UNET}, {TEXT}]")
    assert result.settings.optimizer_options.lora_plus_ratio == 4
    assert "network_args loraplus_unet_lr_ratio" in result.idle


def test_a_parts_own_ratio_of_0_is_none() -> None:
    arguments = '["loraplus_lr_ratio=16", "loraplus_unet_lr_ratio=0"]'
    assert run(f"network_args = {arguments}").settings.optimizer_options.lora_plus_ratio == 16


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (f"network_args = [{UNET}]", "one ratio for all parts"),
        ('network_args = ["loraplus_lr_ratio=0"]', "never trains the up matrices; remove it"),
        ('network_module = "networks.loha"\nnetwork_args = ["loraplus_lr_ratio=4"]', "remove loraplus_lr_ratio, or"),
    ],
)
def test_lora_plus_that_cannot_be_done_is_refused(lines: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"network_args = .* cannot be honoured: .*{says}"):
        run(lines)


def test_lora_plus_finds_no_up_matrices_in_lycoris_loha() -> None:
    result = run(LYCORIS + '"algo=loha", "loraplus_lr_ratio=4"]')
    assert result.idle["network_args loraplus_lr_ratio"] == "LyCORIS' loha has no up matrices"


def test_text_values_of_an_optimizers_arguments_keep_their_quotation_marks() -> None:
    settings = optimizer("torch.optim.Adafactor", "eps=(None, 0.001)", "foreach=False")
    assert settings.optimizer_options.arguments == "eps=(None, 0.001), foreach=False"
    assert optimizer("Adafactor", "relative_step=True", "a='b'").optimizer_options.arguments == "a='b'"
    assert optimizer("AdamW", "a='b,c'").optimizer_options.arguments == "a='b,c'"


@pytest.mark.parametrize(
    ("value", "relative"), [("0", False), ("False", False), ("None", False), ("1", True), ("True", True)]
)
def test_relative_step_is_what_python_takes_for_true(value: str, relative: bool) -> None:
    assert optimizer("Adafactor", f"relative_step={value}").adafactor_relative_step is relative


@pytest.mark.parametrize(
    ("full", "ours"),
    [
        ("prodigyopt.Prodigy", "prodigy"),
        ("lion_pytorch.Lion", "lion"),
        ("schedulefree.AdamWScheduleFree", "schedulefree"),
        ("schedulefree.RAdamScheduleFree", "pytorch_optimizer.ScheduleFreeRAdam"),
        ("came_pytorch.CAME", "came"),
        ("transformers.optimization.Adafactor", "adafactor"),
        ("dadaptation.DAdaptAdam", "pytorch_optimizer.DAdaptAdam"),
        ("SGDNesterov8bit", "bitsandbytes.optim.SGD8bit"),
    ],
)
def test_a_class_that_sd_scripts_takes_may_be_named_in_full(full: str, ours: str) -> None:
    assert optimizer(full).optimizer == ours


def test_a_full_name_is_read_like_the_short_one() -> None:
    result = run('optimizer_type = "schedulefree.AdamWScheduleFree"', "lr_warmup_steps = 10")
    assert result.settings.warmup_steps == 0 and "lr_warmup_steps" in result.idle
    settings = optimizer("prodigyopt.Prodigy", "decouple=True", "use_bias_correction=True")
    assert settings.optimizer_options.arguments == "weight_decouple=True, bias_correction=True"
    with pytest.raises(SettingsError, match=r"optimizer is 'transformers.optimization.AdamW'"):
        optimizer("transformers.optimization.AdamW")


def test_the_pair_of_came_has_two_names_here() -> None:
    assert optimizer("CAME", "eps=1e-20,1e-10").optimizer_options.arguments == "eps1=1e-20, eps2=1e-10"


def test_two_keys_that_name_an_optimizer_are_one_too_many() -> None:
    says = "use_8bit_adam = True cannot be honoured: optimizer_type names an optimizer as well; remove one of them"
    with pytest.raises(SettingsError, match=says):
        run('optimizer_type = "Lion"', "use_8bit_adam = true")


@pytest.mark.parametrize("module", ["networks.lora", "networks.loha"])
def test_sd_scripts_own_networks_know_no_argument_of_lycoris(module: str) -> None:
    arguments = '["dora_wd=True", "algo=lokr", "factor=4", "dropout=0.1", "train_norm=True"]'
    result = run(f'network_module = "{module}"', f"network_args = {arguments}")
    assert not result.settings.adapter.dora
    for name in ("dora_wd", "algo", "factor", "dropout", "train_norm"):
        assert result.idle[f"network_args {name}"] == f"{module} does not read it"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('"dora_wd=True", "wd_on_output=False"]', "the magnitudes are those of outputs here; remove it"),
        ('"algo=loha", "dora_wd=True"]', "dora_wd=True is not done for loha here; remove it, or take algo=lora"),
        ('"rank_dropout=0.1"]', "does not scale the rest up, .* remove it, or take sd-scripts' own networks"),
    ],
)
def test_what_lycoris_does_otherwise_is_refused(arguments: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        run(LYCORIS + arguments)


def test_dora_of_lycoris_is_that_of_outputs() -> None:
    assert run(LYCORIS + '"dora_wd=True", "wd_on_output=True"]').settings.adapter.dora
    assert run(LYCORIS + '"wd_on_output=False"]').idle["network_args wd_on_output"] == "dora_wd is off"


def test_a_drop_out_that_no_module_computes_is_idle() -> None:
    assert "bypass_mode" in run(LYCORIS + '"algo=lora"]', "network_dropout = 0.1").idle["network_dropout"]
    result = run('network_module = "networks.loha"', "network_dropout = 0.1")
    assert result.idle["network_dropout"] == "networks.loha does not use it"
    assert not result.settings.adapter.drops


def test_a_constant_rate_with_a_warm_up_is_said_to_be_so() -> None:
    result = run('lr_scheduler = "constant"', "lr_warmup_steps = 100")
    assert (result.settings.schedule, result.settings.warmup_steps) == ("constant_with_warmup", 100)
    assert "at their highest, on the schedule constant_with_warmup" in report(result, None)
    assert run('lr_scheduler = "constant"', "lr_warmup_steps = 0").settings.schedule == "constant"


def test_rules_of_steps_belong_to_one_schedule() -> None:
    with pytest.raises(SettingsError, match="the schedule cosine has no step_rules; remove them"):
        run('lr_scheduler = "cosine"', "lr_scheduler_args = [\"step_rules='1:10,0.1'\"]")
    lines = ['lr_scheduler = "piecewise_constant"', "lr_scheduler_args = [\"step_rules='1:10,0.1'\"]"]
    assert run(*lines).settings.optimizer_options.step_rules == "1:10,0.1"


def test_what_the_gui_always_writes_for_lycoris_is_off_or_idle() -> None:
    written = """algo=lora conv_dim=1 conv_alpha=1 use_tucker=False use_scalar=False rank_dropout_scale=True factor=-1
        constraint=0.0 rescaled=False block_size=1 decompose_both=False train_norm=False dora_wd=False bypass_mode=False
        module_dropout=0.0 rank_dropout=0 unbalanced_factorization=False full_matrix=False"""
    result = run(LYCORIS.removesuffix('["preset=attn-mlp", ') + f"{['preset=attn-mlp', *written.split()]}")
    assert result.settings.adapter.kind == "lora"
    assert result.settings.adapter.conv_rank == 0
