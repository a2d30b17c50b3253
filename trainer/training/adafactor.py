"""transformers' Adafactor for a GPU: all matrices of one shape at a time, and nothing waited for.

Its own step goes from weight to weight, twenty small kernels and a wait for each: at the 1972 matrices of a LoRA with
text encoders that is seven times as long as forward and backward pass together (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers.optimization import Adafactor

# so many values of a stack are updated at once: what that takes beside is some four times their memory
_MOST_VALUES = 16 * 2**20


class StackedAdafactor(Adafactor):
    """The same arithmetic, state and options. What is not fp32 matrices without first moment it does as ever."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on all weights; see `Adafactor`."""
        if closure is not None or not all(map(_stackable, self.param_groups)):
            return super().step(closure)
        for group in self.param_groups:
            for weights in self._stacks([weight for weight in group["params"] if weight.grad is not None]):
                self._step(group, weights)
        return None

    def _stacks(self, weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
        """Weights of one shape together, as many as may be stacked at once; one whose module was dropped in some steps
        is behind the others, and its rate is another."""
        alike: dict[tuple[torch.Size, int], list[nn.Parameter]] = defaultdict(list)
        for weight in weights:
            alike[weight.shape, int(self.state[weight].get("step", 0))].append(weight)
        for (shape, _), stack in alike.items():
            most = max(1, _MOST_VALUES // shape.numel())
            yield from (stack[start : start + most] for start in range(0, len(stack), most))

    def _step(self, group: dict[str, Any], weights: list[nn.Parameter]) -> None:
        gradients = torch.stack([weight.grad for weight in weights])
        values = torch.stack(weights)
        rows, columns = self._moments(weights, gradients)
        states = [self.state[weight] for weight in weights]
        number = states[0]["step"] + 1
        sizes = _rms(values)
        for state, size in zip(states, sizes.unbind(), strict=True):
            state["step"], state["RMS"] = number, size
        rate = self._get_lr({**group, "scale_parameter": False}, states[0])
        rates = sizes.clamp(min=group["eps"][1]) * rate if group["scale_parameter"] else torch.full_like(sizes, rate)
        decay = 1.0 - math.pow(number, group["decay_rate"])
        squares = gradients.square().add_(group["eps"][0])
        for moments, dim in ((rows, -1), (columns, -2)):
            torch._foreach_mul_(moments, decay)
            torch._foreach_add_(moments, list(squares.mean(dim=dim).unbind()), alpha=1.0 - decay)
        update = self._approx_sq_grad(torch.stack(rows), torch.stack(columns)).mul_(gradients)
        update.div_((_rms(update) / group["clip_threshold"]).clamp_(min=1.0).view(-1, 1, 1))
        update.mul_(rates.view(-1, 1, 1))
        if group["weight_decay"]:
            update.add_(values * (group["weight_decay"] * rates).view(-1, 1, 1))
        torch._foreach_sub_(weights, list(update.unbind()))

    def _moments(
        self, weights: list[nn.Parameter], gradients: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Of each weight the means of the squared gradients by row and by column, as Adafactor keeps them."""
        for weight, gradient in zip(weights, gradients.unbind(), strict=True):
            if not self.state[weight]:
                start = gradient.new_zeros
                self.state[weight].update(
                    step=0, RMS=0, exp_avg_sq_row=start(weight.shape[0]), exp_avg_sq_col=start(weight.shape[1])
                )
        states = [self.state[weight] for weight in weights]
        return [state["exp_avg_sq_row"] for state in states], [state["exp_avg_sq_col"] for state in states]


def _stackable(group: dict[str, Any]) -> bool:
    """Whether all weights of a group are fp32 matrices and have no first moment."""
    plain = (weight.ndim == 2 and weight.dtype == torch.float32 for weight in group["params"])
    return group["beta1"] is None and all(plain)


def _rms(stack: torch.Tensor) -> torch.Tensor:
    """Of each matrix of (K, m, n) the root of the mean square, (K,)."""
    return torch.linalg.vector_norm(stack, dim=(1, 2)) / math.sqrt(stack[0].numel())
