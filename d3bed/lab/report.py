"""A run's history as a page, a table or JSON: `d3bed report`.

The page carries its plots and styles itself, so that it can be mailed, kept and printed; it runs no script.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import msgspec

from d3bed.config import data_dir as packaged
from d3bed.core.errors import ConfigError
from d3bed.core.ids import TIERS
from d3bed.lab import client
from d3bed.lab.figures import (
    Bin,
    backbone_bytes,
    binned,
    changes,
    emulated,
    is_backbone,
    off,
    story,
    switches,
)
from d3bed.lab.hindsight import Hindsight, Judged, hindsight
from d3bed.lab.plots import Plot, bars, clock
from d3bed.server.history import SPANS, FrameSpans, Read, RunHistory, frame_spans, run_history
from d3bed.server.store import read_rows

__all__ = ["as_csv", "as_html", "as_json", "fetch", "fetch_spans", "put", "stored", "stored_spans", "write"]

#: Runs of up to so many frames are drawn dot by dot, longer ones as a band.
_DOTS = 1500
_BINS, _COLUMNS = 400, 160
#: What has more rows scrolls in a box of its own.
_ROWS = 30
#: More marks would hide what is drawn: they stay at its upper edge.
_MARKS = 80
#: Columns are drawn up to so many times the usual height.
_USUAL = 4.0


async def fetch(server: str, run: str | None, token: str | None = None) -> RunHistory:
    """Of a running server; without `run` the latest one. Raises `ConfigError`, `RequestFailed`."""
    run = run or await _latest(server, token)
    return msgspec.convert(await client.get(server, f"/api/runs/{run}/history", token), RunHistory)


async def fetch_spans(server: str, run: str | None, token: str | None) -> tuple[str, list[FrameSpans]]:
    """The run and its frames. Raises as `fetch` does."""
    run = run or await _latest(server, token)
    return run, msgspec.convert(await client.get(server, f"/api/runs/{run}/spans", token), list[FrameSpans])


async def _latest(server: str, token: str | None) -> str:
    runs = await client.get(server, "/api/runs", token)
    if not runs:
        raise ConfigError(server, "", "no run has begun yet", "d3bed demo, or start one on the page")
    return str(runs[0]["id"])


def stored(directory: Path, run: str | None) -> RunHistory:
    """Out of a server's data folder, whether it runs or not. Raises `ConfigError`."""
    with _reading(directory, run) as (read, name):
        found = run_history(read, name)
    assert found is not None  # `_reading` has seen it
    return found


def stored_spans(directory: Path, run: str | None) -> tuple[str, list[FrameSpans]]:
    """As `fetch_spans`, out of a server's data folder. Raises `ConfigError`."""
    with _reading(directory, run) as (read, name):
        return name, [frame_spans(row) for row in read(SPANS, name)]


@contextlib.contextmanager
def _reading(directory: Path, run: str | None) -> Iterator[tuple[Read, str]]:
    """How to query the store in `directory`, and which run is meant."""
    path = directory / "d3bed.sqlite3"
    if not path.exists():
        raise ConfigError("--data-dir", str(directory), "holds no database", "name a server's data folder")

    def read(sql: str, *values: object) -> list[dict[str, Any]]:
        return read_rows(path, sql, *values)

    try:
        known = [str(row["id"]) for row in read("SELECT id FROM runs ORDER BY started_s DESC")]
        if not known or run not in (None, *known):
            latest = ", ".join(known[:10]) or "none"
            raise ConfigError("RUN", run or "", "there is no such run", f"the latest are {latest}")
        yield read, run or known[0]
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise ConfigError(str(path), "", f"cannot be read ({error})", "is it of this version?") from error


def as_json(history: RunHistory) -> bytes:
    """`d3bed.history/1`, as the server answers it."""
    return msgspec.json.encode(history)


