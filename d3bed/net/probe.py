"""How fast a directed link is: what to send next, and what the answers mean. No clock, no sockets.

Round trip: the least of eight pings while the link is idle; half of it is the latency. Rate: payloads
grow until one takes long enough at the receiver (from its header to its last byte, so that latency
cancels out) to be timed within a per cent or so, 20 ms or four round trips, within half a second in all.
A quick look takes two pings, and 10 ms of payload, which is timed within a few per cent.
"""

from __future__ import annotations

import msgspec

__all__ = ["PINGS", "QUICK_PINGS", "Probe", "RateSearch"]

PINGS, QUICK_PINGS = 8, 2
_FIRST_BYTES, _QUICK_FIRST_BYTES = 64 * 1024, 16 * 1024
_ENOUGH_S, _QUICK_ENOUGH_S = 0.020, 0.010
_ENOUGH_ROUND_TRIPS = 4
_BUDGET_S = 0.5
_LEAST_GROWTH, _MOST_GROWTH = 2, 16


class Probe(msgspec.Struct, frozen=True):
    """A measured link. `latency_s` is one way: half the least round trip."""

    bytes_per_s: float
    latency_s: float
    rtt_s: float


class RateSearch:
    """Chooses payload sizes; the last one measured gives the rate."""

    def __init__(self, rtt_s: float, most_bytes: int, *, quick: bool = False) -> None:
        self._most_bytes = most_bytes
        self._first_bytes = _QUICK_FIRST_BYTES if quick else _FIRST_BYTES
        enough_s = max(_ENOUGH_S, _ENOUGH_ROUND_TRIPS * rtt_s)
        self._enough_s = _QUICK_ENOUGH_S if quick else min(enough_s, _BUDGET_S / 2)
        self._spent_s = 0.0
        self._last: tuple[int, float] | None = None

    def next_bytes(self) -> int | None:
        """The next payload, None when the rate is known well enough or time is up."""
        if self._last is None:
            return min(self._first_bytes, self._most_bytes)
        nbytes, taken_s = self._last
        growth = 1.25 * self._enough_s / taken_s if taken_s > 0 else _MOST_GROWTH
        size = min(int(nbytes * min(max(growth, _LEAST_GROWTH), _MOST_GROWTH)), self._most_bytes)
        expected_s = taken_s * size / nbytes
        if taken_s >= self._enough_s or size == nbytes or self._spent_s + expected_s > _BUDGET_S:
            return None
        return size

    def measured(self, nbytes: int, taken_s: float) -> None:
        self._last = nbytes, taken_s
        self._spent_s += taken_s

    @property
    def bytes_per_s(self) -> float:
        """Of the last, longest payload."""
        if self._last is None:
            raise ValueError("nothing was measured")
        nbytes, taken_s = self._last
        return nbytes / max(taken_s, 1e-6)
