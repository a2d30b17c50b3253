"""What dev.py is made of, with nothing but Python's standard library and without the plugin.

The tests and the benchmarks know this package as `dev`. They find it by its place, not through sys.path, where the
checkout's nodes/ would hide the host's nodes.py: its modules import each other relatively and nothing else of ours.
"""

from __future__ import annotations

from .answers import describe_refusal, failure_of, output_files
from .base import ROOT, WINDOWS, Failure, PromptFailure, need, say
from .cache import cache_folder, is_whole, key_of, locked, write_stamp
from .cli import main, parse
from .comfyui import COMFYUI_VERSION, check_sum, extract_host, local_comfyui
from .commands import in_parallel
from .demo import QUICKSTART, TINY_SDXL, LogRelay, show_files
from .environment import Setup, cached_python, environment_is_whole, environment_key, installed_files, prepare
from .host import HostProcess, check_loaded, free_port, host_command
from .interpreters import compute_in_one_thread, venv_python
from .processes import ProcessTree, clean_environment, forward, run_step, tail
from .web_checks import check_web, node_modules, npm_key

__all__ = [
    "COMFYUI_VERSION", "QUICKSTART", "ROOT", "TINY_SDXL", "WINDOWS", "Failure", "HostProcess", "LogRelay",
    "ProcessTree", "PromptFailure", "Setup", "cache_folder", "cached_python", "check_loaded", "check_sum", "check_web",
    "clean_environment", "compute_in_one_thread", "describe_refusal", "environment_is_whole", "environment_key",
    "extract_host", "failure_of", "forward", "free_port", "host_command", "in_parallel", "installed_files", "is_whole",
    "key_of", "local_comfyui", "locked", "main", "need", "node_modules", "npm_key", "output_files", "parse", "prepare",
    "run_step", "say", "show_files", "tail", "venv_python", "write_stamp",
]  # fmt: skip
