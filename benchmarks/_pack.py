"""Makes the plugin importable as `pack` and devtools/ as `dev`, wherever the checkout lies.

The checkout never goes onto sys.path: its `nodes/` would hide the host's `nodes.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def load_by_path(name: str, file: Path, package_folder: Path | None = None) -> None:
    """Imports `file` as the module `name`; with `package_folder` as a package whose submodules lie there."""
    if name in sys.modules:
        return
    locations = None if package_folder is None else [str(package_folder)]
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=locations)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{file}' is not a Python file that can be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


load_by_path("pack", ROOT / "__init__.py", package_folder=ROOT)
load_by_path("dev", ROOT / "devtools" / "__init__.py", package_folder=ROOT / "devtools")
