"""Kohya's configurations: every form, every key, and what the report says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pack.trainer.dataset.samples import Dataset, Sample
from pack.trainer.errors import SettingsError
from pack.trainer.kohya.configuration import KohyaRun, read_kohya
from pack.trainer.kohya.report import report
from pack.trainer.settings.training import TrainSettings, thesis_settings
from pack.trainer.training.optim import make_optimizer
from PIL import Image

DATA = Path(__file__).parent / "data"
THESIS = (DATA / "thesis_config.toml").read_text("utf-8")
KEYS = (DATA / "sd_scripts_keys.txt").read_text("utf-8").split()
LEAST = "resolution = 1024\n"


def run(text: str, dataset: Dataset | None = None, **overrides: object) -> KohyaRun:
    return read_kohya(text).run(dataset, in_graph=True, **overrides)


def settings_of(*lines: str) -> TrainSettings:
    return run(LEAST + "\n".join(lines)).settings


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four files that stand for the thesis's 1344 images an epoch."""
    folder = tmp_path_factory.mktemp("moon")
    samples = []
    for index, size in enumerate([(1000, 1000), (800, 600), (64, 64), (300, 200)]):
        path = folder / f"{index}.png"
        Image.new("L", size).save(path)
        samples.append(Sample(str(path), "moon", *size, 336, f"{index:064x}"))
    return Dataset(tuple(samples), (), str(folder))


def test_the_thesiss_configuration_is_the_thesiss_preset() -> None:
    assert run(THESIS).settings == thesis_settings()


def test_every_key_of_the_thesis_is_honoured_or_said_to_be_without_effect() -> None:
    result = run(THESIS)
    keys = {line.split(" = ")[0] for line in THESIS.splitlines()}
    assert result.honoured.keys() | result.idle.keys() == keys
    assert not result.honoured.keys() & result.idle.keys()
    # the facts of the run: these change no number
    idle = {"epoch", "noise_offset_type", "multires_noise_discount", "huber_c", "huber_schedule", "clip_skip",
            "lr_scheduler", "learning_rate", "unet_lr", "text_encoder_lr", "min_bucket_reso", "max_bucket_reso",
            "sample_prompts", "sample_sampler"}  # fmt: skip
    assert idle <= result.idle.keys()
    assert all(reason for reason in result.idle.values())


def test_the_report_says_that_20_epochs_were_1_19(photographs: Dataset) -> None:
    result = run(THESIS, photographs)
    text = report(result, photographs)
    assert "1600 steps of 1 image: 1.19 epochs of 1344 steps." in text
    assert "The GUI's epoch = 20 does not count: the steps decide, and the run is 1.19 epochs long." in text
    assert "up matrices start at 1e-05 and down matrices at 8.1e-05 to 0.00023 (U-Net)" in text
    assert "the 0.0001 (U-Net) and 0.0001 (text encoders) that are written never touch a weight" in text
    assert "seed is not given" in text
    wide = replace(result, settings=replace(result.settings, batch_size=1000, gradient_accumulation=4))
    assert "1600 steps of at most 4000 images, 1344 on average" in report(wide, photographs)
    cut = report(result, photographs, lambda caption: range(92))
    assert "4 of 4 captions are longer than 75 tokens; 60 tokens are cut." in cut
    assert "  network_dim = 32" in text
    assert "  huber_c: loss_type is l2" in text


SECTIONS = """
[model]
network_module = "networks.lora"
network_dim = 16
[training]
learning_rate = 2e-4
resolution = "1024,1024"
enable_bucket = true
optimizer_args = ["weight_decay=0.1", "eps=1e-6"]
output_name = "a b"
"""
FLAT = "\n".join(line for line in SECTIONS.splitlines() if not line.startswith("["))
ARGUMENTS = r"""
accelerate launch --num_cpu_threads_per_process=2 "C:\kohya ss\sd-scripts\sdxl_train_network.py" ^
  --network_module=networks.lora --network_dim 16 \
  --learning_rate="2e-4" --resolution 1024,1024 --enable_bucket
  --optimizer_args weight_decay=0.1 "eps=1e-6" --output_name="a b"
"""
DATASETS = """
network_dim = 16
learning_rate = 2e-4
optimizer_args = "weight_decay=0.1 eps=1e-6"
output_name = "a b"
[general]
enable_bucket = true
[[datasets]]
resolution = [1024, 1024]
[[datasets.subsets]]
image_dir = 'C:\\moon'
class_tokens = "moon"
num_repeats = 2
caption_extension = ".txt"
"""
BARE_ARGUMENTS = ARGUMENTS.partition('network.py" ^')[2]


