"""`python -m trainer CONFIG` from a checkpoint file on: alone, interrupted, and as two processes of accelerate."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_parts
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from pack.trainer.__main__ import main
from pack.trainer.errors import ModelError
from pack.trainer.lora.file import read_lora, read_metadata
from pack.trainer.runs.console import ConsoleWatcher
from pack.trainer.runs.identity import schedule_mark
from pack.trainer.sdxl.checkpoint import TE1_PREFIX, TE2_PREFIX, UNET_PREFIX, VAE_PREFIX, openclip_state
from pack.trainer.sdxl.parts import scaled_linear_alpha_bar, zero_terminal
from pack.trainer.sdxl.single_file import SingleFile, build_parts, find_tokenizer, load_tokenizer, make_encoder
from pack.trainer.sdxl.vae_names import vae_config, vae_encoder_state
from pack.trainer.training.loop import Step
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dev

CONFIG = """
train_data_dir = "images"
pretrained_model_name_or_path = "tiny.safetensors"
output_dir = "loras"
output_name = "moon"
resolution = 64
enable_bucket = true
caption_extension = ".txt"
network_dim = 4
network_alpha = 4
learning_rate = 1e-3
max_train_steps = 4
cache_latents = true
seed = 3
"""


def ldm_vae_state(vae: AutoencoderKL) -> tiny_parts.State:
    """The encoder of a diffusers VAE under the names of Stability's autoencoder, its attention as convolutions."""
    out: tiny_parts.State = {}
    middle = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for name, tensor in vae.state_dict().items():
        parts = name.split(".")
        if parts[0] not in ("encoder", "quant_conv"):
            continue
        if parts[1] == "down_blocks" and parts[3] == "resnets":
            rest = ".".join(parts[5:]).replace("conv_shortcut", "nin_shortcut")
            name = f"encoder.down.{parts[2]}.block.{parts[4]}.{rest}"
        elif parts[1] == "down_blocks":
            name = f"encoder.down.{parts[2]}.downsample.conv.{parts[6]}"
        elif parts[1] == "mid_block":
            part, inner = ".".join(parts[2:4]), ".".join(parts[4:-1])
            if part == "attentions.0":
                inner = attention[inner]
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
            name = f"encoder.mid.{middle[part]}.{inner}.{parts[-1]}"
        out[name.replace("conv_norm_out", "norm_out")] = tensor.contiguous()
    return out


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return tiny_parts._vae()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, vae: AutoencoderKL) -> Path:
    """A folder with a checkpoint, images, a tokenizer of single letters and a configuration."""
    folder = tmp_path_factory.mktemp("line")
    parts = [
        (UNET_PREFIX, tiny_parts.unet_state()),
        (TE1_PREFIX, tiny_parts.text_state(False)),
        (TE2_PREFIX, openclip_state(tiny_parts.text_state(True))),
        (VAE_PREFIX, ldm_vae_state(vae)),
    ]
    state = {prefix + name: tensor for prefix, part in parts for name, tensor in part.items()}
    save_file(state, folder / "tiny.safetensors")
    tiny_parts.write_images(folder / "images" / "1_disc", count=5)
    letters = [letter + end for letter in map(chr, range(97, 123)) for end in ("", "</w>")]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "config.toml").write_text(CONFIG)
    return folder


def arguments(workplace: Path, out: Path, *more: str) -> list[str]:
    return [
        str(workplace / "config.toml"), "--output", str(out), "--tokenizer", str(workplace / "tokenizer"),
        "--head-channels", str(tiny_parts.HEAD_CHANNELS), "--device", "cpu", *more,
    ]  # fmt: skip


def test_a_configuration_becomes_a_lora(workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(workplace, tmp_path)) == 0
    told = capsys.readouterr().out
    assert "4 steps of 1 image: 0.80 epochs of 5 steps." in told
    assert "Effective learning rates: U-Net 0.001, text encoders 0.001." in told
    assert "0 of 5 captions are longer than 75 tokens" in told
    assert "step 4/4, loss " in told
    # what is free is known, so a profile is chosen and shown
    assert "MB are free, one batch keeps " in told
    metadata = read_metadata(tmp_path / "moon.safetensors")
    assert (metadata["ss_steps"], metadata["ss_network_dim"], metadata["ss_seed"]) == ("4", "4", "3")
    assert metadata["ss_sd_model_name"] == "tiny.safetensors"
    assert len(read_lora(tmp_path / "moon.safetensors")) == 3 * (tiny_parts.U_NET_MODULES + tiny_parts.TEXT_MODULES)
    # once more: nothing is left to do
    assert main(arguments(workplace, tmp_path)) == 0
    assert "moon.safetensors holds this very run already" in capsys.readouterr().out


