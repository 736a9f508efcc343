"""What is kept of runs and of every frame: a row of numbers for plots, its spans for a trace.

Both ways: what flows becomes rows, rows become what the API and reports show, of a running server or of
one that is long gone. Spans are kept in microseconds from the frame's start, as MessagePack, about 30
bytes each. No I/O of its own: who reads is passed in.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from d3bed.core.ids import AgentId, Epoch, FrameId, Tier
from d3bed.core.measurements import SpanKind
from d3bed.server.circumstances import Circumstances, Ground
from d3bed.server.views import (
    DecisionView,
    EpochHistory,
    EventHistory,
    FrameSeries,
    FrameView,
    RunReport,
    RunView,
    ServerReport,
    SpanView,
)

__all__ = [
    "FRAMES",
    "SPANS",
    "MOST_FRAMES",
    "FrameSpans",
    "RunHistory",
    "Read",
    "frame_row",
    "frame_series",
    "frame_spans",
    "run_history",
    "spans_row",
]

#: Runs a query on the store, as `Store.read` does; raises `sqlite3.Error`.
Read = Callable[..., list[dict[str, Any]]]
#: Rows of `spans` of one run, in order.
SPANS = "SELECT * FROM spans WHERE run = ? ORDER BY id"
#: Frames of one run that are looked at: the newest.
MOST_FRAMES = 200_000
#: So long after a run's end something may still be said of it.
_AFTER_S = 2.0

#: Rows of `frames` of one run, newest first.
FRAMES = "SELECT * FROM frames WHERE run = ? ORDER BY id DESC LIMIT ?"


class _Span(msgspec.Struct, frozen=True, array_like=True):
    agent: AgentId
    tier: Tier
    kind: SpanKind
    start_us: int
    taken_us: int
    held_us: int
    vertices: tuple[int, int]
    peer: AgentId | None
    #: An earlier d3bed knew rows and columns alone.
    tile: tuple[int, ...] | None


class _Spans(msgspec.Struct, frozen=True, array_like=True):
    latency_us: int
    clock_error_s: dict[AgentId, float]
    spans: tuple[_Span, ...]


class RunHistory(msgspec.Struct, frozen=True):
    """All that is known of a run. `server` is null where the store lost it. What plans were made from is in
    `circumstances`, and in the `grounds` that they name."""

    format: Literal["d3bed.history/1"]
    run: RunView
    report: RunReport
    server: ServerReport | None
    epochs: tuple[EpochHistory, ...]
    decisions: tuple[DecisionView, ...]
    events: tuple[EventHistory, ...]
    frames: FrameSeries
    circumstances: tuple[Circumstances, ...] = ()
    grounds: dict[str, Ground] = {}


class FrameSpans(msgspec.Struct, frozen=True):
    """All spans of an answered frame, and how far each agent's times may be off the server's clock."""

    frame: FrameId
    epoch: Epoch
    started_s: float
    latency_s: float
    clock_error_s: dict[AgentId, float]
    spans: tuple[SpanView, ...]


def frame_row(frame: FrameView) -> dict[str, object]:
    return {
        "run": frame.run,
        "frame": frame.frame,
        "epoch": frame.epoch,
        "started_s": frame.started_s,
        "latency_s": frame.latency_s,
        **{f"{tier.value}_s": frame.compute_s.get(tier) for tier in Tier},
        "waited_s": frame.waited_s,
        "attempts": frame.attempts,
        "identical": frame.identical,
    }


def frame_series(run: str, rows: list[dict[str, Any]]) -> FrameSeries:
    """`rows` as `FRAMES` finds them."""
    columns = {
        name: tuple(row.get(name) for row in reversed(rows)) for name in FrameSeries.__struct_fields__[1:]
    }
    columns["waited_s"] = tuple(waited_s or 0.0 for waited_s in columns["waited_s"])
    return msgspec.convert({"run": run, **columns}, FrameSeries, strict=False)


def spans_row(frame: FrameView, clock_error_s: Mapping[AgentId, float]) -> dict[str, object]:
    spans = tuple(
        _Span(
            s.agent,
            s.tier,
            s.kind,
            _us(s.start_s - frame.started_s),
            _us(s.end_s - s.start_s),
            _us(s.held_s),
            s.vertices,
            s.peer,
            s.tile,
        )
        for s in frame.spans
    )
    data = _Spans(_us(frame.latency_s), dict(clock_error_s), spans)
    return {
        "run": frame.run,
        "frame": frame.frame,
        "epoch": frame.epoch,
        "at_s": frame.started_s,
        "data": msgspec.msgpack.encode(data),
    }


def frame_spans(row: Mapping[str, Any]) -> FrameSpans:
    """Of a row of `spans`. Raises `msgspec.DecodeError` for what `spans_row` did not make."""
    data, started_s = msgspec.msgpack.decode(row["data"], type=_Spans), float(row["at_s"])
    spans = tuple(
        SpanView(
            agent=s.agent,
            tier=s.tier,
            kind=s.kind,
            start_s=started_s + s.start_us / 1e6,
            end_s=started_s + (s.start_us + s.taken_us) / 1e6,
            held_s=s.held_us / 1e6,
            vertices=s.vertices,
            peer=s.peer,
            tile=_place(s.tile),
        )
        for s in data.spans
    )
    epoch, frame = Epoch(row["epoch"]), FrameId(row["frame"])
    return FrameSpans(frame, epoch, started_s, data.latency_us / 1e6, data.clock_error_s, spans)


def _place(tile: tuple[int, ...] | None) -> tuple[int, int, int] | None:
    if tile is None:
        return None
    row, column, share, *_ = (*tile, 0, 0, 0)
    return row, column, share


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


# ── a whole run ───────────────────────────────────────────────────────────────────────────────────


def run_history(read: Read, run: str, live: tuple[RunView, RunReport] | None = None) -> RunHistory | None:
    """None where the store knows no such run; `live` is newer than what it may know.

    Call it off the event loop; raises `sqlite3.Error`.
    """
    if live is None:
        rows = read("SELECT view, report FROM runs WHERE id = ?", run)
        if not rows:
            return None
        decode = msgspec.json.decode
        live = decode(rows[0]["view"], type=RunView), decode(rows[0]["report"], type=RunReport)
    view, report = live
    frames = frame_series(run, read(FRAMES, run, MOST_FRAMES))
    numbers = sorted({*frames.epoch, *(epoch.epoch for epoch in report.epochs)})
    return RunHistory(
        format="d3bed.history/1",
        run=view,
        report=report,
        server=_server(read, view.started_s),
        epochs=_epochs(read, view, numbers, frames),
        decisions=_decisions(read, view, numbers),
        events=_events(read, view),
        frames=frames,
        **_circumstances(read, view),
    )


def _server(read: Read, at_s: float) -> ServerReport | None:
    rows = read("SELECT data FROM servers WHERE at_s <= ? ORDER BY boot DESC LIMIT 1", at_s)
    return msgspec.json.decode(rows[0]["data"], type=ServerReport) if rows else None


def _epochs(read: Read, run: RunView, numbers: list[Epoch], frames: FrameSeries) -> tuple[EpochHistory, ...]:
    """Their routes are those of the planner's answers that became these epochs."""
    latency_s: dict[Epoch, list[float]] = {number: [] for number in numbers}
    for number, seconds, waited_s in zip(frames.epoch, frames.latency_s, frames.waited_s, strict=True):
        latency_s[number].append(seconds - waited_s)
    marks = ", ".join("?" * len(numbers))
    sql = (
        "SELECT epochs.*, (SELECT route FROM plans WHERE plans.cause_id = epochs.cause_id AND"
        " plans.pipeline = epochs.pipeline AND plans.tiers = epochs.plan ORDER BY id DESC LIMIT 1) AS route"
        f" FROM epochs WHERE pipeline = ? AND epoch IN ({marks}) ORDER BY epoch"
    )
    return tuple(
        msgspec.convert(
            row
            | {
                "route": msgspec.json.decode(row["route"]) if row["route"] else {},
                "frames": len(latency_s[row["epoch"]]),
                "measured_s": statistics.median(latency_s[row["epoch"]]) if latency_s[row["epoch"]] else None,
            },
            EpochHistory,
        )
        for row in read(sql, run.pipeline, *numbers)
    )


