"""A real ComfyUI for tests: a process with the plugin on a free port, and its client in plain urllib."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dev  # registered by tests/conftest.py

FORBIDDEN_IN_THE_LOG = (
    "IMPORT FAILED",
    "Cannot import",
    "lora key not loaded",
    "fingerprint_inputs() got",
    # a MODEL of ours that the host lost sight of: it collects all garbage at every load from then on
    "WARNING, memory leak",
)


def setup_from_environment() -> dev.Setup:
    """The ComfyUI that `dev.py test` resolved, and the interpreter that runs the tests."""
    named = os.environ.get("COMFYUI_PATH")
    if not named:
        raise dev.Failure("These tests need a ComfyUI: run `python dev.py test`, or set COMFYUI_PATH.")
    comfyui = dev.local_comfyui(dev.ROOT, {"COMFYUI_PATH": named})
    return dev.Setup(comfyui, Path(sys.executable), dev.cache_folder(os.environ))


def run_program(name: str, base: Path, timeout: float = 600) -> dict[str, Any]:
    """What a program of this folder prints as JSON: it runs ComfyUI as a library, in a process of its own on `base`."""
    program = Path(__file__).with_name(name)
    command = [sys.executable, program, setup_from_environment().comfyui, dev.ROOT, base]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout, cwd=base, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Host(dev.HostProcess):
    """A ComfyUI with its files in `base` (input/, output/, models/, comfyui.log), as a context manager.

    `arguments` go to ComfyUI's command line. From dev.HostProcess: `url`, `base`, `log`, `queue`, `wait`,
    `cancel`, `request`, `log_text`, `check_alive`, `start`, `stop`.
    """

    def __init__(self, base: Path, *arguments: str) -> None:
        super().__init__(setup_from_environment(), base, base / "comfyui.log", arguments)

    def __enter__(self) -> Host:
        self.start()
        return self

    @property
    def input(self) -> Path:
        return self.base / "input"

    @property
    def output(self) -> Path:
        return self.base / "output"

    def get(self, path: str, **query: str) -> Any:
        """The decoded JSON of a GET."""
        return json.loads(self.request(path + ("?" + urllib.parse.urlencode(query) if query else "")))

    def run(self, prompt: Mapping[str, Any], timeout: float = 600) -> dict[str, Any]:
        """Queues an API-format graph and returns its history entry.

        Raises dev.PromptFailure if the host refuses it (`node_errors`) or fails on it (`entry`).
        """
        entry = self.wait(self.queue(prompt), timeout)
        if failure := dev.failure_of(entry):
            raise dev.PromptFailure(failure, entry=entry)
        return entry

    def outputs(self, entry: Mapping[str, Any]) -> list[Path]:
        """The files under output/ that the nodes of a finished prompt report."""
        return dev.output_files(entry, self.output)

    def newest_sweep(self) -> dict[str, Any]:
        """What the newest sweep tells of itself: its manifest."""
        newest: Path = max((self.output / "mjesec" / "sweeps").glob("*.json"), key=lambda path: path.name)
        return dict(json.loads(newest.read_text(encoding="utf-8")))

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupts the prompt that is running, or only `prompt_id` if it is that one."""
        self.request("/interrupt", {} if prompt_id is None else {"prompt_id": prompt_id})

    def free(self) -> None:
        """Tells the host to drop its cached results and its models once the current prompt has ended."""
        # its worker may miss a call while it cleans up after a prompt, and then looks again only after seconds
        for _ in range(4):
            self.request("/free", {"unload_models": True, "free_memory": True})
            time.sleep(0.3)

    def upload_image(self, name: str, data: bytes, subfolder: str = "") -> dict[str, str]:
        """Puts any bytes under input/`subfolder`; returns the host's name, subfolder and type for them."""
        border = uuid.uuid4().hex
        fields = {"type": "input", "subfolder": subfolder, "overwrite": "true"}
        head = f"--{border}\r\nContent-Disposition: form-data; name="
        parts = [f'{head}"{key}"\r\n\r\n{value}' for key, value in fields.items()]
        file = f'{head}"image"; filename="{name}"'
        kind = "Content-Type: application/octet-stream"
        body = "\r\n".join([*parts, file, kind, "", ""]).encode() + data + f"\r\n--{border}--\r\n".encode()
        content_type = f"multipart/form-data; boundary={border}"
        return dict(json.loads(self.request("/upload/image", body=body, content_type=content_type)))

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of a file that the host serves, as a browser would get them."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self.request(f"/view?{query}")

    def complaints(self) -> list[str]:
        """The lines of the log that no run of ours may leave there, each once."""
        lines = dict.fromkeys(self.log_text().splitlines())
        return [line for line in lines if any(words in line for words in FORBIDDEN_IN_THE_LOG)]


StartHost = Callable[..., AbstractContextManager[Host]]
