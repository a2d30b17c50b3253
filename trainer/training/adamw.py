"""torch's AdamW for a CPU: all weights of a group as one tensor, where they lie in one piece of memory.

Its own step on the 1604 matrices of 802 layers takes more than twice as long (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import torch
from torch.optim import AdamW
from torch.optim.adamw import adamw

from ..adapters.narrow import Joined, NarrowWeights


@dataclass(frozen=True)
class _State:
    """First and second moments, and how often each weight was moved, in the order of the joined weights."""

    first: Joined
    second: Joined
    taken: torch.Tensor


@dataclass(frozen=True)
class _Run:
    """Weights of one group that follow one another and were moved equally often.

    weights: which of all. values: where theirs are in a joined tensor.
    """

    weights: slice
    values: slice


class JoinedAdamW(AdamW):
    """The same arithmetic, state and options over the weights of ``narrow``, joined there.

    What is not fused, or keeps a maximum of the moments, it does as ever. A weight that never had a gradient has a
    state of zeros, where torch's has none.
    """

    def __init__(self, groups: list[dict[str, Any]], narrow: NarrowWeights, **arguments: Any) -> None:
        super().__init__(groups, **arguments)
        self._narrow = narrow
        group_of = {weight: number for number, group in enumerate(self.param_groups) for weight in group["params"]}
        self._groups = [group_of[weight] for weight in narrow.weights]
        self._ends = list(accumulate(weight.numel() for weight in narrow.weights))
        # None where the state is not, or no longer, one of joined tensors
        self._joined: _State | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `AdamW`."""
        super().load_state_dict(state_dict)
        self._joined = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on all weights that have a gradient; see `AdamW`."""
        plain = all(group["fused"] and not group["amsgrad"] for group in self.param_groups)
        gradient = self._narrow.joined_gradient()
        if closure is not None or not plain or gradient is None:
            return super().step(closure)
        if self._joined is None:
            self._joined = self._joined_state()
        wholes = self._narrow.trained.whole, gradient, self._joined.first.whole, self._joined.second.whole
        for group, runs in zip(self.param_groups, self._runs(self._joined.taken.tolist()), strict=True):
            self._step(group, runs, [[whole[run.values] for run in runs] for whole in wholes], self._joined.taken)
        return None

    def _joined_state(self) -> _State:
        """A state of joined tensors with the values of the one that there is."""
        weights = self._narrow.weights
        first, second = (Joined(weights, torch.float32) for _ in range(2))
        joined = _State(first, second, torch.zeros(len(weights)))
        for weight, *pieces in zip(weights, joined.taken, first.pieces, second.pieces, strict=True):
            for name, piece in zip(("step", "exp_avg", "exp_avg_sq"), pieces, strict=True):
                if (held := self.state[weight].get(name)) is not None:
                    piece.copy_(held)
                self.state[weight][name] = piece
        return joined

    def _runs(self, taken: Sequence[float]) -> list[list[_Run]]:
        """Of each group those of its weights that have a gradient, in as few runs as there can be."""
        runs: list[list[_Run]] = [[] for _ in self.param_groups]
        moved = (weight.grad is not None for weight in self._narrow.weights)
        place = start = 0
        for (number, _, moves), same in groupby(zip(self._groups, taken, moved, strict=True)):
            first, place = place, place + sum(1 for _ in same)
            begin, start = start, self._ends[place - 1]
            if moves:
                runs[number].append(_Run(slice(first, place), slice(begin, start)))
        return runs

    def _step(
        self, group: dict[str, Any], runs: list[_Run], tensors: list[list[torch.Tensor]], taken: torch.Tensor
    ) -> None:
        """torch's step on weights, gradients, first and second moments of each run."""
        beta1, beta2 = group["betas"]
        # torch counts up what it is given
        counts = [taken[run.weights.start].clone() for run in runs]
        adamw(
            *tensors,
            [],
            counts,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            # what a scaler of fp16, or who looks for what is not finite, leaves here
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
        )
        for run, count in zip(runs, counts, strict=True):
            taken[run.weights] = count
