"""What is kept of every frame: one row of numbers for years' worth of plots, its spans for a trace.

Pure, both ways: what flows becomes rows, rows become what the API and reports show. Spans are kept in
microseconds from the frame's start, as MessagePack, about 30 bytes each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from d3bed.core.ids import AgentId, Epoch, FrameId, Tier
from d3bed.core.measurements import SpanKind
from d3bed.server.views import FrameSeries, FrameView, SpanView

__all__ = ["FRAMES", "FrameSpans", "frame_row", "frame_series", "frame_spans", "spans_row"]

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
    tile: tuple[int, int] | None


class _Spans(msgspec.Struct, frozen=True, array_like=True):
    latency_us: int
    clock_error_s: dict[AgentId, float]
    spans: tuple[_Span, ...]


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
        "attempts": frame.attempts,
        "identical": frame.identical,
    }


def frame_series(run: str, rows: list[dict[str, Any]]) -> FrameSeries:
    """`rows` as `FRAMES` finds them."""
    columns = {name: tuple(row[name] for row in reversed(rows)) for name in FrameSeries.__struct_fields__[1:]}
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
            tile=s.tile,
        )
        for s in data.spans
    )
    epoch, frame = Epoch(row["epoch"]), FrameId(row["frame"])
    return FrameSpans(frame, epoch, started_s, data.latency_us / 1e6, data.clock_error_s, spans)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