@pytest.mark.parametrize("text", [SECTIONS, FLAT, ARGUMENTS, BARE_ARGUMENTS, DATASETS, "\ufeff" + FLAT])
def test_all_forms_of_a_configuration_say_the_same(text: str) -> None:
    settings = run(text).settings
    assert (settings.rank, settings.unet_lr, settings.text_lr) == (16, 2e-4, 2e-4)
    assert (settings.weight_decay, settings.optimizer_options.arguments) == (0.1, "eps=1e-6")
    assert (settings.buckets.resolution, settings.buckets.enabled) == ((1024, 1024), True)
    assert settings.output_name == "a b"


def test_a_path_of_windows_keeps_its_backslashes() -> None:
    config = read_kohya(
        '--train_data_dir=C:\\moon\\new --pretrained_model_name_or_path "D:\\my models\\base.safetensors"'
    )
    assert config.places.folders[0].path == "C:\\moon\\new"
    assert config.places.checkpoint == "D:\\my models\\base.safetensors"


def test_image_folders_come_from_the_dataset_configuration_that_is_named() -> None:
    config = read_kohya(LEAST + 'dataset_config = "data.toml"\nnetwork_dim = 8', {"data.toml": DATASETS}.__getitem__)
    (folder,) = config.places.folders
    assert (folder.path, folder.repeats, folder.class_tokens, folder.caption_extension) == (
        "C:\\moon",
        2,
        "moon",
        ".txt",
    )
    assert config.run(None, in_graph=False).settings.rank == 8


def test_the_repeats_of_a_folder_are_the_configurations() -> None:
    (folder,) = read_kohya('train_data_dir = "a"\ndataset_repeats = 3').places.folders
    assert folder.repeats == 3


def test_json_is_read_where_sd_scripts_reads_it() -> None:
    text = '{"general": {"enable_bucket": true}, "datasets": [{"resolution": 768, "subsets": [{"image_dir": "a"}]}]}'
    config = read_kohya('dataset_config = "data.json"', {"data.json": text}.__getitem__)
    assert config.run(None, in_graph=True).settings.buckets.resolution == (768, 768)


def test_the_command_line_wins_over_the_file_it_names() -> None:
    config = read_kohya("--config_file=a --network_dim=8", {"a.toml": FLAT}.__getitem__)
    settings = config.run(None, in_graph=True).settings
    assert (settings.rank, settings.output_name) == (8, "a b")


