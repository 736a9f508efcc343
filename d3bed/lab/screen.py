"""The demo's terminal page: state in, Rich renderable out. Pure.

Numbers that are not known yet are shown as a dash, never guessed. What happens and why comes first: a usual
terminal has 24 lines, and what does not fit is left out from the end (links, the plan layer by layer), of the
story the oldest.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from d3bed.core.ids import TIERS
from d3bed.lab.scenario import is_told

if TYPE_CHECKING:
    from d3bed.lab.follow import State

__all__ = ["exactness", "milliseconds", "mbit_per_s", "page"]

#: Columns of the story that frame, clock and mark take.
_MARGIN = 11
#: A longer story has no room left for what it is about.
_MOST_LINES = 14

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


def page(
    state: State | None,
    dashboard: str,
    elapsed_s: float,
    tour: str | None = None,
    *,
    steps: Sequence[tuple[float, str]] = (),
    zero_s: float = 0.0,
    size: tuple[int, int] | None = None,
) -> RenderableType:
    """Everything the demo shows at one moment, in so many columns and lines; None: all of it.

    `steps` are those of the tour, `zero_s` the moment that times are told from, both on the server's clock.
    """
    if state is None:
        return Panel(Text(f"starting the server … {elapsed_s:.0f} s"), title="d3bed demo")
    columns, lines = size or (200, 1000)
    head = _head(state.pipeline, dashboard, elapsed_s, tour)
    tiers = _tiers(state)
    left = lines - 7 - bool(tour) - (not _is_under_way(state.pipeline))
    left -= 2 + len(state.data.get("agents") or ())  # the table, and the last line
    shown = _latest(_story(state, steps, zero_s), columns - _MARGIN, max(3, min(left - 2, _MOST_LINES)))
    parts: list[RenderableType] = [head]
    if shown:
        rows = Table.grid(padding=(0, 1, 0, 0))
        for entry in shown:
            rows.add_row(*(Text(words, entry.style) for words in (entry.clock, entry.mark, entry.words)))
        parts.append(Panel(rows, title="what happens, and why", title_align="left"))
        left -= 2 + sum(entry.height(columns - _MARGIN) for entry in shown)
    parts.append(tiers)
    plan = str(state.pipeline.get("plan_text") or "")
    if plan and left >= plan.count("\n") + 3:
        title = f"plan of epoch {state.pipeline.get('epoch')}"
        parts.append(Panel(Text(plan), title=title, title_align="left"))
        left -= plan.count("\n") + 3
    if left >= len(state.data.get("links") or ()) + 2:
        parts += [Text(), _links(state)]
    parts.append(Text("Ctrl-C stops everything", style="dim"))
    return Group(*parts)


@dataclass(frozen=True)
class _Entry:
    clock: str
    mark: str
    words: str
    style: str

    def height(self, columns: int) -> int:
        return max(1, len(textwrap.wrap(self.words, max(columns, 20))))


def _story(state: State, steps: Sequence[tuple[float, str]], zero_s: float) -> list[_Entry]:
    """What is worth telling, in order: steps of the tour, plans that changed, warnings, and what else is
    noted. Decisions to keep a plan are for the dashboard."""
    found = [(at_s, "◇", words, "bold cyan") for at_s, words in steps]
    for decision in state.data.get("decisions") or ():
        if decision.get("choice") != "keep":
            mark, style = ("✕", "bold red") if decision.get("choice") == "fail" else ("→", "green")
            found.append((decision.get("at_s") or 0.0, mark, str(decision.get("text", "")), style))
    for note in state.data.get("notes") or ():
        words = str(note.get("text", ""))
        if not (steps and is_told(words)):
            style = {"warn": "yellow", "error": "bold red"}.get(note.get("level") or "", "dim")
            mark = "·" if style == "dim" else "▲"
            found.append((note.get("time_s") or 0.0, mark, words, style))
    found.sort(key=lambda entry: entry[0])
    return [_Entry(_clock(at_s - zero_s), mark, words, style) for at_s, mark, words, style in found]


def _latest(entries: Sequence[_Entry], columns: int, most: int) -> list[_Entry]:
    """As many of the last ones as fit, one at least."""
    found: list[_Entry] = []
    for entry in reversed(entries):
        most -= entry.height(columns)
        if found and most < 0:
            break
        found.insert(0, entry)
    return found


def _clock(seconds: float) -> str:
    """`0:07`; blank before zero."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}" if seconds >= 0 else "    "


def _head(pipeline: dict[str, Any], dashboard: str, elapsed_s: float, tour: str | None) -> RenderableType:
    frames = pipeline.get("frames") or {}
    latency = pipeline.get("latency_s") or {}
    predicted = (pipeline.get("predicted") or {}).get("latency_s")
    lines = Table.grid(padding=(0, 2))
    lines.add_column(no_wrap=True, min_width=9)
    lines.add_column(no_wrap=True, overflow="ellipsis")
    lines.add_row("dashboard", Text(dashboard, style="underline blue"))
    lines.add_row(
        "model",
        f"{pipeline.get('model') or '–'}, strategy {pipeline.get('strategy') or '–'}, "
        f"network {pipeline.get('network') or '–'}",
    )
    if not _is_under_way(pipeline):
        phase = f"{pipeline.get('phase') or '–'}: {pipeline.get('phase_text') or ''}"
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
        lines.add_row("tour", Text(tour, "bold"))
    lines.add_row("exact", exactness(pipeline.get("exact") or {}))
    return Panel(lines, title="d3bed demo", title_align="left")


def _is_under_way(pipeline: dict[str, Any]) -> bool:
    """Then its text is the plan, which has its own place, or what is done for the next one meanwhile."""
    return pipeline.get("epoch") is not None and pipeline.get("phase") != "failed"


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
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("tier", "agent", "pid", "state", "speed", "vertices", "last ms", "median ms"):
        right = name in ("pid", "vertices", "last ms", "median ms")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
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
            else f"{speed:g}" + (" emulated" if speed != 1 else ""),
            str((pipeline.get("plan") or []).count(tier)) if used else "–",
            milliseconds(last.get(tier)) if used else "–",
            milliseconds(compute.get(tier)) if used else "–",
        )
    return table


def _links(state: State) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
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
