"""Options of a run that are about evidence and safety: when it is measured, what it writes, and how often."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SettingsError
from .rules import whole


@dataclass(frozen=True)
class ValidationSettings:
    """When the images held out of training are measured. They are always measured before and after it.

    every: optimizer steps between measurements; 0 measures only the two ends.
    keep_best: writes ``name-best.safetensors`` whenever the held-out loss is the lowest so far.
    patience: measurements without a lower held-out loss after which the run ends early; 0 never does.
    """

    every: int = 0
    keep_best: bool = True
    patience: int = 0

    def __post_init__(self) -> None:
        whole("every", self.every, 0)
        whole("patience", self.patience, 0)
        if self.patience and not self.every:
            raise SettingsError("patience needs measurements to wait for; give validate_every, such as 100 steps.")


@dataclass(frozen=True)
class SavingSettings:
    """What is written on the way. None of it changes what is learnt, so it is no part of a run's identity.

    state_seconds, state_steps: the state from which a crash can go on is saved at least this often; 0 is off.
    lora_steps: writes ``name-step00000500.safetensors`` and so on every so many steps; 0 is off.
    tensorboard: writes event files where the package tensorboard is installed.
    embed: LoRA files carry what the job keeps for them: the graph that made them, and small pictures.
    """

    state_seconds: int = 300
    state_steps: int = 0
    lora_steps: int = 0
    tensorboard: bool = True
    embed: bool = True

    def __post_init__(self) -> None:
        for name in ("state_seconds", "state_steps", "lora_steps"):
            whole(name, getattr(self, name), 0)