def as_csv(history: RunHistory) -> str:
    """A line per answered frame; times in seconds, `started_s` since the run's start."""
    epochs = {epoch.epoch: epoch for epoch in history.epochs}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = ["frame", "started_s", "latency_s", "device_s", "edge_s", "cloud_s", "waited_s"]
    table.writerow([*columns, "attempts", "identical", "epoch", "strategy", "model", "predicted_s"])
    frames = history.frames
    for i, number in enumerate(frames.epoch):
        epoch = epochs.get(number)
        times_s = [
            frames.started_s[i] - history.run.started_s,
            frames.latency_s[i],
            *(column[i] for column in (frames.device_s, frames.edge_s, frames.cloud_s, frames.waited_s)),
        ]
        planned = [epoch.strategy, epoch.model, f"{epoch.predicted_s:.6f}"] if epoch else ["", "", ""]
        table.writerow(
            [frames.frame[i], *("" if s is None else f"{s:.6f}" for s in times_s)]
            + [
                frames.attempts[i],
                {None: "", True: "yes", False: "no"}[frames.identical[i]],
                number,
                *planned,
            ]
        )
    return text.getvalue()


# ── the page ──────────────────────────────────────────────────────────────────────────────────────


def write(history: RunHistory, html: Path | None, json: Path | None, table: Path | None) -> None:
    """Write what is asked for. Raises `ConfigError` for a file that cannot be written."""
    for path, make in ((html, as_html), (json, as_json), (table, as_csv)):
        if path is not None:
            made = make(history)
            put(path, made.encode() if isinstance(made, str) else made)


def put(path: Path, content: bytes) -> None:
    """Compressed where the name ends in `.gz`. Raises `ConfigError` for a file that cannot be written."""
    try:
        path.write_bytes(gzip.compress(content, 6) if path.suffix == ".gz" else content)
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be written ({error.strerror})") from error


