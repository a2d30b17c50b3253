"""What can go wrong in the trainer, one sentence each, naming the culprit and the cure.

ValueError
└── TrainerError            everything the user can put right
    ├── SettingsError       a number or a name in the settings that cannot work
    ├── DatasetError        a folder from which nothing can be trained
    ├── ImageError          one image file that cannot be used (path, reason)
    ├── ModelError          a MODEL, CLIP or VAE of another architecture
    ├── NonFiniteLoss       the loss became NaN or infinite (step)
    └── LoraFileError       a LoRA file that cannot be read or written
Exception
└── Cancelled               the user stopped the run; nothing is wrong
"""

from __future__ import annotations

import os


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


class ModelError(TrainerError):
    """A MODEL, CLIP or VAE whose architecture the trainer does not train."""


class NonFiniteLoss(TrainerError):
    """The loss is NaN or infinite at optimizer step `step` (counted from 1)."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(
            f"The loss is not a finite number at step {step}: "
            "lower the learning rate, or train in bf16 or fp32 instead of fp16."
        )


class LoraFileError(TrainerError):
    """A LoRA file that cannot be read or written."""


class Cancelled(Exception):  # noqa: N818 - a decision of the user, not an error
    """The user stopped the run. No TrainerError, so that `except TrainerError` never reports it as one."""
