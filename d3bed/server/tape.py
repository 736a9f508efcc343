"""What the page was told while frames ran, kept so that a run can be watched again.

The tape is the feed, thinned: of an agent, a link, a pipeline or its frames at most one event a second is
kept (the last one; what it leaves out of a pipeline's fields is not lost), of all else every one. A piece of
`PIECE_S` is one row, compressed as it grows: with many agents it is megabytes, too much for one moment. Each
run begins with the whole state; the page's own reducer makes the views of any moment from it. Pure, but for
`replay`, which is told how to read rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from d3bed.server.history import Read
from d3bed.server.views import RunView, StateView

__all__ = ["PART_S", "PIECE_S", "Replay", "Tape", "replay"]

PIECE_S = 10.0
#: What is told so long after a run still belongs to it.
_AFTER_S = 1.5
#: At most so much of a run is given out at once.
PART_S = 1800.0
_THINNED_S = 1.0
#: What a row holds: a piece of the tape, or the whole state, with which it begins or which it has reached.
_PIECE, _BEGINS, _GOES_ON = 0, 1, 2
#: What is thinned, and which of its fields name the thing that it is about.
_KEYS: dict[str, tuple[str, ...]] = {
    "agent": ("agent",),
    "link": ("from", "to"),
    "pipeline": ("id",),
    "frame": ("pipeline",),
}
_encoder = msgspec.json.Encoder()

Row = dict[str, object]


class _Event(msgspec.Struct):
    time_s: float
    kind: str
    cause_id: str | None
    data: object


class Replay(msgspec.Struct, frozen=True):
    """Part number `part` of `parts` of a run: its events between `from_s` and `until_s`, oldest first, as the
    feed tells them, but without numbers. The first is the whole state: of kind `snapshot`; there is none
    where nothing was recorded."""

    format: Literal["d3bed.replay/1"]
    run: RunView
    part: int
    parts: int
    from_s: float
    until_s: float
    events: msgspec.Raw


class Tape:
    """`snapshot` gives the whole state. Rows are for the table `tape`."""

    def __init__(self, snapshot: Callable[[], StateView]) -> None:
        self._snapshot = snapshot
        self._running = False
        self._begun_s = self._whole_s = 0.0
        self._piece = _Piece()
        self._kept_s: dict[tuple[str, ...], float] = {}
        self._held: dict[tuple[str, ...], _Event] = {}

    def saw(self, kind: str, data: object, cause_id: str | None, now: float) -> None:
        """An event of the feed."""
        if not self._running:
            return
        event, names = _Event(now, kind, cause_id, data), _KEYS.get(kind)
        if names is None:
            self._piece.add(event)
            return
        key = (kind, *(_field(data, name) for name in names))
        if key in self._held:
            held = self._held[key]
            if isinstance(held.data, Mapping) and isinstance(data, Mapping):
                event.data = {**held.data, **data}
        self._held[key] = event
        if now - self._kept_s.get(key, 0.0) >= _THINNED_S:
            self._keep(key)

    def _keep(self, key: tuple[str, ...]) -> None:
        event = self._held.pop(key)
        self._kept_s[key] = event.time_s
        self._piece.add(event)

    def tick(self, now: float, *, counting: bool) -> list[Row]:
        """What is to be stored now; `counting`: a run is under way."""
        if counting and not self._running:
            self._running, self._begun_s = True, now
            return [self._whole(now, _BEGINS)]
        if not self._running:
            return []
        for key in [key for key in self._held if now - self._kept_s.get(key, 0.0) >= _THINNED_S]:
            self._keep(key)
        if counting and now - self._begun_s < PIECE_S:
            return []
        if not counting:
            return self.end(now)
        again = [self._whole(now, _GOES_ON)] if now - self._whole_s >= PART_S else []
        return self._cut(now) + again

    def end(self, now: float) -> list[Row]:
        """Taping is over, for now."""
        for key in list(self._held):
            self._keep(key)
        rows = self._cut(now)
        self._running = False
        self._kept_s.clear()
        return rows

    def _whole(self, now: float, whole: int) -> Row:
        self._whole_s = now
        state = msgspec.structs.replace(self._snapshot(), frames=())
        piece = _Piece()
        piece.add(_Event(now, "snapshot", None, state))
        return _row(now, now, piece, whole)

    def _cut(self, now: float) -> list[Row]:
        begun_s, piece = self._begun_s, self._piece
        self._begun_s, self._piece = now, _Piece()
        return [] if piece.is_empty else [_row(begun_s, now, piece, _PIECE)]


class _Piece:
    """Events as JSON, joined by commas, compressed."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj()
        self._packed: list[bytes] = []
        self.is_empty = True

    def add(self, event: _Event) -> None:
        text = _encoder.encode(event)
        packed = self._packer.compress(text if self.is_empty else b"," + text)
        self.is_empty = False
        if packed:
            self._packed.append(packed)

    def end(self) -> bytes:
        return b"".join((*self._packed, self._packer.flush()))


def _field(data: object, name: str) -> str:
    if isinstance(data, Mapping):
        return str(data.get(name, ""))
    return str(getattr(data, {"from": "source", "to": "target"}.get(name, name), ""))


def _row(at_s: float, until_s: float, piece: _Piece, whole: int) -> Row:
    return {"at_s": at_s, "until_s": until_s, "whole": whole, "data": piece.end()}


def replay(read: Read, run: RunView, part: int, now: float) -> Replay:
    """Call it off the event loop; raises `sqlite3.Error`, and `IndexError` where the run has no such part."""
    ended_s = now if run.ended_s is None else run.ended_s
    parts = max(1, -int(-(ended_s - run.started_s) // PART_S))
    if not 0 <= part < parts:
        raise IndexError(f"run {run.id} has parts 0 to {parts - 1}")
    from_s = run.started_s + part * PART_S
    until_s = min(ended_s + _AFTER_S, from_s + PART_S)
    # The last whole state that was there before, and all that came after it.
    sql = "SELECT max(at_s) AS at_s FROM tape WHERE whole > 0 AND at_s <= ?"
    begun_s = read(sql, from_s + PIECE_S)[0]["at_s"]
    rows: list[dict[str, Any]] = []
    if begun_s is not None:
        sql = "SELECT data FROM tape WHERE at_s BETWEEN ?1 AND ?2 AND (whole <> ?3 OR at_s = ?1) ORDER BY id"
        rows = read(sql, begun_s, until_s, _GOES_ON)
    text = b",".join(zlib.decompress(row["data"]) for row in rows)
    return Replay("d3bed.replay/1", run, part, parts, from_s, until_s, msgspec.Raw(b"[" + text + b"]"))
