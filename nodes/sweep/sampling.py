"""One image through the host's own KSampler: same noise, same schedule, same pixels as a plain graph gives."""

from __future__ import annotations

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.sample
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP

import nodes as host_nodes

from ...trainer.errors import NO_CLIP
from ..checkpoint_name import checkpoint_name
from ..lora.apply import Match, lora_from_file, match_lora
from .first_step import HOOK, FirstSteps
from .shot import Shot

Lora = Mapping[str, torch.Tensor]
# the callback of the host's samplers: step, prediction, noisy latents, steps
OnStep = Callable[[int, torch.Tensor, torch.Tensor, int], None]
_MOST_TEXT_BYTES = 512 * 2**20  # about 800 prompts of SDXL


class Seal(Protocol):
    """Refuses, with a ValueError, what is no longer what it was when the names of the cells were made of it."""

    def check_lora(self, name: str, lora: Lora) -> None: ...

    def check_checkpoint(self, name: str) -> None: ...

    def check_text(self, text: str) -> None: ...


@dataclass(frozen=True)
class Subject:
    """What is on Sweep's wires. The last four may be None, and CLIP where both texts are encoded already.

    Raises:
        ValueError: the checkpoint had no VAE, or no text encoders.
    """

    model: Any
    clip: Any
    vae: Any
    lora: Lora | None = None
    positive: Any = None
    negative: Any = None
    latent: Any = None

    def __post_init__(self) -> None:
        if self.vae is None:
            raise ValueError("There is no VAE: the checkpoint has none; connect SDXL's from VAELoader.")
        if self.clip is None and self.encodes:
            raise ValueError(NO_CLIP)

    @property
    def encodes(self) -> bool:
        """Whether a text is encoded here: the CLIP does not count where both come by wire."""
        return self.positive is None or self.negative is None

    def told(self) -> dict[str, object]:
        """What a cell's record says of the wires: the checkpoint's name, and what else came by wire."""
        optional = {"lora": self.lora, "positive": self.positive, "negative": self.negative, "latent": self.latent}
        return {
            "wired_checkpoint": checkpoint_name(self.model),
            "wired": [name for name, given in optional.items() if given is not None],
        }


class NotFinite(ValueError):
    """Sampling or decoding ended in NaN or infinite values; the message says which, and what may help."""


class Clock:
    """Seconds spent in what it measures."""

    def __init__(self) -> None:
        self.busy = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.busy += time.perf_counter() - began

    def sampled(self, sampler: Callable[..., torch.Tensor], *given: Any, **named: Any) -> torch.Tensor:
        """A wrapper for the host's sampling."""
        with self.running():
            samples = sampler(*given, **named)
            if samples.device.type == "cuda":
                torch.cuda.synchronize(samples.device)
            return samples


