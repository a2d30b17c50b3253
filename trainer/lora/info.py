"""What a LoRA file tells of itself, whoever wrote it: read from its header alone, and told in people's words.

Nothing in a file can be relied on: a missing entry is not shown, a malformed one is shown as the text that it is.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import LoraFileError
from .metadata import THUMBNAILS_KEY

Json = dict[str, Any]
Fact = tuple[str, str]

_LONGEST = 100_000_000  # bytes of a header; safetensors' own limit
_LONGEST_TEXT = 20_000
_MOST_TAGS = 60
_PICTURE = re.compile(r"data:image/(webp|jpeg|png);base64,[A-Za-z0-9+/=\s]+")
# kohya's names, peft's and diffusers' before it
_DOWN = re.compile(r"\.lora_down\.weight$|\.lora_A(\.\w+)?\.weight$|[._]lora\.down\.weight$")
_FACTOR = re.compile(r"[._]lora[._]")
_GROUPS = {
    "lora_unet": "U-Net",
    "lora_te1": "CLIP-L",
    "lora_te2": "bigG",
    "lora_te": "text encoder",
    "unet": "U-Net",
    "text_encoder_2": "bigG",
    "text_encoder": "CLIP-L",
}
# shown as pictures or as graphs, or numbers that only a program reads
_NOT_TEXT = ("workflow", "prompt", THUMBNAILS_KEY, "modelspec.thumbnail", "mjesec_losses", "mjesec_validation")


def read_header(path: Path) -> tuple[dict[str, str], Json]:
    """The metadata of a safetensors file, and dtype and shape of its tensors by name.

    Raises LoraFileError.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_LONGEST, os.fstat(file.fileno()).st_size - 8):
                raise ValueError
            header = json.loads(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        metadata = (header.get("__metadata__") or {}).items()
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata}, tensors
    except OSError as error:
        raise LoraFileError(f"'{path.name}' cannot be read ({error.strerror}); choose another.") from error
    except (ValueError, AttributeError, RecursionError):
        raise LoraFileError(f"'{path.name}' is not a readable safetensors file; choose another.") from None


def lora_info(path: Path) -> Json:
    """Sections of facts, words that may wake the LoRA, pictures, the graph that made it, and all its entries as text.

    Raises LoraFileError.
    """
    metadata, tensors = read_header(path)
    words = _tags(metadata)
    sections = [
        ("Training", _training(metadata)),
        ("Network", _network(metadata, tensors)),
        ("Images", _images(metadata)),
        ("Base model", _base(metadata)),
        ("File", _file(path, metadata)),
    ]
    return {
        "sections": [{"title": title, "facts": facts} for title, facts in sections if facts],
        "trigger": _text(metadata.get("modelspec.trigger_phrase", "")),
        "tags": [[_text(tag), count] for tag, count in words.most_common(_MOST_TAGS)],
        "different_tags": len(words),
        "thumbnails": _pictures(metadata),
        "graph": _graph(metadata),
        "entries": {_text(key): _text(value) for key, value in sorted(metadata.items()) if key not in _NOT_TEXT},
    }


def _training(metadata: Mapping[str, str]) -> list[Fact]:
    return _told(
        metadata,
        ("steps", "ss_steps"),
        ("steps planned", "ss_max_train_steps"),
        ("epochs", "ss_epoch"),
        ("batch size", "ss_batch_size_per_device"),
        ("batch size", "ss_total_batch_size"),
        ("gradient accumulation", "ss_gradient_accumulation_steps"),
        ("learning rate, U-Net", "ss_unet_lr"),
        ("learning rate, text", "ss_text_encoder_lr"),
        ("optimizer", "ss_optimizer"),
        ("schedule", "ss_lr_scheduler"),
        ("warm-up steps", "ss_lr_warmup_steps"),
        ("loss", "ss_loss_type"),
        ("min-SNR gamma", "ss_min_snr_gamma"),
        ("noise offset", "ss_noise_offset"),
        ("precision", "ss_mixed_precision", lambda text: "fp32" if text == "no" else text),
        ("clip skip", "ss_clip_skip"),
        ("seed", "ss_seed"),
        ("began", "ss_training_started_at", _date),
        ("ended", "ss_training_finished_at", _date),
        ("comment", "ss_training_comment"),
    )


def _network(metadata: Mapping[str, str], tensors: Json) -> list[Fact]:
    facts = _told(
        metadata,
        ("kind", "ss_network_module"),
        ("rank", "ss_network_dim"),
        ("alpha", "ss_network_alpha"),
        ("arguments", "ss_network_args", _arguments),
        ("drop-out", "ss_network_dropout"),
    )
    ranks = sorted({side for name, entry in tensors.items() if _DOWN.search(name) for side in _shape(entry)[:1]})
    if ranks and "ss_network_dim" not in metadata:
        facts.append(("rank", ", ".join(map(str, ranks[:8]))))
    groups = Counter(map(_group, dict.fromkeys(map(module_of, tensors))))
    if tensors:
        facts.append(("modules", ", ".join(f"{count} {group}" for group, count in groups.most_common())))
        kinds = Counter(str(entry.get("dtype")) for entry in tensors.values() if isinstance(entry, dict))
        facts.append(("numbers", ", ".join(_text(kind) for kind, _ in kinds.most_common())))
    return facts


def module_of(name: str) -> str:
    """The module of a LoRA file to which a tensor belongs, by the names of kohya, LyCORIS, peft or diffusers."""
    if name.startswith(("lora_", "lycoris_")):
        return name.partition(".")[0]
    factor = _FACTOR.search(name)
    return name[: factor.start()] if factor else name.rpartition(".")[0] or name


