from __future__ import annotations

import pytest

from d3bed.plan import slowdowns


def test_nobody_else_slows_nothing_down() -> None:
    assert slowdowns([]) == {}
    assert slowdowns([{"edge-1": 0.01}]) == {}


def test_what_is_left_of_a_stage_is_what_others_leave() -> None:
    found = slowdowns([{"edge-1": 0.5, "pi-1→edge-1": 0.2}])
    assert found == {"edge-1": pytest.approx(2.0), "pi-1→edge-1": pytest.approx(1.25)}


def test_shares_of_several_add_up() -> None:
    assert slowdowns([{"vm": 0.25}, {"vm": 0.25}])["vm"] == pytest.approx(2.0)


@pytest.mark.parametrize("others", [1, 2, 5])
def test_taking_turns_bounds_it(others: int) -> None:
    assert slowdowns([{"vm": 1.0}] * others)["vm"] == 1 + others
