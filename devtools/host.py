"""ComfyUI as a process on loopback, with the plugin, and what is needed to queue prompts there."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .answers import describe_refusal
from .base import ROOT, WINDOWS, Failure, PromptFailure
from .environment import Setup
from .processes import ProcessTree, plain_lines, tail

FIRST_PORT = 8188
LAST_PORT = 65535
HOST_START_S = 300.0
# of a host that is busy, that has just been killed, or whose machine has no memory left
NO_ANSWER = (OSError, http.client.HTTPException)


def free_port(first: int | None = None) -> int:
    """`first` or one of the nine after it if one is free on loopback, else any free port."""
    candidates = [] if first is None else list(range(first, min(first + 9, LAST_PORT) + 1))
    for port in [*candidates, 0]:
        with contextlib.suppress(OSError), socket.socket() as probe:
            if not WINDOWS:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise Failure("No port is free on 127.0.0.1; close some programs and try again.")


def make_base(base: Path, root: Path = ROOT) -> Path:
    """Makes a base folder for the host, with the file that leads it to the plugin and the demo; returns that.

    The plugin's parent folder becomes one of the host's custom_nodes folders; the whitelist on the command
    line keeps the host from loading anything else that lies there.
    """
    # the host does not start without custom_nodes
    for name in ("custom_nodes", "input", "output", "models/checkpoints", "models/loras", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    places = {"mjesec": {"custom_nodes": str(root.parent)}}
    if (root / "demo").is_dir():
        places["mjesec_demo"] = {"custom_nodes": str(root / "demo"), "checkpoints": str(root / "demo")}
    config = base / "mjesec_paths.yaml"
    config.write_text(json.dumps(places, ensure_ascii=False, indent=1), encoding="utf-8")  # JSON is YAML too
    return config


def temp_folder(base: Path, port: int) -> Path:
    """The host empties its temp folder when it starts: hosts that share a base need one each."""
    return base / f"temp-{port}"


def host_command(setup: Setup, base: Path, port: int, arguments: Sequence[str], root: Path = ROOT) -> list[str]:
    """The command line that starts the host on `base` with this plugin, the demo's extension and no other."""
    if root.name.startswith("-") or root.name.endswith(".disabled"):
        raise Failure(f"ComfyUI loads no plugin from a folder called '{root.name}'; rename the folder.")
    return [
        str(setup.python), str(setup.comfyui / "main.py"), "--disable-api-nodes", "--disable-auto-launch",
        "--port", str(port), "--base-directory", str(base), "--temp-directory", str(temp_folder(base, port)),
        "--database-url", "sqlite:///:memory:",
        "--extra-model-paths-config", str(make_base(base, root)),
        "--disable-all-custom-nodes", "--whitelist-custom-nodes", root.name, "tiny_sdxl",
        *arguments,
    ]  # fmt: skip


