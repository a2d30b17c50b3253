"""The cache of latents: it saves time and is never stale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from diffusers.models.autoencoders.vae import Encoder
from pack.trainer.dataset.buckets import Placement, place
from pack.trainer.dataset.samples import Sample
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import ImageError, MemoryShortage
from pack.trainer.runs.run import train
from pack.trainer.sdxl.single_file import make_encoder
from pack.trainer.settings.options import ImageSettings
from pack.trainer.training.data import prepare
from pack.trainer.training.latents import Latents, LatentsCache
from PIL import Image

SETTINGS = tiny_parts.make_settings()


@dataclass
class Counted:
    """The VAE, counting what it is asked to encode."""

    pixels: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.pixels.append(pixels)
        return tiny_parts.encode(pixels)


@dataclass
class Case:
    """One image of 96x96 pixels and a cache of its own."""

    root: Path
    vae: Counted = field(default_factory=Counted)
    fingerprint: str = "vae"

    def __post_init__(self) -> None:
        tiny_parts.write_images(self.root / "images", count=1, size=96)

    @property
    def sample(self) -> Sample:
        return scan_folder(str(self.root / "images")).samples[0]

    @property
    def placement(self) -> Placement:
        return place(96, 96, SETTINGS.buckets)

    @property
    def cache(self) -> LatentsCache:
        return LatentsCache(self.root / "latents", self.fingerprint, self.vae)

    def get(self, settings: object = SETTINGS, placement: Placement | None = None) -> Latents:
        return self.cache.get(self.sample, placement or self.placement, settings)

    def entry(self) -> Path:
        (path,) = (self.root / "latents").rglob("*.safetensors")
        return path


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def assert_equal(left: Latents, right: Latents) -> None:
    assert torch.equal(left.mean, right.mean)
    assert torch.equal(left.std, right.std)


def test_an_image_is_encoded_once_and_then_read_from_disk(case: Case) -> None:
    first, second = case.get(), case.get()
    assert len(case.vae.pixels) == 1
    assert_equal(first, second)
    assert first.mean.shape == first.std.shape == (4, 8, 8)
    assert first.mean.dtype == first.std.dtype == torch.float32


def test_hits_are_counted(case: Case) -> None:
    cache = case.cache
    for _ in range(3):
        cache.get(case.sample, case.placement, SETTINGS)
    assert cache.hits == 2


def test_the_vae_sees_the_cropped_picture_as_numbers_from_0_to_1(case: Case) -> None:
    case.get()
    (pixels,) = case.vae.pixels
    assert pixels.shape == (1, 64, 64, 3)
    assert pixels.dtype == torch.float32
    assert 0 <= pixels.min() < 0.1
    assert 0.9 < pixels.max() <= 1


def edit_the_image(case: Case) -> None:
    path = Path(case.sample.path)
    with Image.open(path) as image:
        edited = image.copy()
    edited.putpixel((0, 0), (255, 0, 0))
    edited.save(path)


def take_another_vae(case: Case) -> None:
    case.fingerprint = "another"


@pytest.mark.parametrize("change", [edit_the_image, take_another_vae])
def test_another_image_or_vae_is_another_entry(case: Case, change: Callable[[Case], None]) -> None:
    case.get()
    change(case)
    case.get()
    assert len(case.vae.pixels) == 2


@pytest.mark.parametrize(
    "placement",
    [
        Placement((64, 64), (64, 64), (0, 0)),
        Placement((96, 96), (64, 64), (0, 0)),
        Placement((96, 96), (64, 64), (32, 16)),
        Placement((96, 96), (96, 64), (0, 16)),
    ],
    ids=str,
)
def test_another_size_or_crop_is_another_entry(case: Case, placement: Placement) -> None:
    first = case.get(placement=Placement((96, 96), (64, 64), (16, 16)))
    second = case.get(placement=placement)
    assert len(case.vae.pixels) == 2
    assert first.mean.shape != second.mean.shape or not torch.equal(first.mean, second.mean)


@pytest.mark.parametrize(
    "changes", [{"exif_rotate": False}, {"alpha_background": None}, {"alpha_background": (0, 0, 0)}]
)
def test_settings_that_change_pixels_make_another_entry(case: Case, changes: dict[str, object]) -> None:
    case.get()
    case.get(replace(SETTINGS, images=ImageSettings(**changes)))
    assert len(case.vae.pixels) == 2


@pytest.mark.parametrize("changes", [{"steps": 99}, {"seed": 5}, {"rank": 8}, {"told_crop": "kohya"}])
def test_settings_that_do_not_change_pixels_use_the_same_entry(case: Case, changes: dict[str, object]) -> None:
    case.get()
    case.get(replace(SETTINGS, **changes))
    assert len(case.vae.pixels) == 1


def test_a_renamed_image_is_the_same_entry(case: Case) -> None:
    case.get()
    path = Path(case.sample.path)
    path.rename(path.with_name("renamed.png"))
    case.get()
    assert len(case.vae.pixels) == 1


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all", None], ids=["empty", "text", "cut short"])
def test_a_damaged_entry_is_made_again(case: Case, damage: bytes | None) -> None:
    whole = case.get()
    good = case.entry().read_bytes()
    case.entry().write_bytes(good[:-40] if damage is None else damage)
    assert_equal(case.get(), whole)
    assert len(case.vae.pixels) == 2
    assert case.entry().read_bytes() == good


def test_an_entry_of_another_shape_is_made_again(case: Case) -> None:
    from safetensors.torch import save_file

    whole = case.get()
    save_file({"mean": torch.zeros(4, 3, 3), "std": torch.zeros(4, 3, 3)}, case.entry())
    assert_equal(case.get(), whole)


def test_a_cache_that_cannot_be_written_costs_time_and_no_result(case: Case) -> None:
    (case.root / "latents").write_text("a file where the folder should be")
    assert case.get().mean.shape == (4, 8, 8)
    assert case.get().mean.shape == (4, 8, 8)
    assert len(case.vae.pixels) == 2


def test_an_image_that_was_edited_after_the_scan_is_not_kept_under_its_old_hash(case: Case) -> None:
    sample = case.sample
    edit_the_image(case)
    with pytest.raises(ImageError, match="disc_0.png.*has changed since the dataset was made"):
        case.cache.get(sample, case.placement, SETTINGS)
    assert not list((case.root / "latents").rglob("*.safetensors"))


def test_the_vae_sees_an_image_turned_as_the_settings_say(case: Case) -> None:
    path = Path(case.sample.path)
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # turned to the right
        image.copy().save(path, exif=exif)
    plain = replace(SETTINGS, images=ImageSettings(exif_rotate=False))
    for settings in (SETTINGS, plain):
        case.get(settings)
    turned, as_it_lies = case.vae.pixels
    # 8 bits are rounded in another order
    torch.testing.assert_close(turned, as_it_lies.rot90(-1, (1, 2)), rtol=0, atol=2 / 255)
    assert (turned - as_it_lies).abs().max() > 0.5


def test_the_vae_sees_the_colour_behind_transparency_or_what_lies_under_it(case: Case) -> None:
    Image.new("RGBA", (96, 96), (255, 0, 0, 0)).save(case.sample.path)
    seen = {}
    for background in ((255, 255, 255), (0, 51, 255), None):
        case.get(replace(SETTINGS, images=ImageSettings(alpha_background=background)))
        seen[background] = case.vae.pixels[-1][0, 32, 32].tolist()
    assert seen == {
        (255, 255, 255): [1, 1, 1], (0, 51, 255): pytest.approx([0, 0.2, 1]), None: [1, 0, 0],
    }  # fmt: skip


def test_an_image_that_has_gone_is_named(case: Case) -> None:
    sample = case.sample
    Path(sample.path).unlink()
    with pytest.raises(ImageError, match="disc_0.png"):
        case.cache.get(sample, case.placement, SETTINGS)


def test_a_vae_without_a_posterior_has_no_spread(case: Case) -> None:
    cache = LatentsCache(case.root / "latents", "vae", lambda pixels: (tiny_parts.encode(pixels)[0], None))
    latents = cache.get(case.sample, case.placement, SETTINGS)
    assert not latents.std.any()
    assert torch.equal(latents.sample(torch.Generator()), latents.mean)


def test_samples_of_the_posterior_have_its_mean_and_deviation() -> None:
    latents = Latents(torch.full((4, 64, 64), 3.0), torch.full((4, 64, 64), 0.5))
    drawn = latents.sample(torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(3.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.02)


def test_examples_hold_what_the_unet_is_told(tmp_path: Path) -> None:
    tiny_parts.write_images(tmp_path / "images", count=2, size=96)
    seen: list[tuple[int, int]] = []
    cache = LatentsCache(tmp_path / "latents", "vae", tiny_parts.encode)
    examples = prepare(
        scan_folder(str(tmp_path / "images")), SETTINGS, cache, tiny_parts.tokenize, lambda *place: seen.append(place)
    )
    assert seen == [(1, 2), (2, 2)]
    for index, example in enumerate(examples):
        assert example.time_ids.tolist() == [96, 96, 0, 0, 64, 64]
        assert example.tokens.shape == (2, 77)
        ids = tiny_parts.tokenize(f"a disc at place {index}")
        assert example.tokens[:, : len(ids)].tolist() == [ids, ids]


def test_what_the_watcher_of_the_encoding_raises_ends_it_and_keeps_what_is_encoded(tmp_path: Path) -> None:
    tiny_parts.write_images(tmp_path / "images", count=3)
    cache = LatentsCache(tmp_path / "latents", "vae", tiny_parts.encode)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise tiny_parts.Stop

    with pytest.raises(tiny_parts.Stop):
        prepare(scan_folder(str(tmp_path / "images")), SETTINGS, cache, tiny_parts.tokenize, stop)
    assert len(list((tmp_path / "latents").rglob("*.safetensors"))) == 2


def test_an_image_that_finds_no_memory_is_named_with_a_cure(tmp_path: Path) -> None:
    def encode(pixels: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(MemoryShortage, match="too little memory to encode 'disc_0.png': choose a lower resolution"):
        train(replace(tiny_parts.make_job(tmp_path, tiny_parts.make_settings()), encode=encode))


def test_an_image_that_does_not_fit_whole_is_encoded_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = tiny_parts._vae()
    state = {n: t for n, t in vae.state_dict().items() if n.startswith(("encoder.", "quant_conv."))}
    encode = make_encoder(state, tiny_parts.CPU, groups=4)
    pixels = torch.rand(1, 640, 576, 3, generator=torch.Generator().manual_seed(0))
    whole = encode(pixels)
    forward = Encoder.forward

    def refuse(self: Encoder, x: torch.Tensor) -> torch.Tensor:
        if max(x.shape[-2:]) > 512:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, x)

    monkeypatch.setattr(Encoder, "forward", refuse)
    for part, wanted in zip(encode(pixels), whole, strict=True):
        assert part.shape == wanted.shape
        # at the seams a tile does not see its neighbour
        assert ((part - wanted).norm() / wanted.norm()).item() < 0.2
