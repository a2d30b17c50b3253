"""One training run from a dataset to a LoRA file: reused if it is finished, begun or gone on with if it is not."""

from __future__ import annotations

from dataclasses import replace

from .errors import BrokenImages, DatasetError
from .identity import run_id
from .job import Base, Folders, Job, Result, Watcher
from .optim import check_optimizer
from .outputs import Place, find_place, stored_losses, stored_validation
from .packed import check_storage
from .session import Session

__all__ = ["Base", "Folders", "Job", "Result", "Watcher", "train"]


def train(job: Job) -> Result:
    """Run a job to its end, or go on with one that was interrupted, or find that it is done already.

    Images that broke since the dataset was made are named and left out; the run is then that of the others.

    Raises:
        TrainerError: whatever the user can put right, one sentence.
    """
    while True:
        try:
            return _train(job)
        except BrokenImages as error:
            kept = tuple(sample for sample in job.dataset.samples if sample.path not in error.paths)
            if not kept:
                raise
            job.say(f"{error} The training goes on without.")
            job.dataset = replace(job.dataset, samples=kept)


def _train(job: Job) -> Result:
    run = run_id(job.settings, job.dataset, job.base.fingerprint, job.base.vae_fingerprint)
    if len(set(job.processes.from_all(run))) > 1:
        raise DatasetError(
            "The processes see different images, settings or base weights; give every machine the same files."
        )
    place, done = job.processes.from_main(lambda: _looked_up(job, run))
    if done is not None:
        job.say(f"{done.path.name} holds this very run already; it is used as it is.")
        return replace(done, report="\n".join(job.lines))
    check_storage(job.settings.base_storage)
    check_optimizer(job.settings, job.device)
    if place.taken:
        job.say(f"{place.taken} is of another run, so this one becomes {place.outputs.lora.name}.")
    return Session(job, run, place.outputs).train()


def _looked_up(job: Job, run: str) -> tuple[Place, Result | None]:
    """The run's place, and what came of it where it is finished."""
    place = find_place(job.settings.output_name, run, job.folders.loras, job.folders.work)
    if not place.finished:
        return place, None
    path = place.outputs.lora
    return place, Result(path, stored_losses(path), "", reused=True, validation=stored_validation(path))
