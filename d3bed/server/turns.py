"""Whose turn it is: many things that are each done once in a while, spread over the ticks rather than all
at the same one, so that nobody waits for all of them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["Turns"]

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """Each of `things` has its turn once in `period_s`; at the first look all have."""

    def __init__(self, things: Iterable[_T], period_s: float) -> None:
        self._things, self._period_s = list(things), period_s
        self._looked_s = float("-inf")
        self._owed = 0.0
        self._next = 0

    def take(self, now: float) -> list[_T]:
        """Those whose turn it is; none twice."""
        count = len(self._things)
        if not count:
            return []
        passed = min(1.0, (now - self._looked_s) / self._period_s)
        self._looked_s = now
        self._owed += passed * count
        taken = min(count, int(self._owed + 1e-6))
        self._owed -= taken
        at, self._next = self._next, (self._next + taken) % count
        return [*self._things, *self._things][at : at + taken]
