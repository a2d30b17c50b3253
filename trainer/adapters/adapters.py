"""Adapters on SDXL through peft, under the names that kohya's file format gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, inject_adapter_in_model
from torch import nn

from ..errors import SettingsError
from ..sdxl.checkpoint import canonical_text_names
from ..sdxl.frozen import Scratch, store_in_fp8
from ..sdxl.packed import pack, pack_unet
from ..sdxl.parts import Parts
from ..sdxl.precision import compute_dtype
from ..sdxl.unet_names import to_original
from ..settings.blocks import block_of
from ..settings.options import AdapterSettings
from ..settings.training import TrainSettings
from .fused import fuse, fuse_gates
from .modules import ADAPTER, AdapterModule, LoraModule, LycorisModule, module_of
from .narrow import NarrowWeights

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
# with a convolution rank kohya adapts every layer of ResnetBlock2D, Downsample2D and Upsample2D as well
CONVOLUTION_TARGETS = ("conv1", "conv2", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
# what is done, how many of how many
Stage = Callable[[str, int, int], None]
_PARTS = {"te1": "CLIP-L", "te2": "bigG", "unet": "the U-Net"}


def _nobody(name: str, done: int, total: int) -> None:
    """Watches what nobody watches."""


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
        return {f"{m.name}.{key}": tensor for m in self.modules for key, tensor in m.state().items()}

    def narrow(self, *, accumulates: bool) -> NarrowWeights | None:
        """All weights as the products take them; None where some layer is not fused, or computes in fp32.

        accumulates: whether the gradients of several micro-batches are added.
        """
        fused = [m.fused for m in self.modules if isinstance(m, LoraModule) and m.fused is not None]
        pairs = [each.narrow for each in fused if each.narrow is not None]
        return NarrowWeights(pairs, accumulates=accumulates) if len(pairs) == len(self.modules) else None

    def train(self, mode: bool) -> None:
        """Whether the adapters leave something out at random, where they are made to."""
        for module in self.modules:
            module.layer.train(mode)

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


def add_adapters(
    parts: Parts,
    settings: TrainSettings,
    device: torch.device | None = None,
    stage: Stage = _nobody,
    *,
    from_state: bool = False,
) -> Adapters:
    """Put adapters on the U-Net's 722 linear layers and, if they are trained, the text encoders' 264, or on those
    that the settings choose.

    Weights are fp32 and follow from the settings' seed: a LoRA's down kaiming-uniform (a=√5), up zero (kohya's
    networks.lora); the factors of LoHa and LoKr as LyCORIS draws them. The base's parameters stay frozen and untouched.

    device: where the U-Net is to be, if it is elsewhere: each layer is packed on its way, so that the device never
    holds the network as it was given.
    stage: told of initial weights that take long, layer by layer; what it raises ends it.
    from_state: a saved state is loaded next, so that initial weights which take long are left out.

    Raises:
        SettingsError: the settings leave no layer to train.
    """
    device = device or parts.unet.device
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every GPU as well, and those generators are the host's
        torch.default_generator.manual_seed(settings.seed % 2**63)
        adapt = partial(_adapt, settings=settings, device=device, stage=stage, from_state=from_state)
        modules = []
        if settings.trains_text:
            modules += adapt(parts.te1, "lora_te1_", "text")
            modules += adapt(parts.te2, "lora_te2_", "text")
        modules += adapt(parts.unet, "lora_unet_", "unet")
    if settings.base_storage != "as given":
        pack_unet(parts.unet, settings.base_storage, compute_dtype(settings.precision, device), device)
    if parts.unet.device != device:
        parts.unet.to(device)
    if not modules:
        raise SettingsError("skip_blocks, include and exclude leave no layer to train; choose fewer or other ones.")
    return Adapters(tuple(modules), settings.rank, settings.alpha)


def chosen_layers(model: nn.Module, prefix: str, group: str, options: AdapterSettings) -> dict[str, str]:
    """Layers of a network that are adapted, in its own order: kohya's name by the network's name."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    names = to_original(layers) if group == "unet" else canonical_text_names(layers)
    targets = TEXT_TARGETS if group == "text" else UNET_TARGETS + CONVOLUTION_TARGETS * bool(options.conv_rank)
    named = {n: prefix + names[n].replace(".", "_") for n in layers if n.endswith(targets)}
    return {n: name for n, name in named.items() if _wanted(name, options)}


