"""Sample images in the middle of a training, through the host's sampler, with the LoRA as it then is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...trainer.runs.outputs import Outputs
from ..images import to_pillow
from ..progress import NodeWatcher
from ..sweep.sampling import NotFinite, Studio, Subject
from ..sweep.shot import Shot
from .samples import TrainingSamples

# what a sampling needs beside the weights: activations and the VAE's decoding
_HEADROOM = 3 * 2**30


class LiveSampler:
    """Draws a run's samples into output/mjesec/samples/<name of the run's LoRA>-<the run in eight digits>.

    The LoRA is a patch on clones of MODEL and CLIP. The host puts patched weights in place of its own while it
    samples; the trainer learns on aliases of those, so they are put back before ``draw`` returns.
    """

    def __init__(
        self, model: Any, clip: Any, vae: Any, samples: TrainingSamples, folder: Path, watcher: NodeWatcher
    ) -> None:
        self.every = samples.every
        self._wires, self._shots, self._folder, self._watcher = (model, clip, vae), samples.shots, folder, watcher
        self.latest: list[dict[str, str]] = []

    def needs_room(self) -> bool:
        """Whether the host's model does not fit beside the networks that are being trained."""
        device = comfy.model_management.get_torch_device()
        if device.type == "cpu":
            return False
        return comfy.model_management.get_free_memory(device) < self._wires[0].model_size() + _HEADROOM

    def draw(self, lora: Mapping[str, torch.Tensor], outputs: Outputs, step: int) -> Sequence[Mapping[str, str]]:
        """One image for each shot: its file as the host names it (filename, subfolder, type), and the prompt."""
        device = comfy.model_management.get_torch_device()
        model, clip, vae = self._wires
        files = []
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.inference_mode():
                studio = Studio(Subject(model, clip, vae, dict(lora)))
                for number, shot in enumerate(self._shots):
                    try:
                        image = to_pillow(studio.take(shot)[0])
                    except NotFinite as error:
                        # the other prompts may fare better
                        self._watcher.say(f"No sample of step {step} for '{shot.prompt}': {error}")
                        continue
                    files.append({**self._save(image, shot, outputs, number, step), "prompt": shot.prompt})
                    self._watcher.stage("sample images", number + 1, len(self._shots), image)
        finally:
            # takes the patches off the weights that the trainer learns on, also on a CPU
            comfy.model_management.unload_all_models()
            comfy.model_management.soft_empty_cache()
        self.latest = [{name: value for name, value in file.items() if name != "prompt"} for file in files]
        return files

    def _save(self, image: Image.Image, shot: Shot, outputs: Outputs, number: int, step: int) -> dict[str, str]:
        name = outputs.lora.stem
        folder = self._folder / f"{name}-{outputs.mark}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step{step:08d}_{number:02d}.png"
        told = PngInfo()
        told.add_itxt("mjesec", json.dumps({"lora": name, "training_step": step, **vars(shot)}, ensure_ascii=False))
        image.save(path, pnginfo=told)
        subfolder = folder.relative_to(folder_paths.get_output_directory()).as_posix()
        return {"filename": path.name, "subfolder": subfolder, "type": "output"}
