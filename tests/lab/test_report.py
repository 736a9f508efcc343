"""The report of a run: the page carries everything, the table has a line per frame, mistakes are named."""

from __future__ import annotations

import csv
import gzip
import io
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from d3bed.cli import app
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, Tier
from d3bed.lab.figures import backbone_bytes, binned, changes, emulated, off, story, switches
from d3bed.lab.report import as_csv, as_html, as_json, stored
from d3bed.server.history import RunHistory
from d3bed.server.store import Store

DEVICE, EDGE, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm-1")


def agent(name: AgentId, tier: Tier, speed: float) -> dict[str, Any]:
    return {
        "agent": name, "tier": tier, "pid": 1, "data_address": "127.0.0.1:4000", "speed": speed,
        "engine": "eager", "threads": 1, "fingerprint": "torch 2",
    }  # fmt: skip


def link(source: AgentId, target: AgentId, size: int, mbit: float | None) -> dict[str, Any]:
    return {
        "from": source, "to": target, "bytes": size, "target_bytes_per_s": mbit and mbit / 8e-6,
        "achieved_bytes_per_s": None, "deviation": mbit and 0.01,
    }  # fmt: skip


def epoch(number: int, at_s: float, predicted_s: float, measured_s: float | None) -> dict[str, Any]:
    return {
        "epoch": number, "strategy": "optimal", "model": "alexnet", "cause": "start", "cause_id": "1-1",
        "activated_at": at_s, "moved": 0, "predicted_s": predicted_s, "plan": "device [0-3]", "route": {},
        "frames": 50, "measured_s": measured_s,
    }  # fmt: skip


def event(at_s: float, text: str, pipeline: str | None = None, kind: str = "note") -> dict[str, Any]:
    level = "warn" if "lost" in text else "info"
    return {
        "at_s": at_s, "kind": kind, "text": text, "level": level, "pipeline": pipeline, "cause_id": None,
    }  # fmt: skip


@pytest.fixture
def history() -> RunHistory:
    """100 frames in 10 s; from the sixth second on an epoch that takes twice as long as predicted."""
    started_s = [1000.0 + i / 10 for i in range(100)]
    late = [i >= 60 for i in range(100)]
    frames = {
        "run": "demo-1-1", "frame": list(range(1, 101)), "epoch": [2 if x else 1 for x in late],
        "started_s": started_s, "latency_s": [0.2 if x else 0.1 for x in late],
        "device_s": [0.03] * 100, "edge_s": [None if x else 0.02 for x in late],
        "cloud_s": [0.01] * 100, "waited_s": [0.0] * 100, "attempts": [1] * 99 + [2],
        "identical": [True] * 100,
    }  # fmt: skip
    counts = {"sent": 100, "answered": 100, "lost": 0}
    built = {
        "format": "d3bed.history/1",
        "run": {
            "id": "demo-1-1", "pipeline": "demo", "started_s": 1000.0, "ended_s": 1010.0, "model": "alexnet",
            "strategy": "optimal", "network": "wifi", "frames": counts,
        },
        "report": {
            "format": "d3bed.report/1", "model": "alexnet", "strategy": "optimal", "network": "wifi",
            "frames": counts, "exact": {"checked": 100, "identical": 100, "max_rel_err": 0.0},
            "latency_s": {"median": 0.1, "p95": 0.2, "predicted": 0.1}, "compute_s": {},
            "agents": [
                agent(DEVICE, Tier.DEVICE, 0.1), agent(EDGE, Tier.EDGE, 1), agent(CLOUD, Tier.CLOUD, 1),
            ],
            "links": [
                link(DEVICE, EDGE, 5000, 80.0), link(EDGE, CLOUD, 300, None), link(CLOUD, EDGE, 20, None),
            ],
            "epochs": [], "plan": {},
        },
        "server": None,
        "epochs": [epoch(1, 999.0, 0.1, 0.1), epoch(2, 1006.0, 0.1, 0.2)],
        "decisions": [
            {
                "pipeline": "demo", "cause_id": "1-2", "at_s": 1006.0, "cause": "edge-1 lost", "seen": [],
                "alternatives": [{"plan": "all on vm-1", "predicted_s": 0.4321}], "choice": "move",
                "epoch": 2, "plan": "device", "reason": "", "kept_s": None, "predicted_s": 0.1,
                "level": "info", "text": "edge-1 lost → epoch 2",
            },
        ],
        "events": [
            event(990.0, "pi-1 (device) joined"),
            event(1005.0, "edge-1 lost: <its> connection closed"),
            event(1005.0, "edge-1: speed 0.5 set", kind="condition"),
            event(1009.0, "run demo-1-1 ended", "demo"),
        ],
        "frames": frames,
    }  # fmt: skip
    return msgspec.convert(built, RunHistory)


