"""What lies in web/: one entry point, and libraries of others with their licences."""

from __future__ import annotations

import dev

WEB = dev.ROOT / "web"


def test_the_host_starts_one_script_and_no_other() -> None:
    assert [path.relative_to(WEB).as_posix() for path in WEB.rglob("*.js")] == ["mjesec.js"]


def test_every_library_of_others_has_its_licence() -> None:
    modules = sorted((WEB / "vendor").glob("*.mjs"))
    assert modules
    for module in modules:
        assert "MIT License" in module.with_suffix(".LICENSE").read_text(encoding="utf-8")
