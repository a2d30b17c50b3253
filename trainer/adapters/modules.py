"""One adapted layer of each kind: what is trained, what is left out at random, and what the file says of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn import functional as F

from ..errors import SettingsError
from ..settings.options import AdapterSettings
from .fused import FusedLora

ADAPTER = "mjesec"
_OVERSAMPLED = 16
_kaiming = partial(nn.init.kaiming_uniform_, a=5**0.5)
# how LyCORIS draws each factor (lycoris/modules/loha.py and lokr.py); sd-scripts' networks/loha.py and lokr.py do alike
_DRAWN = {
    "hada_w1_a": partial(nn.init.normal_, std=0.1),
    "hada_w1_b": nn.init.normal_,
    "hada_w2_a": nn.init.zeros_,
    "hada_w2_b": nn.init.normal_,
    "lokr_w1": _kaiming,
    "lokr_w1_a": _kaiming,
    "lokr_w1_b": _kaiming,
    "lokr_w2": nn.init.zeros_,
    "lokr_w2_a": _kaiming,
    "lokr_w2_b": nn.init.zeros_,
}


@dataclass(frozen=True)
class AdapterModule:
    """One adapted layer. ``name`` is kohya's, ``group`` the learning-rate group ('unet' or 'text')."""

    name: str
    group: str
    layer: Any

    @property
    def part(self) -> str:
        """'te1', 'te2' or 'unet'."""
        return self.name.split("_")[1]

    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained, float32, by the ends of its keys."""
        raise NotImplementedError

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs: the weights, and what they started from where the file is told against it."""
        return {key: weight.detach() for key, weight in self.weights().items()}

    def in_file(self) -> dict[str, torch.Tensor]:
        """The file's tensors without alpha, float32, by the ends of their keys."""
        return self.state()

    @property
    def file_alpha(self) -> float:
        """kohya's alpha: the file's product is scaled by alpha / rank of the file."""
        return float(self.layer.alpha[ADAPTER])

    def is_up(self, key: str) -> bool:
        """Whether LoRA+ gives this weight the higher rate."""
        return False

    def drop(self, options: AdapterSettings) -> None:
        """Let training leave out inner values, ranks or the whole module, as sd-scripts' networks do."""
        if options.dropout or options.rank_dropout:
            self._thin(options)
        if options.module_dropout:
            self._leave_out(options.module_dropout)

    def _thin(self, options: AdapterSettings) -> None:
        """Let training leave out parts of what the module computes."""
        raise NotImplementedError

    def _leave_out(self, share: float) -> None:
        """Let the layer be the base alone in this share of training's forward passes."""
        whole = self.layer.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            if not self.layer.training or torch.rand(1).item() >= share:
                return whole(x)
            # weights in the graph, be it with a gradient of zeros, would be moved by their momentum and decay
            out = self._base(x)
            # with every module left out the loss would have no graph to go back through
            return out if out.requires_grad else out + out.new_zeros((), requires_grad=True)

        self.layer.forward = forward

    def _base(self, x: torch.Tensor) -> torch.Tensor:
        """The output of the base alone, in the layer's number format: x (…, in) to (…, out)."""
        return self.layer.get_base_layer()(x)


