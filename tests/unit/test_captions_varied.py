"""Captions that change, long captions, mirrored images, several resolutions and captions from tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_parts
import torch
from pack.trainer.dataset.buckets import BucketSettings, place, told_crop
from pack.trainer.dataset.scan import scan_folder
from pack.trainer.errors import DatasetError, SettingsError
from pack.trainer.runs.identity import run_id
from pack.trainer.runs.run import train
from pack.trainer.sdxl.parts import EOS, TOKENS, encode_text, pad_tokens
from pack.trainer.sdxl.tokens import caption_ids, stack_ids
from pack.trainer.settings.arguments import parse_color, parse_whole_numbers
from pack.trainer.settings.options import CaptionSettings, ImageSettings
from pack.trainer.training.caption_variants import draw_caption, fixed_caption
from pack.trainer.training.data import Example, Plan, prepare
from pack.trainer.training.latents import LatentsCache
from pack.trainer.training.noise import step_generator
from PIL import Image
from tiny_parts import make_examples, make_job, make_settings, make_trainer, tokenize

CAPTION = "moon, night, pines, sea, stars"


def drawn(caption: str = CAPTION, epoch: int = 0, count: int = 60, **changes: object) -> list[str]:
    settings = CaptionSettings(**changes)
    return [draw_caption(caption, settings, step_generator(number), epoch) for number in range(count)]


def tags(caption: str) -> list[str]:
    return caption.split(", ") if caption else []


def test_nothing_changes_unless_asked() -> None:
    assert set(drawn()) == {CAPTION}
    assert not CaptionSettings(trigger="mjesec", tokens=225).varies


def test_tags_are_shuffled_and_the_same_place_gives_the_same_order() -> None:
    seen = drawn(shuffle=True)
    assert len(set(seen)) > 20
    assert {tuple(sorted(tags(caption))) for caption in seen} == {tuple(sorted(tags(CAPTION)))}
    assert seen == drawn(shuffle=True)


def test_kept_tags_stay_first_in_shuffles_and_thinnings() -> None:
    seen = [tags(caption) for caption in drawn(shuffle=True, tag_dropout=0.5, keep_tokens=2)]
    assert all(caption[:2] == ["moon", "night"] for caption in seen)
    assert {len(caption) for caption in seen} == {2, 3, 4, 5}


def test_the_separator_says_which_tags_stay_and_is_never_seen() -> None:
    caption = "a moon, at night ||| pines, sea, stars ||| photograph"
    seen = drawn(caption, shuffle=True, keep_tokens=1)
    assert all(tags(c)[:2] == ["a moon", "at night"] and tags(c)[-1] == "photograph" for c in seen)
    assert len(set(seen)) == 6
    assert fixed_caption(caption, CaptionSettings()) == "a moon, at night, pines, sea, stars, photograph"


def test_shuffled_tags_are_joined_with_commas_whatever_parts_them() -> None:
    assert set(drawn("a; b; c", shuffle=True, separator=";", keep_tokens=1)) == {"a, b, c", "a, c, b"}


def test_empty_tags_count_as_kept_ones() -> None:
    assert set(drawn("a,, b, c", shuffle=True, keep_tokens=2)) == {"a, , b, c", "a, , c, b"}


def test_one_line_of_a_caption_file_is_drawn_where_wildcards_are_on(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", count=1)
    (folder / "disc_0.txt").write_text("a {full|new} moon\r\n\n  a disc \n", "utf-8")
    dataset = scan_folder(str(folder))
    assert (dataset.samples[0].caption, dataset.samples[0].more_captions) == ("a {full|new} moon", ("a disc",))
    seen = {}
    for wildcards in (True, False):
        settings = make_settings(captions=CaptionSettings(wildcards=wildcards))
        cache = LatentsCache(tmp_path / "latents", "vae", tiny_parts.encode)
        (example,) = prepare(dataset, settings, cache, tokenize, lambda done, of: None)
        seen[wildcards] = set(drawn(example.sample.caption, wildcards=wildcards))
    assert seen == {True: {"a full moon", "a new moon", "a disc"}, False: {"a {full|new} moon"}}


def test_further_lines_are_part_of_a_run_that_draws_them(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", count=2)
    runs = []
    for line in ("one", "two"):
        (folder / "disc_0.txt").write_text(f"a disc\n{line}", "utf-8")
        dataset = scan_folder(str(folder))
        for wildcards in (True, False):
            runs.append(run_id(make_settings(captions=CaptionSettings(wildcards=wildcards)), dataset, "base", "vae"))
    assert runs[0] != runs[2]
    assert runs[1] == runs[3]


def test_captions_are_dropped_by_share_and_by_epoch() -> None:
    assert drawn(dropout=0.5, count=400).count("") == pytest.approx(200, abs=40)
    assert set(drawn(dropout=1.0, trigger="mjesec")) == {""}
    for epoch, expected in ((0, CAPTION), (1, ""), (2, CAPTION), (3, "")):
        assert set(drawn(epoch=epoch, dropout_every_epochs=2)) == {expected}


def test_wildcards_draw_one_of_their_choices() -> None:
    assert set(drawn("a {full|new|} moon", wildcards=True)) == {"a full moon", "a new moon", "a  moon"}
    assert set(drawn("{a {b|c}|d}", wildcards=True)) == {"a b", "a c", "d"}
    assert set(drawn("a {full|new} moon")) == {"a {full|new} moon"}
    assert set(drawn("a {{full|new}} {moon}{}", wildcards=True)) == {"a {full|new} moon{}"}


def test_the_trigger_word_comes_first_and_is_not_shuffled() -> None:
    assert fixed_caption("moon", CaptionSettings(trigger="mjesec")) == "mjesec, moon"
    assert fixed_caption("moon", CaptionSettings(trigger="mjesec,")) == "mjesec, moon"
    assert fixed_caption("", CaptionSettings(trigger="mjesec")) == "mjesec"
    assert all(caption.startswith("mjesec, ") for caption in drawn(trigger="mjesec", shuffle=True))


def words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


@pytest.mark.parametrize(
    ("count", "limit", "form", "pieces", "cut"),
    [(10, 75, "comfyui", 1, 0), (80, 75, "comfyui", 1, 5), (80, 225, "comfyui", 2, 0), (75, 225, "comfyui", 1, 0),
     (10, 225, "kohya", 3, 0), (160, 150, "comfyui", 2, 10)],
)  # fmt: skip
def test_long_captions_become_pieces_of_75(count: int, limit: int, form: str, pieces: int, cut: int) -> None:
    ids, lost = caption_ids(words(count), CaptionSettings(tokens=limit, long_captions=form), tokenize)
    assert (ids.shape, lost) == ((2, 77 * pieces), cut)
    inner = tokenize(words(count))[1:-1]
    for row, fill in zip(ids.view(2, pieces, 77), (EOS, 0), strict=True):
        for number, piece in enumerate(row.tolist()):
            own = inner[75 * number : 75 * (number + 1)]
            assert piece == [49406, *own, EOS] + [fill] * (75 - len(own))


def test_captions_of_other_lengths_get_empty_pieces() -> None:
    settings = CaptionSettings(tokens=225)
    ids = stack_ids([caption_ids(words(n), settings, tokenize)[0] for n in (100, 3)])
    assert ids.shape == (2, 2, 154)
    first, second, _ = pad_tokens(tokenize(""))
    assert ids[:, 1, 77:].tolist() == [first, second]


@torch.no_grad()
def test_pieces_are_encoded_apart_and_concatenated_and_the_first_is_pooled() -> None:
    parts = tiny_parts.make_parts()
    ids, _ = caption_ids(words(100), CaptionSettings(tokens=225), tokenize)
    pieces = [encode_text(parts, piece[:, None]) for piece in ids.split(TOKENS, dim=1)]
    context, pooled = encode_text(parts, ids[:, None])
    torch.testing.assert_close(context, torch.cat([c for c, _ in pieces], dim=1))
    torch.testing.assert_close(pooled, pieces[0][1])
    # sd-scripts: one start, 75 of each piece, one end
    joined, same = encode_text(parts, ids[:, None], joined=True)
    first, second = (c for c, _ in pieces)
    expected = torch.cat([first[:, :1], first[:, 1:76], second[:, 1:76], second[:, 76:]], dim=1)
    torch.testing.assert_close(joined, expected)
    assert joined.shape[1] == 152
    assert torch.equal(same, pooled)


# what changes the first steps of a run; each must give other losses than the plain run
RUNS = {
    "plain": {},
    "shuffle": {"captions": CaptionSettings(shuffle=True)},
    "dropout": {"captions": CaptionSettings(dropout=0.5)},
    "every epoch": {"captions": CaptionSettings(dropout_every_epochs=1)},
    "tag dropout": {"captions": CaptionSettings(tag_dropout=0.9)},
    "trigger": {"captions": CaptionSettings(trigger="mjesec")},
    "wildcards": {"captions": CaptionSettings(wildcards=True)},
    "long": {"captions": CaptionSettings(tokens=150)},
    "long, kohya": {"captions": CaptionSettings(tokens=150, long_captions="kohya")},
    "flip": {"images": ImageSettings(flip=True)},
    "resolutions": {"images": ImageSettings(more_resolutions=(128,))},
}


def test_every_option_reaches_a_run_and_a_run_with_it_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    images = tiny_parts.write_images(tmp_path / "images", 2, size=128)
    for number in range(2):
        (images / f"disc_{number}.txt").write_text(f"disc, {{ night | day }}, sky {number}, {words(90)}", "utf-8")
    dataset = scan_folder(images)
    losses = {}
    for name, changes in RUNS.items():
        settings = make_settings(steps=5, train="unet", **changes)
        losses[name] = train(make_job(tmp_path / name, settings, dataset=dataset)).losses
    assert len(set(losses.values())) == len(losses)
    settings = make_settings(steps=5, train="unet", **RUNS["shuffle"])
    with pytest.raises(tiny_parts.Stop):
        train(make_job(tmp_path / "again", settings, tiny_parts.Log(stop_after=1), dataset))
    assert train(make_job(tmp_path / "again", settings, dataset=dataset)).losses == losses["shuffle"]


def examples_of(folder: Path, settings: object) -> tuple[Example, ...]:
    cache = LatentsCache(folder.parent / "cache", "vae", tiny_parts.encode)
    return prepare(scan_folder(folder), settings, cache, tokenize, lambda done, of: None)


def test_mirrored_images_are_encoded_as_such_and_told_their_crop(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture = Image.linear_gradient("L").rotate(90).resize((150, 96))
    picture.save(tmp_path / "images" / "a.png")
    buckets = BucketSettings(resolution=(96, 96), step=32)
    settings = make_settings(images=ImageSettings(flip=True), buckets=buckets)
    (example,) = examples_of(tmp_path / "images", settings)
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "images" / "a.png")
    (turned,) = examples_of(tmp_path / "images", make_settings(buckets=buckets))
    assert example.mirrored.placement.resized == turned.placement.resized
    left = int(example.time_ids[3])
    assert int(example.mirrored.time_ids[3]) == turned.placement.resized[0] - turned.placement.bucket[0] - left
    torch.testing.assert_close(example.mirrored.latents.mean, turned.latents.mean, atol=0.5, rtol=0.1)
    assert not torch.allclose(example.mirrored.latents.mean, example.latents.mean, atol=0.5)


def test_kohyas_mirrored_crop_is_the_margin_on_the_other_side() -> None:
    placement = place(2000, 3000, BucketSettings())
    width, height = placement.bucket
    margin = width - height * 2000 / 3000
    assert told_crop((2000, 3000), placement) == (0, int(margin // 2)) == (0, 10)
    # 832 - (10 + 810.67) is 11.33: the half that is rounded down is on the other side now
    assert told_crop((2000, 3000), placement, mirrored=True) == (0, int(margin - margin // 2)) == (0, 11)


def test_half_of_the_times_the_mirror_image_is_seen() -> None:
    (plain,) = make_examples(1, spread=0.0)
    mirrored = replace(plain, latents=replace(plain.latents, mean=plain.latents.mean + 100))
    trainer = make_trainer(make_settings(), [replace(plain, mirrored=mirrored)])
    seen = [trainer.draw([0], step, 0).latents.mean().item() > 50 for step in range(100)]
    assert 30 < sum(seen) < 70


def test_each_image_is_trained_at_every_resolution_it_is_large_enough_for(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 1, size=128)
    Image.new("RGB", (64, 64)).save(folder / "small.png")
    settings = make_settings(
        images=ImageSettings(more_resolutions=(128, 96)), buckets=BucketSettings((64, 64), step=32)
    )
    examples = examples_of(folder, settings)
    found = sorted((Path(e.sample.path).name, e.placement.bucket) for e in examples)
    assert found == [("disc_0.png", (64, 64)), ("disc_0.png", (96, 96)), ("disc_0.png", (128, 128)),
                     ("small.png", (64, 64))]  # fmt: skip
    assert [e.placement.bucket for e in examples[:2]] == [(64, 64)] * 2
    assert Plan(examples, settings).steps_per_epoch == 4


TABLES = {
    "metadata.jsonl": '{"file_name": "disc_0.png", "text": "from lines"}\n\n{"file_name": "disc_1.png", "caption": ""}',
    "list.json": json.dumps([{"file_name": "disc_0.png", "text": "from lines"}, {"image": "disc_1", "caption": ""}]),
    "meta_cap.json": json.dumps({"disc_0": {"caption": "from lines"}, "disc_1.png": "", "unknown": {"bucket": 3}}),
}


@pytest.mark.parametrize("name", TABLES)
def test_captions_come_from_a_table_and_from_files_where_it_has_none(name: str, tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 3)
    (folder / name).write_text(TABLES[name], "utf-8")
    dataset = scan_folder(folder, caption_table=name)
    assert [s.caption for s in dataset.samples] == ["from lines", "", "a disc at place 2"]
    assert dataset.problems == ()
    assert scan_folder(folder).samples[0].caption == "a disc at place 0"


def test_captions_and_tags_of_kohyas_tools_are_joined(tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 2)
    table = {"disc_0": {"caption": "a disc", "tags": "night, sky"}, "disc_1": {"tags": ["one", "two"]}}
    (folder / "meta.json").write_text(json.dumps(table))
    found = scan_folder(folder, caption_table="meta.json").samples
    assert [sample.caption for sample in found] == ["a disc, night, sky", "one, two"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("none.json", None, "cannot be read"), ("a.json", "{", "is no valid JSON"), ("a.json", "3", "neither a list"),
     ("a.jsonl", '{"text": "b"}', "Entry 1 of the caption file"), ("../a.json", "{}", "lies outside")],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused_by_name(name: str, text: str, said: str, tmp_path: Path) -> None:
    folder = tiny_parts.write_images(tmp_path / "images", 1)
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(DatasetError, match=said):
        scan_folder(folder, caption_table=name)


def test_colours_and_numbers_are_read_from_text() -> None:
    assert parse_color(" #FF8000") == (255, 128, 0)
    assert parse_whole_numbers(" 512, 768 ") == (512, 768)
    assert parse_whole_numbers("") == ()
    for parse, text in ((parse_color, "white"), (parse_color, "#fff"), (parse_whole_numbers, "512, x")):
        with pytest.raises(SettingsError):
            parse(text)


def test_what_is_measured_has_its_wildcards_chosen_and_always_the_same_ones() -> None:
    settings = CaptionSettings(wildcards=True, trigger="mjesec")
    seen = {fixed_caption("a {red|blue|white} moon, {{full}}", settings) for _ in range(20)}
    (caption,) = seen
    assert re.fullmatch(r"mjesec, a (red|blue|white) moon, \{full\}", caption)
    assert fixed_caption("a {red|blue} moon", CaptionSettings()) == "a {red|blue} moon"