class HostProcess:
    """A ComfyUI on loopback with the plugin, and what is needed to queue prompts there: a context manager.

    Its output goes into the file `log`. Leaving the context ends the process and all its children.
    """

    def __init__(
        self, setup: Setup, base: Path, log: Path, arguments: Sequence[str] = (), port: int | None = None
    ) -> None:
        self.base = base
        self.log = log
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self._setup = setup
        self._arguments = arguments
        self._tree: ProcessTree | None = None
        # proxies of the environment are no way to one's own loopback
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> HostProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, deadline_s: float = HOST_START_S) -> None:
        """Starts the process and returns when it answers. Raises Failure if it ends or is silent too long."""
        command = host_command(self._setup, self.base, self.port, self._arguments)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._tree = ProcessTree(command, cwd=self.base, stdout=output, stderr=subprocess.STDOUT)
        try:
            self._wait_until_it_answers(deadline_s)
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_answers(self, deadline_s: float) -> None:
        ends = time.monotonic() + deadline_s
        environment = self._setup.environment
        cure = f"; if a library of its is damaged, delete '{environment}', and the next start makes it anew"
        while True:
            self.check_alive("" if environment is None else cure)
            with contextlib.suppress(OSError, ValueError):
                self.request("/system_stats", timeout_s=5)
                return
            if time.monotonic() > ends:
                raise Failure(f"ComfyUI is silent after {deadline_s:.0f} s; its log {self.log} ends:\n{tail(self.log)}")
            time.sleep(0.2)

    def check_alive(self, cure: str = "") -> None:
        """Raises Failure, with `cure` in its sentence, if the host has ended."""
        code = None if self._tree is None else self._tree.process.poll()
        if self._tree is None or code is not None:
            raise Failure(f"ComfyUI ended (exit code {code}){cure}; its log {self.log} ends:\n{tail(self.log, 30)}")

    @property
    def pid(self) -> int | None:
        """The process id, on POSIX also the id of its group; None while it does not run."""
        return None if self._tree is None else self._tree.process.pid

    def stop(self) -> None:
        if self._tree is not None:
            self._tree.stop()
            self._tree = None
        shutil.rmtree(temp_folder(self.base, self.port), ignore_errors=True)

    def log_text(self) -> str:
        return "\n".join(plain_lines(self.log.read_text(encoding="utf-8", errors="replace")))

    def request(
        self, path: str, payload: Any = None, *, body: bytes | None = None,
        content_type: str = "application/json", timeout_s: float = 60,
    ) -> bytes:  # fmt: skip
        """The body of the host's answer to a GET, or to a POST of `payload` as JSON or of `body` as it is.

        Raises urllib.error.HTTPError for a status of 400 and above and OSError where nobody answers.
        """
        data = body if payload is None else json.dumps(payload).encode()
        headers = {} if data is None else {"Content-Type": content_type}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with self._opener.open(request, timeout=timeout_s) as answer:
            return bytes(answer.read())

    def queue(self, prompt: Mapping[str, Any]) -> str:
        """Queues an API-format graph; returns its prompt id. Raises PromptFailure if a node is refused."""
        try:
            answer = json.loads(self.request("/prompt", {"prompt": prompt}))
        except urllib.error.HTTPError as error:
            try:
                answer = json.loads(error.read())
            except ValueError:
                answer = {"error": {"message": f"HTTP {error.code}, see {self.log}"}}
        except NO_ANSWER as error:
            self.check_alive()
            raise Failure(f"ComfyUI does not answer on {self.url} ({error}); see its log {self.log}.") from error
        refused = answer.get("node_errors") or {}
        if "prompt_id" in answer and not refused:
            return str(answer["prompt_id"])
        # the host runs the valid outputs of a graph even if others are invalid: to us that is a refusal
        if "prompt_id" in answer:
            self.cancel(answer["prompt_id"])
        raise PromptFailure(describe_refusal(answer.get("error"), refused), node_errors=refused)

    def cancel(self, prompt_id: str) -> None:
        """Takes the prompt out of the queue, or interrupts it if it is running."""
        self.request("/queue", {"delete": [prompt_id]})
        self.request("/interrupt", {"prompt_id": prompt_id})

    def wait(
        self, prompt_id: str, timeout: float | None = None, each_poll: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """The history entry of a prompt, once it has ended well or badly; `timeout` in seconds."""
        began = time.monotonic()
        ends = None if timeout is None else began + timeout
        while True:
            self.check_alive()
            history = self._history(prompt_id)
            if prompt_id in history:
                return dict(history[prompt_id])
            if each_poll is not None:
                each_poll()
            if ends is not None and time.monotonic() > ends:
                raise Failure(f"The prompt did not end in {timeout:.0f} s; the log {self.log} ends:\n{tail(self.log)}")
            # often at first: most prompts of tests are done in less than a second
            time.sleep(min(0.2, 0.02 + (time.monotonic() - began) / 10))

    def _history(self, prompt_id: str) -> dict[str, Any]:
        """What the host tells of a prompt; nothing while it is too busy to answer, or gone: `check_alive` tells."""
        try:
            return dict(json.loads(self.request(f"/history/{prompt_id}")))
        except urllib.error.HTTPError as error:
            raise Failure(f"ComfyUI answers with HTTP {error.code}; see its log {self.log}.") from error
        except NO_ANSWER:
            return {}


def check_loaded(host: HostProcess) -> None:
    """Raises Failure if the host could not load our code: it starts all the same."""
    for line in host.log_text().splitlines():
        if any(words in line for words in ("IMPORT FAILED", "Cannot import", "comfy_entrypoint")):
            raise Failure(f"ComfyUI could not load a plugin: {line.strip()} (its log is {host.log})")
