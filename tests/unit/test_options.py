"""The groups of options: what each refuses, and in which words."""

from __future__ import annotations

import math

import pytest
from pack.trainer.errors import SettingsError
from pack.trainer.settings.arguments import parse_arguments
from pack.trainer.settings.blocks import BLOCKS, block_of
from pack.trainer.settings.options import (
    AdapterSettings,
    CaptionSettings,
    EmaSettings,
    ImageSettings,
    LossSettings,
    OptimizerSettings,
)

BAD = [
    (AdapterSettings, {"kind": "ia3"}, "kind is 'ia3'; choose one of lora, loha, lokr."),
    (AdapterSettings, {"initial": "zero"}, "initial is 'zero'"),
    (AdapterSettings, {"conv_rank": -1}, "conv_rank is -1"),
    (AdapterSettings, {"conv_alpha": 0}, "conv_alpha is 0"),
    (AdapterSettings, {"dropout": 1.0}, "dropout is 1.0"),
    (AdapterSettings, {"rank_dropout": -0.1}, "rank_dropout is -0.1"),
    (AdapterSettings, {"module_dropout": math.nan}, "module_dropout is nan"),
    (AdapterSettings, {"lokr_factor": 0}, "lokr_factor is 0"),
    (AdapterSettings, {"skip_blocks": ("IN09",)}, "skip_blocks is 'IN09'"),
    (AdapterSettings, {"include": "("}, "include '(' is not a regular expression"),
    (AdapterSettings, {"exclude": "*"}, "exclude '*' is not a regular expression"),
    (AdapterSettings, {"kind": "loha", "dora": True}, "dora belongs to the kind lora and cannot be used with loha."),
    (AdapterSettings, {"kind": "lokr", "initial": "pissa"}, "initial belongs to the kind lora"),
    (AdapterSettings, {"dora": True, "initial": "pissa"}, "dora and the initial weights pissa cannot be combined"),
    (AdapterSettings, {"dora": True, "dropout": 0.1}, "dora cannot be combined with drop-out"),
    (OptimizerSettings, {"arguments": "0.9"}, "are not all name=value"),
    (OptimizerSettings, {"te1_lr": -1.0}, "te1_lr is -1.0"),
    (OptimizerSettings, {"te2_lr": math.inf}, "te2_lr is inf"),
    (OptimizerSettings, {"lora_plus_ratio": 0.0}, "lora_plus_ratio is 0"),
    (OptimizerSettings, {"cycles": 0}, "cycles is 0"),
    (OptimizerSettings, {"power": -1}, "power is -1"),
    (OptimizerSettings, {"step_rules": "0.1:x"}, "step_rules '0.1:x' cannot be read"),
    (LossSettings, {"kind": "l1"}, "kind is 'l1'"),
    (LossSettings, {"huber_schedule": "linear"}, "huber_schedule is 'linear'"),
    (LossSettings, {"huber_c": 0.0}, "huber_c is 0"),
    (LossSettings, {"min_snr_gamma": -5}, "min_snr_gamma is -5"),
    (LossSettings, {"noise_offset": math.nan}, "noise_offset is nan"),
    (LossSettings, {"pyramid_iterations": 33}, "pyramid_iterations is 33"),
    (LossSettings, {"pyramid_discount": 1.5}, "pyramid_discount is 1.5"),
    (LossSettings, {"min_timestep": 500, "max_timestep": 500}, "min_timestep is 500, not below max_timestep 500"),
    (LossSettings, {"max_timestep": 1001}, "max_timestep is 1001"),
    (LossSettings, {"mask": "white"}, "mask is 'white'"),
    (LossSettings, {"prior_weight": -1}, "prior_weight is -1"),
    (CaptionSettings, {"keep_tokens": -1}, "keep_tokens is -1"),
    (CaptionSettings, {"dropout": 1.1}, "dropout is 1.1"),
    (CaptionSettings, {"tag_dropout": -1}, "tag_dropout is -1"),
    (CaptionSettings, {"dropout_every_epochs": -1}, "dropout_every_epochs is -1"),
    (CaptionSettings, {"separator": " "}, "separator is empty"),
    (CaptionSettings, {"tokens": 77}, "tokens is 77"),
    (CaptionSettings, {"long_captions": "cut"}, "long_captions is 'cut'"),
    (ImageSettings, {"alpha_background": (0, 0)}, "alpha_background is (0, 0)"),
    (ImageSettings, {"alpha_background": (0, 0, 256)}, "alpha_background is 256"),
    (ImageSettings, {"more_resolutions": (32,)}, "more_resolutions is 32"),
    (EmaSettings, {"decay": 1.0}, "decay is 1.0"),
    (EmaSettings, {"file": "never"}, "file is 'never'"),
]


@pytest.mark.parametrize(("group", "changes", "said"), BAD, ids=[f"{g.__name__} {c}" for g, c, _ in BAD])
def test_a_value_that_cannot_work_is_refused_by_name(group: type, changes: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        group(**changes)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


def test_arguments_are_literals_by_name() -> None:
    text = "betas=(0.9, 0.99), eps=1e-8, amsgrad=True, foreach=None, name='a', ks=[1, -2]"
    assert parse_arguments(text) == {
        "betas": (0.9, 0.99), "eps": 1e-8, "amsgrad": True, "foreach": None, "name": "a", "ks": [1, -2],
    }  # fmt: skip
    assert parse_arguments("  ") == {}


@pytest.mark.parametrize(
    "text", ["a=print(1)", "a=__import__('os')", "a=b", "a=1)(b=2", ") + f(", "**{'a': 1}", "a=", "a=1 b=2", "a=1+1j*x"]
)
def test_arguments_that_would_compute_something_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_arguments(text)


def test_modules_lie_in_the_blocks_that_lora_tools_name() -> None:
    assert block_of("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q") == "IN04"
    assert block_of("lora_unet_middle_block_1_proj_in") == "MID"
    assert block_of("lora_unet_output_blocks_0_1_proj_in") == "OUT00"
    assert block_of("lora_te1_text_model_encoder_layers_0_mlp_fc1") is None
    assert len(BLOCKS) == 19
