"""``python -m trainer CONFIG`` and ``accelerate launch -m trainer CONFIG``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

from .command_line import Command, command_of, make_job, read_run, told
from .device import no_spill
from .errors import TrainerError
from .runs.run import train
from .training.optim import check_optimizer
from .training.processes import Processes, join

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """0: trained, or trained already. 2: something the user can put right. 130: stopped; the state is saved."""
    command = command_of(arguments)
    # whoever ends the process means what Ctrl-C means
    before = signal.signal(signal.SIGTERM, _interrupt)
    with join(command.device) as processes:
        try:
            _train(command, processes)
        except TrainerError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            if processes.main:
                print("Run the same command again to go on.", file=sys.stderr)
            return INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, before)
    return 0


def _train(command: Command, processes: Processes) -> None:
    run, dataset = read_run(command, processes)
    if processes.main:
        print(told(run, dataset, command), flush=True)
    device = processes.device(command.device)
    if command.check:
        check_optimizer(run.settings, device)
        return
    with no_spill(device):
        train(make_job(command, run, dataset, processes))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
