"""Nested state as tensors by name and plain JSON, and back, so that safetensors can hold any optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_PLAIN = (bool, int, float, str, type(None))


def flatten(value: object, name: str, tensors: dict[str, torch.Tensor]) -> object:
    """What JSON can hold of ``value``; its tensors go into ``tensors`` under names that start with ``name``.

    Dictionaries, lists, tuples, numbers, text, None and tensors come back from ``restore`` as they were.

    Raises:
        TypeError: anything else, with its place.
    """
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        pairs = [[flatten(k, name, tensors), flatten(v, f"{name}.{k}", tensors)] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [flatten(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"'{name}' is a {type(value).__name__}, which cannot be saved.")


def restore(value: object, tensors: Mapping[str, torch.Tensor]) -> object:
    """What ``flatten`` was given. Raises KeyError where a tensor is missing."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {restore(k, tensors): restore(v, tensors) for k, v in held}
    items = [restore(v, tensors) for v in held]
    return tuple(items) if kind == "tuple" else items
