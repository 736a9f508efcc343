"""Who may import whom: the table of the design, held against every module's import statements."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "d3bed"

#: Package → the d3bed packages it may import (itself always).
MAY_IMPORT = {
    "core": set[str](),
    "plan": {"core"},
    "net": {"core"},
    "model": {"core"},
    "agent": {"core", "net", "model"},
    "server": {"core", "plan", "net"},
    "lab": {"core", "plan", "net", "model", "agent", "server", "config"},
    "bench": {"core", "plan", "net", "model", "agent", "server", "lab", "config"},
    "config": {"core", "plan", "agent", "server"},
}
#: Package → outside packages that it must not import, anywhere.
MUST_NOT = {
    "core": {"torch", "asyncio", "socket", "aiohttp", "websockets"},
    "plan": {"torch", "asyncio", "socket", "aiohttp", "websockets"},
    "net": {"torch"},
    "server": {"torch", "timm", "torchvision"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "d3bed"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = imported(path)
    if package in MAY_IMPORT:
        inner = {n.split(".")[1] for n in names if n.startswith("d3bed.") and n != "d3bed.__version__"}
        assert inner <= MAY_IMPORT[package] | {package}
    assert not {n.split(".")[0] for n in names} & MUST_NOT.get(package, set())
    if package not in ("cli", "config"):
        assert "tomllib" not in names


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("d3bed.core.messages", ("torch", "asyncio")),
        ("d3bed.plan", ("torch", "asyncio")),
        ("d3bed.net", ("torch",)),
        ("d3bed.server.app", ("torch",)),
        ("d3bed.config", ("torch", "aiohttp", "jinja2", "scipy")),
        ("d3bed.agent.agent", ("aiohttp",)),
        ("d3bed.cli", ("torch", "aiohttp", "scipy", "numpy")),
    ],
)
def test_a_module_loads_without(module: str, blocked: tuple[str, ...]) -> None:
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\nimport {module}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600
