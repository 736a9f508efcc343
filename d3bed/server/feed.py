"""The feed: numbered events, and what the page does with them.

Messages (WebSocket text, JSON):
    {"type": "snapshot", "seq": N, "now": s, "state": STATE}
    {"type": "events", "seq": last, "now": s, "events": [{"seq", "time_s", "kind", "cause_id", "data"}]}
`now` and all times are on the server's clock, in seconds. STATE is `views.StateView`. A client
connects with the last number it has seen (`?after=N`): it gets what came after, or, where that is
gone or N is not of this server's life, a snapshot, which replaces all it knows.

How events merge into STATE, by `kind`:
    agent      replaces the entry with the same `agent`
    link       replaces the entry with the same `from` and `to`
    pipeline   its fields replace those of the entry with the same `id`; others stay
    epoch      replaces the entry with the same `pipeline` and `epoch`
    order      replaces the entry with the same `id` (the last 100 are kept)
    scene      is STATE's `scene` from now on
    conditions is STATE's `conditions` from now on
    unstored   is STATE's `unstored` from now on: why nothing can be stored at present, or null
    frame      is appended (the last 100 are kept; at most 20 a second and pipeline, of many fewer)
    decision   replaces the entry with the same `cause_id` (the last 200 are kept)
    second     is appended to what `GET /api/seconds` answers (ten minutes are kept); no part of STATE
    note       is appended (the last 200 are kept): {text, level: info|warn|error, time_s, …}

An event is encoded once, a batch is joined once, whoever listens. At most 20 batches a second. The
last `RING_BYTES` are kept for those who come back. A client that does not read fast enough loses its
queue and gets a snapshot. Numbers start at the server's clock in ms, so that a number from before a
restart is always too small. No asyncio beyond the waking of subscribers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["QUEUED_BATCHES", "RING_BYTES", "Feed", "Subscription"]

RING_BYTES = 2 * 2**20
QUEUED_BATCHES = 64

_encoder = msgspec.json.Encoder()


class _Event(msgspec.Struct, frozen=True):
    seq: int
    time_s: float
    kind: str
    cause_id: str | None
    data: object


class Feed:
    """`snapshot` makes the state as it is now, and `spliced` of it what encodes alike, faster; `clock` is the
    server's."""

    def __init__(
        self,
        snapshot: Callable[[], object],
        clock: Callable[[], float],
        spliced: Callable[[Any], object] = lambda state: state,
        *,
        ring_bytes: int = RING_BYTES,
        queued_batches: int = QUEUED_BATCHES,
    ) -> None:
        self._snapshot, self._spliced = snapshot, spliced
        self._clock = clock
        self._first = self._seq = int(clock() * 1000)
        self._ring: deque[tuple[int, bytes]] = deque()
        self._ring_bytes = 0
        self._ring_limit = ring_bytes
        self._queue_limit = queued_batches
        self._pending: list[bytes] = []
        self._subscriptions: set[Subscription] = set()

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self._seq

    def publish(self, kind: str, data: object, cause_id: str | None = None) -> None:
        """Number and encode an event; it goes out with the next `flush`."""
        self._seq += 1
        encoded = _encoder.encode(_Event(self._seq, self._clock(), kind, cause_id, data))
        self._ring.append((self._seq, encoded))
        self._ring_bytes += len(encoded)
        while self._ring_bytes > self._ring_limit:
            self._ring_bytes -= len(self._ring.popleft()[1])
        self._pending.append(encoded)

    def flush(self) -> None:
        """Give what was published since the last flush to every subscriber, as one batch."""
        if self._pending:
            batch = self._batch(self._pending)
            self._pending = []
            for subscription in self._subscriptions:
                subscription.put(batch)

    def subscribe(self, after: int | None = None) -> Subscription:
        """Everything after event number `after`, or a snapshot first. Close it when done."""
        self.flush()
        subscription = Subscription(self, self._queue_limit)
        oldest = self._ring[0][0] if self._ring else self._seq + 1
        if after is None or not max(self._first, oldest - 1) <= after <= self._seq:
            subscription.put(self.snapshot())
        elif after < self._seq:
            subscription.put(self._batch([encoded for seq, encoded in self._ring if seq > after]))
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def snapshot(self, of: Callable[[object], object] | None = None) -> str:
        """The snapshot message; it contains all that was published so far, or what `of` makes of that."""
        state = _encoder.encode((of or self._spliced)(self._snapshot())).decode()
        return f'{{"type":"snapshot","seq":{self._seq},"now":{self._clock()!r},"state":{state}}}'

    def _batch(self, events: list[bytes]) -> str:
        joined = b",".join(events).decode()
        return f'{{"type":"events","seq":{self._seq},"now":{self._clock()!r},"events":[{joined}]}}'


class Subscription:
    """One client's bounded queue of messages. Overflow empties it: a snapshot follows."""

    def __init__(self, feed: Feed, limit: int) -> None:
        self._feed = feed
        self._limit = limit
        self._queue: deque[str] = deque()
        self._overflowed = False
        self._wake = asyncio.Event()

    def put(self, message: str) -> None:
        if self._overflowed:
            return
        self._queue.append(message)
        if len(self._queue) > self._limit:
            self._queue.clear()
            self._overflowed = True
        self._wake.set()

    async def next(self) -> str:
        """The next message to send; waits for one."""
        while True:
            if self._overflowed:
                self._feed.flush()
                self._overflowed = False
                return self._feed.snapshot()
            if self._queue:
                return self._queue.popleft()
            self._wake.clear()
            await self._wake.wait()

    def close(self) -> None:
        self._feed.unsubscribe(self)