class Studio:
    """Takes shots; keeps the last checkpoint, LoRA and weights, and encoded texts, so that neighbours share them.

    seal: asked about every file that is read. watch: gives what follows a shot's steps, as the host's previews do.

    No MODEL that it makes refers back to it, and who is called back by it calls ``close``: so its models go with it and
    not at some later collection. A MODEL that dies together with its parent stays in the host's list without a name,
    and from then on the host collects all garbage whenever it loads something.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._clock = Clock()
        self.close()
        self._checkpoint: tuple[str, tuple[Any, Any, Any]] = ("", (subject.model, subject.clip, subject.vae))
        self._file: tuple[str, Lora | None] = ("", subject.lora)
        self._match: tuple[tuple[str, str], Match | None] = (("", ""), None)
        self._adapted_model: tuple[tuple[object, ...], Any] = ((), None)
        self._adapted_clip: tuple[tuple[object, ...], Any] = ((), None)
        self._clocked: tuple[Any, Any] = (None, None)
        self._texts: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._text_bytes = 0
        self._first_steps = FirstSteps()

    def close(self) -> None:
        """Let go of whoever follows."""
        self.seal: Seal | None = None
        self.watch: Callable[[Any, Shot], OnStep] = lambda model, shot: latent_preview.prepare_callback(
            model, shot.steps
        )

    @property
    def spared(self) -> float:
        """Seconds of the newest shot's first step, where an earlier shot had taken it; 0 where it took its own."""
        return self._first_steps.spared

    @property
    def busy(self) -> float:
        """Seconds of sampling and decoding, of all shots, without what was loaded, patched or encoded for them."""
        return self._clock.busy

    def take(self, shot: Shot) -> torch.Tensor:
        """The image, (1, H, W, 3) float in [0, 1].

        Raises:
            NotFinite: there is no image.
        """
        return self.develop(self.expose(shot), shot)

    def expose(self, shot: Shot) -> torch.Tensor:
        """The latents of a shot, (1, C, H/8, W/8): what KSampler gives, with a callback of our own.

        A first step that an earlier shot has taken is not computed again.
        """
        model, given = self.model(shot), self.latent(shot)
        positive, negative = self.conditioning(shot)
        self._first_steps.begin(None if any(map(more_than_a_text, (positive, negative))) else shot.first_asked)
        start = comfy.sample.fix_empty_latent_channels(
            model, given["samples"], given.get("downscale_ratio_spacial"), given.get("downscale_ratio_temporal")
        )
        return comfy.sample.sample(
            self.clocked(model), comfy.sample.prepare_noise(start, shot.seed, given.get("batch_index")), shot.steps,
            shot.cfg, shot.sampler, shot.scheduler, positive, negative, start, denoise=shot.denoise,
            noise_mask=given.get("noise_mask"), callback=self.watch(model, shot),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=shot.seed,
        )  # fmt: skip

    def develop(self, latents: torch.Tensor, shot: Shot) -> torch.Tensor:
        """Latents to pixels with the shot's VAE.

        Raises:
            NotFinite: the latents, or the pixels, are no numbers.
        """
        if not latents.isfinite().all():
            raise NotFinite(
                "Sampling ended in numbers that are not finite, which make no image; try more steps, another "
                "scheduler, or a lower CFG scale or LoRA weight."
            )
        vae = self.parts(shot)[2]
        with self._clock.running():
            image = host_nodes.VAEDecode().decode(vae, {"samples": latents})[0]
        if not image.isfinite().all():
            raise NotFinite(
                "The VAE gave numbers that are not finite, which make no image; connect another VAE, or start ComfyUI "
                "with --fp32-vae."
            )
        return image

    def clocked(self, model: Any) -> Any:
        """The same MODEL, whose sampling counts as busy from when its weights are in their place."""
        if self._clocked[0] is not model:
            clone = model.clone()
            clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "mjesec_clock", self._clock.sampled)
            # a MODEL that may act anew at every step is asked at every step
            if not changes_to_sampling(model):
                clone.model_options[HOOK] = self._first_steps
            # the host goes on with the parent of a MODEL that dies: that must be one that outlives both
            clone.parent = self._checkpoint[1][0]
            self._clocked = (model, clone)
        return self._clocked[1]

    def latent(self, shot: Shot) -> dict[str, Any]:
        """What sampling starts from, in the host's LATENT format: the wire's, or an empty one."""
        if self.subject.latent is not None:
            return self.subject.latent
        return host_nodes.EmptyLatentImage().generate(shot.width, shot.height)[0]

    def conditioning(self, shot: Shot) -> tuple[Any, Any]:
        """Positive and negative: the wires', or the shot's texts as its text encoders read them."""
        wired = self.subject.positive, self.subject.negative
        return tuple(
            self._encode(text, shot) if given is None else given
            for text, given in zip((shot.prompt, shot.negative), wired, strict=True)
        )  # type: ignore[return-value]

    def model(self, shot: Shot) -> Any:
        return self._apply(shot)[0]

    def parts(self, shot: Shot) -> tuple[Any, Any, Any]:
        """MODEL, CLIP and VAE without the LoRA."""
        if self._checkpoint[0] != shot.checkpoint:
            # room for the next one
            self._checkpoint = ("", (None, None, None))
            self._adapted_model = self._adapted_clip = ((), None)
            self._clocked = (None, None)
            # the host's bypass of a LoRA leaves layers that refer to themselves
            gc.collect()
            wires = (self.subject.model, self.subject.clip, self.subject.vae)
            self._checkpoint = (shot.checkpoint, _loaded(shot.checkpoint) if shot.checkpoint else wires)
            if self.seal and shot.checkpoint:
                self.seal.check_checkpoint(shot.checkpoint)
        return self._checkpoint[1]

    def lora(self, shot: Shot) -> Lora | None:
        if not shot.lora_file:
            return self.subject.lora
        if self._file[0] != shot.lora_file:
            lora = lora_from_file(shot.lora_file)
            if self.seal:
                self.seal.check_lora(shot.lora_file, lora)
            self._file = (shot.lora_file, lora)
        return self._file[1]

    def match(self, shot: Shot) -> Match | None:
        """How the shot's LoRA fits its checkpoint; None where there is none, or where it has no weight."""
        model, clip, _ = self.parts(shot)
        lora = self.lora(shot) if shot.uses_lora else None
        if lora is None:
            return None
        wanted = (shot.checkpoint, shot.lora_file)
        if self._match[1] is None or self._match[0] != wanted:
            self._match = (wanted, match_lora(model, clip, lora))
        return self._match[1]

    def _apply(self, shot: Shot) -> tuple[Any, Any]:
        model, clip, _ = self.parts(shot)
        match = self.match(shot)
        if match is None:
            return model, clip
        of_model = (shot.checkpoint, shot.lora_file, shot.lora_weight_model)
        of_clip = (shot.checkpoint, shot.lora_file, shot.lora_weight_clip)
        if self._adapted_model[0] != of_model or self._adapted_clip[0] != of_clip:
            new_model, new_clip = match.put_on(model, clip, shot.lora_weight_model, shot.lora_weight_clip)
            # the host merges a LoRA anew into every MODEL that it has not seen: the one that stays is kept
            if self._adapted_model[0] != of_model:
                self._adapted_model = (of_model, new_model)
            if self._adapted_clip[0] != of_clip:
                self._adapted_clip = (of_clip, new_clip)
        return self._adapted_model[1], self._adapted_clip[1]

    def _encode(self, text: str, shot: Shot) -> Any:
        # the U-Net's weight does not reach the text encoders
        lora = (shot.lora_file, shot.lora_weight_clip) if shot.lora_weight_clip else ()
        wanted = (text, shot.checkpoint, lora)
        if wanted in self._texts:
            self._texts.move_to_end(wanted)
            return self._texts[wanted]
        clip = self._apply(shot)[1]
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        if self.seal:
            self.seal.check_text(text)
        self._texts[wanted] = encoded
        self._text_bytes += _bytes_of(encoded)
        while self._text_bytes > _MOST_TEXT_BYTES and len(self._texts) > 2:
            self._text_bytes -= _bytes_of(self._texts.popitem(last=False)[1])
        return encoded


