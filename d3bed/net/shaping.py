"""When the bytes of an emulated link may leave. Arithmetic on deadlines; no clock, no sockets.

A link is busy with one payload after the other. A payload that starts at `start_s` has its k-th byte
on the wire at `start_s + k / bytes_per_s` and at the peer `latency_s` later. Both are absolute: a
timer that fires late finds more bytes due, so lateness never adds up (sleeping per chunk misses the
rate by 16–60 %). Bytes are released in chunks of about 1 ms of link time. Headers travel free of
charge: the rate is the payload's. An infinite rate leaves that to others (the kernel, see `net.tc`).

Loss. TCP hides lost segments, so a lossy link is felt as a slower one that hesitates now and then. Two
things are modelled, with segments of 1448 bytes and a round trip of twice the latency:
- Losses that later segments reveal cost rate. A long stream gets at most segment / round trip × √(3 / 2 loss)
  (M. Mathis, J. Semke, J. Mahdavi, T. Ott: The macroscopic behavior of the TCP congestion avoidance
  algorithm, CCR 27(3), 1997); the link's rate is cut to that.
- A loss among the last three segments of a payload has no three duplicate acknowledgements after it (RFC
  5681): it is noticed by the timer, a round trip and 200 ms later as in Linux, doubled for each time that
  the segment is lost again (RFC 6298). These are drawn from a generator that is seeded by the link's ends,
  so that equal traffic meets equal losses. What follows on the link waits, as in a stream it does.
The first holds for a few per cent of loss at most; beyond, real streams are slower still. Tail loss probes
and other newer repairs, which save part of the second, are not modelled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import msgspec

from d3bed.core.measurements import LinkShape

__all__ = ["Pacing", "Slot", "sustained_bytes_per_s"]

_CHUNK_S = 0.001
_SEGMENT_BYTES = 1448  # what one Ethernet frame carries of a TCP stream
_LEAST_CHUNK_BYTES = _SEGMENT_BYTES
_MOST_CHUNK_BYTES = 65536
_UNREVEALED_SEGMENTS = 3
_LEAST_TIMEOUT_S, _MOST_TIMEOUT_S = 0.2, 120.0


class Slot:
    """The time of one payload of `nbytes` on the link, from `start_s` to `end_s`, before latency.

    Its last segments are `stalled_s` later than the rate would have it.
    """

    __slots__ = ("_chunk_bytes", "_flowing_bytes", "_nbytes", "_stalled_s", "shape", "start_s")

    def __init__(
        self, shape: LinkShape, start_s: float, nbytes: int, chunk_bytes: int, stalled_s: float = 0.0
    ) -> None:
        self.shape, self._nbytes, self._chunk_bytes = shape, nbytes, chunk_bytes
        self.start_s, self._stalled_s = start_s, stalled_s
        tail = _UNREVEALED_SEGMENTS * _SEGMENT_BYTES if stalled_s else 0
        self._flowing_bytes = max(0, nbytes - tail)

    @property
    def target_bytes_per_s(self) -> float | None:
        """How fast the payload is meant to go; None: as fast as it can."""
        rate = self.shape.bytes_per_s
        if rate == math.inf:
            return None
        return self._nbytes / (self._nbytes / rate + self._stalled_s) if self._stalled_s else rate

    @property
    def end_s(self) -> float:
        """When the last byte has entered the wire."""
        return self.start_s + self._nbytes / self.shape.bytes_per_s + self._stalled_s

    @property
    def arrives_s(self) -> float:
        """When the peer has the last byte."""
        return self.end_s + self.shape.latency_s

    def due_bytes(self, now_s: float) -> int:
        """Payload bytes that should have reached the peer by now; −1 before even the header should."""
        under_way_s = now_s - self.shape.latency_s - self.start_s
        if under_way_s < 0:
            return -1
        if now_s >= self.arrives_s:
            return self._nbytes
        if self.shape.bytes_per_s == math.inf:
            return self._flowing_bytes
        chunks = int(under_way_s * self.shape.bytes_per_s) // self._chunk_bytes
        return min(chunks * self._chunk_bytes, self._flowing_bytes)

    def release_s(self, released_bytes: int) -> float:
        """When the chunk after `released_bytes` is due at the peer; before the header: −1."""
        upto = 0 if released_bytes < 0 else min(released_bytes + self._chunk_bytes, self._nbytes)
        if upto > self._flowing_bytes:
            return self.arrives_s
        return self.start_s + upto / self.shape.bytes_per_s + self.shape.latency_s


class Pacing:
    """The timetable of one shaped link. `seed`: of its losses."""

    def __init__(self, shape: LinkShape, seed: str = "") -> None:
        self._random = random.Random(seed)
        self.reshape(shape)
        self._free_s = 0.0

    def reshape(self, shape: LinkShape) -> None:
        """Hold payloads to come to `shape`; those that have a slot keep it. Raises `ValueError`."""
        if not shape.bytes_per_s > 0 or not shape.latency_s >= 0 or not 0 <= shape.loss < 1:
            raise ValueError(f"a link needs a rate > 0, a latency ≥ 0 and a loss in [0, 1), not {shape}")
        rate = min(shape.bytes_per_s, sustained_bytes_per_s(shape))
        self.shape = shape = msgspec.structs.replace(shape, bytes_per_s=rate)
        self.chunk_bytes = int(min(max(shape.bytes_per_s * _CHUNK_S, _LEAST_CHUNK_BYTES), _MOST_CHUNK_BYTES))

    def reserve(self, now_s: float, nbytes: int) -> Slot:
        """The next slot: now, or when the payloads before it have entered the wire."""
        slot = Slot(self.shape, max(now_s, self._free_s), nbytes, self.chunk_bytes, self._stalled_s(nbytes))
        self._free_s = slot.end_s
        return slot

    def slip(self, slots: Iterable[Slot], by_s: float) -> None:
        """The peer did not take what was due: these slots, and all to come, are `by_s` later.

        Without this the link would make up for a stall in one burst above its rate.
        """
        for slot in slots:
            slot.start_s += by_s
        self._free_s += by_s

    def _stalled_s(self, nbytes: int) -> float:
        """Waiting for timers, because a segment was lost that no later one reveals; mostly 0."""
        loss = self.shape.loss
        last = min(_UNREVEALED_SEGMENTS, math.ceil(nbytes / _SEGMENT_BYTES))
        if not loss or self._random.random() >= 1 - (1 - loss) ** last:
            return 0.0
        timeout_s = waited_s = 2 * self.shape.latency_s + _LEAST_TIMEOUT_S
        while timeout_s < _MOST_TIMEOUT_S and self._random.random() < loss:
            timeout_s *= 2
            waited_s += timeout_s
        return waited_s


def sustained_bytes_per_s(shape: LinkShape) -> float:
    """What a long stream gets of a lossy link at most, however fast it is; see the head of this file."""
    if not shape.loss or not shape.latency_s:
        return math.inf
    return _SEGMENT_BYTES / (2 * shape.latency_s) * math.sqrt(1.5 / shape.loss)
