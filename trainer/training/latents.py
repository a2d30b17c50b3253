"""Images to the VAE's latents, once: kept on disk under a hash of everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..dataset.buckets import Placement
from ..dataset.images import apply_placement, hash_image, load_rgb
from ..dataset.samples import Sample
from ..errors import ImageError, LoraFileError
from ..files import write_atomically
from ..read_ahead import ReadAhead
from ..sdxl.parts import Encode
from ..settings.training import TrainSettings
from ..shortage import sentence_for_shortage

_FORMAT = "mjesec latents 1"
_CURE = "choose a lower resolution, or close what else holds memory"


@dataclass(frozen=True)
class Latents:
    """The VAE's posterior of one image: mean and standard deviation, (4, H/8, W/8) float32, unscaled."""

    mean: torch.Tensor
    std: torch.Tensor

    def sample(self, generator: torch.Generator) -> torch.Tensor:
        """One draw, on the CPU."""
        return self.mean + self.std * torch.randn(self.mean.shape, generator=generator)


class LatentsCache:
    """Latents by content: an edited image, another crop or another VAE is another entry, so none is ever stale."""

    def __init__(self, folder: Path, vae_fingerprint: str, encode: Encode) -> None:
        self.folder, self.fingerprint, self.encode = folder, vae_fingerprint, encode
        self.hits = self.misses = 0
        self._ahead: ReadAhead[tuple[Sample, Placement], np.ndarray] | None = None

    def told(self, seconds: float) -> str:
        """How much was encoded in that time, for the report."""
        found = f"{self.hits} images were on disk" if self.hits else ""
        if not self.misses:
            return f"Latents: {found or 'none'}."
        speed = f"{self.misses} images encoded in {seconds:.1f} s, {self.misses / max(seconds, 1e-9):.2f} images/s"
        return f"Latents: {speed}{found and f'; {found}'}."

    def path(self, sample: Sample, placement: Placement, settings: TrainSettings, *, mirrored: bool = False) -> Path:
        fields = (
            _FORMAT, self.fingerprint, sample.content_hash, placement.resized, placement.bucket, placement.crop,
            settings.images.exif_rotate, settings.images.alpha_background,
        )  # fmt: skip
        if mirrored:
            fields += ("mirrored",)
        key = hashlib.sha256(repr(fields).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    @contextlib.contextmanager
    def reading_ahead(self, wanted: Iterable[tuple[Sample, Placement]], settings: TrainSettings) -> Iterator[None]:
        """Inside, what is not on disk yet is decoded in threads before ``get`` asks for it, in this order."""
        missing = ((s, p) for s, p in wanted if not self.path(s, p, settings).exists())
        with ReadAhead(lambda key: load_pixels(*key, settings), missing) as self._ahead:
            try:
                yield
            finally:
                self._ahead = None

    def get(self, sample: Sample, placement: Placement, settings: TrainSettings, *, mirrored: bool = False) -> Latents:
        """Latents of one image, or of its mirror image, from disk or freshly encoded.

        Raises:
            ImageError: the image cannot be read any more, or is another one than when the dataset was made.
        """
        path = self.path(sample, placement, settings, mirrored=mirrored)
        if (held := _read(path, placement)) is not None:
            self.hits += 1
            return held
        known = self._ahead is not None
        pixels = self._ahead.take((sample, placement)) if known else load_pixels(sample, placement, settings)
        _check_unchanged(sample)
        if mirrored:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        with sentence_for_shortage(f"to encode '{Path(sample.path).name}'", _CURE):
            mean, std = self.encode(torch.from_numpy(pixels)[None])
        mean = _kept(mean)
        latents = Latents(mean, torch.zeros_like(mean) if std is None else _kept(std))
        if not _is_finite(latents):
            raise ImageError(
                sample.path, "the VAE makes no finite numbers of it; run it in bf16 or fp32 (ComfyUI: --fp32-vae)"
            )
        self.misses += 1
        # a full disk costs the next run time, not this one its result
        with contextlib.suppress(LoraFileError):
            write_atomically(path, lambda scratch: save_file({"mean": latents.mean, "std": latents.std}, scratch))
        return latents


def _check_unchanged(sample: Sample) -> None:
    """Under the old hash, the new picture would be every later run's old one."""
    try:
        same = hash_image(Path(sample.path)) == sample.content_hash
    except OSError as error:
        raise ImageError(sample.path, f"it cannot be read ({error.strerror})") from error
    if not same:
        raise ImageError(sample.path, "it has changed since the dataset was made; queue again to train on it as it is")


def load_pixels(sample: Sample, placement: Placement, settings: TrainSettings) -> np.ndarray:
    """The training image, (H, W, 3) float32 from 0 to 1.

    Raises:
        ImageError: the image cannot be read any more.
    """
    options = settings.images
    image = load_rgb(sample.path, exif_rotate=options.exif_rotate, background=options.alpha_background)
    return np.asarray(apply_placement(image, placement), np.float32) / 255


def _kept(encoded: torch.Tensor) -> torch.Tensor:
    # a VAE may run channels-last, which safetensors does not store
    return encoded[0].float().cpu().clone(memory_format=torch.contiguous_format)


def _read(path: Path, placement: Placement) -> Latents | None:
    if not path.exists():
        return None
    width, height = placement.bucket
    try:
        held = load_file(path)
        latents = Latents(held["mean"], held["std"])
    except Exception:  # a damaged entry is made again
        return None
    fits = latents.mean.shape == latents.std.shape == (4, height // 8, width // 8)
    return latents if fits and _is_finite(latents) else None


def _is_finite(latents: Latents) -> bool:
    return bool(latents.mean.isfinite().all() and latents.std.isfinite().all())
