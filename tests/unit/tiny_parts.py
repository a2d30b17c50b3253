"""SDXL at a thousandth of its size: the real classes of diffusers and transformers with random weights.

Everything is made from fixed seeds, so two calls give equal networks that share no memory.
"""

from __future__ import annotations

import functools
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pack.trainer.adapters.adapters import Adapters, add_adapters
from pack.trainer.dataset.buckets import BucketSettings, Placement
from pack.trainer.dataset.samples import Dataset, Sample
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.runs.run import Base, Folders, Job
from pack.trainer.sdxl.checkpoint import canonical_text_names
from pack.trainer.sdxl.parts import (
    EOS,
    Parts,
    build_text_encoder,
    build_unet,
    pad_tokens,
    scaled_linear_alpha_bar,
    size_ids,
)
from pack.trainer.sdxl.precision import compute_dtype
from pack.trainer.sdxl.unet_names import to_original
from pack.trainer.settings.training import TrainSettings
from pack.trainer.training.data import Example
from pack.trainer.training.latents import Latents
from pack.trainer.training.loop import Step, Trainer
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CPU = torch.device("cpu")
SIZE = 64
HEAD_CHANNELS = 16
WIDTHS = (32, 32, 64)
TEXT_WIDTH = 16
TEXT_LAYERS = 2
TEXT_HEADS = 2
ADM = TEXT_WIDTH + 6 * 256
U_NET_MODULES = 11 * (10 + 2)
TEXT_MODULES = 2 * TEXT_LAYERS * 6

State = dict[str, torch.Tensor]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws from torch's global generator as if it were fresh, and puts it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made inside have shapes and names, and no memory."""
    with torch.device("meta"):
        yield


def make_unet(
    widths: tuple[int, ...] = WIDTHS,
    depths: tuple[int, ...] = (1, 1, 1),
    context: int = 2 * TEXT_WIDTH,
    adm: int = ADM,
    head_channels: int = HEAD_CHANNELS,
) -> UNet2DConditionModel:
    """diffusers' SDXL U-Net; `depths` are the transformer blocks of each level, of which the first has none."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=widths,
        transformer_layers_per_block=list(depths),
        attention_head_dim=[width // head_channels for width in widths],
        cross_attention_dim=context,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=adm,
    )


def full_size_unet() -> UNet2DConditionModel:
    """SDXL base 1.0's U-Net: 2.6 billion parameters, so make it under `on_meta`."""
    return make_unet((320, 640, 1280), (1, 2, 10), context=2048, adm=2816, head_channels=64)


def make_text_encoder(
    projection: bool, width: int = TEXT_WIDTH, layers: int = TEXT_LAYERS, heads: int = TEXT_HEADS
) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=49406,
        eos_token_id=EOS,
        vocab_size=49408,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def full_size_text_encoder(projection: bool) -> CLIPTextModel | CLIPTextModelWithProjection:
    """CLIP-L, or with `projection` bigG; make it under `on_meta`."""
    return make_text_encoder(projection, 1280, 32, 20) if projection else make_text_encoder(projection, 768, 12, 12)


@functools.cache
def _unet_state() -> State:
    with seeded(1):
        state = make_unet().state_dict()
        # diffusers starts the last convolution of nothing at zero; random weights everywhere let mistakes show
        names = to_original(state)
        return {names[name]: tensor for name, tensor in state.items()}


