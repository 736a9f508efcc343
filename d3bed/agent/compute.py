"""The one compute thread of an agent, and how a slower board is emulated in it.

All tensor work of an agent runs here, one job after the other, under `inference_mode` and with one
fixed intra-op thread count, so that results are repeatable bit for bit and nothing competes.

Emulation (`speed` < 1): a job really runs; its result is then held back until the job's share of the
quiet in-situ profile, divided by the speed, has passed since its virtual start. The virtual start is
the later of "its inputs were there" and "the job before it was over", so lateness of one hold is not
carried to the next. Where a frame's raw time on this agent strays from its nominal time by more than
the dead-band, raw time counts instead of nominal time, so that what really takes longer still shows. (A job
that follows a hold starts cold, which on a board that really is so slow it would not: that much more is not
held against it, and where it is not enough, and there is time, the job runs again, warm.) With one thread raw
time is that thread's CPU time: other emulated boards of this machine take their turn on its cores without
slowing this one, as long as all are done by their deadlines. At `speed` = 1 nothing is held.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

__all__ = ["DEAD_BAND", "ComputeThread", "Hold", "Timed", "run_held"]

#: Raw over nominal time, within which emulation believes the profile.
DEAD_BAND = (0.75, 1.35)

#: Raw and nominal times that differ by less are taken as equal: timer and scheduler noise.
_NOISE_S = 0.0005

#: A job takes up to about so much longer after a hold than after other work: caches, and a core that slept.
#: (ResNet-18 in tiles on 2 x86-64 cores: 11 jobs of 16 ms in all took 20 to 27 ms with 15 ms between them.)
_COLD_S = 0.0007

#: And once in a frame a job may take so much longer, for what else the machine does. (AlexNet's tiles: one in
#: eight of 2 ms took 3.5 ms; charged at a speed of 0.1, it kept three other agents waiting for 16 ms.)
_HICCUP_S = 0.0015

#: What a job usually takes is what so large a share of its last runs took no longer than. (The memory of a
#: virtual machine was slow for 1 to 4 s, three times in five minutes: the median of 15 runs of AlexNet's last
#: layers passed the dead-band, and 47 ms became 87 at once, though each run had time enough; five switches.)
_LAST, _SHARE = 31, 0.25

#: The jobs of so many steps are told apart.
_STEPS = 256

#: Maps of up to so many bytes are taken from memory that the process keeps (glibc's most), and so much of it
#: is kept that is not in use. Else pages are returned and come anew, zeroed, on every frame: 14,500 of them
#: for VGG-16, 6 % of its time on a quiet machine.
_MAP_BYTES, _KEPT_BYTES = 32 * 2**20, 256 * 2**20

#: When closed, a job has so long to end by itself. And no step of a network takes longer; a thread that does
#: is left alone.
_PATIENCE_S, _LONGEST_STEP_S = 0.5, 10.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Timed:
    """A finished job: `start_s` to `end_s` on the local monotonic clock, of which the last `held_s`
    were emulated slowness."""

    outputs: tuple[torch.Tensor, ...]
    start_s: float
    end_s: float
    held_s: float


class Hold:
    """Decides until when the compute thread is occupied. Pure: clocks are passed in.

    One instance per agent; `frame` separates the dead-band's sums.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._busy_until_s = 0.0
        self._worked_s: dict[object, deque[float]] = {}
        self._sums: dict[object, tuple[int, float, float, float]] = {}

    def usual_s(self, step: object, worked_s: float) -> float:
        """The work that a run of this step usually is; it was `worked_s` now."""
        runs = self._worked_s.get(step)
        if runs is None:
            if len(self._worked_s) >= _STEPS:
                del self._worked_s[next(iter(self._worked_s))]
            runs = self._worked_s[step] = deque(maxlen=_LAST)
        runs.append(worked_s)
        return sorted(runs)[int(_SHARE * len(runs))]

    def until(self, frame: object, ready_s: float, end_s: float, worked_s: float, nominal_s: float) -> float:
        """When the job may be called done: inputs there at `ready_s`, really done at `end_s` after
        `worked_s` of work."""
        if self.speed >= 1:
            return end_s
        jobs, raw, nominal, given = self._with(frame, worked_s, nominal_s)
        owed = (nominal if _is_usual(jobs, raw, nominal) else raw) / self.speed
        self._sums[frame] = (jobs, raw, nominal, max(owed, given))
        virtual_start_s = max(ready_s, self._busy_until_s)
        until_s = max(end_s, virtual_start_s + max(0.0, owed - given))
        self._busy_until_s = until_s
        return until_s

    def may_be_cold(self, frame: object, taken_s: float, worked_s: float, nominal_s: float) -> bool:
        """Whether a job with which the frame takes too long should run once more, warm, to tell a cold start
        from a slower board. `taken_s`: since it began; there must be time before its deadline."""
        if self.speed >= 1 or taken_s + 2 * worked_s > nominal_s / self.speed:
            return False
        jobs, raw, nominal, _ = self._with(frame, worked_s, nominal_s)
        return raw > nominal and not _is_usual(jobs, raw, nominal)

    def forget(self, frame: object) -> None:
        """The frame is over here."""
        self._sums.pop(frame, None)

    def _with(self, frame: object, worked_s: float, nominal_s: float) -> tuple[int, float, float, float]:
        """The frame's jobs, raw and nominal seconds, with this one; and seconds given to those before."""
        jobs, raw, nominal, given = self._sums.get(frame, (0, 0.0, 0.0, 0.0))
        return jobs + 1, raw + worked_s, nominal + nominal_s, given


