"""A short storm of faults; `d3bed bench chaos` is the long one."""

from __future__ import annotations

import pytest
from rich.console import Console

from d3bed.bench.chaos import run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]


def test_killed_paused_and_cut_off_nothing_is_lost_twice_or_wrong() -> None:
    result = run(None, Console(quiet=True), seed=5, faults=5, minutes=0.3, rounds=0)
    assert result["bad"] == []
    assert result["faults"]["struck"] >= 3
    frames = result["frames"]
    assert frames["last"] == frames["stored"] + frames["not_stored"] > 0 and frames["lost"] == 0
    assert result["end"]["answered"] > 0