# lines of a configuration, and the field that they decide with its value
LYCORIS = 'network_module = "lycoris.kohya"\nnetwork_args = '
ADAFACTOR = 'optimizer_type = "Adafactor"\noptimizer_args = '
PRODIGY = 'optimizer_type = "Prodigy"\noptimizer_args = '
HONOURED = [
    ("network_alpha = 4", "alpha", 4.0),
    ("network_train_unet_only = true", "train", "unet"),
    ("text_encoder_lr = 0", "train", "unet"),
    ('network_args = ["conv_dim=8", "conv_alpha=2"]', "adapter.conv_rank", 8),
    ('network_args = ["conv_dim=8", "conv_alpha=2"]', "adapter.conv_alpha", 2.0),
    ('network_args = "rank_dropout=0.1 module_dropout=0.2"', "adapter.module_dropout", 0.2),
    ('network_args = "rank_dropout=0.1 module_dropout=0.2"', "adapter.rank_dropout", 0.1),
    ("network_dropout = 0.3", "adapter.dropout", 0.3),
    ('network_module = "networks.loha"', "adapter.kind", "loha"),
    (LYCORIS + '["algo=lokr", "preset=attn-mlp", "factor=4"]', "adapter.kind", "lokr"),
    (LYCORIS + '["algo=lokr", "preset=attn-mlp", "factor=4"]', "adapter.lokr_factor", 4),
    (LYCORIS + '["algo=lora", "preset=attn-mlp", "dora_wd=True"]', "adapter.dora", True),
    ('network_args = ["loraplus_lr_ratio=16"]', "optimizer_options.lora_plus_ratio", 16.0),
    ('optimizer_type = "AdamW8bit"', "optimizer", "adamw8bit"),
    ("use_8bit_adam = true", "optimizer", "adamw8bit"),
    ('optimizer_type = "Prodigy"', "optimizer", "prodigy"),
    ('optimizer_type = "Prodigy"', "weight_decay", 0.0),
    ("", "weight_decay", 0.01),
    ('optimizer_args = ["weight_decay=0.2"]', "weight_decay", 0.2),
    ('optimizer_args = ["betas=0.9,0.99"]', "optimizer_options.arguments", "betas=(0.9,0.99)"),
    (ADAFACTOR + '["relative_step=False", "scale_parameter=False"]', "adafactor_relative_step", False),
    (ADAFACTOR + '["relative_step=False"]', "optimizer_options.arguments", "scale_parameter=True"),
    (PRODIGY + '"decouple=True use_bias_correction=True"', "optimizer_options.arguments",
     "weight_decouple=True, bias_correction=True"),
    (PRODIGY + '"slice_p=1 fsdp_in_use=False log_every=0"', "optimizer_options.arguments", ""),
    ('optimizer_type = "RAdamScheduleFree"', "optimizer", "pytorch_optimizer.ScheduleFreeRAdam"),
    ("learning_rate = 3e-4", "unet_lr", 3e-4),
    ("learning_rate = 3e-4\nunet_lr = 1e-3", "unet_lr", 1e-3),
    ('network_module = "networks.loha"\ntext_encoder_lr = [1e-5, 2e-5]', "optimizer_options.te2_lr", 2e-5),
    ('lr_scheduler = "cosine_with_restarts"\nlr_scheduler_num_cycles = 3', "optimizer_options.cycles", 3),
    ('lr_scheduler = "polynomial"\nlr_scheduler_power = 2', "optimizer_options.power", 2.0),
    ('lr_scheduler = "linear"', "schedule", "linear"),
    ("lr_warmup_steps = 0.1", "warmup_steps", 160),
    ("lr_warmup_steps = 100", "warmup_steps", 100),
    ('lr_warmup_steps = "5%"', "warmup_steps", 80),
    ("max_grad_norm = 0", "max_grad_norm", 0.0),
    ('loss_type = "huber"\nhuber_c = 0.2', "loss.huber_c", 0.2),
    ('loss_type = "smooth_l1"\nhuber_schedule = "constant"', "loss.huber_schedule", "constant"),
    ("min_snr_gamma = 5", "loss.min_snr_gamma", 5.0),
    ("debiased_estimation_loss = true", "loss.debiased", True),
    ("scale_v_pred_loss_like_noise_pred = true", "loss.v_prediction_like_noise", True),
    ("noise_offset = 0.05\nnoise_offset_random_strength = true", "loss.noise_offset_random", True),
    ("noise_offset = 0.05\nadaptive_noise_scale = 0.01", "loss.adaptive_noise_scale", 0.01),
    ("multires_noise_iterations = 6\nmultires_noise_discount = 0.2", "loss.pyramid_discount", 0.2),
    ("ip_noise_gamma = 0.1", "loss.input_perturbation", 0.1),
    ("min_timestep = 100\nmax_timestep = 900", "loss.max_timestep", 900),
    ("alpha_mask = true", "loss.mask", "alpha"),
    ('masked_loss = true\nconditioning_data_dir = "/a/masks"', "loss.mask", "files"),
    ("shuffle_caption = true\nkeep_tokens = 2", "captions.keep_tokens", 2),
    ('shuffle_caption = true\ncaption_separator = ";"', "captions.separator", ";"),
    ("caption_dropout_rate = 0.1", "captions.dropout", 0.1),
    ("caption_tag_dropout_rate = 0.1", "captions.tag_dropout", 0.1),
    ("caption_dropout_every_n_epochs = 3", "captions.dropout_every_epochs", 3),
    ("enable_wildcard = true", "captions.wildcards", True),
    ("max_token_length = 225", "captions.tokens", 225),
    ("max_token_length = 225", "captions.long_captions", "kohya"),
    ("flip_aug = true", "images.flip", True),
    ("", "latents", "resample"),
    ("cache_latents_to_disk = true", "latents", "sample_once"),
    ("enable_bucket = true\nmin_bucket_reso = 512\nmax_bucket_reso = 2048", "buckets.min_size", 512),
    ("enable_bucket = true\nbucket_reso_steps = 32", "buckets.step", 32),
    ("train_batch_size = 4", "batch_size", 4),
    ("gradient_accumulation_steps = 2", "gradient_accumulation", 2),
    ("gradient_checkpointing = true", "gradient_checkpointing", True),
    ("torch_compile = true", "compile_blocks", True),
    ('mixed_precision = "bf16"', "precision", "bf16"),
    ("", "precision", "fp32"),
    ('save_precision = "bf16"', "save_precision", "bf16"),
    ("", "save_precision", "fp32"),
    ("fp8_base = true", "base_storage", "fp8"),
    ("save_every_n_epochs = 2", "save_every_epochs", 2),
    ("save_every_n_steps = 500", "saving.lora_steps", 500),
    ("prior_loss_weight = 0.5", "loss.prior_weight", 0.5),
    ("max_train_steps = 7", "steps", 7),
    ("seed = 42", "seed", 42),
    ("", "told_crop", "kohya"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "field", "value"), HONOURED)
