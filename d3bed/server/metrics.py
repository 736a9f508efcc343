"""`/metrics`: what Prometheus scrapes, in its text format 0.0.4.

Counters count since the server started, over all runs. Label values are agents' and pipelines' names: at
most as many as the configuration has, and agents that came without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

import psutil

from d3bed.core.ids import Tier
from d3bed.core.measurements import BoardSample
from d3bed.server.coordinator import Coordinator
from d3bed.server.statistics import LATENCY_BUCKETS_S
from d3bed.server.views import ServerReport

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, object]
Samples = Iterable[tuple[Labels, float | None]]


class _Text:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, about: str, samples: Samples, suffix: str = "") -> None:
        """One metric; samples that are None are left out."""
        self.head(name, kind, about)
        for labels, value in samples:
            self.sample(name + suffix, labels, value)

    def head(self, name: str, kind: str, about: str) -> None:
        self._lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]

    def sample(self, name: str, labels: Labels, value: float | None) -> None:
        if value is not None:
            inside = ",".join(f'{key}="{_escaped(str(label))}"' for key, label in labels.items())
            self._lines.append(f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}")

    @property
    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def exposition(coordinator: Coordinator, server: ServerReport) -> str:
    """All metrics as they are now. Call it where events are handled."""
    out = _Text()
    build = {"version": server.version, "commit": server.commit or "", "python": server.python}
    out.family("d3bed_build_info", "gauge", "What runs here; always 1.", [(build, 1)])
    _frames(out, coordinator)
    _agents(out, coordinator)
    _links(out, coordinator)
    process = psutil.Process()
    with process.oneshot():
        cpu, rss = process.cpu_times(), process.memory_info().rss
    out.family(
        "process_cpu_seconds_total", "counter", "CPU time of the server.", [({}, cpu.user + cpu.system)]
    )
    out.family("process_resident_memory_bytes", "gauge", "Memory of the server.", [({}, rss)])
    return out.text


def _frames(out: _Text, coordinator: Coordinator) -> None:
    totals = {name: coordinator.totals(name) for name in coordinator.pipelines}
    pipelines = coordinator.pipelines

    def counter(name: str, about: str, values: Mapping[str, int]) -> None:
        out.family(name, "counter", about, [({"pipeline": name}, value) for name, value in values.items()])

    counter(
        "d3bed_frames_answered_total", "Frames whose answer came.", {n: t.answered for n, t in totals.items()}
    )
    counter("d3bed_frames_lost_total", "Frames given up.", {n: t.lost for n, t in totals.items()})
    counter(
        "d3bed_frames_dropped_total",
        "Frames that a source left out, because others were under way.",
        {n: t.dropped for n, t in totals.items()},
    )
    counter(
        "d3bed_frames_rerun_total",
        "Answered frames that took more than one attempt.",
        {n: t.rerun for n, t in totals.items()},
    )
    counter(
        "d3bed_answers_checked_total",
        "Answers compared with the undivided network's.",
        {n: t.checked for n, t in totals.items()},
    )
    counter(
        "d3bed_answers_identical_total",
        "Answers with the same bits as those.",
        {n: t.identical for n, t in totals.items()},
    )
    counter(
        "d3bed_epoch_switches_total",
        "Plans that came into force.",
        {name: pipe.switches for name, pipe in pipelines.items()},
    )
    out.family(
        "d3bed_epoch",
        "gauge",
        "Number of the plan in force.",
        [({"pipeline": n}, p.active.number if p.active else None) for n, p in pipelines.items()],
    )
    out.family(
        "d3bed_predicted_latency_seconds",
        "gauge",
        "What a frame is predicted to take.",
        [({"pipeline": n}, p.active.predicted_s if p.active else None) for n, p in pipelines.items()],
    )
    name = "d3bed_frame_latency_seconds"
    out.head(name, "histogram", "From the photo to its answer.")
    for pipeline, total in totals.items():
        labels: Labels = {"pipeline": pipeline}
        for bound, count in zip(LATENCY_BUCKETS_S, accumulate(total.buckets), strict=True):
            out.sample(f"{name}_bucket", {**labels, "le": f"{bound:g}"}, count)
        out.sample(f"{name}_bucket", {**labels, "le": "+Inf"}, total.answered)
        out.sample(f"{name}_sum", labels, total.latency_s)
        out.sample(f"{name}_count", labels, total.answered)
    name = "d3bed_compute_seconds"
    out.head(name, "summary", "Compute of one frame on one tier, held time included.")
    for pipeline, total in totals.items():
        for tier in Tier:
            seconds, count = total.compute_s.get(tier, (0.0, 0))
            labels = {"pipeline": pipeline, "tier": tier.value}
            out.sample(f"{name}_sum", labels, seconds)
            out.sample(f"{name}_count", labels, count)


def _agents(out: _Text, coordinator: Coordinator) -> None:
    records = coordinator.world.agents

    def gauge(name: str, about: str, values: Mapping[str, float | None]) -> None:
        out.family(name, "gauge", about, [({"agent": agent}, value) for agent, value in values.items()])

    out.family(
        "d3bed_agent_up",
        "gauge",
        "Whether the agent is connected.",
        [({"agent": a, "tier": r.register.tier.value}, int(r.connected)) for a, r in records.items()],
    )
    present = {agent: record for agent, record in records.items() if record.connected}
    gauge(
        "d3bed_agent_resident_memory_bytes",
        "Memory of the agent.",
        {a: r.rss_bytes for a, r in present.items()},
    )
    gauge(
        "d3bed_agent_queued_steps",
        "Steps that wait for its compute thread.",
        {a: r.queued for a, r in present.items()},
    )
    gauge(
        "d3bed_agent_clock_error_seconds",
        "Bound of its clock's error.",
        {a: r.clock_error_s for a, r in present.items()},
    )
    boards = {agent: record.board for agent, record in present.items() if record.board is not None}
    readings: tuple[tuple[str, str, Callable[[BoardSample], float | None]], ...] = (
        ("load_ratio", "Share of the board's cores that is busy.", lambda b: b.load),
        ("cores", "Cores that the agent keeps busy.", lambda b: b.own_cores),
        ("report_cores", "Cores that go into telling the server.", lambda b: b.report_cores),
        ("memory_ratio", "Share of the board's memory that is used.", lambda b: b.memory),
        ("sending_bytes", "Payload that waits to leave.", lambda b: b.sending_bytes),
        ("temperature_celsius", "Of its hottest sensor.", lambda b: b.temperature_c),
        ("frequency_hertz", "Of its first core.", lambda b: b.frequency_hz),
        ("throttled", "Whether its processor is held back.", lambda b: int(bool(b.throttled))),
    )
    for name, about, value in readings:
        gauge(f"d3bed_agent_{name}", about, {agent: value(board) for agent, board in boards.items()})
    out.family(
        "d3bed_agent_reported_bytes_total",
        "counter",
        "What the agent told the server, before compression.",
        [({"agent": a}, r.said_bytes) for a, r in present.items()],
    )
    out.family(
        "d3bed_agent_rejected_peers_total",
        "counter",
        "Peers that broke the protocol and were closed.",
        [({"agent": a}, r.rejected) for a, r in present.items()],
    )


def _links(out: _Text, coordinator: Coordinator) -> None:
    world = coordinator.world
    views = [link.view(*ends, world.now) for ends, link in world.links.items()]
    ends = [{"from": view.source, "to": view.target} for view in views]
    out.family(
        "d3bed_link_bytes_total",
        "counter",
        "Payload that crossed the link.",
        list(zip(ends, (view.bytes for view in views), strict=True)),
    )
    out.family(
        "d3bed_link_rate_bytes_per_second",
        "gauge",
        "As fast as plans are made for.",
        list(zip(ends, (view.estimate_bytes_per_s for view in views), strict=True)),
    )