def _group(module: str) -> str:
    first = module.partition(".")[0]
    return next((group for prefix, group in _GROUPS.items() if first.startswith(prefix)), "others")


def _images(metadata: Mapping[str, str]) -> list[Fact]:
    facts = _told(
        metadata,
        ("images with repeats", "ss_num_train_images"),
        ("for regularisation", "ss_num_reg_images", _unless("0")),
        ("resolution", "ss_resolution", lambda text: text.strip("()").replace(", ", " × ")),
    )
    for name, entry in _object(metadata.get("ss_dataset_dirs")).items():
        if isinstance(entry, dict):
            told = f"{_text(entry.get('img_count'))} images × {_text(entry.get('n_repeats'))}"
            facts.append((f"in {_text(name)}", told))
    counts: Counter[str] = Counter()
    for info in _bucket_infos(metadata):
        for bucket in _object(info.get("buckets")).values():
            size, count = (bucket.get("resolution"), bucket.get("count")) if isinstance(bucket, dict) else (None, None)
            if isinstance(size, list) and isinstance(count, int):
                counts["×".join(map(_text, size[:2]))] += count
    if counts:
        facts.append(("buckets", ", ".join(f"{size}: {count}" for size, count in counts.most_common(40))))
    return facts


def _bucket_infos(metadata: Mapping[str, str]) -> list[Json]:
    """Of the whole data set, or of each where a kohya configuration had several."""
    several = _parsed(metadata.get("ss_datasets"))
    infos = [each.get("bucket_info") for each in several if isinstance(each, dict)] if isinstance(several, list) else []
    return [info for info in (_parsed(metadata.get("ss_bucket_info")), *infos) if isinstance(info, dict)]


def _base(metadata: Mapping[str, str]) -> list[Fact]:
    return _told(
        metadata,
        ("checkpoint", "ss_sd_model_name"),
        ("version", "ss_base_model_version"),
        ("architecture", "modelspec.architecture"),
        ("predicts", "modelspec.prediction_type"),
        ("its hash", "ss_sd_model_hash"),
        ("its SHA-256", "ss_new_sd_model_hash"),
        ("VAE", "ss_vae_name"),
    )


def _file(path: Path, metadata: Mapping[str, str]) -> list[Fact]:
    stat = path.stat()
    size = f"{stat.st_size / 2**20:.1f} MiB" if stat.st_size >= 2**20 else f"{stat.st_size / 2**10:.1f} KiB"
    facts = [("size", size), ("written", _date(str(stat.st_mtime)))]
    return facts + _told(
        metadata,
        ("title", "modelspec.title"),
        ("author", "modelspec.author"),
        ("licence", "modelspec.license"),
        ("description", "modelspec.description"),
        ("dated", "modelspec.date"),
        ("SHA-256 of the weights", "sshs_model_hash"),
        ("short hash", "sshs_legacy_hash"),
        ("run", "mjesec_run"),
    )


def _told(metadata: Mapping[str, str], *wanted: tuple[str, str] | tuple[str, str, Callable[[str], str]]) -> list[Fact]:
    """(words, value) of the entries that are there and say something."""
    facts = []
    for words, key, *how in wanted:
        value = metadata.get(key, "")
        told = how[0](value) if how and value else value
        if told not in ("", "None", "null"):
            facts.append((words, _text(told)))
    return facts


def _unless(nothing: str) -> Callable[[str], str]:
    return lambda text: "" if text == nothing else text


def _date(text: str) -> str:
    try:
        seconds = float(text)
        # some tools write milliseconds
        seconds = seconds / 1000 if seconds > 1e11 else seconds
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return text


def _arguments(text: str) -> str:
    named = _parsed(text)
    return ", ".join(f"{key}={value}" for key, value in named.items()) if isinstance(named, dict) else text


def _tags(metadata: Mapping[str, str]) -> Counter[str]:
    """How often each tag stands in the captions, over all folders."""
    counts: Counter[str] = Counter()
    for tags in _object(metadata.get("ss_tag_frequency")).values():
        if isinstance(tags, dict):
            for tag, count in tags.items():
                if isinstance(count, int):
                    counts[tag.strip()] += count
    return counts


def _pictures(metadata: Mapping[str, str]) -> list[str]:
    """Pictures as data URIs, and nothing that is more than a picture."""
    own = _parsed(metadata.get(THUMBNAILS_KEY))
    found = [*(own if isinstance(own, list) else []), metadata.get("modelspec.thumbnail")]
    return [uri for uri in found if isinstance(uri, str) and _PICTURE.fullmatch(uri)][:32]


def _graph(metadata: Mapping[str, str]) -> Json | None:
    """The graph that made the file: `workflow` as the editor saves it, or `prompt` in API format."""
    found = {key: _parsed(metadata.get(key)) for key in ("workflow", "prompt")}
    kept = {key: value for key, value in found.items() if isinstance(value, dict) and value}
    try:
        # numbers and characters that no browser's JSON can hold
        json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return kept or None


def _parsed(text: str | None) -> Any:
    try:
        # NaN and Infinity are no JSON for a browser
        return None if not text else json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _object(text: Any) -> Json:
    value = _parsed(text) if isinstance(text, str) else text
    return value if isinstance(value, dict) else {}


def _shape(entry: Any) -> list[int]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    return [side for side in shape if isinstance(side, int)] if isinstance(shape, list) else []


def _text(value: Any) -> str:
    """Text that any browser can hold, of a length that it can show."""
    text = str(value).encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
