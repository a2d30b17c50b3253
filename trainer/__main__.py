"""``python -m trainer CONFIG`` and ``accelerate launch -m trainer CONFIG``."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from .command_line import Command, check_job, command_of, make_job, read_run, told
from .device import no_spill
from .errors import TrainerError
from .runs.run import train
from .training.processes import Processes, join

INTERRUPTED = 130
_PATIENCE = 5  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """0: trained, or trained already. 2: something the user can put right. 130: stopped; the state is saved."""
    command = command_of(arguments)
    # whoever ends the process means what Ctrl-C means
    before = signal.signal(signal.SIGTERM, _interrupt)
    with join(command.device) as processes:
        try:
            return _code_of(command, processes)
        except KeyboardInterrupt:
            if processes.main:
                print("Run the same command again to go on.", file=sys.stderr)
            return INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, before)


def _code_of(command: Command, processes: Processes) -> int:
    try:
        _train(command, processes)
    except TrainerError as error:
        if not processes.main:
            # mostly all fail alike, and who launched them ends the others once the main one has told it
            time.sleep(_PATIENCE)
        print(f"Error{'' if processes.main else f' of process {processes.rank}'}: {error}", file=sys.stderr)
        return 2
    return 0


def _train(command: Command, processes: Processes) -> None:
    run, dataset = read_run(command, processes)
    if processes.main:
        print(told(run, dataset, command), flush=True)
    if command.check:
        check_job(command, run, processes)
        return
    with no_spill(processes.device(command.device)):
        train(make_job(command, run, dataset, processes))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
