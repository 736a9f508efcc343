"""The audit log: who changed what and when, who came to the door, and who was refused. Rows of the store,
never a secret.

Changes and knocks at the door are kept apart, so that a stranger who knocks for hours pushes no change out
of the log. Equal knocks are one row a minute, with their number; all knocks together are bounded, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

__all__ = ["AUDIT", "MOST_DETAIL", "Audit", "AuditRow"]

#: The newest of both tables; takes the most rows there may be.
AUDIT = (
    "SELECT at_s, who, host, what, detail, status FROM (SELECT * FROM audit UNION ALL SELECT * FROM knocks)"
    " ORDER BY at_s DESC LIMIT ?"
)
MOST_DETAIL = 500
_AGAIN_S, _REMEMBERED = 60.0, 1024
#: Rows of knocks in a minute.
_KNOCKS = 120


class AuditRow(msgspec.Struct, frozen=True):
    """`status` is HTTP's: below 400 it was done. `detail` is what was asked for, or why it was refused."""

    at_s: float
    who: str
    host: str
    what: str
    detail: str
    status: int


class Audit:
    """`put` stores a row of a table (and never waits)."""

    def __init__(self, put: Callable[[str, dict[str, object]], None]) -> None:
        self._put = put
        self._told: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()
        self._minute_s, self._rows = 0.0, 0

    def changed(
        self, now: float, who: str, host: str, what: str, detail: str = "", status: int = 200
    ) -> None:
        row = AuditRow(now, who, host, what, detail[:MOST_DETAIL], status)
        self._put("audit", msgspec.structs.asdict(row))

    def knocked(self, now: float, who: str, host: str, what: str, why: str, status: int) -> bool:
        """Whether there is a row of it: not for what was told within the minute."""
        key = (who, host, what, why)
        at_s, more = self._told.pop(key, (float("-inf"), 0))
        if now - at_s < _AGAIN_S:
            self._told[key] = at_s, more + 1
            return False
        if now - self._minute_s >= _AGAIN_S:
            self._minute_s, self._rows = now, 0
        self._rows += 1
        if self._rows > _KNOCKS:
            return False
        self._told[key] = now, 0
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        detail = why[:MOST_DETAIL] + (f" ({more} times more since the last row)" if more else "")
        self._put("knocks", msgspec.structs.asdict(AuditRow(now, who, host, what, detail, status)))
        return True