def test_a_key_that_is_honoured_decides_its_field(lines: str, field: str, value: object) -> None:
    found: object = settings_of(lines)
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


def test_kohyas_usual_arguments_of_prodigy_reach_it() -> None:
    settings = settings_of(PRODIGY + '"decouple=True use_bias_correction=True d_coef=2"', "learning_rate = 1")
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    module = SimpleNamespace(group="unet", part="unet", weights=lambda: {"lora_up.weight": weight})
    (group,) = make_optimizer(SimpleNamespace(modules=[module]), settings).param_groups
    assert (group["weight_decouple"], group["bias_correction"], group["d_coef"]) == (True, True, 2)


def test_an_argument_that_only_prints_is_listed_as_idle() -> None:
    assert run(LEAST + PRODIGY + '"log_every=10"').idle["optimizer_args log_every"] == "it only prints"


def test_epochs_become_steps_once_the_images_are_known(photographs: Dataset) -> None:
    text = LEAST + "enable_bucket = true\nbucket_no_upscale = true\nmax_train_epochs = 2\ntrain_batch_size = 4"
    # 336 images in each of four buckets, four at a time
    result = run(text + "\nmax_train_steps = 5\nsave_n_epoch_ratio = 2", photographs)
    assert (result.settings.steps, result.settings.save_every_epochs) == (2 * 336, 1)
    assert result.idle["max_train_steps"] == "max_train_epochs decides"
    with pytest.raises(SettingsError, match="max_train_epochs = 2 cannot be honoured: .* connect the dataset"):
        run(text)


def test_a_share_of_images_is_held_out(photographs: Dataset) -> None:
    text = LEAST + "validation_split = 0.25\n"
    assert run(text, photographs).settings.validation_images == 1
    assert run(text + "validate_every_n_steps = 50", photographs).settings.validation.every == 50
    # an epoch shows the other three images, 336 times each
    assert run(text + "validate_every_n_epochs = 2", photographs).settings.validation.every == 2 * 1008
    assert run(LEAST + "validate_every_n_epochs = 2").idle["validate_every_n_epochs"] == "no images are held out"


def test_what_becomes_of_states_is_told_as_it_is() -> None:
    idle = run(LEAST + "save_state = true\nsave_state_on_train_end = true\ncache_text_encoder_outputs = true\n"
               "network_train_unet_only = true").idle  # fmt: skip
    assert idle["save_state"].startswith("the state of every run is saved by itself until the run is finished")
    assert idle["save_state_on_train_end"].startswith("the state of a finished run is deleted")
    assert idle["cache_text_encoder_outputs"] == "the text of frozen encoders is always encoded once"


def test_overrides_stand_above_the_configuration() -> None:
    result = run(THESIS, output_name="other", steps=10, seed=3, precision="bf16")
    assert result.settings == thesis_settings(output_name="other", steps=10, seed=3, precision="bf16")
    assert result.idle["max_train_steps"] == "another value is given beside the configuration"
    assert run(THESIS, resolution=(512, 512)).settings.buckets.resolution == (512, 512)


