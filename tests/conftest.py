"""Loads the repository root the way the host does: as a package found by path, never through sys.path.

With the root on sys.path, our `nodes/` would shadow the host's `nodes.py`. Tests therefore import
`pack` (the plugin), `dev` (devtools/) and the helpers of both tiers by names that are known here alone.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).absolute().parent.parent
FILES = {
    "pack": ROOT / "__init__.py",
    "dev": ROOT / "devtools" / "__init__.py",
    "host_server": ROOT / "tests" / "host" / "server.py",
    "host_graphs": ROOT / "tests" / "host" / "graphs.py",
    "browser_editor": ROOT / "tests" / "browser" / "editor.py",
    "tiny_parts": ROOT / "tests" / "unit" / "tiny_parts.py",
    "kill_program": ROOT / "tests" / "unit" / "kill_program.py",
    "plain_reference": ROOT / "tests" / "unit" / "plain_reference.py",
}


class ByPath(importlib.abc.MetaPathFinder):
    """Finds the modules of `FILES` when they are imported and not before: torch takes seconds."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in FILES:
            return None
        file = FILES[name]
        folders = [str(file.parent)] if file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, file, submodule_search_locations=folders)


# pytest runs this file once for each folder of tests that it collects
if not any(type(finder).__name__ == ByPath.__name__ for finder in sys.meta_path):
    # before the others, or an installed `dev` or `pack` would be found first
    sys.meta_path.insert(0, ByPath())
