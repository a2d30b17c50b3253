"""`kill -9` at any moment costs steps, never the result: the resumed run ends with the straight one's bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import kill_program
import pytest
import tiny_parts
from pack.trainer.lora.file import read_lora
from pack.trainer.runs.log import read_records
from pack.trainer.runs.run import Result, train
from tiny_parts import Log, make_job

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="forks and looks at /proc")
SETTINGS = kill_program.SETTINGS
RANDOM_STEP = random.SystemRandom().randint(1, SETTINGS.steps - 1)
# where the process dies, and the step from which the next one goes on: a state is saved at every second step
PLACES = {
    "after a random step": (f"step{RANDOM_STEP}", RANDOM_STEP // 2 * 2),
    "in the second write of the state": ("write2", 2),
    "between two batches of step 5": ("window5", 4),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each place, as a killed training left it."""
    roots = {name: tmp_path_factory.mktemp(place) for name, (place, _) in PLACES.items()}
    arguments = [f"{PLACES[name][0]}={root}" for name, root in roots.items()]
    done = subprocess.run(
        [sys.executable, kill_program.__file__, *arguments], capture_output=True, text=True, check=False
    )
    wanted = [word for place, _ in PLACES.values() for word in (place, str(int(signal.SIGKILL)))]
    assert done.stdout.split() == wanted, done.stderr
    return roots


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(make_job(tmp_path_factory.mktemp("straight"), SETTINGS))


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    place: str, killed: dict[str, Path], straight: Result
) -> None:
    log = Log()
    resumed = train(make_job(killed[place], SETTINGS, log))
    kill, went_on_from = PLACES[place]
    assert [step.step for step in log.steps] == list(range(went_on_from + 1, SETTINGS.steps + 1)), kill
    assert resumed.losses == straight.losses
    written = {path.name for path in straight.path.parent.iterdir()}
    assert written == {"mjesec.safetensors", "mjesec-000002.safetensors"}
    assert {path.name for path in resumed.path.parent.iterdir()} == written
    for name in written:
        tiny_parts.assert_same(read_lora(resumed.path.with_name(name)), read_lora(straight.path.with_name(name)))


@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_a_killed_process_is_left(place: str, killed: dict[str, Path]) -> None:
    (folder,) = (killed[place] / "work" / "runs").iterdir()
    if "state.safetensors" in os.listdir(folder):  # where this test runs alone
        train(make_job(killed[place], SETTINGS))
    assert os.listdir(folder) == ["log.jsonl"]
    steps = [record["step"] for record in read_records(folder / "log.jsonl") if record["event"] == "step"]
    assert steps == list(range(1, SETTINGS.steps + 1))
