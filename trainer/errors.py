"""What can go wrong in the trainer, one sentence each, naming the culprit and the cure.

ValueError
└── TrainerError            everything the user can put right
    ├── SettingsError       a number or a name in the settings that cannot work
    ├── DatasetError        a folder from which nothing can be trained
    ├── ImageError          one image file that cannot be used (path, reason)
    ├── BrokenImages        images of a dataset that cannot be used any more (paths)
    ├── ModelError          a MODEL, CLIP or VAE of another architecture
    ├── NonFiniteLoss       the loss became NaN or infinite (step)
    ├── MemoryShortage      a training step, or what is done beside them, does not fit into memory (step)
    └── LoraFileError       a LoRA file that cannot be read or written
        └── NameTaken       another run's file has the name of one that was to be written
Exception
└── Cancelled               the user stopped the run; nothing is wrong
"""

from __future__ import annotations

import os
from collections.abc import Sequence


class TrainerError(ValueError):
    """Anything that the user can put right; the message says how."""


class SettingsError(TrainerError):
    """A setting that cannot work, named together with the value given."""


class DatasetError(TrainerError):
    """A folder from which nothing can be trained."""


class ImageError(TrainerError):
    """One image file that cannot be used.

    Attributes: `path`, the file as text; `reason`, a clause without a full stop ("it is truncated").
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        self.path = os.fspath(path)
        self.reason = reason
        super().__init__(f"The image '{self.path}' cannot be used: {reason}.")


class BrokenImages(TrainerError):
    """Images that could be read when the dataset was made and cannot any more; all others are encoded.

    Attributes: `paths`, the files as text.
    """

    def __init__(self, errors: Sequence[ImageError]) -> None:
        errors = list({error.path: error for error in errors}.values())
        self.paths = frozenset(error.path for error in errors)
        named = "; ".join(f"'{error.path}': {error.reason}" for error in errors[:5])
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        count = "1 image" if len(errors) == 1 else f"{len(errors)} images"
        super().__init__(f"{count} cannot be used ({named}{more}); mend or remove what is named.")


NO_CLIP = "There is no CLIP: the checkpoint has no text encoders; connect SDXL's from DualCLIPLoader."


class ModelError(TrainerError):
    """A MODEL, CLIP or VAE whose architecture the trainer does not train."""


class NonFiniteLoss(TrainerError):
    """The loss is NaN or infinite at optimizer step `step` (counted from 1); `cure` is what the run's settings leave
    to try."""

    def __init__(self, step: int, cure: str) -> None:
        self.step = step
        super().__init__(f"The loss is not a finite number at step {step}: {cure}.")


class MemoryShortage(TrainerError):
    """Optimizer step `step` (counted from 1) does not fit into memory, however slowly it is computed.

    Beside the steps, where `step` is None: `doing` says for what there is too little ("to encode an image"), `cure`
    what to do about it.
    """

    def __init__(self, step: int | None, doing: str = "", cure: str = "") -> None:
        self.step = step
        doing = doing or f"for step {step}, also with gradient checkpointing and one image at a time"
        cure = cure or (
            "choose a lower resolution, train the U-Net alone, lower the rank, or close what else holds memory"
        )
        super().__init__(f"There is too little memory {doing}: {cure}.")


class LoraFileError(TrainerError):
    """A LoRA file that cannot be read or written."""


class NameTaken(LoraFileError):
    """A file that is not to be replaced has the name of one that was to be written."""


class Cancelled(Exception):  # a decision of the user, not an error
    """The user stopped the run. No TrainerError, so that `except TrainerError` never reports it as one."""