# a line of a configuration, and what the refusal says
REFUSED = [
    ("network_dims = 8", "network_dims = 8 cannot be honoured: .* no such key; write network_dim if that is meant"),
    ("foo = 1", "foo = 1 cannot be honoured: .* no such key; remove it"),
    ("v2 = true", "v2 = True cannot be honoured: it is of Stable Diffusion 2"),
    ("color_aug = true", "colours are not varied"),
    ("full_bf16 = true", "mixed_precision bf16 is enough"),
    ('network_weights = "a.safetensors"', "network_weights = 'a.safetensors' cannot be honoured"),
    ('network_module = "networks.dylora"', "it must be one of networks.lora, networks.loha"),
    ('network_module = "lycoris.kohya"', "preset=full adapts other layers .* write preset=attn-mlp"),
    ('network_module = "lycoris.kohya"\nnetwork_args = ["algo=boft"]', "algo=boft is not trained here"),
    ('network_args = ["block_dims=1,2"]', "'block_dims=1,2' has no counterpart here"),
    ('network_args = ["conv_dim=many"]', "conv_dim=many is no number"),
    ('network_args = ["conv_dim"]', "it must be key=value pieces, not 'conv_dim'"),
    ('network_args = ["conv_dim=inf"]', "conv_dim=inf is no number"),
    ('network_args = ["conv_dim=2.5"]', "conv_dim=2.5 is no whole number"),
    ('optimizer_args = ["weight_decay=abc"]', "optimizer_args = .* cannot be honoured: weight_decay=abc is no number"),
    (PRODIGY + '["slice_p=11"]', "slice_p=11 has no counterpart .*whole tensors"),
    ("lr_warmup_steps = nan", "it must be steps, a share below 1 or a percentage"),
    ('lr_warmup_steps = "inf%"', "it must be steps, a share below 1 or a percentage"),
    ('optimizer_type = "Ranger"', "optimizer is 'Ranger'"),
    ('lr_scheduler = "inverse_sqrt"', "choose one of constant"),
    ('loss_type = "l1"', "it must be one of l2"),
    ("loss_type = \"huber\"\nhuber_scale = 2", "no further scale; set it to 1"),
    ('save_model_as = "ckpt"', "it must be one of safetensors"),
    ("masked_loss = true", "there are no masks"),
    ("network_dim = 1.5", "it must be a whole number, not 1.5"),
    ('learning_rate = "fast"', "it must be a number, not 'fast'"),
    ('flip_aug = "maybe"', "it must be true or false, not 'maybe'"),
    ("max_train_epochs = -1", "max_train_epochs = -1 cannot be honoured: it must be a whole number"),
    ("network_dim = 0", "rank is 0; it must be a whole number of at least 1"),
    ("cache_text_encoder_outputs = true", "the text encoders are trained; remove it, or set network_train"),
    ('in_json = "meta.json"', "caption_table of Load Image Dataset in ComfyUI alone; take that, or"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "says"), REFUSED)
