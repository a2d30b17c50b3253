"""``python -m trainer CONFIG``: a kohya configuration trained without a host."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .dataset.combine import combine
from .dataset.report import dataset_report
from .dataset.samples import Dataset
from .dataset.scan import scan_folder
from .device import free_bytes
from .errors import DatasetError, ModelError, SettingsError
from .files import check_writable
from .kohya.configuration import ImageFolder, KohyaConfig, KohyaRun, Places, read_kohya
from .kohya.report import report
from .runs.console import ConsoleWatcher, SilentWatcher
from .runs.identity import schedule_mark, weights_fingerprint
from .runs.job import Base, Folders, Job, Watcher
from .sdxl.packed import check_storage
from .sdxl.parts import Parts
from .sdxl.single_file import HEAD_CHANNELS, SingleFile, build_parts, find_tokenizer, load_tokenizer, make_encoder
from .settings.training import PRECISIONS
from .training.optim import check_optimizer
from .training.processes import Processes


@dataclass(frozen=True)
class Command:
    """The command line, empty where the configuration decides."""

    config: str
    checkpoint: str
    vae: str
    images: str
    output: str
    work: str
    name: str
    steps: int
    seed: int
    resolution: int
    precision: str
    device: str
    tokenizer: str
    head_channels: int
    check: bool


def command_of(arguments: Sequence[str] | None) -> Command:
    """The command line as a value; ends the process with a usage message where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer", description="Trains an SDXL LoRA from a configuration of kohya_ss or sd-scripts."
    )
    add = parser.add_argument
    add("config", help="config.toml, dataset toml with training keys, or a file with sd-scripts' arguments")
    add("--checkpoint", default="", help="SDXL's single-file checkpoint; else pretrained_model_name_or_path")
    add("--vae", default="", help="a file with another VAE")
    add("--images", default="", help="folder of images; else train_data_dir or the dataset toml's folders")
    add("--output", default="", help="folder for LoRA files; else output_dir")
    add("--work", default="", help="folder for latents, states and logs; else 'mjesec' in the output folder")
    add("--name", default="", help="name of the LoRA file; else output_name")
    add("--steps", type=_at_least_one, default=0, help="optimizer steps; else the configuration's")
    add("--seed", type=_at_least_zero, default=-1, help="else the configuration's, or 0")
    add("--resolution", type=_at_least_one, default=0, help="side in pixels; else the configuration's")
    add("--precision", default="", choices=["", *PRECISIONS], help="else mixed_precision")
    add("--device", default="", help="such as cuda:1 or cpu; else the first GPU, or the CPU")
    add("--tokenizer", default="", help="folder with CLIP's vocab.json and merges.txt; else ComfyUI's")
    add("--head-channels", type=_at_least_one, default=HEAD_CHANNELS, help="channels of an attention head; 64 in SDXL")
    add("--check", action="store_true", help="looks whether a training could begin, and reports; trains nothing")
    return Command(**vars(parser.parse_args(arguments)))


def _at_least_one(text: str) -> int:
    return _at_least(1, text)


