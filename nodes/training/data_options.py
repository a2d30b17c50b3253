"""Nodes that say how captions and image files become training examples."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ...trainer.settings.arguments import parse_color, parse_whole_numbers
from ...trainer.settings.options import LONG_CAPTIONS, TOKEN_LIMITS
from ...trainer.settings.training import CROPS, LATENTS, TrainSettings
from .changes import changed
from .options import AS_GIVEN, SWITCH, as_given_input, changed_settings, settings_input, share_input
from .settings import CATEGORY


class CaptionOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecCaptionOptions",
            display_name="Caption Options",
            category=CATEGORY,
            description="How captions are varied from step to step: shuffled, dropped, drawn from wildcards; a trigger "
            "word; captions of more than 75 tokens.",
            search_aliases=["caption dropout", "shuffle tags", "keep tokens", "trigger word", "max token length"],
            has_intermediate_output=True,
            inputs=[
                settings_input(),
                io.String.Input(
                    "trigger", default="", tooltip="A word put before every caption, and learnt with all images."
                ),
                io.Boolean.Input("shuffle", default=False, tooltip="Shuffles the tags each time an image is seen."),
                io.Int.Input(
                    "keep_tokens",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Tags at the beginning that stay in place and are never dropped.",
                ),
                io.String.Input(
                    "keep_separator",
                    default="|||",
                    tooltip="Where it stands in a caption, the tags before it stay instead; it is not seen itself.",
                ),
                io.String.Input(
                    "separator",
                    default=",",
                    tooltip="What stands between two tags; shuffled or thinned out, they are joined with commas.",
                ),
                share_input("dropout", "Share of the times that an image is seen without words; 0.1 is usual."),
                share_input("tag_dropout", "Share of the tags that are left out each time."),
                io.Int.Input(
                    "dropout_every_epochs",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Every n-th epoch is trained without words; 0: none.",
                ),
                io.Boolean.Input(
                    "wildcards",
                    default=False,
                    tooltip="Draws one of {a|b|c} each time, and one of the lines of a caption file.",
                ),
                io.Combo.Input(
                    "tokens",
                    options=[str(limit) for limit in TOKEN_LIMITS],
                    default="75",
                    tooltip="Tokens of a caption that are seen: 75, or in two or three pieces 150 or 225.",
                ),
                io.Combo.Input(
                    "long_captions",
                    options=list(LONG_CAPTIONS),
                    default="comfyui",
                    tooltip="How pieces are joined: comfyui puts whole pieces one after the other, as this program "
                    "samples; kohya leaves the inner starts and ends out and always fills up.",
                ),
            ],
            outputs=changed_settings(),
        )

    @classmethod
    def execute(cls, settings: TrainSettings, tokens: str, **values: object) -> io.NodeOutput:
        options = replace(settings.captions, tokens=int(tokens), **values)  # type: ignore[arg-type]
        return changed(settings, captions=options)


class ImageOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MjesecImageOptions",
            display_name="Image Options",
            category=CATEGORY,
            description="How image files become training images: mirrored, turned by EXIF, the colour behind "
            "transparency, several resolutions at once.",
            search_aliases=["flip augmentation", "exif", "alpha", "multi resolution"],
            has_intermediate_output=True,
            inputs=[
                settings_input(),
                io.Boolean.Input("flip", default=False, tooltip="Mirrors each image half of the times it is seen."),
                io.Boolean.Input(
                    "exif_rotate", default=True, tooltip="Turns images the way the camera was held; kohya does not."
                ),
                io.Boolean.Input(
                    "drop_alpha",
                    default=False,
                    tooltip="Drops transparency as kohya does, instead of putting a colour behind it.",
                ),
                io.String.Input(
                    "background", default="#ffffff", tooltip="The colour behind transparent pixels, as #rrggbb."
                ),
                io.String.Input(
                    "more_resolutions",
                    default="",
                    tooltip="Sides in pixels of further squares, such as 512, 768: each image is also trained at their "
                    "areas. Multiples of 64. Empty: one resolution.",
                ),
                *_bucket_inputs(),
                as_given_input(
                    "latents",
                    LATENTS,
                    "resample draws each image's latents anew from the VAE's posterior at every step; sample_once "
                    "draws them once for good, as kohya does with cached latents.",
                ),
                as_given_input(
                    "told_crop",
                    CROPS,
                    "true tells SDXL the crop that was made, kohya the numbers that its trainer tells it.",
                ),
            ],
            outputs=changed_settings(),
        )

    @classmethod
    def execute(
        cls,
        settings: TrainSettings,
        drop_alpha: bool,
        background: str,
        more_resolutions: str,
        buckets: str = AS_GIVEN,
        bucket_upscale: str = AS_GIVEN,
        bucket_step: int = 0,
        bucket_min: int = 0,
        bucket_max: int = 0,
        latents: str = AS_GIVEN,
        told_crop: str = AS_GIVEN,
        **values: object,
    ) -> io.NodeOutput:
        options = replace(
            settings.images,
            alpha_background=None if drop_alpha else parse_color(background),
            more_resolutions=parse_whole_numbers(more_resolutions),
            **values,  # type: ignore[arg-type]
        )
        held = settings.buckets
        shaped = replace(
            held,
            enabled=held.enabled if buckets == AS_GIVEN else buckets == "on",
            no_upscale=held.no_upscale if bucket_upscale == AS_GIVEN else bucket_upscale == "off",
            step=bucket_step or held.step,
            min_size=bucket_min or held.min_size,
            max_size=bucket_max or held.max_size,
        )
        return changed(
            settings,
            images=options,
            buckets=shaped,
            latents=settings.latents if latents == AS_GIVEN else latents,
            told_crop=settings.told_crop if told_crop == AS_GIVEN else told_crop,
        )


def _bucket_inputs() -> list[io.Input]:
    return [
        as_given_input(
            "buckets",
            SWITCH,
            "on keeps aspect ratios in buckets; off resizes every image to cover the square and crops it.",
        ),
        as_given_input(
            "bucket_upscale",
            SWITCH,
            "off never enlarges an image: its bucket follows from it (bucket_no_upscale). on fills the nearest of a "
            "fixed list of buckets.",
        ),
        _side("bucket_step", "Bucket sides are multiples of it, itself a multiple of 32; 0: as given, 64 at first."),
        _side("bucket_min", "Smallest side of a bucket, only with bucket_upscale; 0: as given, 256 at first."),
        _side("bucket_max", "Largest side of a bucket, only with bucket_upscale; 0: as given, 2048 at first."),
    ]


def _side(name: str, tooltip: str) -> io.Input:
    return io.Int.Input(
        name, default=0, min=0, max=8192, step=32, optional=True, advanced=True, tooltip=f"In pixels. {tooltip}"
    )


NODES = [CaptionOptions, ImageOptions]