@dataclass(frozen=True)
class LoraModule(AdapterModule):
    """W + s·BA on a linear layer or a convolution, or with ``initial`` = (A₀, B₀): W + s·(BA - B₀A₀)."""

    initial: tuple[torch.Tensor, torch.Tensor] | None = None
    # how it computes, where its products are one function
    fused: FusedLora | None = None

    @property
    def down(self) -> nn.Parameter:
        """A: (rank, in) float32, of a convolution (rank, in, height, width)."""
        return self.layer.lora_A[ADAPTER].weight

    @property
    def up(self) -> nn.Parameter:
        """B: (out, rank) float32, of a convolution (out, rank, 1, 1)."""
        return self.layer.lora_B[ADAPTER].weight

    @property
    def scale(self) -> float:
        return float(self.layer.scaling[ADAPTER])

    @property
    def magnitude(self) -> nn.Parameter | None:
        """DoRA's norm of each output: (out,) float32, of a convolution (1, out, 1, 1)."""
        return self.layer.lora_magnitude_vector[ADAPTER].weight if self.layer.use_dora[ADAPTER] else None

    def weights(self) -> dict[str, nn.Parameter]:
        trained = {"lora_down.weight": self.down, "lora_up.weight": self.up}
        return trained if self.magnitude is None else {**trained, "dora_scale": self.magnitude}

    def state(self) -> dict[str, torch.Tensor]:
        held = super().state()
        if self.initial is not None:
            held |= {"lora_down.initial": self.initial[0], "lora_up.initial": self.initial[1]}
        return held

    @torch.no_grad()
    def in_file(self) -> dict[str, torch.Tensor]:
        if self.initial is not None:
            # s·(BA - B₀A₀) = s·(B(A - A₀) + (B - B₀)A₀) is a plain LoRA of twice the rank against the weights as they
            # were; in the first form half precision would round away a change that is small beside A₀ and B₀
            down, up = self.initial
            return {
                "lora_down.weight": torch.cat([self.down - down, down]),
                "lora_up.weight": torch.cat([self.up, self.up - up], dim=1),
            }
        held = {"lora_down.weight": self.down.detach(), "lora_up.weight": self.up.detach()}
        if self.magnitude is not None:
            held["dora_scale"] = self._host_magnitude()
        return held

    def _host_magnitude(self) -> torch.Tensor:
        """DoRA is m·(W + sBA)/‖W + sBA‖; ComfyUI divides by ‖W‖ instead (weight_decompose), so m is told for that."""
        weight = self.layer.get_base_layer().weight.detach().float()
        change = (self.up.flatten(1) @ self.down.flatten(1)).reshape(weight.shape) * self.scale
        norm, tuned = weight.flatten(1).norm(dim=1), (weight + change).flatten(1).norm(dim=1)
        told = self.magnitude.detach().flatten() * norm / tuned  # type: ignore[union-attr]
        return told.view(-1, *[1] * (weight.ndim - 1))

    @property
    def file_alpha(self) -> float:
        rank = self.down.shape[0]
        if self.initial is not None:
            return self.scale * 2 * rank
        plain = float(self.layer.lora_alpha[ADAPTER])
        # what is scaled by alpha/√rank is read as alpha/rank by everybody else
        return plain if self.scale == plain / rank else self.scale * rank

    def is_up(self, key: str) -> bool:
        return key == "lora_up.weight"

    def _thin(self, options: AdapterSettings) -> None:
        def hook(_: nn.Module, __: Any, inner: torch.Tensor) -> torch.Tensor | None:
            return _thinned(inner, self.down.shape[0], options) if self.layer.training else None

        self.layer.lora_A[ADAPTER].register_forward_hook(hook)

    def start_from_base(self, *, from_state: bool = False) -> LoraModule:
        """PiSSA (Meng et al., 2024): A and B begin as the base's largest singular values.

        The paper subtracts B₀A₀ from the base; here the base stays and the same product is subtracted from the output.
        from_state: a saved state will give all four, so that nothing is decomposed and they stay as peft made them.

        Raises:
            SettingsError: the rank is larger than the layer's.
        """
        weight, rank = self.layer.get_base_layer().weight, self.down.shape[0]
        if rank > (most := min(weight.flatten(1).shape)):
            raise SettingsError(f"The initial weights pissa need a rank of at most {most} for {self.name}, not {rank}.")
        if not from_state:
            initial = principal_factors(weight, rank, self.scale)
            with torch.no_grad():
                down, up = (part.view(own.shape) for part, own in zip(initial, (self.down, self.up), strict=True))
                self.down.copy_(down)
                self.up.copy_(up)
        frozen = self.down.detach().clone(), self.up.detach().clone()

        def hook(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            return None if self.layer.disable_adapters else output - self._product(args[0], *frozen)

        self.layer.register_forward_hook(hook)
        return LoraModule(self.name, self.group, self.layer, frozen)

    def _product(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        base = self.layer.get_base_layer()
        if not torch.is_autocast_enabled(x.device.type):
            # a fused layer computes in its own format, and nothing else casts
            down, up = down.to(x.dtype), up.to(x.dtype)
        if isinstance(base, nn.Conv2d):
            return F.conv2d(F.conv2d(x, down, stride=base.stride, padding=base.padding), up) * self.scale
        return F.linear(F.linear(x, down), up) * self.scale


def principal_factors(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(A, B) of (rank, in…) and (out, rank) with s·BA the best approximation of that rank, by a fast randomized SVD."""
    matrix = weight.detach().float().flatten(1)
    # a few values more than are kept make the kept ones exact
    left, values, right = _largest(matrix, min(rank + _OVERSAMPLED, *matrix.shape))
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _largest(matrix: torch.Tensor, count: int, rounds: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(U, S, Vᵀ) of the largest singular values (Halko et al., 2011, algorithm 4.4).

    The random directions are the CPU generator's, which the settings' seed decides; torch.svd_lowrank would take the
    device's, which belongs to the host.
    """
    basis = matrix @ torch.randn(matrix.shape[1], count).to(matrix.device)
    for _ in range(rounds):
        basis = torch.linalg.qr(matrix.T @ torch.linalg.qr(basis).Q).Q
        basis = matrix @ basis
    basis = torch.linalg.qr(basis).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values, right


def _thinned(inner: torch.Tensor, rank: int, options: AdapterSettings) -> torch.Tensor:
    if options.dropout:
        inner = F.dropout(inner, options.dropout)
    if options.rank_dropout:
        kept = (torch.rand(inner.shape[0], rank, device=inner.device) > options.rank_dropout).to(inner.dtype)
        places = (1, 1) if inner.ndim == 4 else ()
        kept = kept.view(-1, *[1] * (inner.ndim - 2), rank) if not places else kept.view(-1, rank, *places)
        inner = inner * kept / (1 - options.rank_dropout)
    return inner


@dataclass(frozen=True)
class LycorisModule(AdapterModule):
    """LoHa or LoKr, as peft computes them and LyCORIS begins, scales and names them."""

    def weights(self) -> dict[str, nn.Parameter]:
        held = ((key, getattr(self.layer, key, {})) for key in _DRAWN)
        return {key: factors[ADAPTER] for key, factors in held if ADAPTER in factors}

    @torch.no_grad()
    def start(self) -> None:
        """Draw the initial weights from the CPU's generator, and set the scale.

        peft begins with smaller factors than LyCORIS, and of LoKr with w1 at zero; at the same rate such an adapter
        learns a hundredth.
        """
        held = self.weights()
        for key, weight in held.items():
            weight.copy_(_DRAWN[key](torch.empty(weight.shape, device="cpu")))
        if "lokr_w1" in held and "lokr_w2" in held:
            # two whole factors have no rank, and LyCORIS and all loaders take their scale for 1
            self.layer.alpha[ADAPTER], self.layer.scaling[ADAPTER] = self.layer.r[ADAPTER], 1.0

    def _thin(self, options: AdapterSettings) -> None:
        plain = self.layer.get_delta_weight

        def thinned(adapter: str, **how: Any) -> torch.Tensor:
            change = plain(adapter, **how)
            return _without_rows(change, options.rank_dropout) if self.layer.training else change

        self.layer.get_delta_weight = thinned

    def _base(self, x: torch.Tensor) -> torch.Tensor:
        return super()._base(x).to(x.dtype)


def _without_rows(change: torch.Tensor, share: float) -> torch.Tensor:
    """rank_dropout of sd-scripts' LoHaModule and LoKrModule: outputs of (out, in…) left out, the rest scaled up."""
    kept = (torch.rand(change.shape[0], device=change.device) > share).to(change.dtype)
    # peft divides by the share that happened to be kept, which may be none, or by nothing
    return change * kept.view(-1, *[1] * (change.ndim - 1)) / (1 - share)


def module_of(name: str, group: str, layer: nn.Module) -> AdapterModule:
    """The adapted layer that peft made, by its kind."""
    return (LoraModule if isinstance(layer, LoraLayer) else LycorisModule)(name, group, layer)