def test_a_check_names_what_is_wrong_with_the_images(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_parts.write_images(tmp_path / "1_disc", count=2)
    (tmp_path / "1_disc" / "broken.png").write_bytes(b"no picture")
    tiny_parts.write_images(tmp_path / "misc", count=1)
    assert main(arguments(workplace, tmp_path, "--images", str(tmp_path), "--check")) == 0
    told = capsys.readouterr().out
    assert "1_disc/broken.png" in told
    assert "misc: its name gives no repeats; name it 10_misc to have it read" in told


def test_a_check_reads_everything_and_trains_nothing(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(workplace, tmp_path, "--check", "--steps", "10")) == 0
    assert "10 steps of 1 image: 2.00 epochs of 5 steps." in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def faulty(workplace: Path) -> Path:
    """Checkpoints that lack a part each, and a file that is none."""
    state = load_file(workplace / "tiny.safetensors")
    lacking = {"unet": UNET_PREFIX, "proj_in": f"{UNET_PREFIX}input_blocks.4.1.proj_in", "te2": TE2_PREFIX}
    for name, prefix in {**lacking, "vae": VAE_PREFIX}.items():
        kept = {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}
        save_file(kept, workplace / f"no_{name}.safetensors")
    (workplace / "text").write_text("no folder and no weights")
    return workplace


@pytest.mark.parametrize(
    ("option", "name", "says"),
    [
        ("--checkpoint", "none", "There is no checkpoint '"),
        ("--checkpoint", "text", "is not a readable safetensors file; name SDXL's checkpoint."),
        ("--checkpoint", "no_unet.safetensors", "holds no U-Net under"),
        ("--checkpoint", "no_proj_in.safetensors", "The MODEL does not fit SDXL"),
        ("--checkpoint", "no_te2.safetensors", "holds no bigG text encoder under"),
        ("--checkpoint", "no_vae.safetensors", "holds no VAE under"),
        ("--vae", "none", "There is no VAE '"),
        ("--vae", "text", "is not a readable safetensors file; name SDXL's VAE."),
        ("--output", "text/loras", "Nothing can be written to"),
        ("--work", "text", "Nothing can be written to"),
    ],
)
def test_a_check_stops_at_what_would_stop_a_training(
    option: str, name: str, says: str, faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(faulty, tmp_path / "loras", "--check", option, str(faulty / name))) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "loras").exists()


SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_training_says_how_to_go_on_and_does(
    number: int, workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        # as soon as the run has taken a step
        while not any('"step", "step": 2' in log.read_text() for log in tmp_path.rglob("log.jsonl")):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    # a job that a shell put into the background was born deaf to Ctrl+C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        assert main(arguments(workplace, tmp_path, "--steps", "4000")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    told = capsys.readouterr()
    assert "Stopped after step " in told.out
    assert "Stopped; the same command goes on from what is saved." in told.err
    assert not (tmp_path / "moon.safetensors").exists()
    stopped = int(told.out.rpartition("Stopped after step ")[2].partition(";")[0])
    state = next(tmp_path.rglob("state.safetensors"))
    assert stopped >= 2 and state.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are POSIX's")
def test_a_second_interrupt_while_the_state_is_written_loses_nothing(workplace: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from trainer.runs import checkpoints\n"
        "from trainer.__main__ import main\n"
        "save = checkpoints.save_state\n"
        "def twice(*given):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    save(*given)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "checkpoints.save_state = twice\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "step = checkpoints.Checkpoints.loras_after\n"
        "def stop(self, trainer, **given):\n"
        "    step(self, trainer, **given)\n"
        "    if trainer.progress.step == 2: os.kill(os.getpid(), signal.SIGINT)\n"
        "checkpoints.Checkpoints.loras_after = stop\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, *arguments(workplace, tmp_path, "--steps", "400")]
    done = subprocess.run(command, cwd=dev.ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr[-2000:]
    with safe_open(next(tmp_path.rglob("state.safetensors")), framework="pt") as state:
        assert json.loads(state.metadata()["mjesec"])["step"] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' full device")
def test_a_console_that_takes_nothing_is_no_reason_to_lose_a_training(workplace: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer", *arguments(workplace, tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=dev.ROOT, stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "moon.safetensors").exists()


def test_regularisation_images_count_as_much_as_the_others_and_by_their_weight(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_parts.write_images(tmp_path / "reg" / "1_disc", count=2, size=70)
    (tmp_path / "config.toml").write_text(CONFIG + f'reg_data_dir = "{tmp_path / "reg"}"\nprior_loss_weight = 0.5\n')
    given = ("--images", str(workplace / "images"), "--checkpoint", str(workplace / "tiny.safetensors"))
    rest = arguments(workplace, tmp_path / "loras", *given, "--check")
    assert main([str(tmp_path / "config.toml"), *rest[1:]]) == 0
    told = capsys.readouterr().out
    assert "4 steps of 1 image: 0.40 epochs of 10 steps." in told
    assert "prior_loss_weight = 0.5" in told


def test_what_is_wrong_is_one_sentence_on_the_error_stream(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(workplace, tmp_path, "--checkpoint", "none.safetensors")) == 2
    assert "Error: There is no checkpoint 'none.safetensors'; give --checkpoint FILE" in capsys.readouterr().err
    assert main(["none.toml"]) == 2
    assert "The configuration 'none.toml' cannot be read" in capsys.readouterr().err


# without a GPU, accelerate starts several processes on one machine by this name alone; they speak through gloo
def launch(workplace: Path, out: Path, processes: int, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--num_cpu_threads_per_process", "1", "-m", "trainer"]  # fmt: skip
    return subprocess.run(
        [*command, *arguments(workplace, out, *more)], cwd=dev.ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip


def test_two_processes_train_what_one_does_on_the_same_batches(workplace: Path, tmp_path: Path) -> None:
    """Five images in batches of two: the last batch of an epoch has one row, and one process none."""
    (workplace / "both.toml").write_text(CONFIG + 'train_batch_size = 2\nsave_precision = "float"\n')
    alone = arguments(workplace, tmp_path / "one")
    assert main([str(workplace / "both.toml"), *alone[1:]]) == 0
    # of each of two processes, one image
    (workplace / "config.toml").write_text(CONFIG + 'save_precision = "float"\n')
    try:
        done = launch(workplace, tmp_path / "two", 2)
    finally:
        (workplace / "config.toml").write_text(CONFIG)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("Saved moon.safetensors.") == 1
    one, two = (read_lora(tmp_path / name / "moon.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    flat = [torch.cat([state[name].flatten() for name in sorted(one)]).double() for state in (one, two)]
    assert ((flat[0] - flat[1]).norm() / flat[0].norm()).item() <= 1e-5
    metadata = [read_metadata(tmp_path / name / "moon.safetensors") for name in ("one", "two")]
    # the same run: either could have gone on with the other's state
    assert metadata[0]["mjesec_run"] == metadata[1]["mjesec_run"]
    losses = [[float(v) for v in m["mjesec_losses"].split(",")] for m in metadata]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_an_error_of_all_processes_is_told_once(workplace: Path, tmp_path: Path) -> None:
    done = launch(workplace, tmp_path, 2, "--checkpoint", "none.safetensors")
    assert done.returncode != 0
    assert done.stderr.count("There is no checkpoint 'none.safetensors'") == 1
    assert "Error: There is no checkpoint" in done.stderr


def start_apart(workplace: Path, folders: list[Path], *more_for_the_last: str) -> list[subprocess.Popen[str]]:
    """One process for each folder, as on machines that share no disk."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "HF_HUB_OFFLINE": "1", "WORLD_SIZE": str(len(folders)), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments(workplace, folder),
             *(more_for_the_last if folder == folders[-1] else ())],
            cwd=dev.ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, folder in enumerate(folders)
    ]  # fmt: skip


def apart(workplace: Path, folders: list[Path]) -> list[str]:
    """What the processes printed once they have trained."""
    started = start_apart(workplace, folders)
    try:
        printed = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(folders), printed
    return printed


def test_an_error_of_one_process_alone_is_told_as_well(workplace: Path, tmp_path: Path) -> None:
    started = start_apart(workplace, [tmp_path / "a", tmp_path / "b"], "--checkpoint", "none.safetensors")
    try:
        printed = started[1].communicate(timeout=240)[0]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert started[1].returncode == 2
    assert "Error of process 1: There is no checkpoint 'none.safetensors'" in printed


def test_processes_without_a_common_disk_go_on_from_the_main_ones_state(workplace: Path, tmp_path: Path) -> None:
    """The main process was interrupted after two steps of four; the other machine knows nothing of it."""
    (workplace / "both.toml").write_text(CONFIG + 'train_batch_size = 2\nsave_precision = "float"\n')
    rest = arguments(workplace, tmp_path / "straight")[1:]
    assert main([str(workplace / "both.toml"), *rest]) == 0
    main_disk, other_disk = tmp_path / "main", tmp_path / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConsoleWatcher, "step", _interrupt_after_two)
        assert main([str(workplace / "both.toml"), *arguments(workplace, main_disk)[1:]]) == 130
    (workplace / "config.toml").write_text(CONFIG + 'save_precision = "float"\n')
    try:
        printed = apart(workplace, [main_disk, other_disk])
        again = apart(workplace, [main_disk, other_disk])
    finally:
        (workplace / "config.toml").write_text(CONFIG)
    assert "Going on from step 2 of 4." in printed[0]
    assert not list(other_disk.glob("*.safetensors"))
    straight, resumed = (read_lora(folder / "moon.safetensors") for folder in (tmp_path / "straight", main_disk))
    flat = [torch.cat([state[name].flatten() for name in sorted(state)]).double() for state in (straight, resumed)]
    assert ((flat[0] - flat[1]).norm() / flat[0].norm()).item() <= 1e-5
    # the file is on the main process's disk alone, and the other one believes it
    assert "moon.safetensors holds this very run already" in again[0]


def _interrupt_after_two(watcher: ConsoleWatcher, step: Step) -> None:
    if step.step == 2:
        raise KeyboardInterrupt


def test_the_vaes_names_are_diffusers(vae: AutoencoderKL) -> None:
    original = ldm_vae_state(vae)
    ours = vae_encoder_state(original)
    theirs = convert_ldm_vae_checkpoint(original, dict(vae.config))
    assert ours.keys() == {name for name in vae.state_dict() if name.startswith(("encoder.", "quant_conv."))}
    for name, tensor in ours.items():
        assert torch.equal(tensor, vae.state_dict()[name]), name
        assert torch.equal(tensor, theirs[name].reshape(tensor.shape)), name
    assert vae_config(ours)["block_out_channels"] == tuple(vae.config.block_out_channels)


def test_the_encoder_gives_what_diffusers_vae_gives(vae: AutoencoderKL) -> None:
    state = vae_encoder_state(ldm_vae_state(vae))
    encode = make_encoder(state, tiny_parts.CPU, groups=4)
    pixels = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = vae.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist
    mean, std = encode(pixels)
    torch.testing.assert_close(mean, posterior.mean)
    torch.testing.assert_close(std, posterior.std)


def test_the_networks_of_a_file_are_those_that_were_written(workplace: Path) -> None:
    file = SingleFile(workplace / "tiny.safetensors")
    parts = build_parts(
        file.unet(), *file.text(), "fp32", tiny_parts.CPU, prediction="v_prediction",
        head_channels=tiny_parts.HEAD_CHANNELS,
    )  # fmt: skip
    expected = tiny_parts.make_parts()
    for built, wanted in zip(parts.modules(), expected.modules(), strict=True):
        tiny_parts.assert_same(dict(built.named_parameters()), dict(wanted.named_parameters()))
    assert parts.prediction == "v_prediction"


def test_a_checkpoint_says_itself_what_it_predicts(tmp_path: Path) -> None:
    def file(*marks: str) -> SingleFile:
        path = tmp_path / f"{'_'.join(marks)}.safetensors"
        save_file({name: torch.zeros(1) for name in ("a", *marks)}, path)
        return SingleFile(path)

    usual = scaled_linear_alpha_bar()
    assert file().prediction() == "epsilon"
    assert file().prediction(v_prediction=True) == file("v_pred").prediction() == "v_prediction"
    assert torch.equal(file("v_pred").alpha_bar(), usual)
    for levels in (file("v_pred", "ztsnr").alpha_bar(), file().alpha_bar(zero_terminal_snr=True)):
        assert levels[0].item() == pytest.approx(usual[0].item())
        assert 0 < levels[-1].item() < 1e-6
        # diffusers' betas give the same levels, up to the last, which it sets to 0
        betas = 1 - usual.double() / torch.cat([torch.ones(1), usual[:-1]])
        theirs = torch.cumprod(1 - rescale_zero_terminal_snr(betas), dim=0)
        torch.testing.assert_close(levels[:-1].double(), theirs[:-1], rtol=1e-3, atol=1e-6)
    with pytest.raises(ModelError, match="is an EDM model"):
        file("edm_mean").prediction()


def test_the_same_weights_under_another_schedule_are_another_model() -> None:
    usual = scaled_linear_alpha_bar()
    assert schedule_mark(usual, "epsilon") == ""
    marks = {schedule_mark(levels, kind) for levels in (usual, zero_terminal(usual)) for kind in ("epsilon", "v")}
    assert len(marks) == 4


def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="'a.safetensors' holds no U-Net under 'model.diffusion_model.'"):
        SingleFile(tmp_path / "a.safetensors").unet()
    with pytest.raises(ModelError, match="is not a readable safetensors file"):
        SingleFile(tmp_path / "b.safetensors").unet()
    with pytest.raises(ModelError, match="The checkpoint's VAE is not of Stable Diffusion's kind"):
        vae_encoder_state({"taesd_encoder.0.weight": torch.zeros(1)})


def test_the_tokenizer_is_found_where_comfyui_keeps_it(workplace: Path, tmp_path: Path) -> None:
    place = tmp_path / "comfy" / "sd1_tokenizer"
    place.parent.mkdir()
    place.symlink_to(workplace / "tokenizer")
    assert find_tokenizer("", {"COMFYUI_PATH": str(tmp_path)}) == place
    assert find_tokenizer(str(place), {}) == place
    with pytest.raises(ModelError, match="name its folder with --tokenizer"):
        find_tokenizer(str(tmp_path), {"COMFYUI_PATH": str(tmp_path)})
    ids = load_tokenizer(place)("ab c")
    assert (ids[0], ids[-1]) == (49406, 49407)
    assert len(load_tokenizer(place)("a " * 200)) > 77


def test_another_folder_of_images_is_seen_as_the_configuration_says(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_parts.write_images(tmp_path / "plain", count=3, size=70)
    (tmp_path / "config.toml").write_text(CONFIG + "dataset_repeats = 4\n")
    given = ("--images", str(tmp_path / "plain"), "--checkpoint", str(workplace / "tiny.safetensors"))
    rest = arguments(workplace, tmp_path / "loras", *given, "--check")
    assert main([str(tmp_path / "config.toml"), *rest[1:]]) == 0
    told = capsys.readouterr().out
    assert "epochs of 12 steps." in told
    assert "train_data_dir: another value is given beside the configuration" in told


def test_another_folder_than_those_of_a_dataset_toml_has_none_of_their_repeats(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_parts.write_images(tmp_path / "plain", count=3, size=70)
    subset = "[[datasets.subsets]]\nimage_dir = 'images/1_disc'\nnum_repeats = 2\ncaption_extension = '.txt'\n"
    (workplace / "data.toml").write_text(f"[[datasets]]\n{subset}")
    (workplace / "with_data.toml").write_text(CONFIG + "dataset_config = 'data.toml'\n")
    for more, steps, fate in (
        ((), 10, "  num_repeats of image folder 1 = 2"),
        (("--images", str(tmp_path / "plain")), 3, "  num_repeats of image folder 1: another folder of images"),
    ):
        rest = arguments(workplace, tmp_path / "loras", "--check", *more)
        assert main([str(workplace / "with_data.toml"), *rest[1:]]) == 0
        told = capsys.readouterr().out
        assert f"epochs of {steps} steps." in told
        assert fate in told


def test_a_configuration_in_another_encoding_is_named_with_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text(CONFIG, encoding="utf-16")
    assert main([str(tmp_path / "config.toml")]) == 2
    assert "config.toml' is no UTF-8 text; save it as UTF-8." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--device", "foo"), "There is no device 'foo'"),
        (("--device", "cuda:99"), "The device 'cuda:99' cannot be used ("),
        (("--device", "xpu", "--check"), "The device 'xpu' cannot be used ("),
        (("--head-channels", "0"), "0 is no whole number of at least 1"),
        (("--seed", "-5"), "-5 is no whole number of at least 0"),
        (("--steps", "0"), "0 is no whole number of at least 1"),
    ],
)
def test_a_device_or_a_number_that_cannot_be_is_said(
    workplace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str], says: str
) -> None:
    try:
        code = main(arguments(workplace, tmp_path, *option))
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert says in capsys.readouterr().err
