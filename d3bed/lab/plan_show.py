"""What `d3bed plan` prints: answers in, Rich renderables out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from d3bed.core.ids import TIERS, Tier
from d3bed.lab.planning import ALL, Answer, Plan, Request
from d3bed.lab.screen import TIER_STYLE, milliseconds
from d3bed.plan import Problem
from d3bed.plan.explain import Elsewhere, Explanation, Trigger
from d3bed.plan.problem import EDGE_CLOUD
from d3bed.plan.sweep import Band, Sweep
from d3bed.plan.whatif import Supposition, WhatIf

if TYPE_CHECKING:
    from d3bed.plan.mix import Mix

__all__ = ["show"]

#: At most so many vertices are named in a row of words.
_NAMED = 6
#: A grid of more networks has its numbers in two lines.
_WIDE = 5


def show(request: Request, answers: Sequence[Answer]) -> RenderableType:
    """Everything that was asked for, in words and tables."""
    parts: list[RenderableType] = []
    if request.network == ALL:
        parts.append(_grid(answers, request.fastest))
    for answer in answers:
        if request.network != ALL:
            parts.append(Text(answer.case.about))
            plan = answer.plans[0]
            parts.append(_SideBySide(answer, request.fastest) if request.side_by_side else _alone(plan))
        elif answer.explanation or answer.what_if or answer.sweep or answer.mix:
            parts.append(Text(f"\n{answer.case.about}", style="bold"))
        problem = answer.case.problem
        if answer.mix is not None:
            parts.append(_mixed(problem, answer.mix))
        if answer.explanation is not None:
            parts.append(_explained(problem, answer.explanation))
        if answer.what_if is not None:
            parts.append(_reactions(problem, answer.what_if))
        if answer.sweep is not None:
            parts.append(_bands(problem, answer.sweep))
    if request.svg is not None:
        parts.append(Text(f"drawn in {request.svg}"))
    return Group(*parts)


def _tier(tier: Tier) -> Text:
    return Text(tier.value, style=TIER_STYLE[tier])


def _counts(tiers: Sequence[Tier]) -> str:
    """How many vertices each tier has, as in `1 device, 32 cloud`."""
    found = [(sum(t is tier for t in tiers), tier) for tier in TIERS]
    return ", ".join(f"{count} {tier}" for count, tier in found if count)


# ── one plan ──────────────────────────────────────────────────────────────────────────────────────


def _alone(plan: Plan) -> RenderableType:
    """The plan tier by tier, what each costs, and what crosses the links."""
    problem, solution = plan.problem, plan.solution
    if solution is None:
        return Text(f"{plan.strategy}: no plan: {plan.refused}", style="bold red")
    table = Table("tier", "vertices", "from", "to", "compute ms")
    for tier in TIERS:
        mine = [v for v, t in enumerate(solution.tiers) if t is tier]
        if not mine:
            table.add_row(_tier(tier), "0", "–", "–", "–")
            continue
        compute_s = sum(problem.times_s[tier][v] for v in mine)
        names = problem.names[mine[0]], problem.names[mine[-1]]
        table.add_row(_tier(tier), str(len(mine)), *names, milliseconds(compute_s))
    links = (
        ", ".join(f"{link} {size / 1e3:.1f} kB" for link, size in solution.link_bytes.items() if size)
        or "none"
    )
    return Group(
        table,
        Text(f"bytes a frame over links: {links}"),
        Text(
            f"strategy {_name(plan)}: predicted cost {milliseconds(solution.cost_s)} ms a frame, "
            f"at most {plan.highest_rate_per_s:.4g} frames/s ({plan.slowest[0]} busiest), "
            f"planned in {milliseconds(solution.plan_time_s)} ms",
            style="bold",
        ),
    )


def _name(plan: Plan) -> str:
    return f"{plan.strategy} (as published: float32 input)" if plan.published else plan.strategy


# ── side by side ──────────────────────────────────────────────────────────────────────────────────


class _SideBySide:
    """A row per strategy; in a narrow terminal the columns stand in two tables, one below the other."""

    def __init__(self, answer: Answer, fastest: bool) -> None:
        problem = answer.case.problem
        planned = [(plan, plan.solution) for plan in answer.plans if plan.solution is not None]
        self.names = [_marked(plan) for plan, _ in planned]
        self.costs = {
            "cost\nms": [milliseconds(solution.cost_s) for _, solution in planned],
            "regret": ["–" if plan.regret is None else f"{plan.regret:.3f}" for plan, _ in planned],
            "frames\n/s": [f"{plan.highest_rate_per_s:.3g}" for plan, _ in planned],
            "slowest\nstage": [plan.slowest[0] for plan, _ in planned],
            "plan\nms": [f"{solution.plan_time_s * 1e3:.2f}" for _, solution in planned],
            "vertices": [_numbers(problem, solution.tiers) for _, solution in planned],
        }
        self.work = {
            f"{tier}\nms": [_short(plan.compute_s[tier] * 1e3) for plan, _ in planned]
            for tier in problem.tiers
        }
        for link in problem.links:
            heading = "backbone\nkB" if link == EDGE_CLOUD else f"{link}\nkB"
            self.work[heading] = [_short(solution.link_bytes[link] / 1e3) for _, solution in planned]
        self.refused = [
            Text(f"{_name(plan)} has no plan: {plan.refused}") for plan in answer.plans if not plan.solution
        ]
        over = "the optimal plan's frames/s over its own" if fastest else "cost over the optimal plan's"
        notes = [
            f"regret: {over}. frames/s: what the slowest tier or link lets through.",
            f"vertices: {' · '.join(problem.tiers)}. plan ms: median of some runs.",
        ]
        if EDGE_CLOUD in problem.links:
            notes[1] = f"backbone: edge-cloud. {notes[1]}"
        self.notes = _footnotes(answer.plans, notes)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.names:
            yield from self.refused
            return
        whole = self._columns(self.costs | self.work)
        if Measurement.get(console, options.update(width=1000), whole).maximum <= options.max_width:
            yield whole
        else:
            yield self._columns(self.costs)
            yield self._columns(self.work)
        yield from self.refused
        yield from self.notes

    def _columns(self, columns: Mapping[str, Sequence[str]]) -> Table:
        table = _table("strategy")
        for heading in columns:
            backbone = heading.startswith("backbone")
            table.add_column(heading, justify="right", style="bold" if backbone else None)
        for row in zip(self.names, *columns.values(), strict=True):
            table.add_row(*row)
        return table


def _table(first: str, title: str | None = None) -> Table:
    return Table(
        first, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left"
    )


def _marked(plan: Plan) -> str:
    return f"{plan.strategy} *" if plan.published else plan.strategy


def _footnotes(plans: Sequence[Plan], notes: Sequence[str]) -> list[Text]:
    starred = ["* as published: it ships a float32 input."] if any(p.published for p in plans) else []
    return [Text(note, style="dim") for note in (*starred, *notes)]


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 1000 else f"{number:.1f}"


def _numbers(problem: Problem, tiers: Sequence[Tier]) -> str:
    """How many vertices each tier has, as in `78 · 24 · 94`, in the order of tiers."""
    return " · ".join(str(sum(t is tier for t in tiers)) for tier in problem.tiers)


def _grid(answers: Sequence[Answer], fastest: bool) -> RenderableType:
    """Strategy by network: what was asked for, and regret where there is an optimum beside it."""
    about, _, _ = answers[0].case.about.partition(", network")
    several = len(answers[0].plans) > 1
    figure = "highest rate, frames/s" if fastest else "cost ms"
    table = _table("strategy", f"{about}: {figure}" + (" (regret)" if several else ""))
    many = len(answers) > _WIDE
    between = "\n" if many else " "
    for answer in answers:
        name = answer.case.network
        table.add_column(name.replace("-", "-\n") if many else name, justify="right")
    for row in zip(*(answer.plans for answer in answers), strict=True):
        cells = []
        for plan in row:
            regret = "" if plan.regret is None else f"{between}({plan.regret:.2f})"
            if plan.solution is None:
                cells.append("–")
            elif fastest:
                cells.append(f"{plan.highest_rate_per_s:.3g}{regret}")
            else:
                cells.append(milliseconds(plan.solution.cost_s) + regret)
        table.add_row(_marked(row[0]), *cells)
    firsts = [(answer.case.problem, answer.plans[0].solution) for answer in answers]
    counts = ["–" if first is None else _numbers(problem, first.tiers) for problem, first in firsts]
    if many:
        counts = [count.replace(" ", "") for count in counts]
    table.add_section()
    table.add_row(f"vertices,{between}{answers[0].plans[0].strategy}", *counts)
    tiers = " · ".join(answers[0].case.problem.tiers)
    return Group(table, *_footnotes(answers[0].plans, [f"vertices: {tiers}. –: no plan within the limits."]))


def _mixed(problem: Problem, mix: Mix) -> Text:
    """What one plan sustains, and what several do that frames take in turn."""
    text = f"one plan sustains at most {mix.single_per_s:.4g} frames/s; "
    if len(mix.plans) < 2:
        return Text(text + "no mix of plans sustains more")
    parts = zip(mix.shares, mix.plans, strict=True)
    shares = ", ".join(f"{share:.0%} on {_numbers(problem, tiers)}" for share, tiers in parts)
    return Text(f"{text}a mix of plans {mix.rate_per_s:.4g} ({mix.gain:.2f} times): of frames, {shares}")


# ── explained ─────────────────────────────────────────────────────────────────────────────────────


def _explained(problem: Problem, found: Explanation) -> RenderableType:
    name = problem.names[found.vertex]
    lines: list[RenderableType] = [
        Text(
            f"{name} is {_at(found.tier)} in the optimal plan ({milliseconds(found.cost_s)} ms a frame)",
            style="bold",
        )
    ]
    lines += [_indented(_elsewhere(problem, found, other)) for other in found.elsewhere]
    if found.triggers:
        lines.append(Text("it would move, if nothing else changed,"))
        lines += [_indented(_trigger(problem, trigger)) for trigger in found.triggers]
    else:
        lines.append(Text("no speed of a single link or tier, up to a factor of 4096, would move it"))
    return Group(*lines)


def _indented(words: str) -> Padding:
    return Padding(Text(words), (0, 0, 0, 2), expand=False)


def _at(tier: Tier) -> str:
    return "in the cloud" if tier is Tier.CLOUD else f"on the {tier}"


def _elsewhere(problem: Problem, found: Explanation, other: Elsewhere) -> str:
    start = f"{_at(other.tier)}: "
    if other.cost_s is None:
        return f"{start}not possible: {other.refused}"
    company = [problem.names[v] for v in other.moved if v != found.vertex]
    words = "alone" if not company else f"with {len(company)} more ({_some(company)})"
    text = (
        f"{start}{milliseconds(other.cost_s)} ms, {(other.cost_s - found.cost_s) * 1e3:+.2f} ms: "
        f"compute {other.compute_s * 1e3:+.2f} ms, transfers {other.transfer_s * 1e3:+.2f} ms; "
        f"moves {words}; "
    )
    now_s = problem.times_s[other.tier][found.vertex]
    if other.time_s is None:
        return text + f"even taking no time there (now {now_s * 1e3:.3f} ms), it would not pay"
    return text + f"pays if it took less than {other.time_s * 1e3:.3f} ms there (now {now_s * 1e3:.3f})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _trigger(problem: Problem, trigger: Trigger) -> str:
    change = trigger.change
    if change.kind == "link":
        now = _rate(problem.links[change.name].bytes_per_s)
        limit = "or more" if trigger.factor > 1 else "or less"
        return f"to the {trigger.to} with {change.name} at {_rate(change.value)} {limit} (now {now})"
    speed = "faster" if trigger.factor > 1 else "slower"
    times = max(trigger.factor, 1 / trigger.factor)
    return f"to the {trigger.to} with the {change.name} {times:.3g} times {speed}"


def _rate(bytes_per_s: float) -> str:
    return f"{_mbit(bytes_per_s)} Mbit/s"


def _mbit(bytes_per_s: float) -> str:
    mbit = bytes_per_s * 8 / 1e6
    return f"{mbit:.4g}" if mbit < 1e4 else f"{mbit:.0f}"


# ── what if ───────────────────────────────────────────────────────────────────────────────────────


def _reactions(problem: Problem, found: WhatIf) -> RenderableType:
    table = _table("after the change", _change(problem, found.change))
    for heading in ("cost ms", "moved", "examined", "time ms"):
        table.add_column(heading, justify="right")
    table.add_column("vertices", justify="right")
    for reaction in found.reactions:
        table.add_row(
            reaction.name,
            milliseconds(reaction.cost_s),
            str(len(reaction.moved)),
            str(reaction.examined),
            f"{reaction.time_s * 1e3:.2f}",
            _numbers(problem, reaction.tiers),
        )
    notes = [Text(f"{reaction.name}: {reaction.note}") for reaction in found.reactions if reaction.note]
    before = f"before: {milliseconds(found.before_s)} ms a frame with {_counts(found.tiers)}"
    return Group(table, *notes, Text(before, style="dim"))


def _change(problem: Problem, change: Supposition) -> str:
    if change.kind == "link":
        return f"{change.name}: {_rate(problem.links[change.name].bytes_per_s)} → {_rate(change.value)}"
    return f"{change.kind} {change.name}: {change.value:g} times as fast"


# ── sweep ─────────────────────────────────────────────────────────────────────────────────────────


def _bands(problem: Problem, found: Sweep) -> RenderableType:
    table = _table(f"{found.link} Mbit/s", "which plan wins where")
    table.add_column("vertices")
    table.add_column("cost ms", justify="right")
    table.add_column("one tier alone\ncosts more by", justify="right")
    for band in found.bands:
        table.add_row(f"{_mbit(band.low)} – {_mbit(band.high)}", *_band(band))
    splits = sum(band.gain is not None and band.gain > 1e-3 for band in found.bands)
    words = (
        "splitting gains nothing here"
        if not splits
        else f"splitting pays in {splits} of {len(found.bands)} ranges"
    )
    return Group(table, Text(words, style="bold"))


def _band(band: Band) -> tuple[str, str, str]:
    if band.tiers is None:
        return "no plan keeps the limits", "–", "–"
    ends = [milliseconds(band.low_cost_s), milliseconds(band.high_cost_s)]
    cost = ends[0] if ends[0] == ends[1] else " → ".join(ends)
    if band.gain is None:
        gain = "–"
    elif band.gain == float("inf"):
        gain = "none keeps the limits"
    else:
        gain = f"{band.gain:.1%}"
    return _counts(band.tiers), cost, gain
