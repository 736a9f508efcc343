"""Which ways are compared."""

from __future__ import annotations

import pytest

from d3bed.bench.compare.grid import STRATEGIES_COMPARED, Way, ways
from d3bed.core.errors import ConfigError


def test_rivals_are_compared_with_our_input_and_as_published() -> None:
    names = [way.name for way in ways(STRATEGIES_COMPARED)]
    assert names == [
        *("device", "edge", "cloud", "neurosurgeon", "neurosurgeon*", "dads", "dads*"),
        *("layers", "hpa", "optimal", "hpa+vsm", "optimal+vsm"),
    ]
    assert ways(["hpa+vsm"]) == (Way("hpa", "vsm"),)
    assert len(ways(["hpa", "hpa"])) == 1


@pytest.mark.parametrize("name", ["fastest", "dads+vsm", "device+vsm", "dads*", ""])
def test_others_cannot_be_compared(name: str) -> None:
    with pytest.raises(ConfigError, match="optimal"):
        ways([name])
