"""Seconds as people read them."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """75 as ``1:15``, 3700 as ``1:01:40``."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
