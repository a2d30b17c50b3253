"""The report on a dataset: what is in it, what happens to it, and what the user may want to mend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from .buckets import BucketSettings, place
from .samples import Dataset

MAX_NAMED = 20
MAX_TOKENS = 75

HEADINGS = {
    "broken": "Broken files, skipped",
    "outside": "Links out of the folder, skipped",
    "folder_ignored": "Sub-folders not read",
    "not_an_image": "Other files, skipped",
    "mixed_folder": "Folder layout",
    "animated": "Animated or paged files, first frame used",
    "duplicate": "Duplicates",
    "caption_missing": "Captions missing",
    "caption_empty": "Captions empty",
    "caption_encoding": "Captions not in UTF-8",
    "caption_orphan": "Captions without an image",
    "mask_broken": "Masks that cannot be used",
    "mask_aspect": "Masks of another aspect ratio",
    "mask_black": "Masks that are black everywhere",
    "mask_missing": "Images without a mask, while others have one",
    "mask_orphan": "Masks without an image",
}


def dataset_report(
    dataset: Dataset,
    count_tokens: Callable[[str], int] | None = None,
    buckets: BucketSettings | None = None,
    max_tokens: int = MAX_TOKENS,
) -> str:
    """What is in the dataset and what is wrong with it, as plain text of several lines.

    count_tokens: the length of a caption in tokens, without start and end; None leaves that out.
    buckets: shows the bucket of every image and what is lost by cropping; None leaves that out.
    max_tokens: how many of them are seen.
    """
    lines = [
        f"Folder: {dataset.folder}",
        f"Images: {dataset.num_images} ({dataset.num_images_with_repeats} with repeats)",
    ]
    if prior := [sample for sample in dataset.samples if sample.regularisation]:
        shown = sum(sample.repeats for sample in prior)
        lines.append(f"Of these for regularisation: {len(prior)} ({shown} with repeats)")
    if masks := sum(bool(sample.mask_hash) for sample in dataset.samples):
        lines.append(f"Masks: {masks}")
    if buckets is not None:
        lines += _bucket_lines(dataset, buckets)
    if count_tokens is not None:
        lines += _token_lines(dataset, count_tokens, max_tokens)
    for kind, heading in HEADINGS.items():
        problems = dataset.problems_of(kind)
        lines += _listed(heading, [f"{problem.path}: {problem.detail}" for problem in problems])
    return "\n".join(lines)


def _listed(heading: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    lines = [f"{heading}: {len(entries)}", *(f"  {entry}" for entry in entries[:MAX_NAMED])]
    if len(entries) > MAX_NAMED:
        lines.append(f"  … and {len(entries) - MAX_NAMED} more")
    return lines


def _bucket_lines(dataset: Dataset, settings: BucketSettings) -> list[str]:
    counts: Counter[tuple[int, int]] = Counter()
    resized_pixels = kept_pixels = 0
    enlarged = []
    for sample in dataset.samples:
        placement = place(sample.width, sample.height, settings)
        counts[placement.bucket] += sample.repeats
        resized_pixels += sample.repeats * placement.resized[0] * placement.resized[1]
        kept_pixels += sample.repeats * placement.bucket[0] * placement.bucket[1]
        width, height = placement.resized
        if width > sample.width or height > sample.height:
            enlarged.append(f"{dataset.name_of(sample)}: {sample.width}x{sample.height} → {width}x{height}")
    lines = [f"Buckets: {len(counts)} (width x height: images with repeats)"]
    lines += [f"  {width}x{height}: {count}" for (width, height), count in sorted(counts.items())]
    lost = 100 * (1 - kept_pixels / resized_pixels) if resized_pixels else 0.0
    return [*lines, f"Pixels lost to cropping: {lost:.1f} %", *_listed("Images enlarged", enlarged)]


def _token_lines(dataset: Dataset, count_tokens: Callable[[str], int], most: int) -> list[str]:
    over = []
    for sample in dataset.samples:
        tokens = count_tokens(sample.caption)
        if tokens > most:
            over.append(f"{dataset.name_of(sample)}: {tokens} tokens, of which {most} are seen")
    return _listed(f"Captions over {most} tokens", over)
