"""What `d3bed plan` prints: answers in, Rich renderables out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from d3bed.core.ids import TIERS, Tier
from d3bed.lab.planning import ALL, Answer, Plan, Request
from d3bed.lab.screen import TIER_STYLE, mbit_per_s, milliseconds
from d3bed.plan import Problem
from d3bed.plan.explain import Elsewhere, Explanation, Trigger
from d3bed.plan.problem import EDGE_CLOUD
from d3bed.plan.sweep import Band, Sweep
from d3bed.plan.whatif import Change, WhatIf

__all__ = ["show"]

#: At most so many vertices are named in a row of words.
_NAMED = 6


def show(request: Request, answers: Sequence[Answer]) -> RenderableType:
    """Everything that was asked for, in words and tables."""
    parts: list[RenderableType] = []
    if request.network == ALL:
        parts.append(_grid(answers))
    for answer in answers:
        if request.network != ALL:
            parts.append(Text(answer.case.about))
            parts.append(_side_by_side(answer) if request.side_by_side else _alone(answer.plans[0]))
        elif answer.explanation or answer.what_if or answer.sweep:
            parts.append(Text(f"\n{answer.case.about}", style="bold"))
        problem = answer.case.problem
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
            f"at most {plan.highest_rate_per_s:.4g} frames/s, "
            f"planned in {milliseconds(solution.plan_time_s)} ms",
            style="bold",
        ),
    )


def _name(plan: Plan) -> str:
    return f"{plan.strategy} (as published: float32 input)" if plan.published else plan.strategy


# ── side by side ──────────────────────────────────────────────────────────────────────────────────


def _side_by_side(answer: Answer) -> RenderableType:
    problem = answer.case.problem
    table = Table("strategy")
    for heading in ("cost ms", "regret", *(f"{tier} ms" for tier in problem.tiers)):
        table.add_column(heading, justify="right")
    for link in problem.links:
        style = "bold" if link == EDGE_CLOUD else None
        table.add_column(
            f"{link} kB" + (" (backbone)" if link == EDGE_CLOUD else ""), justify="right", style=style
        )
    for heading in ("frames/s", "plan ms"):
        table.add_column(heading, justify="right")
    table.add_column("vertices")
    refused = []
    for plan in answer.plans:
        solution = plan.solution
        if solution is None:
            refused.append(Text(f"{_name(plan)} has no plan: {plan.refused}", style="dim"))
            continue
        table.add_row(
            _name(plan),
            milliseconds(solution.cost_s),
            "–" if plan.regret is None else f"{plan.regret:.3f}",
            *(milliseconds(plan.compute_s[tier]) for tier in problem.tiers),
            *(f"{solution.link_bytes[link] / 1e3:.1f}" for link in problem.links),
            f"{plan.highest_rate_per_s:.4g}",
            f"{solution.plan_time_s * 1e3:.2f}",
            _counts(solution.tiers),
        )
    about = "regret: cost over the optimal plan's; frames/s: what the slowest tier or link lets through"
    return Group(table, *refused, Text(about, style="dim"))


def _grid(answers: Sequence[Answer]) -> RenderableType:
    """Network by strategy: cost in ms, and regret where there is an optimum beside it."""
    about, _, _ = answers[0].case.about.partition(", network")
    columns = [_name(plan) for plan in answers[0].plans]
    table = Table("network", title=f"{about}: cost ms" + (" (regret)" if len(columns) > 1 else ""))
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("vertices of the first")
    for answer in answers:
        cells = []
        for plan in answer.plans:
            if plan.solution is None:
                cells.append("–")
                continue
            regret = "" if plan.regret is None else f" ({plan.regret:.2f})"
            cells.append(milliseconds(plan.solution.cost_s) + regret)
        first = answer.plans[0].solution
        table.add_row(answer.case.network, *cells, "–" if first is None else _counts(first.tiers))
    return table


# ── explained ─────────────────────────────────────────────────────────────────────────────────────


def _explained(problem: Problem, found: Explanation) -> RenderableType:
    name = problem.names[found.vertex]
    lines = [
        Text(
            f"{name} is on the {found.tier} in the optimal plan ({milliseconds(found.cost_s)} ms a frame)",
            style="bold",
        )
    ]
    lines += [Text(f"  {_elsewhere(problem, found, other)}") for other in found.elsewhere]
    if found.triggers:
        lines.append(Text("it would move, if nothing else changed,"))
        lines += [Text(f"  {_trigger(problem, trigger)}") for trigger in found.triggers]
    else:
        lines.append(Text("no speed of a single link or tier, up to a factor of 4096, would move it"))
    return Group(*lines)


def _elsewhere(problem: Problem, found: Explanation, other: Elsewhere) -> str:
    start = f"on the {other.tier}: "
    if other.cost_s is None:
        return f"{start}not possible: {other.refused}"
    company = [problem.names[v] for v in other.moved if v != found.vertex]
    words = "alone" if not company else f"with {len(company)} others ({_some(company)})"
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
        now = mbit_per_s(problem.links[change.name].bytes_per_s)
        limit = "or more" if trigger.factor > 1 else "or less"
        return f"to the {trigger.to} with {change.name} at {_rate(change.value)} {limit} (now {now} Mbit/s)"
    speed = "faster" if trigger.factor > 1 else "slower"
    times = max(trigger.factor, 1 / trigger.factor)
    return f"to the {trigger.to} with the {change.name} {times:.3g} times {speed}"


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8 / 1e6:.4g} Mbit/s"


# ── what if ───────────────────────────────────────────────────────────────────────────────────────


def _reactions(problem: Problem, found: WhatIf) -> RenderableType:
    table = Table("after the change", title=_change(problem, found.change), title_justify="left")
    for heading in ("cost ms", "moved", "examined", "time ms"):
        table.add_column(heading, justify="right")
    table.add_column("vertices")
    table.add_column("")
    for reaction in found.reactions:
        table.add_row(
            reaction.name,
            milliseconds(reaction.cost_s),
            str(len(reaction.moved)),
            str(reaction.examined),
            f"{reaction.time_s * 1e3:.2f}",
            _counts(reaction.tiers),
            reaction.note,
        )
    before = f"before: {milliseconds(found.before_s)} ms a frame with {_counts(found.tiers)}"
    return Group(table, Text(before, style="dim"))


def _change(problem: Problem, change: Change) -> str:
    if change.kind == "link":
        return f"{change.name}: {_rate(problem.links[change.name].bytes_per_s)} → {_rate(change.value)}"
    return f"{change.kind} {change.name}: {change.value:g} times as fast"


# ── sweep ─────────────────────────────────────────────────────────────────────────────────────────


def _bands(problem: Problem, found: Sweep) -> RenderableType:
    table = Table(f"{found.link} Mbit/s", title="which plan wins where", title_justify="left")
    table.add_column("vertices")
    table.add_column("cost ms", justify="right")
    table.add_column("best single tier costs more by", justify="right")
    for band in found.bands:
        table.add_row(f"{_mbit(band.low)} – {_mbit(band.high)}", *_band(band))
    splits = sum(band.gain is not None and band.gain > 1e-3 for band in found.bands)
    words = (
        "splitting gains nothing here"
        if not splits
        else f"splitting pays in {splits} of {len(found.bands)} ranges"
    )
    return Group(table, Text(words, style="bold"))


def _mbit(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8 / 1e6:.4g}"


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
