"""Forward and backward pass as one CUDA graph a shape: the GPU is told once what it then does at every step.

A step of SDXL with LoRA is some seven thousand kernels, most of them small. Told one by one by Python they leave a fast
GPU waiting for most of the time at one image of 1024 pixels; replayed, nobody is waited for. On an H200 beside a slow
processor a step took 393 ms told and 80 ms replayed (benchmarks/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..shortage import is_out_of_memory
from .inputs import Inputs

# libraries choose their kernels and make their workspaces in the first passes
_WARM_UP = 2
# a graph of SDXL is thousands of nodes in the driver's memory; shapes beyond these few go without
MOST_GRAPHS = 24

NOT_RECORDED = (
    "Steps are not recorded as CUDA graphs, which makes them slower: that is for plain LoRA of linear layers in half "
    "precision, without drop-out, on a base that is not in int8 or nf4."
)

# from inputs, and the share, (), of their loss that counts, to that share, detached, with the gradients left in place
LearnFrom = Callable[[Inputs, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Graph:
    """What was recorded, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    share: torch.Tensor
    loss: torch.Tensor

    def replay(self, inputs: Inputs, share: float) -> torch.Tensor:
        for own, given in zip(self.inputs.tensors(), inputs.tensors(), strict=True):
            own.copy_(given)
        self.share.fill_(share)
        self.graph.replay()
        return self.loss


class Graphs:
    """A run's graphs, each recorded at the third micro-batch of its shape.

    learn: reads and writes nothing but its arguments and tensors that stay where they are. say: takes a sentence for
    the user.
    """

    def __init__(self, learn: LearnFrom, say: Callable[[str], None]) -> None:
        self._learn, self._say = learn, say
        self._seen: dict[tuple[torch.Size, ...], int] = {}
        self._graphs: dict[tuple[torch.Size, ...], _Graph] = {}
        # nothing in there outlives a replay, so that all graphs can have the same memory
        self._pool: tuple[int, int] | None = None
        self._works = True

    def clear(self) -> None:
        """Forget what was recorded, where what is to be done has changed, and give its memory back."""
        self._seen.clear()
        self._graphs.clear()
        self._pool = None

    def __call__(self, inputs: Inputs, share: float) -> torch.Tensor:
        """``learn``, replayed once it is recorded. The answer holds until the next call."""
        shape = tuple(tensor.shape for tensor in inputs.tensors())
        if (graph := self._graphs.get(shape)) is None:
            self._seen[shape] = self._seen.get(shape, 0) + 1
            if self._works and self._seen[shape] > _WARM_UP and len(self._graphs) < MOST_GRAPHS:
                graph = self._recorded(shape, inputs)
        if graph is None:
            return self._learn(inputs, torch.full((), share, device=inputs.x0.device))
        return graph.replay(inputs, share)

    def _recorded(self, shape: tuple[torch.Size, ...], inputs: Inputs) -> _Graph | None:
        # what is looked at after a replay must not be the graph's own memory, which an allocator may take back
        own, share, loss = inputs.like(), *(torch.empty((), device=inputs.x0.device) for _ in range(2))
        # what the passes before left in the allocator's reserve the graph's own memory would come on top of
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads of the host may use the GPU meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                loss.copy_(self._learn(own, share))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._works = False
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._say(f"CUDA graphs do not work here, so that steps go on without ({why}).")
            return None
        self._pool = self._pool or graph.pool()
        self._graphs[shape] = _Graph(graph, own, share, loss)
        return self._graphs[shape]