def as_html(history: RunHistory) -> str:
    """One self-contained page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(packaged("web") / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"ms": _ms, "size": _size, "clock": clock, "signed": _signed, "date": _date}
    run, report = history.run, history.report
    judged = hindsight(history)
    tiers = {agent.agent: agent.tier for agent in report.agents}
    latency_s = sorted(history.frames.latency_s)
    return environment.get_template("report.html").render(
        history=history,
        rows_at_once=_ROWS,
        run=run,
        report=report,
        duration_s=_end_s(history),
        median_s=_quantile(latency_s, 0.5),
        p95_s=_quantile(latency_s, 0.95),
        switches=switches(history),
        changes=changes(history),
        off=off,
        tiers=tiers,
        is_backbone=is_backbone,
        backbone_bytes=backbone_bytes(history),
        emulated=emulated(history),
        story=story(history),
        hindsight=judged,
        again=sum(attempts > 1 for attempts in history.frames.attempts),
        latency_plot=markupsafe.Markup(_latency(history)),
        stack_plot=markupsafe.Markup(_stacks(history)),
        regret_plot=markupsafe.Markup(_regret(history, judged)),
        link_plot=markupsafe.Markup(_links(history)),
    )


def _end_s(history: RunHistory) -> float:
    """Length of the run; while it goes on, up to the last frame."""
    run, frames = history.run, history.frames
    if run.ended_s is not None:
        return run.ended_s - run.started_s
    return (max(frames.started_s) if frames.started_s else run.started_s) - run.started_s


def _plot(history: RunHistory, name: str, top_s: float, height: float) -> Plot:
    plot = Plot(name, (0.0, _end_s(history)), 1.05e3 * top_s, "ms per frame", height)
    happened = changes(history)
    for mark in happened:
        words = f"{clock(mark.at_s)}: {mark.text}"
        plot.mark(mark.at_s, "change", words, brief=len(happened) > _MARKS)
    return plot


def _marked(plot: Plot, history: RunHistory) -> str:
    shown = switches(history)
    brief = len(shown) > _MARKS
    for mark in shown:
        words = f"{clock(mark.at_s)}: {mark.text}"
        plot.mark(mark.at_s, "switch", words, "" if brief else mark.label, brief=brief)
    return plot.svg


def _latency(history: RunHistory) -> str:
    frames, start_s = history.frames, history.run.started_s
    bins = binned(history, _BINS)
    ordered = sorted(frames.latency_s)
    predicted_s = max((e.predicted_s for e in history.epochs if e.frames), default=0.0)
    # A frame that waited for a lost node must not flatten all others: such are drawn at the upper edge.
    top_s = max(min(ordered[-1], 1.6 * (_quantile(ordered, 0.98) or 0.0)), predicted_s) if ordered else 1.0
    plot = _plot(history, "Latency of frames over time", top_s, 300)
    if len(frames.frame) <= _DOTS:
        at_s = (at_s - start_s for at_s in frames.started_s)
        plot.dots(zip(at_s, (1e3 * s for s in frames.latency_s), strict=True), "frame")
    else:
        middle = [(b.start_s + b.end_s) / 2 for b in bins]
        rows = [(x, 1e3 * b.low_s, 1e3 * b.high_s) for x, b in zip(middle, bins, strict=True)]
        plot.band(rows, "frame")
        plot.line([(x, 1e3 * b.median_s) for x, b in zip(middle, bins, strict=True)], "median")
    nexts = [*(e.activated_at for e in history.epochs), None][1:]
    for epoch, until in zip(history.epochs, nexts, strict=True):
        since_s = max(0.0, (epoch.activated_at or start_s) - start_s)
        until_s = _end_s(history) if until is None else until - start_s
        words = f"epoch {epoch.epoch}: predicted {_ms(epoch.predicted_s)}"
        plot.line(
            [(since_s, 1e3 * epoch.predicted_s), (until_s, 1e3 * epoch.predicted_s)], "predicted", words
        )
    return _marked(plot, history)


def _stacks(history: RunHistory) -> str:
    bins = binned(history, _COLUMNS)
    heights_s = sorted(map(_height_s, bins)) or [1.0]
    # Columns of a bad moment must not flatten what all others are made of: they are cut at the upper edge.
    top_s = min(heights_s[-1], _USUAL * (_quantile(heights_s, 0.5) or 0.0))
    plot = _plot(history, "Compute per tier and the rest, over time", top_s, 260)
    for b in bins:
        shares = [*((tier.value, 1e3 * b.compute_s[tier]) for tier in TIERS), ("rest", 1e3 * b.rest_s)]
        shares.append(("waited", 1e3 * b.waited_s))
        words = ", ".join(f"{kind} {value:.1f} ms" for kind, value in shares if value >= 0.05)
        plot.stack(b.start_s, b.end_s, shares, f"{clock(b.start_s)}: {words} ({b.frames} frames)", 0.4)
    return _marked(plot, history)


def _regret(history: RunHistory, judged: Hindsight) -> str:
    bins = binned(history, _BINS)
    ordered = sorted(b.median_s for b in bins)
    usual_s = min(ordered[-1], 1.6 * (_quantile(ordered, 0.98) or 0.0)) if ordered else 0.0
    top_s = max([usual_s, *(min(j.kept_s or 0.0, 6 * j.best_s) for j in judged.judged)])
    plot = _plot(history, "Latency, and what the exact plan would have taken", top_s, 240)
    plot.line([((b.start_s + b.end_s) / 2, 1e3 * b.median_s) for b in bins], "median")
    parts: list[list[Judged]] = []
    for each in judged.judged:  # where nothing is judged in between, nothing is drawn
        if parts and parts[-1][-1].end_s == each.start_s:
            parts[-1].append(each)
        else:
            parts.append([each])
    for part in parts:
        best = [(at_s, 1e3 * j.best_s) for j in part for at_s in (j.start_s, j.end_s)]
        kept = [(at_s, 1e3 * (j.kept_s or j.best_s)) for j in part for at_s in (j.start_s, j.end_s)]
        plot.line(best, "best", "the exact plan in hindsight")
        plot.line(kept, "predicted", "the plan in force")
    return _marked(plot, history)


def _height_s(b: Bin) -> float:
    return sum(b.compute_s.values()) + b.rest_s + b.waited_s


def _links(history: RunHistory) -> str:
    tiers = {agent.agent: agent.tier for agent in history.report.agents}
    rows = []
    for link in sorted(history.report.links, key=lambda link: -link.bytes):
        backbone = is_backbone(link, tiers)
        words = _size(link.bytes) + (" · backbone" if backbone else "")
        rows.append(
            (f"{link.source} → {link.target}", float(link.bytes), words, "cloud" if backbone else "rest")
        )
    return bars("Bytes over each link", rows)


# ── words ─────────────────────────────────────────────────────────────────────────────────────────


def _quantile(ordered: list[float], share: float) -> float | None:
    return ordered[round(share * (len(ordered) - 1))] if ordered else None


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{1e3 * seconds:.1f} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _signed(share: float | None) -> str:
    return "–" if share is None else f"{share:+.0%}"


def _date(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
