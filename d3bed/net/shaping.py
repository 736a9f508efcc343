"""When the bytes of an emulated link may leave. Arithmetic on deadlines; no clock, no sockets.

A link is busy with one payload after the other. A payload that starts at `start_s` has its k-th byte
on the wire at `start_s + k / bytes_per_s` and at the peer `latency_s` later. Both are absolute: a
timer that fires late finds more bytes due, so lateness never adds up (sleeping per chunk misses the
rate by 16–60 %). Bytes are released in chunks of about 1 ms of link time. Headers travel free of
charge: the rate is the payload's.
"""

from __future__ import annotations

from collections.abc import Iterable

from d3bed.core.measurements import LinkShape

__all__ = ["Pacing", "Slot"]

_CHUNK_S = 0.001
_LEAST_CHUNK_BYTES = 1448  # what one Ethernet frame carries of a TCP stream
_MOST_CHUNK_BYTES = 65536


class Slot:
    """The time of one payload of `nbytes` on the link, from `start_s` to `end_s`, before latency."""

    __slots__ = ("_chunk_bytes", "_nbytes", "shape", "start_s")

    def __init__(self, shape: LinkShape, start_s: float, nbytes: int, chunk_bytes: int) -> None:
        self.shape, self._nbytes, self._chunk_bytes = shape, nbytes, chunk_bytes
        self.start_s = start_s

    @property
    def end_s(self) -> float:
        """When the last byte has entered the wire."""
        return self.start_s + self._nbytes / self.shape.bytes_per_s

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
        chunks = int(under_way_s * self.shape.bytes_per_s) // self._chunk_bytes
        return min(chunks * self._chunk_bytes, self._nbytes)

    def release_s(self, released_bytes: int) -> float:
        """When the chunk after `released_bytes` is due at the peer; before the header: −1."""
        upto = 0 if released_bytes < 0 else min(released_bytes + self._chunk_bytes, self._nbytes)
        return self.start_s + upto / self.shape.bytes_per_s + self.shape.latency_s


class Pacing:
    """The timetable of one shaped link."""

    def __init__(self, shape: LinkShape) -> None:
        self.reshape(shape)
        self._free_s = 0.0

    def reshape(self, shape: LinkShape) -> None:
        """Hold payloads to come to `shape`; those that have a slot keep it. Raises `ValueError`."""
        if not shape.bytes_per_s > 0 or not shape.latency_s >= 0:
            raise ValueError(f"a link needs a rate > 0 and a latency ≥ 0, not {shape}")
        self.shape = shape
        self.chunk_bytes = int(min(max(shape.bytes_per_s * _CHUNK_S, _LEAST_CHUNK_BYTES), _MOST_CHUNK_BYTES))

    def reserve(self, now_s: float, nbytes: int) -> Slot:
        """The next slot: now, or when the payloads before it have entered the wire."""
        slot = Slot(self.shape, max(now_s, self._free_s), nbytes, self.chunk_bytes)
        self._free_s = slot.end_s
        return slot

    def slip(self, slots: Iterable[Slot], by_s: float) -> None:
        """The peer did not take what was due: these slots, and all to come, are `by_s` later.

        Without this the link would make up for a stall in one burst above its rate.
        """
        for slot in slots:
            slot.start_s += by_s
        self._free_s += by_s
