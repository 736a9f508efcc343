"""Frames across agents as a trace that Perfetto and Chrome draw: `d3bed trace`.

Trace Event Format (JSON object form). A process per agent, and one for the frames as the device sees them;
threads for compute, tiled parts, serialising, waiting and each link. Slices of a thread nest or follow each
other, so what overlaps gets a thread of its own, numbered. Arrows lead from slice to slice of a frame. Times
are microseconds on the server's clock since the first frame; how far an agent's may be off it is in its
process label and in `otherData`. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from d3bed import __version__
from d3bed.core.ids import AgentId, FrameId, Tier
from d3bed.core.measurements import SpanKind
from d3bed.server.history import FrameSpans
from d3bed.server.views import SpanView

__all__ = ["trace"]

#: Kinds that arrows join: what carries a frame on.
_CARRIES = (SpanKind.COMPUTE, SpanKind.TRANSFER)
_THREADS = {
    SpanKind.COMPUTE: "compute",
    SpanKind.TILED: "tiles",
    SpanKind.SERIALISE: "serialise",
    SpanKind.QUEUE: "queue",
    SpanKind.WAIT: "wait",
}
_ORDER = ("frames", "compute", "tiles", "serialise", "link", "queue", "wait")


@dataclass
class _Thread:
    number: int
    name: str
    free_us: int = 0


@dataclass
class _Process:
    """`threads` by name: those that overlapping slices need."""

    number: int
    name: str
    order: int
    threads: dict[str, list[_Thread]] = field(default_factory=dict)

    def thread(self, name: str, start_us: int, end_us: int) -> int:
        """The number of a thread of that name on which nothing overlaps. Ask in order of starts."""
        mine = self.threads.setdefault(name, [])
        found = next((thread for thread in mine if thread.free_us <= start_us), None)
        if found is None:
            rank = next(i for i, kind in enumerate(_ORDER) if name.startswith(kind))
            taken = {t.number for threads in self.threads.values() for t in threads}
            number = next(n for n in range(1000 * rank + 1, 1000 * rank + 1001) if n not in taken)
            found = _Thread(number, f"{name} {len(mine) + 1}" if mine else name)
            mine.append(found)
        found.free_us = end_us
        return found.number


def trace(run: str, frames: Sequence[FrameSpans]) -> dict[str, Any]:
    """The JSON object. Frames without spans are told too; none at all makes an empty trace."""
    origin_s = min((frame.started_s for frame in frames), default=0.0)
    origin_s = min([origin_s, *(span.start_s for frame in frames for span in frame.spans)])
    processes = _processes(frames)
    slices: list[tuple[int, int, FrameSpans, SpanView | None]] = []
    for frame in frames:
        slices.append((*_times(frame.started_s, frame.started_s + frame.latency_s, origin_s), frame, None))
        slices += [(*_times(span.start_s, span.end_s, origin_s), frame, span) for span in frame.spans]
    events: list[dict[str, Any]] = []
    carried: dict[tuple[FrameId, int], list[dict[str, Any]]] = {}
    for start_us, end_us, frame, span in sorted(slices, key=lambda each: each[:2]):
        name = "frames" if span is None else _thread_name(span)
        process = processes[None if span is None else span.agent]
        event = {
            "ph": "X",
            "name": f"frame {frame.frame}" if span is None else _slice_name(span),
            "cat": "frame" if span is None else span.kind.value,
            "pid": process.number,
            "tid": process.thread(name, start_us, end_us),
            "ts": start_us,
            "dur": end_us - start_us,
            "args": {"frame": frame.frame, "epoch": frame.epoch} | ({} if span is None else _arguments(span)),
        }
        events.append(event)
        if span is not None and span.kind in _CARRIES:
            carried.setdefault((frame.frame, frame.epoch), []).append(event)
    for number, stops in enumerate(carried.values(), 1):
        events += _arrows(number, stops)
    errors = _clock_errors(frames)
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "format": "d3bed.trace/1",
            "version": __version__,
            "run": run,
            "origin_s": origin_s,
            "clock": "the server's",
            "clock_error_us": {agent: round(1e6 * error_s) for agent, error_s in errors.items()},
        },
        "traceEvents": [*_names(processes, errors), *sorted(events, key=lambda event: event["ts"])],
    }


def _times(start_s: float, end_s: float, origin_s: float) -> tuple[int, int]:
    start_us = round(1e6 * (start_s - origin_s))
    return start_us, max(start_us, round(1e6 * (end_s - origin_s)))


def _processes(frames: Sequence[FrameSpans]) -> dict[AgentId | None, _Process]:
    """The frames' process under None, then agents, tier by tier."""
    tiers: dict[AgentId, Tier] = {}
    for frame in frames:
        for span in frame.spans:
            tiers.setdefault(span.agent, span.tier)
    found: dict[AgentId | None, _Process] = {None: _Process(1, "frames", 0)}
    for agent in sorted(tiers, key=lambda a: (tiers[a].rank, a)):
        found[agent] = _Process(len(found) + 1, f"{agent} ({tiers[agent]})", len(found))
    return found


def _clock_errors(frames: Sequence[FrameSpans]) -> dict[AgentId, float]:
    """The largest of each agent."""
    found: dict[AgentId, float] = {}
    for frame in frames:
        for agent, error_s in frame.clock_error_s.items():
            found[agent] = max(found.get(agent, 0.0), error_s)
    return found


def _names(processes: dict[AgentId | None, _Process], errors: dict[AgentId, float]) -> list[dict[str, Any]]:
    found = []
    for agent, process in processes.items():
        about: dict[str, dict[str, Any]] = {
            "process_name": {"name": process.name},
            "process_sort_index": {"sort_index": process.order},
        }
        if agent is not None and agent in errors:
            about["process_labels"] = {"labels": f"clock ±{1e3 * errors[agent]:.2f} ms"}
        found += [_meta(kind, process.number, 0, values) for kind, values in about.items()]
        for threads in process.threads.values():
            for thread in threads:
                found.append(_meta("thread_name", process.number, thread.number, {"name": thread.name}))
                index = {"sort_index": thread.number}
                found.append(_meta("thread_sort_index", process.number, thread.number, index))
    return found


def _meta(kind: str, process: int, thread: int, values: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "ts": 0, "args": values}


def _arrows(number: int, stops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One flow through the slices, in order of their starts."""
    if len(stops) < 2:
        return []
    kinds = ["s", *["t"] * (len(stops) - 2), "f"]
    return [
        {
            "ph": kind,
            "name": "frame",
            "cat": "flow",
            "id": number,
            "pid": stop["pid"],
            "tid": stop["tid"],
            "ts": stop["ts"],
            **({"bp": "e"} if kind != "s" else {}),
        }
        for kind, stop in zip(kinds, stops, strict=True)
    ]


def _thread_name(span: SpanView) -> str:
    return f"link to {span.peer}" if span.kind is SpanKind.TRANSFER else _THREADS[span.kind]


def _slice_name(span: SpanView) -> str:
    first, last = span.vertices
    place = str(first) if first == last else f"{first}–{last}"
    tile = f" tile {','.join(map(str, span.tile))}" if span.tile is not None else ""
    return f"{span.kind.value} {place}{tile}" + (f" → {span.peer}" if span.peer is not None else "")


def _arguments(span: SpanView) -> dict[str, Any]:
    found: dict[str, Any] = {"vertices": list(span.vertices)}
    if span.held_s:
        found["held_ms"] = round(1e3 * span.held_s, 3)
    if span.tile is not None:
        found["tile"] = list(span.tile)
    return found