def test_a_key_that_cannot_be_honoured_is_refused_by_name(lines: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings_of(lines)


def test_all_refusals_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of("color_aug = true", "random_crop = true", "foo = 1")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("network_dim = ", "no valid toml: Invalid value"),
        ('{"a": ', "no valid JSON"),
        ('{"LoRA_type": "Standard"}', "widgets of kohya's GUI; give the config_lora"),
        ("python train_network.py --network_dim=8", "starts train_network.py, and only sdxl_train_network.py"),
        ("--network_dim 8 16", "is given 2 values"),
        ('--output_name="a', "close every quotation mark"),
        ('dataset_config = "data.toml"', "dataset_config names the file 'data.toml'"),
        ("network_dim = 8", "resolution = None cannot be honoured: it is missing"),
        ("resolution = [512.5, 512]", "resolution = .* cannot be honoured: it must be one or two whole numbers"),
        ("resolution = [512, 512, 512]", "it must be one or two whole numbers"),
        ('resolution = "abc"', "resolution = 'abc' cannot be honoured: it must be numbers"),
        ('resolution = "nan"', "it must be one or two whole numbers"),
        (LEAST + 'train_data_dir = "a"\ndataset_repeats = "a"', "dataset_repeats = 'a' is no whole number"),
        (DATASETS.replace("num_repeats = 2", 'num_repeats = "x"'), "num_repeats = 'x' is no whole number"),
        ('train_data_dir = "C:\\Users\\me"', "no valid toml: .*, and write paths of Windows with / .*single"),
        ('train_data_dir = "D:\\new\\train"', r"'D:\\new\\train' holds '\\n' where a path was meant: .* write"),
        ('{"datasets": [{"subsets": [{"image_dir": "C:\\Users"}]}]}', "no valid JSON: .*, and write paths of Windows"),
        (LEAST.encode("utf-16").decode("utf-8", "replace"), "no UTF-8 text; save it as UTF-8"),
        ("--output_name=$NAME", r"'--output_name=\$NAME' holds the variable '\$NAME', .*; write its value"),
        ('--output_dir="${HOME}/loras"', r"holds the variable '\$\{HOME\}'"),
        ("--output_dir=%USERPROFILE%\\loras", "holds the variable '%USERPROFILE%'"),
        ("--output_name=$env:NAME", r"holds the variable '\$env:NAME'"),
        (2 * "python sdxl_train_network.py --seed=1\n", "starts sdxl_train_network.py 2 times; give one command"),
        (LEAST + "datasets = 5", "datasets is no list of sections"),
        (LEAST + "[datasets]\nresolution = 512", r"write each of them as \[\[datasets\]\]"),
        (LEAST + "[[datasets]]\nsubsets = 3", r"write each of them as \[\[datasets.subsets\]\]"),
        ("general = 3", "general is no section"),
    ],
)
def test_a_text_that_is_no_configuration_is_refused_with_its_cure(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        run(text)


def test_image_folders_that_differ_in_the_training_are_refused() -> None:
    text = DATASETS + '[[datasets.subsets]]\nimage_dir = "b"\nflip_aug = true\n'
    with pytest.raises(SettingsError, match=r"flip_aug differs among the image folders \(nothing, True\)"):
        run(text)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("", "bogus = 3", "bogus = 3 cannot be honoured: .* no such key; remove it"),
        ("token_warmup_step = 0", "token_warmup_step = 5", "token_warmup_step = 5 cannot be honoured: captions have"),
        ("color_aug = false", "color_aug = true", "colours are not varied"),
        ("keep_tokens = 1", "keep_tokens = 2", None),
        ("flip_aug = false", "", None),
        ("alpha_mask = true", "", r"alpha_mask differs among the image folders \(True, nothing\)"),
    ],
)
def test_what_only_one_image_folder_says_is_judged_by_what_it_says(first: str, second: str, says: str | None) -> None:
    folders = "".join(f"[[datasets.subsets]]\nimage_dir = 'a'\n{lines}\n" for lines in (first, second))
    text = f"{LEAST}[[datasets]]\n{folders}"
    if says is None:
        run(text)
        return
    with pytest.raises(SettingsError, match=says) as caught:
        run(text)
    assert len(str(caught.value).splitlines()) == 1


def test_all_faults_of_one_key_are_told() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of('network_args = ["conv_dim=many", "block_dims=1,2"]')
    told = str(caught.value).splitlines()
    assert ["conv_dim=many is no number" in told[0], "'block_dims=1,2' has no counterpart" in told[1]] == [True, True]


def test_no_key_of_sd_scripts_is_unknown() -> None:
    """Each may be refused, but with a reason of its own."""
    assert len(KEYS) == len(set(KEYS)) > 190
    unknown = []
    for key in KEYS:
        try:
            run(f'resolution = 512\n{key} = "1"' if key != "resolution" else LEAST)
        except SettingsError as error:
            unknown += [key] if "no such key" in str(error) else []
    assert unknown == []


def test_what_only_the_command_line_follows_is_said_to_come_from_the_graph() -> None:
    result = run(THESIS)
    assert result.idle["train_data_dir"] == "the images come from the dataset on the wire"
    levels = 'v_parameterization = true\nzero_terminal_snr = "true"\n'
    assert "MODEL on the wire" in run(LEAST + levels).idle["zero_terminal_snr"]
    places = read_kohya(LEAST + levels).places
    assert (places.v_prediction, places.zero_terminal_snr) == (True, True)
    assert not read_kohya('v_parameterization = "false"').places.v_prediction
    outside = read_kohya(THESIS).run(None, in_graph=False)
    assert {
        "train_data_dir",
        "pretrained_model_name_or_path",
        "output_dir",
        "caption_extension",
    } <= outside.honoured.keys()
    assert replace(outside.settings) == result.settings


