"""A CPU control group for each board of a lab: what runs on it shares so many cores, and no more.

Version 2 where the kernel has its `cpu` controller, else version 1; `open` says why neither can be had. All
groups of a lab are in one, `d3bed-LAB`, by which they are found and removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

__all__ = ["Groups"]

#: A board gets its share of every so many microseconds; of less than a millisecond the kernel gives nothing.
_PERIOD_US, _LEAST_US = 10_000, 1_000
_PATIENCE_S = 5.0


class Groups:
    """The groups of one lab; `make` may be left out to remove what another process made."""

    def __init__(self, lab: str, mounts: Path = Path("/proc/mounts")) -> None:
        self.version, root = _root(mounts)
        self._path = root / f"d3bed-{lab}"

    def open(self) -> str:
        """Make the group that holds the others; returns why that cannot be, or nothing."""
        if not self.version:
            return "no cpu controller is mounted"
        try:
            self._path.mkdir(exist_ok=True)
            if self.version == 2:
                (self._path / "cgroup.subtree_control").write_text("+cpu")
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        return ""

    def make(self, node: str) -> Path:
        """A group without a limit; a process joins by writing its id to the file that is returned."""
        group = self._path / node
        group.mkdir(exist_ok=True)
        return group / "cgroup.procs"

    def limit(self, node: str, cpus: float | None) -> None:
        """Give what runs there so many cores; None: as many as it likes."""
        period, quota = _PERIOD_US, -1
        if cpus is not None:
            period = max(period, round(_LEAST_US / cpus))
            quota = round(period * cpus)
        group = self._path / node
        if self.version == 2:
            (group / "cpu.max").write_text(f"{'max' if quota < 0 else quota} {period}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(period))
            (group / "cpu.cfs_quota_us").write_text(str(quota))

    def remove(self) -> list[str]:
        """End what is left in the groups, and take them away. Returns what there was."""
        removed = []
        for group in self._all():
            for pid in _pids(group):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline_s = time.monotonic() + _PATIENCE_S
            while _pids(group) and time.monotonic() < deadline_s:
                time.sleep(0.02)
            group.rmdir()
            removed.append(f"control group {group.name}")
        return removed

    def left(self) -> list[str]:
        """What there still is of the lab."""
        return [f"control group {group.name}" for group in self._all()]

    def _all(self) -> list[Path]:
        """Those that there are, the one that holds the others last."""
        if not self.version or not self._path.is_dir():
            return []
        return [*sorted(path for path in self._path.iterdir() if path.is_dir()), self._path]


def _root(mounts: Path) -> tuple[int, Path]:
    """The version of the `cpu` controller and where it is mounted; 0: nowhere."""
    found = (0, Path("/nonexistent"))
    for line in mounts.read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        path = Path(place)
        if kind == "cgroup2" and "cpu" in _words(path / "cgroup.controllers"):
            return 2, path
        if kind == "cgroup" and "cpu" in options.split(","):
            found = (1, path)
    return found


def _pids(group: Path) -> list[int]:
    return [int(word) for word in _words(group / "cgroup.procs")]


def _words(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().split()
    return []
