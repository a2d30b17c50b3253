"""Who may call Mjesec's routes: pages of this very host and programs, never a page from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request's headers show it to come from the host's own page, or from no page at all.

    The host itself checks this for loopback only; a trainer that can be stopped should not be stopped by any page
    that is open in the same browser.
    """
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("Origin")
    return origin is None or (bool(origin) and urlsplit(origin).netloc.lower() == headers.get("Host", "").lower())
