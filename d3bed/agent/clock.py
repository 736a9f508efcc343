"""How far this agent's clock is from the server's.

Pure arithmetic over four-timestamp exchanges: of the last eight, the one with the least round trip
gives the offset; half of that round trip bounds its error (the classic NTP argument). The server
answers at once, so its two timestamps are one. An exchange that contradicts these bounds shows that a
clock jumped (a board that slept, a server that restarted): what came before it counts no more.
"""

from __future__ import annotations

from collections import deque

__all__ = ["ClockOffset"]


#: Honest clocks drift no further apart than this while the kept samples are made.
DRIFT_S = 0.01


class ClockOffset:
    """Estimates `server clock − local clock`, in seconds."""

    def __init__(self, keep: int = 8) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=keep)

    def sample(self, sent_s: float, server_s: float, received_s: float) -> None:
        """One exchange: `sent_s` and `received_s` local, `server_s` on the server's clock."""
        round_trip_s = received_s - sent_s
        if round_trip_s < 0:
            return
        offset_s = server_s - (sent_s + received_s) / 2
        if abs(offset_s - self.offset_s) > round_trip_s / 2 + self.error_s + DRIFT_S:
            self._samples.clear()
        self._samples.append((round_trip_s, offset_s))

    @property
    def known(self) -> bool:
        return bool(self._samples)

    @property
    def offset_s(self) -> float:
        return min(self._samples)[1] if self._samples else 0.0

    @property
    def error_s(self) -> float:
        """Upper bound of |offset error|; infinite before the first exchange."""
        return min(self._samples)[0] / 2 if self._samples else float("inf")

    def to_server(self, local_s: float) -> float:
        return local_s + self.offset_s