def test_the_command_line_does_not_say_that_a_graph_draws_its_samples() -> None:
    text = LEAST + 'sample_every_n_steps = 50\nsample_prompts = "moon.txt"\nsample_at_first = ""\n'
    outside, inside = (read_kohya(text).run(None, in_graph=in_graph).idle for in_graph in (False, True))
    for key in ("sample_every_n_steps", "sample_prompts"):
        assert outside[key] == "the command line draws no sample pictures; in ComfyUI, Training Samples does"
        assert inside[key] == "sample pictures are made by the graph, not by the configuration"
    assert outside["sample_at_first"] == inside["sample_at_first"] == "it is empty"


@pytest.mark.parametrize(
    "script",
    [
        "@echo off\nrem it's mine: python sdxl_train_network.py --seed 1\nset X=1\n{} ^\n  {}\npause\n",
        "if not exist sdxl_train_network.py (exit)\n{} {}\nif %ERRORLEVEL% neq 0 pause\n",
        "cd kohya && {} \\\n  {}\necho done 'and' it\n",
        "{} {} && echo done\n",
        "{} {} 2>&1 | tee log.txt",
        "{} `\n{} > log.txt",
        "{} {}; exit 0",
        "python tools/prepare.py --size 3\n\n{}\n  {}\n\nRead-Host 'that is all'",
    ],
)
def test_a_command_in_a_script_ends_where_its_shell_ends_it(script: str) -> None:
    start = "accelerate launch --num_processes 2 --mixed_precision=bf16 './sdxl_train_network.py'"
    text = script.format(start, "--resolution=1024 --caption_separator ';' --output_name \"a & b\" --enable_bucket")
    result = run(text)
    assert (result.settings.output_name, result.settings.buckets.enabled) == ("a & b", True)
    assert result.values["caption_separator"] == ";"
    assert result.values.keys() == {"resolution", "caption_separator", "output_name", "enable_bucket"}
    told = "it is for what starts the script, and a graph trains in one process"
    assert result.idle["--num_processes before the script"] == told
    assert result.settings.precision == "fp32"
    outside = read_kohya(text).run(None, in_graph=False)
    assert "give it to accelerate launch before -m trainer" in outside.idle["--mixed_precision before the script"]


@pytest.mark.parametrize(
    "text",
    [
        'python sdxl_train_network.py\n--resolution=64\n--network_args\n"conv_dim=4"\n--network_dim=8\n--seed=7\npause',
        "sdxl_train_network.py --resolution=64 --network_dim=8 --seed\n7\n--network_args\nconv_dim=4 'conv_alpha=1'",
    ],
)
def test_values_on_lines_of_their_own_belong_to_the_command(text: str) -> None:
    settings = run(text).settings
    assert (settings.rank, settings.adapter.conv_rank, settings.seed) == (8, 4, 7)


@pytest.mark.parametrize("word", ["'cost$x'", "cost$5", "100%", "'%NAME%'"])
def test_a_dollar_that_no_shell_would_read_is_one(word: str) -> None:
    result = run(f"sdxl_train_network.py --resolution=64 --output_name={word}")
    assert result.settings.output_name == word.strip("'")


def test_a_number_sign_within_a_value_ends_nothing() -> None:
    text = "# a note\naccelerate launch sdxl_train_network.py --resolution=1024 --output_name=moon#2 \\\n"
    text += "  --max_train_steps=500 \\\n  --network_train_unet_only"
    settings = run(text).settings
    assert (settings.output_name, settings.steps, settings.train) == ("moon#2", 500, "unet")


@pytest.mark.parametrize(
    "text",
    [
        "CUDA_VISIBLE_DEVICES=0 accelerate launch sdxl_train_network.py --resolution=1024 --max_train_steps=7",
        '--resolution=1024 \\\n--optimizer_args \\\n  "weight_decay=0.1" "betas=0.9,0.99" \\\n  --max_train_steps=7',
    ],
)
def test_an_equals_sign_at_the_start_of_a_line_makes_no_toml_of_a_command(text: str) -> None:
    assert run(text).settings.steps == 7


