"""LoRA adapters on SDXL through peft, under the names that kohya's file format gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from .checkpoint import canonical_text_names
from .frozen import Scratch
from .fused import fuse
from .names import to_original
from .precision import compute_dtype
from .sdxl import Parts
from .settings import TrainSettings

ADAPTER = "mjesec"
UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


@dataclass(frozen=True)
class AdapterModule:
    """One adapted layer. ``name`` is kohya's, ``group`` the learning-rate group ('unet' or 'text')."""

    name: str
    group: str
    layer: LoraLayer
    up_kinds: ClassVar[tuple[str, ...]] = ("lora_up",)

    @property
    def part(self) -> str:
        """'te1', 'te2' or 'unet'."""
        return self.name.split("_")[1]

    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained, by the names of the file's keys without ``.weight``."""
        return {"lora_down": self.down, "lora_up": self.up}

    @property
    def down(self) -> nn.Parameter:
        """(rank, in) float32."""
        return self.layer.lora_A[ADAPTER].weight

    @property
    def up(self) -> nn.Parameter:
        """(out, rank) float32."""
        return self.layer.lora_B[ADAPTER].weight


@dataclass(frozen=True)
class Adapters:
    """All adapted layers of a run, in the order of the file."""

    modules: tuple[AdapterModule, ...]
    rank: int
    alpha: float

    def parameters(self, group: str | None = None) -> list[nn.Parameter]:
        chosen = (m for m in self.modules if group is None or m.group == group)
        return [p for m in chosen for p in m.weights().values()]

    def groups(self) -> list[str]:
        """Groups that are trained, text encoders first as kohya orders them."""
        return [g for g in ("text", "unet") if any(m.group == g for m in self.modules)]

    def tensors(self) -> dict[str, torch.Tensor]:
        """fp32 weights by kohya's key, without alpha; detached, not copied."""
        return {
            f"{m.name}.{kind}.weight": weight.detach()
            for m in self.modules
            for kind, weight in (("lora_down", m.down), ("lora_up", m.up))
        }

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model alone, as if there were no adapters."""
        for module in self.modules:
            module.layer.enable_adapters(False)
        try:
            yield
        finally:
            for module in self.modules:
                module.layer.enable_adapters(True)


def add_adapters(parts: Parts, settings: TrainSettings) -> Adapters:
    """Put LoRA on the U-Net's 722 linear layers and, if they are trained, the text encoders' 264.

    Weights are fp32: down kaiming-uniform (a=√5) from the settings' seed, up zero (kohya's networks.lora).
    The base's parameters stay frozen and untouched.
    """
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every GPU as well, and those generators are the host's
        torch.default_generator.manual_seed(settings.seed % 2**63)
        modules = []
        if settings.trains_text:
            modules += _adapt(parts.te1, "lora_te1_", "text", TEXT_TARGETS, settings)
            modules += _adapt(parts.te2, "lora_te2_", "text", TEXT_TARGETS, settings)
        modules += _adapt(parts.unet, "lora_unet_", "unet", UNET_TARGETS, settings)
    return Adapters(tuple(modules), settings.rank, settings.alpha)


def _adapt(
    model: nn.Module, prefix: str, group: str, targets: list[str], settings: TrainSettings
) -> list[AdapterModule]:
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, init_lora_weights=True, bias="none"
    )
    dtype = compute_dtype(settings.precision, next(model.parameters()).device)
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    names = to_original(layers) if group == "unet" else canonical_text_names(layers)
    modules = [AdapterModule(prefix + names[n].replace(".", "_"), group, layer) for n, layer in layers.items()]
    scratch = Scratch()
    for module in modules:
        for weight in (module.down, module.up):
            weight.data = weight.data.float()
            weight.requires_grad_(True)
        # autocast casts by itself; peft would copy every input to fp32 first
        module.layer.cast_input_dtype_enabled = dtype == torch.float32
        fuse(module.layer, ADAPTER, dtype, scratch)
    return modules
