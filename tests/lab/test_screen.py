"""The demo's terminal page: every number it shows is in the state; unknown ones are dashes."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from d3bed.lab.follow import State
from d3bed.lab.screen import exactness, page

STATE: dict[str, Any] = {
    "agents": [
        {"agent": "pi-1", "tier": "device", "pid": 11, "state": "connected", "speed": 0.1},
        {"agent": "edge-1", "tier": "edge", "pid": 12, "state": "connected", "speed": 1.0},
        {"agent": "edge-2", "tier": "edge", "pid": 13, "state": "lost", "speed": 1.0},
    ],
    "links": [
        {
            "from": "pi-1",
            "to": "edge-1",
            "bytes_per_s": 1e6,
            "target_bytes_per_s": 1e6,
            "achieved_bytes_per_s": 9.5e5,
            "deviation": -0.05,
            "latency_s": 0.002,
        }
    ],
    "pipelines": [
        {
            "id": "main",
            "phase": "running",
            "model": "alexnet",
            "strategy": "optimal",
            "network": "wifi",
            "epoch": 3,
            "plan": ["device", "device", "edge"],
            "plan_text": "device [0-1] input … conv1",
            "route": {"device": "pi-1", "edge": "edge-1"},
            "frames": {"sent": 8, "answered": 7, "lost": 0, "dropped": 0},
            "exact": {"checked": 7, "identical": 7, "max_rel_err": 0.0},
            "latency_s": {"last": 0.1, "median": 0.1234, "p95": 0.2},
            "predicted": {"latency_s": 0.111},
            "compute_s": {"device": 0.05, "edge": 0.01},
        }
    ],
    "frames": [{"compute_s": {"device": 0.0512, "edge": 0.0098}}],
    "notes": [{"text": "edge-2 was lost", "level": "warn", "time_s": 9.0}],
    "decisions": [{"text": "epoch 3: predicted 180 ms, measured 123 ms", "level": "info", "at_s": 8.0}],
}


def rendered(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_shows_plan_times_frames_links_and_notes() -> None:
    text = rendered(page(State(STATE), "http://127.0.0.1:8333", 12.0))
    for shown in (
        "http://127.0.0.1:8333",
        "7 answered of 8 sent, 0 lost",
        "median 123.4 ms",
        "predicted 111.0 ms",
        "all 7 checked answers bit-identical",
        "0.1 emulated",
        "51.2",
        "50.0",
        "pi-1 → edge-1",
        "-5.0%",
        "plan of epoch 3",
        "epoch 3: predicted 180 ms, measured 123 ms",
        "edge-2 was lost",
    ):
        assert shown in text
    assert text.index("measured 123 ms") < text.index("edge-2 was lost")


def test_an_agent_off_the_route_has_no_times() -> None:
    text = rendered(page(State(STATE), "", 0.0))
    line = next(x for x in text.splitlines() if x.startswith("edge") and "edge-2" in x and "lost" in x)
    assert line.count("–") >= 3


def test_what_is_not_known_yet_is_a_dash() -> None:
    text = rendered(page(State({"agents": [], "links": [], "pipelines": [{"id": "main"}]}), "", 1.0))
    assert "–" in text and "no answer checked yet" in text
    assert "starting the server" in rendered(page(None, "", 1.0))


def test_the_next_plan_pushes_nothing_about_while_frames_flow() -> None:
    row = STATE["pipelines"][0] | {"phase": "planning", "phase_text": "optimal plans alexnet"}
    assert "optimal plans" not in rendered(page(State(STATE | {"pipelines": [row]}), "", 1.0))
    first = rendered(page(State(STATE | {"pipelines": [row | {"epoch": None}]}), "", 1.0))
    assert "planning: optimal plans alexnet (1 s since the start)" in first


def test_a_mismatch_is_never_called_exact() -> None:
    across = exactness({"checked": 5, "identical": 3, "max_rel_err": 3e-7})
    wrong = exactness({"checked": 5, "identical": 3, "max_rel_err": 0.4})
    assert "3 of 5" in across.plain and "yellow" in str(across.style)
    assert "4.0e-01" in wrong.plain and "red" in str(wrong.style)


def story(columns: int, lines: int) -> str:
    """The page of a long tour, on a terminal of that size."""
    decision = {"text": "pi-1→edge-1 fell from 80 to 3 Mbit/s → epoch 7: " + "words " * 20, "choice": "move"}
    state = State(
        STATE
        | {
            "decisions": [decision | {"at_s": at_s} for at_s in range(100, 150, 5)]
            + [{"text": "kept as it was", "choice": "keep", "at_s": 149}],
            "notes": [
                {"text": "pi-1→edge-1: 3 Mbit/s, by the scenario", "level": "info", "time_s": 148},
                {"text": "edge-2 lost", "level": "warn", "time_s": 151},
            ],
            "links": STATE["links"] * 12,
        }
    )
    steps = [(147.0, "the Wi-Fi fades (pi-1 ↔ edge-1: 3 Mbit/s)")]
    told = page(
        state,
        "http://x",
        60,
        "47 of 120 s: " + "fading Wi-Fi " * 9,
        steps=steps,
        zero_s=100.0,
        size=(columns, lines),
    )
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    console.print(told)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("size", [(80, 24), (80, 30), (120, 40), (200, 60)])
def test_what_happens_and_why_fits_on_the_terminal_before_links_do(size: tuple[int, int]) -> None:
    text = story(*size)
    assert len(text.splitlines()) <= size[1]
    assert "│ tour " in text and "│ dashboard " in text  # a long line is cut, and pushes nothing out
    assert "0:47 ◇ the Wi-Fi fades (pi-1 ↔ edge-1: 3 Mbit/s)" in text
    assert "0:45 → pi-1→edge-1 fell from 80" in text
    assert "0:51 ▲ edge-2 lost" in text
    assert "by the scenario" not in text and "kept as it was" not in text
    assert size[0] > 120 or "\n│        words words" in text  # beside its time, not below
    assert all(agent in text for agent in ("pi-1 ", "edge-1 ", "edge-2 ")) and "0.1 emulated" in text
    assert ("measured Mbit/s" in text) == (size[1] >= 60)
    assert "Ctrl-C stops everything" in text
