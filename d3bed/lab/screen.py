"""The demo's terminal page: state in, Rich renderable out. Pure.

Numbers that are not known yet are shown as a dash, never guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from d3bed.core.ids import TIERS

if TYPE_CHECKING:
    from d3bed.lab.follow import State

__all__ = ["exactness", "milliseconds", "mbit_per_s", "page"]

#: Also the dashboard's colours; the tier's name always stands beside the colour.
TIER_STYLE = {"device": "dark_orange3", "edge": "cyan", "cloud": "magenta"}


def milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.1f}"


def mbit_per_s(bytes_per_s: float | None) -> str:
    return "–" if bytes_per_s is None else f"{bytes_per_s * 8 / 1e6:.1f}"


def exactness(exact: dict[str, Any]) -> Text:
    """Are the answers those of the undivided model?"""
    checked, identical = exact.get("checked") or 0, exact.get("identical") or 0
    if not checked:
        return Text("no answer checked yet", style="dim")
    if checked == identical:
        return Text(f"✓ all {checked} checked answers bit-identical to the undivided model", style="green")
    worst = exact.get("max_rel_err")
    text = f"{identical} of {checked} answers bit-identical, largest relative difference {worst:.1e}"
    return Text(text, style="yellow" if worst is not None and worst <= 1e-5 else "bold red")


def page(state: State | None, dashboard: str, elapsed_s: float, tour: str | None = None) -> RenderableType:
    """Everything the demo shows at one moment."""
    if state is None:
        return Panel(Text(f"starting the server … {elapsed_s:.0f} s"), title="d3bed demo")
    pipeline = state.pipeline
    parts: list[RenderableType] = [_head(pipeline, dashboard, elapsed_s, tour), _tiers(state), _links(state)]
    if pipeline.get("plan_text"):
        parts.append(
            Panel(
                Text(pipeline["plan_text"]),
                title=f"plan of epoch {pipeline.get('epoch')}",
                title_align="left",
            )
        )
    said = [*(state.data.get("notes") or []), *(state.data.get("decisions") or [])]
    if said:
        latest = sorted(said, key=lambda each: each.get("time_s") or each.get("at_s") or 0.0)[-4:]
        parts.append(Group(*map(_note, latest)))
    parts.append(Text("Ctrl-C stops everything", style="dim"))
    return Group(*parts)


def _head(pipeline: dict[str, Any], dashboard: str, elapsed_s: float, tour: str | None) -> RenderableType:
    frames = pipeline.get("frames") or {}
    latency = pipeline.get("latency_s") or {}
    predicted = (pipeline.get("predicted") or {}).get("latency_s")
    lines = Table.grid(padding=(0, 2))
    lines.add_row("dashboard", Text(dashboard, style="underline blue"))
    lines.add_row(
        "model",
        f"{pipeline.get('model') or '–'}, strategy {pipeline.get('strategy') or '–'}, "
        f"network {pipeline.get('network') or '–'}",
    )
    phase = pipeline.get("phase") or "–"
    if phase not in ("running", "idle"):  # there the text is the plan, which has its own place
        phase = f"{phase}: {pipeline.get('phase_text') or ''}"
    lines.add_row("phase", f"{phase} ({elapsed_s:.0f} s since the start)")
    lines.add_row(
        "frames",
        f"{frames.get('answered', 0)} answered of {frames.get('sent', 0)} sent, {frames.get('lost', 0)} lost"
        + _stream(pipeline),
    )
    lines.add_row(
        "latency",
        f"median {milliseconds(latency.get('median'))} ms, "
        f"95th percentile {milliseconds(latency.get('p95'))} ms, predicted {milliseconds(predicted)} ms",
    )
    if tour is not None:
        lines.add_row("tour", tour)
    lines.add_row("exact", exactness(pipeline.get("exact") or {}))
    return Panel(lines, title="d3bed demo", title_align="left")


def _stream(pipeline: dict[str, Any]) -> str:
    """What the camera takes and what of it is dropped, where it has a rate."""
    rate = pipeline.get("rate_per_s")
    if rate is None:
        return ""
    most, dropped = pipeline.get("sustains_per_s"), (pipeline.get("frames") or {}).get("dropped", 0)
    able = f", the plan is good for {most:.3g}" if most is not None else ""
    return f", {dropped} dropped; {rate:g} come a second{able}"


def _tiers(state: State) -> RenderableType:
    pipeline = state.pipeline
    compute, route = pipeline.get("compute_s") or {}, pipeline.get("route") or {}
    last = (state.data.get("frames") or [{}])[-1].get("compute_s") or {}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tier", "agent", "pid", "state", "speed", "vertices", "last ms", "median ms"):
        table.add_column(
            name, justify="right" if name in ("pid", "speed", "vertices", "last ms", "median ms") else "left"
        )
    order = {tier.value: tier.rank for tier in TIERS}
    for agent in sorted(state.data.get("agents") or [], key=lambda a: (order[a["tier"]], a["agent"])):
        tier = agent["tier"]
        used = route.get(tier) == agent["agent"]
        speed = agent.get("speed") or 1
        table.add_row(
            Text(tier, style=TIER_STYLE[tier]),
            agent["agent"],
            str(agent.get("pid") or "–"),
            agent.get("state") or "–",
            f"{agent['cpus']:g} cores"
            if agent.get("cpus")
            else f"{speed:g}" + (" (emulated)" if speed != 1 else ""),
            str((pipeline.get("plan") or []).count(tier)) if used else "–",
            milliseconds(last.get(tier)) if used else "–",
            milliseconds(compute.get(tier)) if used else "–",
        )
    return table


def _links(state: State) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("link", "measured Mbit/s", "target", "achieved", "off by", "latency ms"):
        table.add_column(name, justify="left" if name == "link" else "right")
    for link in state.data.get("links") or []:
        off = link.get("deviation")
        style = "bold red" if off is not None and abs(off) > 0.02 else ""
        table.add_row(
            f"{link['from']} → {link['to']}",
            mbit_per_s(link.get("bytes_per_s")),
            mbit_per_s(link.get("target_bytes_per_s")),
            mbit_per_s(link.get("achieved_bytes_per_s")),
            Text("–" if off is None else f"{off:+.1%}", style=style),
            milliseconds(link.get("latency_s")),
        )
    return table


def _note(note: dict[str, Any]) -> Text:
    style = {"warn": "yellow", "error": "bold red"}.get(note.get("level") or "", "dim")
    return Text(f"· {note.get('text', '')}", style=style)