def _is_usual(jobs: int, raw_s: float, nominal_s: float) -> bool:
    """Whether so many jobs of a frame took what they should, by what can be told."""
    low, high = DEAD_BAND
    within = low * nominal_s <= raw_s <= high * nominal_s + jobs * _COLD_S + _HICCUP_S
    return within or abs(raw_s - nominal_s) < _NOISE_S


class ComputeThread:
    """Runs callables one by one on one long-lived thread; awaitable from one event loop."""

    def __init__(self, name: str, limit: int = 256) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(limit)
        self._thread = threading.Thread(target=self._work, name=f"compute {name}", daemon=True)
        self._closed = False
        _keep_memory()
        self._thread.start()

    @property
    def queued(self) -> int:
        return self._jobs.qsize()

    def submit(self, job: Callable[[], _T], then: Callable[[_T | BaseException], None]) -> None:
        """Run `job` after those queued before it; the event loop then calls `then` with what it returned or
        raised. Raises `RuntimeError` when closed, or when too many jobs wait."""
        if self._closed:
            raise RuntimeError("compute thread is closed")
        loop = asyncio.get_running_loop()

        def work() -> None:
            found: _T | BaseException
            try:
                found = job()
            except (Exception, asyncio.CancelledError) as error:  # neither may end the thread
                found = error
            with contextlib.suppress(RuntimeError):  # the loop may be gone at shutdown
                loop.call_soon_threadsafe(then, found)

        try:
            self._jobs.put_nowait(work)
        except queue.Full:
            raise RuntimeError(f"{self._jobs.maxsize} jobs wait for the compute thread") from None

    async def run(self, job: Callable[[], _T]) -> _T:
        """As `submit`, and wait for it. Raises what the job raises."""
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

        def settle(found: _T | BaseException) -> None:
            if future.done():  # the waiter was cancelled
                return
            if isinstance(found, BaseException):
                future.set_exception(found)
            else:
                future.set_result(found)

        def wanted() -> _T:
            if future.cancelled():
                raise asyncio.CancelledError
            return job()

        self.submit(wanted, settle)
        return await future

    def close(self) -> None:
        """Stop, and wait for that: an interpreter that ends while a thread is inside torch aborts. Jobs still
        queued are dropped; one that does not end by itself soon (a network that is loaded, or profiled) is
        broken off."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)
        self._thread.join(_PATIENCE_S)
        deadline_s = time.monotonic() + _LONGEST_STEP_S
        while self._thread.is_alive() and time.monotonic() < deadline_s:
            # It comes between two steps of Python; torch may swallow one.
            thread, ends = ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ends)
            self._thread.join(_PATIENCE_S)

    def _work(self) -> None:
        if hasattr(os, "SCHED_BATCH"):
            # Whoever else has little to do here, above all the event loop with a piece to send, goes first.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(threading.get_native_id(), os.SCHED_BATCH, os.sched_param(0))
        with contextlib.suppress(SystemExit), torch.inference_mode():
            while (job := self._jobs.get()) is not None:
                job()


def _keep_memory() -> None:
    """Let the process keep the memory of its maps from frame to frame, where its C library can be told."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        # Threads that start later share the first one's: an arena of their own is returned in parts of 64 MB.
        mallopt(_M_ARENA_MAX, 1)


#: As in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def run_held(
    job: Callable[[], tuple[torch.Tensor, ...]],
    hold: Hold,
    frame: object,
    ready_s: float,
    nominal_s: float,
    step: object = None,
    least_s: float = 0.0,
) -> Timed:
    """Run a job on the compute thread and hold its result to the emulated board's deadline. Of one that is a
    `step` of every frame, what it usually takes counts, and no less than `least_s`."""
    start_s = time.monotonic()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.monotonic

    def ran() -> tuple[tuple[torch.Tensor, ...], float]:
        began_s = clock()
        return job(), clock() - began_s

    outputs, worked_s = ran()
    if hold.may_be_cold(frame, time.monotonic() - start_s, worked_s, nominal_s):
        outputs, again_s = ran()
        worked_s = min(worked_s, again_s)
    raw_end_s = time.monotonic()
    if step is not None:
        worked_s = max(least_s, hold.usual_s(step, worked_s))
    until_s = hold.until(frame, ready_s, raw_end_s, worked_s, nominal_s)
    # Wait coarsely, then spin the rest, so that a hold ends within microseconds of its deadline.
    if until_s - raw_end_s > _SPIN_S:
        _never.wait(until_s - raw_end_s - _SPIN_S)
    while time.monotonic() < until_s:
        pass
    return Timed(outputs, start_s, max(until_s, raw_end_s), max(0.0, until_s - raw_end_s))


_SPIN_S = 0.0002
_never = threading.Event()
