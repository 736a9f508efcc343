"""What this server is and where it runs, so that a report can say so years later."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import d3bed
from d3bed.server.views import ServerReport

__all__ = ["about"]

_GIT_S = 5.0


def about() -> ServerReport:
    """Blocks for some milliseconds: it asks git which commit the code is from, if it is in a checkout."""
    return ServerReport(
        version=d3bed.__version__,
        commit=_commit(Path(d3bed.__file__).resolve().parents[1]),
        python=platform.python_version(),
        system=platform.platform(),
        host=platform.node(),
        processor=_processor(),
        cpus=os.cpu_count() or 1,
    )


def _commit(checkout: Path) -> str | None:
    """With `-dirty` where files differ from it; None outside a checkout, or without git."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, platform.processor() or platform.machine())
