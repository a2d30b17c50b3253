"""The README keeps its word: its example runs, its links lead somewhere, its tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from host_server import Host

import dev

README = (dev.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_headless_example_runs_as_it_stands(host: Host) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    here = example.replace("http://127.0.0.1:8188", host.url)
    # the only other change: a few steps of training instead of many
    short, changes = re.subn(r'(\["steps"\] = )\d+', r"\g<1>2", here)
    assert here != example and changes == 1
    done = subprocess.run([sys.executable, "-c", short], cwd=dev.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("success\n") and "Saved headless.safetensors." in done.stdout
    assert re.search(r"^10 output mjesec quickstart_\d+_\.png$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "demo/README.md"])
def test_links_within_the_repository_lead_to_files(page: str) -> None:
    file = dev.ROOT / page
    for target in re.findall(r"\]\(([^)#]+?)\)", file.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (file.parent / target).is_file(), f"{page} links to '{target}'"


def test_the_tables_name_every_node_and_every_workflow(host: Host) -> None:
    nodes = [info["display_name"] for name, info in host.get("/object_info").items() if name.startswith("Mjesec")]
    table = README.split("## Nodes")[1].split("\n## ")[0]
    assert re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[1:] and all(f"| {name} |" in table for name in nodes)
    assert table.count("\n| ") == len(nodes) + 1
    workflows = [path.stem for path in Path(dev.ROOT / "workflows").glob("*.json")]
    assert all(f"| `{name}` |" in README for name in workflows)
