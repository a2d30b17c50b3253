"""``python -m trainer CONFIG`` and ``accelerate launch -m trainer CONFIG``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TextIO

from .command_line import Command, check_job, command_of, make_job, read_run, told
from .device import no_spill
from .errors import TrainerError
from .runs.run import train
from .training.processes import Processes, join
from .undisturbed import ENDING

INTERRUPTED = 130
_PATIENCE = 5  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """0: trained, or trained already. 2: something the user can put right. 130: stopped; the state is saved."""
    command = command_of(arguments)
    with _heeding_signals(), join(command.device) as processes:
        try:
            return _code_of(command, processes)
        except KeyboardInterrupt:
            # whoever asks once more asks for what happens already
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
            if processes.main:
                _tell("Stopped; the same command goes on from what is saved.", sys.stderr)
            return INTERRUPTED


@contextlib.contextmanager
def _heeding_signals() -> Iterator[None]:
    """Whoever ends the process, or closes its terminal, means what Ctrl-C means; nohup stays nohup."""
    held = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in held.items():
        if number != signal.SIGINT and handler != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in held.items():
            if handler is not None:
                signal.signal(number, handler)
        _flush()


def _flush() -> None:
    """What a console that is gone, or a full disk, does not take, the interpreter would end in an error for."""
    for number, stream in enumerate((sys.stdout, sys.stderr), start=1):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _tell(text: str, stream: TextIO) -> None:
    # no reason to lose a training
    with contextlib.suppress(OSError):
        print(text, file=stream, flush=True)


def _code_of(command: Command, processes: Processes) -> int:
    try:
        _train(command, processes)
    except TrainerError as error:
        if not processes.main:
            # mostly all fail alike, and who launched them ends the others once the main one has told it
            time.sleep(_PATIENCE)
        _tell(f"Error{'' if processes.main else f' of process {processes.rank}'}: {error}", sys.stderr)
        return 2
    return 0


def _train(command: Command, processes: Processes) -> None:
    run, dataset = read_run(command, processes)
    if processes.main:
        _tell(told(run, dataset, command), sys.stdout)
    if command.check:
        check_job(command, run, processes)
        return
    with no_spill(processes.device(command.device)):
        train(make_job(command, run, dataset, processes))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