def test_bins_add_up_to_the_latency(history: RunHistory) -> None:
    bins = binned(history, 10)
    assert sum(b.frames for b in bins) == 100
    first, last = bins[0], bins[-1]
    assert (first.low_s, first.median_s, first.high_s) == pytest.approx((0.1, 0.1, 0.1))
    assert sum(first.compute_s.values()) + first.rest_s == pytest.approx(0.1)
    assert first.rest_s == pytest.approx(0.04)
    assert last.compute_s[Tier.EDGE] == 0.0 and last.rest_s == pytest.approx(0.16)
    assert all(0.0 <= a.start_s < a.end_s <= b.end_s for a, b in zip(bins, bins[1:], strict=False))


def test_marks_are_what_happened_within_the_run(history: RunHistory) -> None:
    assert [(mark.at_s, mark.label) for mark in switches(history)] == [(6.0, "e2")]
    assert [mark.text for mark in changes(history)] == ["edge-1 lost: <its> connection closed"]


def test_backbone_is_what_touches_the_cloud(history: RunHistory) -> None:
    assert backbone_bytes(history) == 320


def test_prediction_that_fails_is_told_as_a_share(history: RunHistory) -> None:
    assert [off(each) for each in history.epochs] == pytest.approx([0.0, 1.0])


def test_what_is_emulated_is_said(history: RunHistory) -> None:
    words = "\n".join(emulated(history))
    assert "pi-1 really computed" in words and "10 times slower" in words
    assert "pi-1→edge-1 80 (off by +1.0%)" in words and "edge-1→vm-1" not in words
    assert "1 times while it ran" in words


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [str(value) for key, value in attrs if key in ("src", "href")]
        self.outside += [tag] if tag in ("script", "link", "iframe", "img") else []
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(history: RunHistory) -> None:
    page = as_html(history)
    parser = _Links()
    parser.feed(page)
    parser.close()
    assert parser.open == [] and parser.outside == []
    assert "url(http" not in page and "@import" not in page
    assert "edge-1 lost: &lt;its&gt; connection closed" in page and "<its>" not in page
    assert ">+100%<" in page and "bit-identical" in page and "320 B" in page
    assert page.count("speed 0.5 set") == 0
    assert "432 ms</td><td>all on vm-1" in page


def test_story_is_in_order_and_tells_decisions_from_changes(history: RunHistory) -> None:
    told = [(entry.at_s, entry.about, entry.level) for entry in story(history)]
    assert told == [
        (-10.0, "change", "info"),
        (5.0, "change", "warn"),
        (6.0, "decision", "info"),
        (9.0, "note", "info"),
    ]


def test_looks_in_a_row_that_came_to_nothing_are_one_line_that_opens(history: RunHistory) -> None:
    (move,) = history.decisions
    kept = [
        msgspec.structs.replace(move, choice="keep", at_s=1006.0 + n, text=f"kept {n}") for n in (1, 2, 4)
    ]
    told = msgspec.structs.replace(history, decisions=(move, *kept))
    assert [(e.about, e.text) for e in story(told)][2:] == [
        ("decision", "edge-1 lost → epoch 2"),
        ("kept", "2 times the plan was looked at and kept"),
        ("note", "run demo-1-1 ended"),
        ("kept", "kept 4"),
    ]
    page = as_html(told)
    assert "<time>7 s</time> kept 1" in page and ">kept 4</summary>" in page


def test_a_bad_moment_does_not_flatten_the_stacks(history: RunHistory) -> None:
    columns = msgspec.to_builtins(history.frames)
    bad = columns | {"latency_s": [0.1] * 98 + [9.0, 9.0]}
    page = as_html(msgspec.structs.replace(history, frames=msgspec.convert(bad, type(history.frames))))
    stacks = page[page.index("Compute per tier and the rest") :]
    assert ">400</text>" in stacks and ">2000</text>" not in stacks[: stacks.index("</svg>")]


def test_long_run_is_drawn_as_a_band_and_stays_small(history: RunHistory) -> None:
    columns = msgspec.to_builtins(history.frames)
    many = {key: value if key == "run" else value * 200 for key, value in columns.items()}
    page = as_html(msgspec.structs.replace(history, frames=msgspec.convert(many, type(history.frames))))
    assert 'class="band frame"' in page and len(page) < 300_000