def _within(read: Read, run: RunView) -> tuple[float, float]:
    """From its start to its end; what is told of it just after that, too, unless another one has begun."""
    if run.ended_s is None:
        return run.started_s, 1e12
    sql = "SELECT min(started_s) AS next_s FROM runs WHERE pipeline = ? AND started_s > ?"
    next_s = read(sql, run.pipeline, run.started_s)[0]["next_s"]
    return run.started_s, max(run.ended_s, min(run.ended_s + _AFTER_S, next_s or 1e12))


def _decisions(read: Read, run: RunView, numbers: list[Epoch]) -> tuple[DecisionView, ...]:
    """Those that were made while it went on, and before them the one that made its first plan."""
    sql = (
        "SELECT view FROM decisions WHERE pipeline = ?1 AND at_s < ?2 AND choice = 'move' AND cause_id ="
        " (SELECT cause_id FROM epochs WHERE pipeline = ?1 AND epoch = ?3) ORDER BY at_s DESC LIMIT 1"
    )
    rows = read(sql, run.pipeline, run.started_s, numbers[0]) if numbers else []
    sql = "SELECT view FROM decisions WHERE pipeline = ? AND at_s BETWEEN ? AND ? ORDER BY at_s"
    rows += read(sql, run.pipeline, *_within(read, run))
    return tuple(msgspec.json.decode(row["view"], type=DecisionView) for row in rows)


def _circumstances(read: Read, run: RunView) -> dict[str, Any]:
    decode = msgspec.json.decode
    sql = "SELECT data, ground FROM circumstances WHERE pipeline = ? AND at_s BETWEEN ? AND ? ORDER BY id"
    rows = read(sql, run.pipeline, *_within(read, run))
    names = sorted({str(row["ground"]) for row in rows})
    grounds = read(f"SELECT id, data FROM grounds WHERE id IN ({', '.join('?' * len(names))})", *names)
    return {
        "circumstances": tuple(decode(row["data"], type=Circumstances) for row in rows),
        "grounds": {row["id"]: decode(row["data"], type=Ground) for row in grounds},
    }


def _events(read: Read, run: RunView) -> tuple[EventHistory, ...]:
    sql = "SELECT * FROM events WHERE at_s BETWEEN ? AND ? ORDER BY id"
    found = []
    for row in read(sql, *_within(read, run)):
        data = msgspec.json.decode(row["data"])
        text, pipeline = data.get("text"), data.get("pipeline")
        if row["kind"] == "condition":
            subject = "→".join(data["subject"])
            text = f"{subject}: {data['quantity']} {data['value']:g} {data['event']}"
        if text and pipeline in (None, run.pipeline):
            found.append(
                EventHistory(
                    row["at_s"], row["kind"], text, data.get("level", "info"), pipeline, row["cause_id"]
                )
            )
    return tuple(found)
