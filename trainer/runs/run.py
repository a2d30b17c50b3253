"""One training run from a dataset to a LoRA file: reused if it is finished, begun or gone on with if it is not."""

from __future__ import annotations

from dataclasses import replace

from ..errors import BrokenImages, DatasetError
from ..sdxl.packed import check_storage
from ..training.optim import check_optimizer
from .copies import copy_run
from .identity import run_id
from .job import Base, Folders, Job, Result, Watcher
from .log import end_log
from .outputs import Place, find_place, forget_finished, stored_losses, stored_validation, unfinished
from .session import Session

__all__ = ["Base", "Folders", "Job", "Result", "Watcher", "train"]


def train(job: Job) -> Result:
    """Run a job to its end, or go on with one that was interrupted, or find that it is done already.

    Images that broke since the dataset was made, or whose masks cannot be used, are named and left out; the run is then
    that of the others.

    Raises:
        TrainerError: whatever the user can put right, one sentence.
    """
    while True:
        try:
            return _train(job)
        except BrokenImages as error:
            kept = tuple(sample for sample in job.dataset.samples if sample.path not in error.paths)
            # begun anew with the same images it would end in the same error, for ever
            if not kept or len(kept) == job.dataset.num_images:
                raise
            job.say(f"{error} The training goes on without.")
            job.dataset = replace(job.dataset, samples=kept)


def _train(job: Job) -> Result:
    run = run_id(job.settings, job.dataset, job.base.fingerprint, job.base.vae_fingerprint)
    if len(set(job.processes.from_all(run))) > 1:
        raise DatasetError(
            "The processes see different images, settings or base weights; give every machine the same files."
        )
    place, done, fate = job.processes.from_main(lambda: _looked_up(job, run))
    if done is not None:
        job.say(f"{(place.twin or done.path).name} holds this very run already; {fate}")
        return replace(done, report="\n".join(job.lines))
    check_storage(job.settings.base_storage)
    check_optimizer(job.settings, job.device)
    if place.taken:
        job.say(f"{place.taken}, so this one becomes {place.outputs.lora.name}.")
    if states := unfinished(job.folders.work, run):
        job.say(
            f"Not finished: {len(states)} other run{'s' * (len(states) > 1)}, with {sum(states) / 2**20:.0f} MB of "
            f"saved states in {job.folders.work.name}/runs; delete the folders of those that will not go on."
        )
    return Session(job, run, place.outputs).train()


def _looked_up(job: Job, run: str) -> tuple[Place, Result | None, str]:
    """The run's place, and where it is finished what came of it and what was done about that."""
    settings, folders = job.settings, job.folders
    place = find_place(settings.output_name, run, settings.save_precision, folders.loras, folders.work)
    path, fate = place.outputs.lora, "it is used as it is. To train once more, delete it and its copies."
    if place.twin is not None:
        fate = copy_run(place, run, job.keepsakes())
    elif not place.finished:
        return place, None, ""
    forget_finished(place)
    place.outputs.remove_scratch()
    end_log(place.outputs.log, path.name)
    return place, Result(path, stored_losses(path), "", reused=True, validation=stored_validation(path)), fate
