"""Does training see what the host sees? Conditioning, prediction and LoRA of both, on the same weights in one process.

    python dev.py bench compare --checkpoint PATH [--precision fp32|bf16] [--tiny] [--size 256] [--json FILE]

ComfyUI is imported as a library, loads the checkpoint once, and lends its weights to the trainer as the node does.
What a training step hands to the U-Net and gets back is recorded on the way, and compared with what the host computes
from the same caption, sizes, noise and timestep. Then a LoRA is trained for a few steps, saved, loaded by the host at
strength 1, and both are compared again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _pack
from _hosts import main, setup, table

import dev

TIMESTEPS = (80, 500, 950)
# how far two right computations of the same thing may lie apart
LIMITS = {"fp32": 1e-4, "bf16": 5e-2}
CAPTIONS = ("a full moon in the night sky", "thin crescent, craters along the terminator")


@dataclass(frozen=True)
class Finding:
    """One comparison: a relative error that must stay at or below its limit, or a share that must reach it."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def import_host(comfyui: Path, base: Path, precision: str, *, tiny: bool) -> None:
    """ComfyUI as a library on the CPU, as its own command line would set it up."""
    sys.path.insert(0, str(comfyui))
    sys.argv = ["main.py", "--cpu", "--base-directory", str(base), f"--{precision}-unet", f"--{precision}-text-enc"]
    importlib.import_module("comfy.options").enable_args_parsing()
    if tiny:
        folder = _pack.ROOT / "demo" / "tiny_sdxl"
        _pack.load_by_path("tiny_sdxl", folder / "__init__.py", package_folder=folder)


def relative_error(ours: Any, theirs: Any) -> float:
    """The larger of ‖a - b‖ / ‖b‖ and max|a - b| / max|b|."""
    a, b = ours.detach().double().flatten(), theirs.detach().double().flatten()
    if a.shape != b.shape:
        raise dev.Failure(f"{tuple(ours.shape)} cannot be compared with {tuple(theirs.shape)}.")
    return max(float((a - b).norm() / b.norm()), float((a - b).abs().max() / b.abs().max()))


def write_images(folder: Path, size: int) -> None:
    """Two pictures that must be shrunk and cropped, so that no number of the size conditioning is like another."""
    from pack.trainer.moons.folder import render_moon

    folder.mkdir()
    for number, caption in enumerate(CAPTIONS):
        picture, _ = render_moon(2 * size, seed=number)
        shape = (2 * size + 38, 2 * size - 90) if number else (2 * size - 50, 2 * size + 70)
        picture.resize(shape).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption, encoding="utf-8")