def test_a_toml_that_quotes_a_command_is_still_a_toml() -> None:
    assert run(LEAST + 'max_train_steps = 7\ntraining_comment = "train.py --seed 3"').settings.steps == 7


def test_what_stands_in_general_is_of_the_image_folders() -> None:
    general = "[general]\nbatch_size = 2\nnum_repeats = 10\n"
    config = read_kohya(general + "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'\n")
    assert config.run(None, in_graph=True).settings.batch_size == 2
    assert config.places.folders[0].repeats == 10


FOLDERS = "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'\nnum_repeats = 2\nis_reg = true\n"


def test_the_keys_of_an_image_folder_are_told_as_well() -> None:
    config = read_kohya(FOLDERS)
    told = {f"{key} of image folder 1" for key in ("image_dir", "num_repeats", "is_reg")}
    assert told <= config.run(None, in_graph=True).idle.keys()
    assert told <= config.run(None, in_graph=False).honoured.keys()
    with pytest.raises(SettingsError, match="custom_attributes of image folder 1 cannot be honoured"):
        read_kohya(FOLDERS + "custom_attributes = {a = 1}\n").run(None, in_graph=True)


ADAFACTOR = 'optimizer_type = "Adafactor"'


def test_a_rate_of_zero_leaves_a_part_out_although_adafactor_sets_its_own_rates() -> None:
    result = run("\n".join([LEAST, ADAFACTOR, "text_encoder_lr = 0", "unet_lr = 1e-4"]))
    assert result.settings.train == "unet"
    assert result.honoured["text_encoder_lr"] == 0
    with pytest.raises(SettingsError, match="unet_lr = 0 cannot be honoured: the U-Net is always trained here"):
        settings_of(ADAFACTOR, "unet_lr = 0", "text_encoder_lr = 1e-4")
    with pytest.raises(SettingsError, match="the text encoders are trained both or not at all"):
        settings_of(ADAFACTOR, 'network_module = "networks.loha"', "unet_lr = 1e-4", "text_encoder_lr = [1e-4, 0]")


def test_lora_plus_changes_nothing_where_adafactor_sets_its_own_rates() -> None:
    result = run("\n".join([LEAST, ADAFACTOR, 'network_args = ["loraplus_lr_ratio=16"]']))
    assert result.settings.optimizer_options.lora_plus_ratio == 1
    assert "sets its own rates" in result.idle["network_args loraplus_lr_ratio"]


def test_a_schedule_free_optimizer_runs_without_a_schedule() -> None:
    lines = ['optimizer_type = "AdamWScheduleFree"', 'lr_scheduler = "cosine"', "lr_warmup_steps = 100"]
    result = run(LEAST + "\n".join(lines))
    assert (result.settings.schedule, result.settings.warmup_steps) == ("constant", 0)
    assert {"lr_scheduler", "lr_warmup_steps"} <= result.idle.keys()


@pytest.mark.parametrize(
    ("name", "optimizer", "decay"),
    [
        ("torch.optim.AdamW", "torch.optim.AdamW", 0.01),
        ("RAdam", "torch.optim.RAdam", 0.0),
        ("torch.optim.SGD", "torch.optim.SGD", 0.0),
    ],
)
def test_a_class_by_its_name_keeps_its_own_weight_decay(name: str, optimizer: str, decay: float) -> None:
    settings = settings_of(f'optimizer_type = "{name}"')
    assert (settings.optimizer, settings.weight_decay) == (optimizer, decay)


def test_a_seed_that_no_float_holds_stays_what_it_is() -> None:
    assert settings_of("seed = 9007199254740993").seed == 2**53 + 1


def test_a_warm_up_that_the_schedule_has_not_is_idle() -> None:
    lines = [
        'lr_scheduler = "piecewise_constant"',
        'lr_scheduler_args = ["step_rules=1:10,0.1"]',
        "lr_warmup_steps = 10",
    ]
    assert "does not use it" in run(LEAST + "\n".join(lines)).idle["lr_warmup_steps"]
