"""What is said of measured rounds; the measuring itself needs root."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from d3bed.bench.lab import _table


def told(rounds: list[dict[str, Any]], fault: dict[str, Any] | None) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(_table(rounds, fault))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rounds_are_judged_by_their_worst() -> None:
    rounds = [
        {"up_s": up_s, "first_frame_s": up_s + 1, "down_s": 2.0, "left": left}
        for up_s, left in ((10.0, []), (12.0, []), (31.0, ["namespace x"]))
    ]
    said = told(rounds, None)
    assert "12.0 s" in said and "31.0 s ✗" in said and "2 of 3" in said and "cable" not in said


def test_a_pulled_cable_is_told() -> None:
    fault = {
        "board": "edge-1",
        "replanned_s": 2.5,
        "connected_s": 6.0,
        "longest_s": 3.0,
        "frames": {"lost": 0},
    }
    said = told([], fault)
    assert "2.5 s" in said and "6.0 s ✗" in said and "frames lost" in said