def test_hundreds_of_switches_neither_hide_the_plots_nor_make_the_page_long(history: RunHistory) -> None:
    last = history.epochs[1]
    many = [msgspec.structs.replace(last, epoch=n, activated_at=1000.0 + n / 20) for n in range(1, 200)]
    page = as_html(msgspec.structs.replace(history, epochs=tuple(many)))
    assert 'class="scroll long" tabindex="0"' in page and ">e1</text>" not in page
    assert page.count("V12.0") == 2 * 199 * 2, "two lines of each switch in two plots, at their upper edge"
    few = as_html(history)
    assert 'class="scroll"' in few and ">e2</text>" in few and "V12.0" not in few


def test_run_without_frames_or_end_is_told_too(history: RunHistory) -> None:
    empty = {"run": "demo-1-1"} | {key: () for key in history.frames.__struct_fields__[1:]}
    run = msgspec.structs.replace(history.run, ended_s=None)
    page = as_html(
        msgspec.structs.replace(
            history,
            run=run,
            epochs=(),
            events=(),
            decisions=(),
            frames=msgspec.convert(empty, type(history.frames)),
        )
    )
    assert "so far" in page and "Nothing is recorded." in page


def test_table_has_a_line_per_frame(history: RunHistory) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(history))))
    assert len(rows) == 100
    assert rows[0]["started_s"] == "0.000000" and rows[0]["edge_s"] == "0.020000"
    assert rows[99]["edge_s"] == "" and rows[99]["attempts"] == "2" and rows[99]["epoch"] == "2"


def test_json_is_the_history_again(history: RunHistory) -> None:
    assert msgspec.json.decode(as_json(history), type=RunHistory) == history


@pytest.fixture
def data_dir(tmp_path: Path, history: RunHistory) -> Path:
    """A server's folder with that run in it, as far as rows of `runs` and `frames` tell it."""
    store, shift_s = Store(tmp_path / "data"), time.time() - 1000.0
    view = msgspec.to_builtins(history.run) | {"started_s": 1000.0 + shift_s, "ended_s": 1010.0 + shift_s}
    row = {"id": view["id"], "pipeline": "demo", "started_s": view["started_s"], "ended_s": view["ended_s"]}
    store.put("runs", row | {"view": view, "report": msgspec.to_builtins(history.report)})
    columns = msgspec.to_builtins(history.frames)
    for i in range(100):
        frame = {key: value if key == "run" else value[i] for key, value in columns.items()}
        store.put("frames", frame | {"started_s": frame["started_s"] + shift_s})
    store.close()
    return tmp_path / "data"


def test_command_reads_a_data_folder_without_a_server(data_dir: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("r.html", "r.json", "r.csv")]
    options = ["--html", files[0], "--json", files[1], "--csv", files[2], "--data-dir", data_dir]
    result = CliRunner().invoke(app, ["report", *map(str, options)], catch_exceptions=False)
    assert result.exit_code == 0 and "run demo-1-1: 100 of 100 frames answered, 0 lost" in result.output
    assert "Run demo-1-1" in files[0].read_text()
    assert msgspec.json.decode(files[1].read_bytes(), type=RunHistory).frames.frame[-1] == 100
    assert len(files[2].read_text().splitlines()) == 101
    packed = tmp_path / "trace.json.gz"
    result = CliRunner().invoke(
        app, ["trace", "-o", str(packed), "--data-dir", str(data_dir)], catch_exceptions=False
    )
    assert result.exit_code == 0 and "run demo-1-1: 0 frames in" in result.output.replace("\n", " ")
    assert msgspec.json.decode(gzip.decompress(packed.read_bytes()))["otherData"]["run"] == "demo-1-1"


def test_mistakes_are_named(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such run — the latest are demo-1-1"):
        stored(data_dir, "demo-9-9")
    with pytest.raises(ConfigError, match="holds no database"):
        stored(tmp_path / "elsewhere", None)
    (tmp_path / "d3bed.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match="cannot be read"):
        stored(tmp_path, None)
    with pytest.raises(ConfigError, match="nothing to write"):
        CliRunner().invoke(app, ["report", "--data-dir", str(data_dir)], catch_exceptions=False)
    missing = tmp_path / "no" / "r.html"
    with pytest.raises(ConfigError, match="cannot be written"):
        CliRunner().invoke(
            app, ["report", "--data-dir", str(data_dir), "--html", str(missing)], catch_exceptions=False
        )
