"""Writes messages to a socket in order, without joining or copying payloads, at the link's pace.

Callback-driven: `put` writes at once what the socket takes and the pace allows; the rest goes out from
writability and timer callbacks. So a cancelled sender leaves no half message behind.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable

from d3bed.core.measurements import LinkShape
from d3bed.net.shaping import Pacing, Slot
from d3bed.net.tls import TlsSocket

__all__ = ["Outbox", "Outgoing"]

#: The loop's timers fire up to about this late; for the last byte of a payload it is waited out by
#: turning the loop over instead, since at 300 Mbit/s 100 KB take only 2.7 ms.
_TIMER_LATENESS_S = 0.0002


class Outgoing:
    """One message on its way: `left_s` is when its last byte left, `taken_s` how long that took."""

    __slots__ = (
        "_head",
        "_payload",
        "error",
        "left_s",
        "sent_bytes",
        "slot",
        "started_s",
        "then",
        "total_bytes",
    )

    def __init__(self, head: bytes | memoryview, payload: bytes | memoryview, slot: Slot | None) -> None:
        self._head, self._payload = memoryview(head), memoryview(payload)
        self.total_bytes = len(head) + len(payload)
        self.sent_bytes = 0
        self.slot = slot
        self.started_s = self.left_s = 0.0
        self.error: Exception | None = None
        #: Called by the event loop once the item is done.
        self.then: Callable[[], None] | None = None

    @property
    def taken_s(self) -> float:
        return self.left_s - self.started_s

    @property
    def done(self) -> bool:
        return self.left_s > 0 or self.error is not None

    def due_bytes(self, now_s: float) -> int:
        """Of head and payload together."""
        if self.slot is None:
            return self.total_bytes
        due = self.slot.due_bytes(now_s)
        return len(self._head) + due if due >= 0 else 0

    def next_release_s(self) -> float:
        assert self.slot is not None
        return self.slot.release_s(self.sent_bytes - len(self._head) if self.sent_bytes else -1)

    def pieces(self, upto: int) -> list[memoryview]:
        """The bytes from `sent_bytes` to `upto`, in place."""
        head = len(self._head)
        if self.sent_bytes < head:
            return [self._head[self.sent_bytes :], self._payload[: upto - head]]
        return [self._payload[self.sent_bytes - head : upto - head]]


class Outbox:
    """Owns the writing half of a connected, non-blocking socket; `failed` is told of a lost one."""

    def __init__(self, sock: socket.socket | TlsSocket, failed: Callable[[OSError], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket, self._failed = sock, failed
        self._pacing: Pacing | None = None
        self._unsent: deque[Outgoing] = deque()
        self._entering: deque[Outgoing] = deque()  # shaped only: not yet wholly on the emulated wire
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._blocked_s: float | None = None  # since when the socket takes no more
        self._closed = False
        self._idle: asyncio.Future[None] | None = None

    def start_pacing(self, pacing: Pacing) -> None:
        """From now on obey `pacing`; nothing may be on its way."""
        assert not self._unsent
        self._pacing = pacing

    def reshape(self, shape: LinkShape) -> None:
        """Pace what is put from now on by `shape`; only where pacing was started."""
        assert self._pacing is not None
        self._pacing.reshape(shape)

    @property
    def unsent_bytes(self) -> int:
        return sum(item.total_bytes - item.sent_bytes for item in self._unsent)

    def put(self, head: bytes | memoryview, payload: bytes | memoryview = b"") -> Outgoing:
        """Queue a message; it may be `done` when this returns."""
        now_s = time.monotonic()
        slot = self._pacing.reserve(now_s, len(payload)) if self._pacing is not None else None
        item = Outgoing(head, payload, slot)
        self._unsent.append(item)
        if slot is not None:
            item.started_s = slot.start_s
            self._entering.append(item)
        if self._blocked_s is None:
            self._flush()
        return item

    def when_left(self, item: Outgoing, then: Callable[[], None]) -> None:
        """Have the event loop call `then` when the item's last byte has left, or its `error` is known."""
        if item.done:
            self._loop.call_soon(then)
        else:
            item.then = then

    async def drained(self) -> None:
        """Wait until nothing is left here, the delay line included."""
        if (self._unsent or self._entering) and not self._closed:
            self._idle = self._loop.create_future()
            await self._idle

    def close(self, error: Exception) -> None:
        """Forget what was not sent; those who wait for it are told. The socket stays open."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._blocked_s is not None:
            self._loop.remove_writer(self._socket.fileno())
        for item in {*self._unsent, *self._entering}:
            item.error = error
            if item.then is not None:
                self._loop.call_soon(item.then)
        self._unsent.clear()
        self._entering.clear()
        self._wake_idle()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────

    def _flush(self) -> None:
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = time.monotonic()
        while self._unsent:
            item = self._unsent[0]
            if not item.started_s:
                item.started_s = time.monotonic()
            due = item.due_bytes(now_s)
            while item.sent_bytes < due:
                try:
                    item.sent_bytes += self._socket.sendmsg(item.pieces(due))
                except (BlockingIOError, InterruptedError):
                    self._blocked_s = time.monotonic()
                    self._loop.add_writer(self._socket.fileno(), self._writable)
                    return
                except OSError as error:
                    self._failed(error)
                    return
            if item.sent_bytes < item.total_bytes:
                break
            self._unsent.popleft()
            if item.slot is None:
                self._complete(item)
        if self._pacing is not None:
            self._pace(now_s)
        if not self._unsent and not self._entering:
            self._wake_idle()

    def _pace(self, now_s: float) -> None:
        """What was due at `now_s` is written: complete what has entered the wire, set the next timer."""
        while self._entering and (slot := self._entering[0].slot) is not None and slot.end_s <= now_s:
            item = self._entering.popleft()
            self._complete(item)
            if self._entering:  # the link was not free for it before, whatever the timetable says
                follower = self._entering[0]
                follower.started_s = max(follower.started_s, item.left_s)
        wake_s, exact = float("inf"), False
        if self._unsent:
            item = self._unsent[0]
            wake_s = item.next_release_s()
            exact = item.slot is not None and wake_s >= item.slot.arrives_s
        if self._entering and (slot := self._entering[0].slot) is not None and slot.end_s <= wake_s:
            wake_s, exact = slot.end_s, True
        if wake_s == float("inf"):
            return
        delay_s = wake_s - time.monotonic() - (_TIMER_LATENESS_S if exact else 0.0)
        if delay_s > 0:
            self._timer = self._loop.call_later(delay_s, self._flush)
        else:
            self._timer = self._loop.call_soon(self._flush)

    def _complete(self, item: Outgoing) -> None:
        item.left_s = time.monotonic()
        if item.then is not None:
            self._loop.call_soon(item.then)

    def _writable(self) -> None:
        assert self._blocked_s is not None
        blocked_s, self._blocked_s = self._blocked_s, None
        self._loop.remove_writer(self._socket.fileno())
        if self._pacing is not None and self._unsent:
            self._slip(self._pacing, blocked_s)
        self._flush()

    def _slip(self, pacing: Pacing, blocked_s: float) -> None:
        """Since `blocked_s` the peer, not our timer, was late: so is what follows on the emulated link."""
        now_s = time.monotonic()
        by_s = now_s - max(blocked_s, self._unsent[0].next_release_s())
        if by_s <= 0:
            return
        waiting = {*self._unsent, *self._entering}
        pacing.slip((item.slot for item in waiting if item.slot is not None), by_s)

    def _wake_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
