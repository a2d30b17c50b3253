"""Memory of a training step: measured before the run, given up step by step when it does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..errors import MemoryShortage
from ..sdxl.checkpointing import LEVELS, use_checkpointing
from ..sdxl.tokens import empty_pieces
from ..shortage import is_out_of_memory
from .data import Example
from .loop import Trainer
from .noise import step_generator

# what the allocator and short-lived values take beside what is counted
_MARGIN = 1.15
# more than any machine has
_UNKNOWN = 2**62


def spare(trainer: Trainer, level: str) -> None:
    """Let a trainer use gradient checkpointing at one of ``LEVELS``."""
    settings = trainer.settings
    use_checkpointing(trainer.parts, level, text=settings.trains_text, drops=settings.adapter.drops)
    trainer.checkpointing = level
    # where memory is scarce it has better uses
    trainer.texts.keep(level == LEVELS[0])
    trainer.forget_graphs()


def choose_profile(trainer: Trainer, free_bytes: Callable[[], int] | None) -> str:
    """Turn on as much gradient checkpointing as the settings want or the memory asks for; says what and why.

    Empty where nothing was chosen.

    free_bytes: memory that is free beside the networks; None where nobody knows, which counts as enough.
    """
    settings = trainer.settings
    if settings.gradient_checkpointing or settings.memory_profile == "low":
        spare(trainer, LEVELS[-1])
        return "Memory: gradient checkpointing of everything, as set."
    spare(trainer, LEVELS[0])
    if settings.memory_profile == "fast":
        return "Memory: no gradient checkpointing, as set."
    if free_bytes is None:
        return ""
    free, held = free_bytes(), optimizer_bytes(trainer)
    # a size that is not recorded yet is computed beside the memory of the graphs that are
    copies = 2 if trainer.records_graphs and trainer.plan.num_shapes() > 1 else 1
    needs = []
    for level in LEVELS:
        spare(trainer, level)
        # what cannot fit is not computed on: the memory that it takes may be the last
        kept = min(copies * kept_bytes(trainer, max(int(free / _MARGIN) - held, 0)), _UNKNOWN)
        needs.append(_mb(kept) + f" with gradient checkpointing of {level}" * (level != LEVELS[0]))
        if fits := (kept + held) * _MARGIN <= free:
            break
    chosen = f"gradient checkpointing is on for {trainer.checkpointing}"
    return (
        f"Memory: {_mb(free)} are free, one batch keeps {', or '.join(needs)} for its backward pass"
        f"{', in and beside CUDA graphs' * (copies > 1)}, gradients and optimizer {_mb(held)}: "
        f"{chosen if trainer.checkpointing != LEVELS[0] else 'no gradient checkpointing'}."
        + " That may not be enough: choose a lower resolution, batch_size or rank, or train the U-Net alone."
        * (not fits)
    )


def kept_bytes(trainer: Trainer, most: int = _UNKNOWN) -> int:
    """What the largest batch keeps from its forward to its backward pass, measured in a forward pass.

    It is broken off beyond ``most`` bytes: a CPU's memory has no end that would be told in time. Nothing is learnt,
    and no random number is lost.
    """
    weights = {w.untyped_storage().data_ptr() for module in trainer.parts.modules() for w in module.parameters()}
    seen, kept = set(weights), 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept += storage.nbytes()
        if kept > most:
            raise MemoryError
        # an output that its own step of the graph held would hold that step, and neither would ever be freed
        return tensor.detach()

    batch = trainer.draw(trainer.plan.largest_batch(), 0, 0)
    # of several processes each computes its rows alone
    batch = replace(batch, rows=slice(0, trainer.processes.most_rows(len(batch.latents))))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trainer.loss(batch, step_generator(trainer.settings.seed, 2, 0, 0))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return _UNKNOWN
    return kept


def optimizer_bytes(trainer: Trainer) -> int:
    """Gradients, and two moments a weight; optimizers that keep less are counted as if they kept those."""
    return 3 * sum(weight.nbytes for weight in trainer.adapters.parameters())


def retreat(trainer: Trainer, error: BaseException) -> str:
    """Give up speed for memory after a training step that found none; the step can then be tried again.

    Returns what was given up, as a sentence.

    Raises:
        MemoryShortage: there is nothing left to give up, or the failure left the optimizer half updated.
    """
    step = f"There is too little memory for step {trainer.progress.step + 1}"
    if trainer.retryable and trainer.checkpointing != LEVELS[-1]:
        spare(trainer, LEVELS[-1])
        return f"{step}: gradient checkpointing is on from here, which is slower."
    images = trainer.piece or trainer.processes.most_rows(trainer.settings.batch_size)
    if trainer.retryable and images > 1:
        trainer.piece = images // 2
        trainer.forget_graphs()
        return f"{step}: batches are computed in pieces of {trainer.piece} from here; what is learnt is the same."
    raise _shortage(trainer) from error


def _shortage(trainer: Trainer) -> MemoryShortage:
    """What cannot be helped, with what was tried and what may help."""
    step, count = trainer.progress.step + 1, trainer.processes.count
    if not trainer.whole or (count == 1 and not trainer.retryable):
        smaller = "choose an optimizer that keeps less, such as adafactor or adamw8bit, lower the rank"
        return MemoryShortage(step, f"for the weight update of step {step}", f"{smaller}, or train the U-Net alone")
    if count == 1:
        return MemoryShortage(step)
    cure = "set memory_profile to low" if trainer.checkpointing != LEVELS[-1] else "choose a lower resolution"
    return MemoryShortage(
        step, f"for step {step} in one of {count} processes", f"{cure} or batch_size, or train the U-Net alone"
    )


def _mb(count: int) -> str:
    return "more than fits" if count >= _UNKNOWN else f"{count / 2**20:.0f} MB"


def release_text_encoders(trainer: Trainer, examples: Sequence[Example]) -> bool:
    """Encode the captions of all examples and let go of frozen text encoders; False where they are needed on."""
    captions = [example.tokens for example in examples]
    # shorter captions of a batch are filled up with pieces without words
    with trainer.autocast():
        return trainer.condition.release([*captions, *map(empty_pieces, captions[:1])])
