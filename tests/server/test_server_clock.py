"""The server's clock: what every span and row is dated by."""

from __future__ import annotations

import time

import pytest

from d3bed.server.runner import make_clock


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_wall_clock_that_jumps_moves_no_time(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """Seconds since 1970 at the start, steady from there."""
    clock = make_clock()
    before_s = clock()
    monkeypatch.setattr(time, "time", lambda: before_s + jump_s)
    assert 0 <= clock() - before_s < 60
