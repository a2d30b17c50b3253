"""Which optimizers there are by name, and which classes may be named in full. Imports nothing heavy."""

from __future__ import annotations

import re

from ..errors import SettingsError

CLASSES = {
    "adamw": "torch.optim.AdamW",
    "adamw8bit": "bitsandbytes.optim.AdamW8bit",
    "adafactor": "transformers.Adafactor",
    "prodigy": "pytorch_optimizer.Prodigy",
    "lion": "pytorch_optimizer.Lion",
    "came": "pytorch_optimizer.CAME",
    "schedulefree": "pytorch_optimizer.ScheduleFreeAdamW",
}
LIBRARIES = ("torch.optim", "pytorch_optimizer", "transformers", "bitsandbytes.optim")
_CLASS = re.compile(rf"({'|'.join(map(re.escape, LIBRARIES))})\.[A-Za-z]\w*")


def class_name(optimizer: str) -> str:
    """``adamw`` and its like to the class's full name; a full name from one of ``LIBRARIES`` stays as it is.

    Raises:
        SettingsError: neither a known name nor a class of those libraries.
    """
    if optimizer in CLASSES:
        return CLASSES[optimizer]
    if not _CLASS.fullmatch(optimizer):
        raise SettingsError(
            f"optimizer is '{optimizer}'; choose one of {', '.join(CLASSES)}, "
            f"or name a class from {', '.join(LIBRARIES)}, such as torch.optim.RAdam."
        )
    return optimizer
