"""The trace: what viewers of the format require, and that nothing of a frame is missing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from d3bed.core.ids import AgentId, Epoch, FrameId, Tier
from d3bed.core.measurements import SpanKind
from d3bed.server.history import FrameSpans
from d3bed.server.trace import trace
from d3bed.server.views import SpanView

DEVICE, EDGE = AgentId("pi-1"), AgentId("edge-1")
Events = list[dict[str, Any]]


def span(
    agent: AgentId, kind: SpanKind, start_s: float, end_s: float, peer: AgentId | None = None
) -> SpanView:
    tier = Tier.DEVICE if agent == DEVICE else Tier.EDGE
    tile = (0, 1, 0) if kind is SpanKind.COMPUTE and agent == EDGE else None
    return SpanView(agent, tier, kind, 100.0 + start_s, 100.0 + end_s, 0.001, (1, 2), peer, tile)


def frame(number: int, at_s: float) -> FrameSpans:
    """Computes on the device, is sent, waits and is computed on the edge, and comes back."""
    spans = (
        span(DEVICE, SpanKind.COMPUTE, at_s, at_s + 0.05),
        span(DEVICE, SpanKind.TRANSFER, at_s + 0.05, at_s + 0.12, EDGE),
        span(EDGE, SpanKind.WAIT, at_s, at_s + 0.12),
        span(EDGE, SpanKind.COMPUTE, at_s + 0.1199, at_s + 0.15),
        span(EDGE, SpanKind.TRANSFER, at_s + 0.15, at_s + 0.16, DEVICE),
    )
    errors = {DEVICE: 0.0002 * number, EDGE: 0.0001}
    return FrameSpans(FrameId(number), Epoch(3), 100.0 + at_s, 0.17, errors, spans)


@pytest.fixture
def frames() -> list[FrameSpans]:
    """Ten of them, one every 60 ms: three are under way at a time, and links overlap."""
    return [frame(number, number * 0.06) for number in range(1, 11)]


def check_format(events: Events) -> None:
    """As the Trace Event Format has it, and as Perfetto needs it to draw every slice."""
    named = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] != "M"} <= named
    assert {e["ph"] for e in events} <= {"M", "X", "s", "t", "f"}
    assert all(isinstance(e["ts"], int) and e["ts"] >= 0 for e in events)
    assert all(a["ts"] <= b["ts"] for a, b in pairwise(events))
    threads: dict[tuple[int, int], Events] = {}
    for e in events:
        if e["ph"] == "X":
            assert isinstance(e["dur"], int) and e["dur"] >= 0
            threads.setdefault((e["pid"], e["tid"]), []).append(e)
    for slices in threads.values():
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(slices))
    flows: dict[int, Events] = {}
    for e in events:
        if e["ph"] in "stf":
            flows.setdefault(e["id"], []).append(e)
    for steps in flows.values():
        assert "".join(e["ph"] for e in steps) == "s" + "t" * (len(steps) - 2) + "f"
        for e in steps:
            assert any(x["ts"] <= e["ts"] <= x["ts"] + x["dur"] for x in threads[e["pid"], e["tid"]])
            assert e["ph"] == "s" or e["bp"] == "e"


def test_trace_is_as_the_format_has_it(frames: list[FrameSpans]) -> None:
    found = trace("demo-1-1", frames)
    check_format(found["traceEvents"])
    assert found["displayTimeUnit"] == "ms"


def test_every_span_is_a_slice_on_its_agents_thread(frames: list[FrameSpans]) -> None:
    events: Events = trace("demo-1-1", frames)["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(names.values()) == ["edge-1 (edge)", "frames", "pi-1 (device)"]
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    slices = [(names[e["pid"]], threads[e["pid"], e["tid"]]) for e in events if e["ph"] == "X"]
    assert len(slices) == 60
    assert slices.count(("pi-1 (device)", "compute")) == 10
    assert {thread for process, thread in slices if process == "pi-1 (device)"} == {
        "compute", "link to edge-1", "link to edge-1 2",
    }  # fmt: skip
    assert ("frames", "frames 3") in slices and ("frames", "frames 4") not in slices
    (tile,) = {e["name"] for e in events if e["ph"] == "X" and e["args"].get("tile")}
    assert tile == "compute 1–2 tile 0,1,0"


def test_arrows_lead_through_each_frame_in_order(frames: list[FrameSpans]) -> None:
    events: Events = trace("demo-1-1", frames)["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    first = [names[e["pid"]] for e in events if e.get("id") == 1]
    assert first == ["pi-1 (device)", "pi-1 (device)", "edge-1 (edge)", "edge-1 (edge)"]
    assert len({e["id"] for e in events if "id" in e}) == 10


def test_clock_error_is_stated(frames: list[FrameSpans]) -> None:
    found = trace("demo-1-1", frames)
    assert found["otherData"]["clock_error_us"] == {"pi-1": 2000, "edge-1": 100}
    labels = [e["args"]["labels"] for e in found["traceEvents"] if e["name"] == "process_labels"]
    assert labels == ["clock ±2.00 ms", "clock ±0.10 ms"]


def test_span_that_ends_before_it_starts_or_starts_before_its_frame_does_no_harm() -> None:
    odd = FrameSpans(
        FrameId(1), Epoch(1), 100.0, 0.1, {}, (span(EDGE, SpanKind.COMPUTE, -0.01, -0.02),)
    )  # fmt: skip
    found = trace("demo-1-1", [odd])
    check_format(found["traceEvents"])
    assert [e["ts"] for e in found["traceEvents"] if e["ph"] == "X"] == [0, 10_000]


def test_nothing_makes_an_empty_trace() -> None:
    assert [e["ph"] for e in trace("demo-1-1", [])["traceEvents"]] == ["M", "M"]