def _loaded(name: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a checkpoint as the host lists it.

    Raises:
        ValueError: it lacks one of them.
    """
    parts = host_nodes.CheckpointLoaderSimple().load_checkpoint(name)[:3]
    for what, part in zip(("U-Net", "text encoders", "VAE"), parts, strict=True):
        if part is None:
            raise ValueError(
                f"The checkpoint '{name}' has no {what}, and the cells of a checkpoint axis take all of it from the "
                "file; leave it out of the axis."
            )
    return tuple(parts)


def changes_to_sampling(model: Any) -> str:
    """What a MODEL carries that may act anew at every step, by name; empty where it is but weights and patches."""
    more = [name for name, value in model.model_options.items() if name != "transformer_options" and _is_there(value)]
    more += [name for name, value in model.model_options.get("transformer_options", {}).items() if _is_there(value)]
    called = [kept for kinds in (*model.wrappers.values(), *model.callbacks.values()) for kept in kinds.values()]
    if not more and any((model.injections, model.hook_patches, model.additional_models, *called)):
        return "hooks or wrappers"
    return ", ".join(more)


def _is_there(value: Any) -> bool:
    # of tensors and functions nobody can ask whether they are empty
    return bool(value) if isinstance(value, (dict, list, tuple, set, bool, int, str, type(None))) else True


def more_than_a_text(conditioning: Any) -> str:
    """What a conditioning carries beside one text and its pooled output, by name; empty where there is nothing."""
    more = sorted({key for entry in conditioning for key in entry[1]} - {"pooled_output"})
    return ", ".join(more) or ("" if len(conditioning) == 1 else "several entries")


def _bytes_of(conditioning: Any) -> int:
    tensors = [held for text, rest in conditioning for held in (text, *rest.values()) if torch.is_tensor(held)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