@functools.cache
def _text_state(projection: bool) -> State:
    with seeded(3 if projection else 2):
        state = make_text_encoder(projection).state_dict()
    # transformers' initial weights are so small that captions would hardly differ
    state = {name: tensor * 2 if tensor.ndim == 2 else tensor for name, tensor in state.items()}
    names = canonical_text_names(state)
    return {names[name]: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def unet_state() -> State:
    """Random weights under the original names; a copy of one's own."""
    return {name: tensor.clone() for name, tensor in _unet_state().items()}


def text_state(projection: bool) -> State:
    """Random weights under transformers' names with `text_model.`; a copy of one's own."""
    return {name: tensor.clone() for name, tensor in _text_state(projection).items()}


def make_parts(dtype: torch.dtype = torch.float32, prediction: str = "epsilon") -> Parts:
    """The networks of a run around weights in `dtype`, built as a host's weights are."""
    unet, te1, te2 = (
        {name: tensor.to(dtype) for name, tensor in state.items()}
        for state in (unet_state(), text_state(False), text_state(True))
    )
    return Parts(
        build_unet(unet, HEAD_CHANNELS),
        build_text_encoder(te1, projection=False, heads=TEXT_HEADS),
        build_text_encoder(te2, projection=True, heads=TEXT_HEADS),
        scaled_linear_alpha_bar(),
        prediction,
    )


def full_size_parts() -> Parts:
    """All three networks of SDXL on the meta device."""
    with on_meta():
        unet, te1, te2 = full_size_unet(), full_size_text_encoder(False), full_size_text_encoder(True)
    return Parts(unet, te1, te2, scaled_linear_alpha_bar())


def make_settings(**changes: object) -> TrainSettings:
    """A short run in fp32 on images of 64x64 pixels."""
    base: dict[str, object] = {
        "steps": 4,
        "rank": 4,
        "alpha": 4.0,
        "unet_lr": 1e-3,
        "text_lr": 1e-3,
        "schedule": "constant",
        "precision": "fp32",
        "save_precision": "fp32",
        "buckets": BucketSettings(resolution=(SIZE, SIZE)),
    }
    return TrainSettings(**{**base, **changes})  # type: ignore[arg-type]


def tokenize(caption: str) -> list[int]:
    """A token for each word, between CLIP's start and end."""
    return [49406, *(zlib.crc32(word.encode()) % 49406 for word in caption.split()), EOS]


def make_examples(count: int = 4, spread: float = 0.5) -> tuple[Example, ...]:
    """Examples that no file stands behind. spread: the posterior's standard deviation."""
    generator = torch.Generator().manual_seed(4)
    placement = Placement((SIZE, SIZE), (SIZE, SIZE), (0, 0))
    examples = []
    for index in range(count):
        first, second, cut = pad_tokens(tokenize(f"moon number {index}"))
        mean = torch.randn(4, SIZE // 8, SIZE // 8, generator=generator) * 7
        examples.append(
            Example(
                Sample(f"/nowhere/{index}.png", f"moon number {index}", SIZE, SIZE, 1, f"{index:064x}"),
                placement,
                Latents(mean, torch.full_like(mean, spread)),
                torch.tensor(size_ids((SIZE, SIZE), (0, 0), (SIZE, SIZE))),
                torch.tensor([first, second]),
                cut,
            )
        )
    return tuple(examples)


@functools.cache
def _network(train: str, precision: str, computed_in: torch.dtype) -> tuple[Parts, Adapters]:
    # the layers compute in the dtype in which they were made
    parts = make_parts()
    return parts, add_adapters(parts, make_settings(train=train, precision=precision))


def make_trainer(settings: TrainSettings, examples: Sequence[Example] | None = None) -> Trainer:
    """A trainer at step 0 with fresh adapters of rank 4.

    All trainers of the same kind share their networks, which take long to make: use one after the other.
    """
    parts, adapters = _network(settings.train, settings.precision, compute_dtype(settings.precision, CPU))
    assert (settings.rank, settings.alpha) == (adapters.rank, adapters.alpha)
    start_over(adapters)
    parts.prediction = "epsilon"
    for module in parts.modules():
        module.eval()
    return Trainer(parts, adapters, examples or make_examples(), settings, CPU)


def start_over(adapters: Adapters) -> None:
    """Weights as `add_adapters` draws them, without gradients."""
    generator = torch.Generator().manual_seed(0)
    for module in adapters.modules:
        bound = module.down.shape[1] ** -0.5
        module.down.data.uniform_(-bound, bound, generator=generator)
        module.up.data.zero_()
        module.down.grad = module.up.grad = None


def randomize(adapters: Adapters, seed: int = 5, scale: float = 0.05) -> None:
    """Adapters that do something: up starts at zero, which hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for module in adapters.modules:
        module.up.data.copy_(torch.randn(module.up.shape, generator=generator) * scale)


def weights_of(trainer: Trainer) -> State:
    """The adapters' weights as they are now, copied."""
    return {name: tensor.clone() for name, tensor in trainer.adapters.tensors().items()}


def assert_same(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    """Equal to the last bit: names, dtypes, shapes and values."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor, right[name]), name


def write_images(folder: Path, count: int = 4, size: int = SIZE) -> Path:
    """Pictures of a disc in the night sky at `count` places, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:size, :size]
    for index in range(count):
        inside = (rows - size / 2) ** 2 + (columns - size * (index + 1) / (count + 1)) ** 2 < (size / 5) ** 2
        grey = np.where(inside, 255 - 20 * index, 10).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, axis=-1)).save(folder / f"disc_{index}.png")
        (folder / f"disc_{index}.txt").write_text(f"a disc at place {index}", "utf-8")
    return folder


@functools.cache
def _vae() -> AutoencoderKL:
    with seeded(6):
        return AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
        ).eval()


@torch.no_grad()
def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A VAE of random weights as `LatentsCache` wants it."""
    posterior = _vae().encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist
    return posterior.mean * 10, posterior.std


@dataclass
class Log:
    """A watcher that keeps what it is told. `stop_after`: raises `Stop` when that step is finished."""

    stop_after: int | None = None
    stop_at_stage: str | None = None
    steps: list[Step] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append(name)
        if name == self.stop_at_stage:
            raise Stop

    def step(self, step: Step) -> None:
        self.steps.append(step)
        if step.step == self.stop_after:
            raise Stop

    def say(self, line: str) -> None:
        self.lines.append(line)


class Drawing:
    """A sampler that keeps what it is given; with ``room`` it wants the networks' memory while it draws."""

    def __init__(self, every: int, *, room: bool = False, fails: bool = False) -> None:
        self.every, self.room, self.fails = every, room, fails
        self.drawn: dict[int, dict[str, object]] = {}
        self.held: list[weakref.ref[object]] = []
        self.alive: list[int] = []

    def parts(self) -> Parts:
        made = make_parts()
        self.held.append(weakref.ref(made.unet))
        return made

    def needs_room(self) -> bool:
        return self.room

    def draw(self, lora: dict[str, object], outputs: object, step: int) -> list[dict[str, str]]:
        self.alive.append(sum(ref() is not None for ref in self.held))
        if self.fails:
            raise RuntimeError("no paint left")
        self.drawn[step] = lora
        return [{"filename": f"{step}.png", "subfolder": "", "type": "output"}]


class Stop(BaseException):
    """How a host cancels: nothing that `except Exception` would catch."""


def no_parts() -> Parts:
    """Stands in for `make_parts` where a run must not train."""
    raise AssertionError("Networks were made although nothing was to be trained.")


def make_job(root: Path, settings: TrainSettings, log: Log | None = None, dataset: Dataset | None = None) -> Job:
    """A run on the folder `root`/images, with LoRA files in `root`/loras."""
    if dataset is None:
        images = root / "images"
        dataset = scan_folder(str(images if images.exists() else write_images(images)))
    return Job(
        dataset,
        settings,
        Base("tiny.safetensors", "base", "vae"),
        Folders(root / "loras", root / "work"),
        make_parts,
        tokenize,
        encode,
        CPU,
        log or Log(),
    )
