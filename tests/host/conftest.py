"""The hosts that tests talk to: one for the whole session, and others for who needs further arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from host_server import Host, StartHost  # registered by tests/conftest.py


@pytest.fixture(scope="session")
def start_host(tmp_path_factory: pytest.TempPathFactory) -> StartHost:
    """`with start_host("--bf16-unet") as host:` a host of one's own, on the CPU, on a fresh base folder.

    Leaving it fails if its log tells of a failed import, a LoRA key that was not loaded, or a model that leaked.
    """

    @contextlib.contextmanager
    def start(*arguments: str) -> Iterator[Host]:
        with Host(tmp_path_factory.mktemp("host"), "--cpu", *arguments) as host:
            yield host
        complaints = host.complaints()
        assert not complaints, f"ComfyUI complains in {host.log}: {complaints}"

    return start


@pytest.fixture(scope="session")
def host(start_host: StartHost) -> Iterator[Host]:
    """The host that most tests share, with the plugin and the demo's extension, on the CPU."""
    with start_host() as shared:
        yield shared
