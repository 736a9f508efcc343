"""Real load on a board: busy processes that compete with this agent for its cores.

Each asks, some hundred times a second, whether the agent is still its parent, and ends when not: even an
agent that was killed leaves none behind.
"""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["BusyProcesses"]

_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


class BusyProcesses:
    """As many as asked for last; each keeps one core busy as long as it gets it."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._running]

    def carry(self, count: int) -> None:
        """Start or end processes until there are `count`."""
        while len(self._running) > count:
            process = self._running.pop()
            process.kill()
            process.wait()
        while len(self._running) < count:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", _BUSY, str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
