"""The LoRA file: kohya's keys, kohya's metadata, safetensors.

Keys are ``<name>.lora_down.weight``, ``<name>.lora_up.weight`` and a scalar ``<name>.alpha``, as
kohya-ss/sd-scripts' networks.lora writes and A1111, Forge and ComfyUI read them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from safetensors.torch import save

from ..errors import LoraFileError
from ..files import write_atomically
from ..sdxl.precision import DTYPES
from .header import fitting, with_fitting_tags

if TYPE_CHECKING:
    from ..adapters.adapters import Adapters

_IN_FILE = {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}
# what a file says about itself, beside pictures and graphs that are kept with it
_OWN = ("ss_", "sshs_", "modelspec.", "mjesec_run", "mjesec_losses", "mjesec_validation")
_LEGACY_OFFSET, _LEGACY_LENGTH = 0x100000, 0x10000


def lora_tensors(adapters: Adapters, precision: str) -> dict[str, torch.Tensor]:
    """The file's tensors on the CPU, copied: for each adapted layer its alpha and factors, of a LoRA three in all."""
    dtype = DTYPES[precision]
    out: dict[str, torch.Tensor] = {}
    for module in adapters.modules:
        alpha = torch.tensor(module.file_alpha, dtype=torch.float32)
        # rounded, it would scale the whole layer wrongly
        out[f"{module.name}.alpha"] = alpha.to(dtype) if alpha.to(dtype) == alpha else alpha
        for key, tensor in module.in_file().items():
            # DoRA's magnitudes multiply the base itself, so they keep their precision
            kept = torch.float32 if key == "dora_scale" else dtype
            out[f"{module.name}.{key}"] = tensor.to("cpu", kept, copy=True).contiguous()
    return out


def hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """``sshs_model_hash`` and ``sshs_legacy_hash`` as sd-scripts' train_util computes them.

    The first is SHA-256 over everything behind the header, the second the first 8 digits of SHA-256 over 64 KiB at
    1 MiB, both of a file whose only metadata are the ``ss_`` entries.
    """
    data = save(dict(tensors), {k: v for k, v in metadata.items() if k.startswith("ss_")})
    body = memoryview(data)[8 + int.from_bytes(data[:8], "little") :]
    legacy = memoryview(data)[_LEGACY_OFFSET : _LEGACY_OFFSET + _LEGACY_LENGTH]
    return {
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }


def save_lora(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    extra: Mapping[str, str] | None = None,
    *,
    replaceable: Callable[[Path], bool] | None = None,
) -> None:
    """Write the file, hashes included; a file of that name is replaced only when the new one is whole.

    The header stays below the 1 MiB that hosts read: of kohya's tags the rarest are left out for that, and of
    ``extra``, further entries, the last ones. ``replaceable``: as of ``write_atomically``.

    Raises:
        NameTaken: as of ``write_atomically``.
        LoraFileError: a value is not finite, or the file could not be written.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise LoraFileError(
                f"'{path.name}' was not written: '{name}' holds values that are too large for {tensor.dtype} or no "
                "numbers; lower the learning rate."
            )
    own = with_fitting_tags(tensors, metadata)
    full = {**own, **hashes(tensors, own)}
    data = save(dict(tensors), {**fitting(tensors, full, extra or {}), **full})

    def write(scratch: Path) -> None:
        scratch.write_bytes(data)

    write_atomically(path, write, replaceable=replaceable)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty where it has none.

    Raises:
        LoraFileError: the file is no safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_precision(path: Path) -> str | None:
    """The precision of the settings in which a file's factors are; None for another or where there are none."""
    with _opened(path) as file:
        # alphas and magnitudes keep what they need
        factors = (name for name in file.keys() if not name.endswith((".alpha", ".dora_scale")))  # noqa: SIM118
        return next((_IN_FILE.get(file.get_slice(name).get_dtype()) for name in factors), None)


def copy_lora(path: Path, to: Path, extra: Mapping[str, str], *, replaceable: Callable[[Path], bool]) -> None:
    """Write a LoRA file once more, with the name ``to`` has wherever a file tells its name.

    ``extra``: as of ``save_lora``, instead of the former file's. ``replaceable``: as of ``write_atomically``.

    Raises:
        NameTaken: as of ``write_atomically``.
        LoraFileError: the file cannot be read or written.
    """
    told = read_metadata(path) | {"ss_output_name": to.stem, "modelspec.title": to.stem}
    own = {name: value for name, value in told.items() if name.startswith(_OWN)}
    save_lora(to, read_lora(path), own, extra, replaceable=replaceable)


def read_lora(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a LoRA file, on the CPU.

    Raises:
        LoraFileError: the file is no safetensors file.
    """
    with _opened(path) as file:
        # copied: whoever held on to the file itself would keep Windows from replacing or deleting it
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:
        raise LoraFileError(
            f"'{path}' is not a readable safetensors file; choose another or train it again."
        ) from error
