"""Everything that must hold before a change lands: formatting, lint, types, tests, browser included."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from d3bed.core.errors import ConfigError

__all__ = ["find_browser", "run_checks"]

_GATES = [
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["mypy"],
    ["pytest", "-n", "logical", "--maxprocesses=8", "--dist=worksteal"],
]
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Path of a Chromium-like browser, if there is one."""
    return next((path for name in _BROWSERS if (path := shutil.which(name))), None)


def run_checks(arguments: list[str], console: Console) -> int:
    """Run all gates in order; returns the first failing one's exit code. `arguments` go to pytest."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "tests").is_dir():
        raise ConfigError(str(root), "tests", "there are none here", "run this from a checkout")
    _ensure_browser(console)
    for gate in [["pytest", *arguments]] if arguments else _GATES:
        console.print(f"── {' '.join(gate)}", style="bold", highlight=False)
        code = subprocess.run([sys.executable, "-m", *gate], cwd=root, check=False).returncode
        if code:
            console.print(f"{gate[0]} failed", style="bold red")
            return code
    return 0


def _ensure_browser(console: Console) -> None:
    """Browser tests need Chromium: as root on Debian install it, else say how."""
    if find_browser() is not None:
        return
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        console.print("installing Debian's chromium for the browser tests (once)")
        for command in (["apt-get", "update", "-q"], install):
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    else:
        console.print(f"browser tests will be skipped; to run them: sudo {' '.join(install)}", style="yellow")