def _at_least_zero(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of at least {least}")
    return int(text)


def read_run(command: Command, processes: Processes) -> tuple[KohyaRun, Dataset]:
    """The configuration on its images.

    Raises:
        TrainerError: a key that cannot be honoured, or files that are not there.
    """
    path = Path(command.config)

    def read(name: str) -> str:
        file = _found(name, path)
        try:
            return file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise SettingsError(f"The configuration '{file}' is no UTF-8 text; save it as UTF-8.") from None
        except OSError as error:
            raise SettingsError(f"The configuration '{file}' cannot be read ({error}); correct its name.") from error

    config = read_kohya(read(command.config), read)
    dataset = read_images(command, config.places, path)
    return _run(command, config, dataset, processes), dataset


def _run(command: Command, config: KohyaConfig, dataset: Dataset, processes: Processes) -> KohyaRun:
    wanted = {
        "output_name": command.name or None,
        "steps": command.steps or None,
        "seed": command.seed if command.seed >= 0 else None,
        "precision": command.precision or None,
        "resolution": (command.resolution,) * 2 if command.resolution else None,
    }
    overrides = {name: value for name, value in wanted.items() if value is not None}
    given = {
        "pretrained_model_name_or_path": command.checkpoint,
        "vae": command.vae,
        "train_data_dir": command.images,
        "output_dir": command.output,
    }
    instead = tuple(key for key, value in given.items() if value)
    return config.run(dataset, in_graph=False, processes=processes.count, instead=instead, **overrides)


def _found(name: str, config: Path) -> Path:
    """A path as sd-scripts reads it, from the working folder on; else from the configuration's folder on."""
    path = Path(name)
    beside = config.parent / name
    return beside if not path.exists() and beside.exists() else path


def read_images(command: Command, places: Places, config: Path) -> Dataset:
    """All image folders as one dataset, in the configuration's order."""
    folders = places.folders
    prior = [folder for folder in folders if folder.regularisation]
    wanted = [folder for folder in folders if not folder.regularisation]
    if command.images:
        wanted = [replace(places.other, path=command.images)]
    if not wanted:
        raise DatasetError("The configuration names no images; set train_data_dir, or give --images FOLDER.")

    def scan(folder: ImageFolder) -> Dataset:
        return scan_folder(
            _found(folder.path, config),
            caption_extension=folder.caption_extension,
            repeats=folder.repeats,
            default_caption=folder.class_tokens,
            layout=folder.layout,
        )

    return combine([scan(f) for f in wanted], combine([scan(f) for f in prior]) if prior else None)


def make_job(command: Command, run: KohyaRun, dataset: Dataset, processes: Processes) -> Job:
    """Everything that the run needs, from local files alone.

    Raises:
        ModelError: no checkpoint, VAE or tokenizer.
    """
    settings, file = run.settings, _open_base(command, run)
    tokenize = load_tokenizer(find_tokenizer(command.tokenizer))
    device = processes.device(command.device)
    encoder = file.vae_encoder()
    watcher: Watcher = ConsoleWatcher() if processes.main else SilentWatcher()
    prediction = file.prediction(v_prediction=run.places.v_prediction)
    alpha_bar = file.alpha_bar(zero_terminal_snr=run.places.zero_terminal_snr)
    if mark := schedule_mark(alpha_bar, prediction):
        levels = "zero terminal SNR" if alpha_bar[-1] < 1e-6 else "the usual noise levels"
        watcher.say(f"The network is trained for {prediction} at {levels}.")

    def parts() -> Parts:
        return build_parts(
            file.unet(),
            *file.text(),
            settings.precision,
            device,
            prediction=prediction,
            alpha_bar=alpha_bar,
            head_channels=command.head_channels,
            packed=settings.base_storage != "as given" and device.type != "cpu",
        )

    return Job(
        dataset=dataset,
        settings=settings,
        base=_base(file, encoder, watcher, mark),
        folders=_folders(command, run),
        parts=parts,
        tokenize=tokenize,
        encode=make_encoder(encoder, device),
        device=device,
        watcher=watcher,
        processes=processes,
        free_bytes=lambda: free_bytes(device),
    )


def check_job(command: Command, run: KohyaRun, processes: Processes) -> None:
    """Look whether a training could begin; nothing is trained, and nothing is left on the disk.

    Raises:
        TrainerError: whatever a training would stop at before its first step.
    """
    settings, file = run.settings, _open_base(command, run)
    check_storage(settings.base_storage)
    check_optimizer(settings, processes.device(command.device))
    file.vae_encoder()
    prediction, nowhere = file.prediction(v_prediction=run.places.v_prediction), torch.device("meta")
    build_parts(
        file.unet(),
        *file.text(),
        settings.precision,
        nowhere,
        prediction=prediction,
        head_channels=command.head_channels,
    )
    folders = _folders(command, run)
    for folder in (folders.loras, folders.work):
        check_writable(folder)


def _open_base(command: Command, run: KohyaRun) -> SingleFile:
    config, vae = Path(command.config), command.vae or run.places.vae
    checkpoint = command.checkpoint or run.places.checkpoint
    if not checkpoint or not (path := _found(checkpoint, config)).is_file():
        raise ModelError(
            f"There is no checkpoint '{checkpoint}'; give --checkpoint FILE, SDXL's single-file safetensors. Nothing "
            "is downloaded."
        )
    if vae and not _found(vae, config).is_file():
        raise ModelError(
            f"There is no VAE '{vae}'; give --vae FILE, SDXL's VAE as one safetensors, or leave it out for the "
            "checkpoint's own. Nothing is downloaded."
        )
    return SingleFile(path, _found(vae, config) if vae else None)


def _folders(command: Command, run: KohyaRun) -> Folders:
    output = Path(command.output or run.places.output or ".")
    return Folders(output, Path(command.work) if command.work else output / "mjesec")


def _base(file: SingleFile, encoder: dict[str, torch.Tensor], watcher: Watcher, mark: str) -> Base:
    first, second = file.text()
    named = {"unet": file.unet(), "te1": first, "te2": second}
    weights = {f"{part}.{name}": tensor for part, state in named.items() for name, tensor in state.items()}
    total, done = sum(tensor.nbytes for tensor in weights.values()), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        watcher.stage("fingerprint of the base", done // 2**20, max(total // 2**20, 1))

    return Base(file.path.name, weights_fingerprint(weights, on_bytes) + mark, weights_fingerprint(encoder), file.path)


def told(run: KohyaRun, dataset: Dataset, command: Command) -> str:
    """The configuration's report, with cut tokens where there is a tokenizer; of a check also that of the images,
    which a training gives itself."""
    lines = report(run, dataset, load_tokenizer(find_tokenizer(command.tokenizer)))
    return f"{lines}\n{dataset_report(dataset, buckets=run.settings.buckets)}" if command.check else lines