def _wanted(name: str, options: AdapterSettings) -> bool:
    if block_of(name) in options.skip_blocks or (options.exclude and re.search(options.exclude, name)):
        return False
    return not options.include or re.search(options.include, name) is not None


def _adapt(
    model: nn.Module,
    prefix: str,
    group: str,
    settings: TrainSettings,
    device: torch.device,
    stage: Stage,
    from_state: bool,
) -> list[AdapterModule]:
    options, dtype = settings.adapter, compute_dtype(settings.precision, device)
    chosen = chosen_layers(model, prefix, group, options)
    if not chosen:
        return []
    wide = [n for n in chosen if max(getattr(model.get_submodule(n), "kernel_size", (1,))) > 1]
    inject_adapter_in_model(_config(list(chosen), wide, settings), model, adapter_name=ADAPTER)
    modules = [module_of(name, group, model.get_submodule(n)) for n, name in chosen.items()]
    scratch = Scratch()
    for place, module in enumerate(modules):
        for weight in module.weights().values():
            weight.data = weight.data.to(device, torch.float32)
            weight.requires_grad_(True)
        # autocast casts by itself; peft would copy every input to fp32 first
        module.layer.cast_input_dtype_enabled = dtype == torch.float32
        if isinstance(module, LycorisModule):
            module.start()
        elif isinstance(module, LoraModule) and settings.adapter.initial == "pissa":
            module = module.start_from_base(from_state=from_state)
            if not from_state:
                stage(f"initial weights of {_PARTS[module.part]}", place + 1, len(modules))
        modules[place] = module = _finished(module, settings, dtype, scratch)
        if settings.base_storage == "fp8":
            # the fused layer widens it by itself
            store_in_fp8(module.layer.get_base_layer(), dtype, scratch, device)
        elif settings.base_storage != "as given":
            pack(module.layer.get_base_layer(), settings.base_storage, dtype, device)
    fuse_gates(model)
    return modules


def _finished(module: AdapterModule, settings: TrainSettings, dtype: torch.dtype, scratch: Scratch) -> AdapterModule:
    """The same with the way in which it computes."""
    # of packed weights the fused layer knows nothing, and a function for each layer would be compiled for each
    fusible = settings.base_storage in ("as given", "fp8") and not settings.compile_blocks
    if settings.adapter.drops:
        # what is left out lies between the two products, which the fused layer computes in one
        module.drop(settings.adapter)
    elif fusible and isinstance(module, LoraModule):
        module = replace(module, fused=fuse(module.layer, ADAPTER, dtype, scratch))
    return module


def _config(names: list[str], wide: list[str], settings: TrainSettings) -> PeftConfig:
    """peft's configuration; ``wide``: the convolutions that have ranks of their own."""
    options = settings.adapter
    common: dict[str, Any] = {
        "r": settings.rank,
        "target_modules": "|".join(map(re.escape, names)),
        "rank_pattern": dict.fromkeys(map(re.escape, wide), options.conv_rank),
        "alpha_pattern": dict.fromkeys(map(re.escape, wide), options.conv_alpha),
    }
    if options.kind == "lora":
        return LoraConfig(
            lora_alpha=settings.alpha,
            init_lora_weights=True,
            use_rslora=options.rank_stabilized,
            use_dora=options.dora,
            **common,
        )
    if options.kind == "loha":
        return LoHaConfig(alpha=settings.alpha, **common)
    return LoKrConfig(alpha=settings.alpha, decompose_factor=options.lokr_factor, **common)
