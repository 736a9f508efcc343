"""The processes of a testbed on one machine: start, watch, and never leave one behind.

Every child is told its parent's pid and asks the kernel for a signal when that dies (Linux), so that
even a killed parent leaves nothing. A child's output goes to its own log file; the end of it is what a
person sees when the child dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from d3bed.core.errors import D3Error
from d3bed.core.messages import CRASHED

__all__ = ["Child", "ChildDied", "Children", "die_with_parent"]

#: How long a child may take to end after SIGTERM before SIGKILL.
GRACE_S = 5.0

_PR_SET_PDEATHSIG = 1


class ChildDied(D3Error):
    """A process of the testbed ended without being asked to."""

    def __init__(self, name: str, pid: int, code: int, log: str) -> None:
        self.name, self.pid, self.code, self.last_words = name, pid, code, log
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"{name} (pid {pid}) {how}" + (f"; its last words: {log}" if log else ""))


@dataclass(frozen=True)
class Child:
    """One running process; one that `may_leave` may end when the server tells it to stop or to crash. Of one
    that has `on_end`, that is told the exit code; False: it should not have ended."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    may_leave: bool = False
    on_end: Callable[[int], bool] | None = None

    def last_words(self) -> str:
        """The last line of the log that says something."""
        with contextlib.suppress(OSError):
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines()]
            return next((line for line in reversed(lines) if line), "")[:500]
        return ""


class Children:
    """The children of one testbed. Use as an async context manager: leaving it ends them all."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = False
        self._died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Children:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        may_leave: bool = False,
        on_end: Callable[[int], bool] | None = None,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start `python -m d3bed ARGUMENTS …` under this interpreter; one that left may be started again.

        `within`: a command that runs the one after it, as the same process.
        """
        log = self._log_dir / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *within,
                sys.executable,
                "-m",
                "d3bed",
                *arguments,
                "--parent",
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal goes to the parent alone, which ends them in order.
                start_new_session=True,
                env=None if environment is None else {**os.environ, **environment},
            )
        child = Child(name, process, log, may_leave, on_end)
        self._children.append(child)
        self._watchers.append(asyncio.create_task(self._watch(child)))
        return child

    def send(self, name: str, number: signal.Signals) -> None:
        """Signal the process of this name that was started last."""
        _send(self._last(name), number)

    async def left(self, name: str) -> None:
        """Wait for the end of the process of this name that was started last."""
        await self._last(name).process.wait()

    def _last(self, name: str) -> Child:
        return next(child for child in reversed(self._children) if child.name == name)

    async def died(self) -> None:
        """Waits until a child ends unasked, then raises `ChildDied`."""
        await asyncio.shield(self._died)

    async def stop(self) -> None:
        """SIGTERM to all, the last started first; SIGKILL after `GRACE_S`. Returns when all are gone."""
        self._stopping = True
        for child in reversed(self._children):
            _send(child, signal.SIGTERM)
        waits = [asyncio.create_task(child.process.wait()) for child in self._children]
        if waits:
            _, late = await asyncio.wait(waits, timeout=GRACE_S)
            if late:
                for child in self._children:
                    _send(child, signal.SIGKILL)
                await asyncio.wait(waits)
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        if self._died.done():
            self._died.exception()  # taken note of
        else:
            self._died.cancel()

    async def _watch(self, child: Child) -> None:
        code = await child.process.wait()
        if child.may_leave and code in (0, CRASHED):
            return
        if not self._stopping and child.on_end is not None and child.on_end(code):
            return
        if not self._stopping and not self._died.done():
            self._died.set_exception(ChildDied(child.name, child.process.pid, code, child.last_words()))


def _send(child: Child, number: signal.Signals) -> None:
    """Signal a child that has not been waited for yet.

    Not by `Process.send_signal`: that reaps a child which just ended behind asyncio's back, and its exit
    code would be lost.
    """
    if child.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.process.pid, number)


def die_with_parent(parent: int) -> None:
    """Called in a child: end when process `parent` ends, even if that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        raise SystemExit(1)