class Comparison:
    """A host's model and our trainer on the same weights."""

    def __init__(self, checkpoint: Path, work: Path, precision: str, size: int) -> None:
        import comfy.sd
        import torch
        from pack.nodes import host
        from pack.trainer.dataset.buckets import BucketSettings
        from pack.trainer.settings.training import TrainSettings

        with torch.inference_mode():
            self.model, self.clip, self.vae = comfy.sd.load_checkpoint_guess_config(str(checkpoint))[:3]
        for check, part in ((host.check_model, self.model), (host.check_vae, self.vae)):
            check(part)
        host.check_clip(self.clip, self.model)
        self.work, self.limit = work, LIMITS[precision]
        self.settings = TrainSettings(
            steps=3, rank=4, alpha=4.0, unet_lr=1e-2, text_lr=1e-2, schedule="constant", precision=precision,
            save_precision="fp32", buckets=BucketSettings(resolution=(size, size)),
        )  # fmt: skip
        self.findings: list[Finding] = []
        self._recorded: dict[str, Any] = {}

    def run(self) -> list[Finding]:
        import torch

        with torch.inference_mode(False):
            self._prepare()
            fingerprint = self._fingerprint()
            self._compare("", self.clip, self.model)
            self.trainer.run(lambda step: None)
            self._add("frozen base unchanged", float(self._fingerprint() == fingerprint), 1.0, at_least=True)
            self._compare_lora()
        return self.findings

    def _add(self, name: str, value: float, limit: float | None = None, *, at_least: bool = False) -> None:
        self.findings.append(Finding(name, value, self.limit if limit is None else limit, at_least))

    def _prepare(self) -> None:
        import torch
        from pack.nodes import host
        from pack.trainer.adapters.adapters import add_adapters
        from pack.trainer.dataset.scan import scan_folder
        from pack.trainer.training.data import prepare
        from pack.trainer.training.latents import LatentsCache
        from pack.trainer.training.loop import Trainer

        write_images(self.work / "images", self.settings.buckets.resolution[0])
        cache = LatentsCache(self.work / "latents", "one VAE", host.encoder(self.vae))
        dataset = scan_folder(self.work / "images")
        examples = prepare(dataset, self.settings, cache, host.tokenizer(self.clip), lambda done, of: None)
        self._compare_latents(examples[0])
        device = torch.device("cpu")
        parts = host.build_parts(self.model, self.clip, self.settings, device)
        self._add("weights shared with the host", self._shared(parts), 1.0, at_least=True)
        adapters = add_adapters(parts, self.settings)
        parts.unet.register_forward_hook(self._record, with_kwargs=True)
        self.trainer = Trainer(parts, adapters, examples, self.settings, device)

    def _record(self, _: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], output: tuple[Any, ...]) -> None:
        given = {"noisy": inputs[0], "context": named["encoder_hidden_states"], "guess": output[0]}
        self._recorded = {**given, **named["added_cond_kwargs"]}

    def _compare_latents(self, example: Any) -> None:
        import numpy as np
        import torch
        from pack.trainer.dataset.images import apply_placement, load_rgb

        pixels = np.asarray(apply_placement(load_rgb(example.sample.path), example.placement), np.float32) / 255
        with torch.inference_mode():
            self._add("latents", relative_error(example.latents.mean, self.vae.encode(torch.from_numpy(pixels)[None])))

    def _shared(self, parts: Any) -> float:
        """The share of the trainer's base weights that are the host's own memory."""
        hosts = {p.data_ptr() for p in self.model.model.diffusion_model.parameters()}
        hosts |= {p.data_ptr() for p in self.clip.cond_stage_model.parameters()}
        ours = [p.data_ptr() for module in parts.modules() for p in module.parameters()]
        return sum(address in hosts for address in ours) / len(ours)

    def _fingerprint(self) -> tuple[str, ...]:
        from pack.nodes import host
        from pack.trainer.runs.identity import weights_fingerprint

        states = (host.unet_weights(self.model), *host.text_weights(self.clip))
        return tuple(weights_fingerprint(state) for state in states)

    def _step_input(self, number: int, timestep: int) -> dict[str, Any]:
        """What one training step on example ``number`` hands to the U-Net, and what comes back."""
        import torch
        from pack.trainer.training.noise import step_generator

        batch = self.trainer.draw([number], 0, 0)
        with torch.no_grad():
            self.trainer.loss(batch, step_generator(1, number), torch.tensor([timestep]))
        return self._recorded

    def _compare(self, label: str, clip: Any, model: Any) -> None:
        """The largest error over both images and all timesteps."""
        errors: dict[str, float] = {}
        for number in range(len(CAPTIONS)):
            for timestep in TIMESTEPS:
                ours = self._step_input(number, timestep)
                for name, error in self._errors(ours, number, timestep, clip, model).items():
                    errors[name] = max(errors.get(name, 0.0), error)
        for name, error in errors.items():
            self._add(label + name, error)

    def _errors(self, ours: dict[str, Any], number: int, timestep: int, clip: Any, model: Any) -> dict[str, float]:
        import comfy.model_management
        import torch

        example = self.trainer.examples[number]
        (left, top), (width, height) = example.placement.crop, example.placement.bucket
        with torch.inference_mode():
            context, pooled = clip.encode_from_tokens(clip.tokenize(example.sample.caption), return_pooled=True)
            inner = model.model
            sizes = inner.encode_adm(
                pooled_output=pooled, width=example.sample.width, height=example.sample.height, crop_w=left,
                crop_h=top, target_width=width, target_height=height,
            )  # fmt: skip
            comfy.model_management.load_models_gpu([model], force_patch_weights=True)
            sigma = inner.model_sampling.sigmas[timestep].reshape(1)
            noisy = ours["noisy"].float() * (sigma.square() + 1).sqrt()
            denoised = inner.apply_model(noisy, sigma, c_crossattn=context, y=sizes)
            guess = (noisy - denoised) / sigma
            told = self.trainer.parts.unet.add_time_proj(ours["time_ids"].flatten())
            return {
                "text context": relative_error(ours["context"], context),
                "pooled text": relative_error(ours["text_embeds"], pooled),
                "time ids": relative_error(told, sizes[0, pooled.shape[-1] :]),
                "U-Net's prediction": relative_error(ours["guess"], guess),
            }

    def _compare_lora(self) -> None:
        import comfy.sd
        import comfy.utils
        import torch
        from pack.trainer.lora.file import lora_tensors, save_lora

        tuned = self._step_input(0, TIMESTEPS[1])["guess"]
        with self.trainer.adapters.disabled():
            base = self._step_input(0, TIMESTEPS[1])["guess"]
        # a LoRA that does nothing would agree with anything
        self._add("effect of the LoRA", relative_error(tuned, base), 2 * self.limit, at_least=True)
        path = self.work / "lora.safetensors"
        save_lora(path, lora_tensors(self.trainer.adapters, self.settings.save_precision), {})
        with torch.inference_mode():
            lora = comfy.utils.load_torch_file(str(path), safe_load=True)
            model, clip = comfy.sd.load_lora_for_models(self.model, self.clip, lora, 1.0, 1.0)
        self._compare("with the LoRA: ", clip, model)


def program() -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench compare", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--checkpoint", type=Path, help="an SDXL checkpoint (the tiny one with --tiny)")
    parser.add_argument("--precision", choices=tuple(LIMITS), default="bf16")
    parser.add_argument("--size", type=int, help="side of the training images in pixels (256; tiny: 128)")
    parser.add_argument("--tiny", action="store_true", help="on the demo's tiny SDXL")
    parser.add_argument("--json", type=Path, help="write the findings there as well")
    options = parser.parse_args()
    comfyui = setup().comfyui
    checkpoint = options.checkpoint or (dev.TINY_SDXL if options.tiny else None)
    if checkpoint is None or not checkpoint.is_file():
        raise dev.Failure(f"There is no checkpoint '{checkpoint}'; benchmarks/make_checkpoint.py makes one.")

    with tempfile.TemporaryDirectory(prefix="mjesec-compare-") as folder:
        import_host(comfyui, Path(folder), options.precision, tiny=options.tiny)
        size = options.size or (128 if options.tiny else 256)
        findings = Comparison(checkpoint.absolute(), Path(folder), options.precision, size).run()
    rows = [("compared", "found", "allowed", "")]
    for each in findings:
        sign = "at least" if each.at_least else "at most"
        rows.append((each.name, f"{each.value:.3g}", f"{sign} {each.limit:g}", "" if each.holds else "FAILED"))
    print(table(rows))
    if options.json:
        described = {each.name: {**asdict(each), "holds": each.holds} for each in findings}
        options.json.write_text(json.dumps(described, indent=1, ensure_ascii=False), encoding="utf-8")
    return 0 if all(each.holds for each in findings) else 1


if __name__ == "__main__":
    sys.exit(main(program))
