"""What really held while a scenario was played, and what the best plan for it would have taken."""

from __future__ import annotations

import pytest

from d3bed.config import data_dir, read_config
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId
from d3bed.lab.scenario import Event, Kill, Link, Load, Reset, Scenario, Speed
from d3bed.lab.truth import truth
from d3bed.server.circumstances import Circumstances

CONFIG = read_config(data_dir("configs") / "unpinned.toml")
PI, EDGE, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("cloud-1")


def told(*events: Event) -> list[Circumstances]:
    return truth(Scenario("x", "x.toml", "x", 60, events), CONFIG, "ground", 1000.0)


def mbit(seen: Circumstances, source: AgentId, target: AgentId) -> float:
    return next(rate * 8e-6 for a, b, rate, _ in seen.rates if (a, b) == (source, target))


def test_without_changes_it_is_as_configured() -> None:
    (seen,) = told()
    assert (seen.at_s, seen.alone, set(seen.factors.values())) == (1000.0, True, {1.0})
    assert mbit(seen, PI, EDGE) == pytest.approx(80)
    assert (mbit(seen, EDGE, CLOUD), mbit(seen, CLOUD, EDGE)) == pytest.approx((10, 50))


def test_changes_hold_until_their_time_is_over_or_somebody_undoes_them() -> None:
    found = told(
        Link(at_s=5, source="pi-1", target="edge-1", both=True, mbit_per_s=8, for_s=10),
        Link(at_s=7, source="pi-1", target="edge-1", latency_ms=30),
        Link(at_s=20, source="edge-1", target="cloud-1", mbit_per_s=2),
        Reset(at_s=30, source="edge-1", target="cloud-1"),
    )
    assert [seen.at_s - 1000 for seen in found] == [0, 5, 7, 15, 20, 30]
    assert [mbit(seen, PI, EDGE) for seen in found] == pytest.approx([80, 8, 8, 80, 80, 80])
    assert mbit(found[1], EDGE, PI) == pytest.approx(8)
    assert [mbit(seen, EDGE, CLOUD) for seen in found] == pytest.approx([10, 10, 10, 10, 2, 10])
    latencies_s = [rate[3] for seen in found for rate in seen.rates if rate[:2] == (PI, EDGE)]
    assert latencies_s == pytest.approx([0.002, 0.002, 0.03, 0.03, 0.03, 0.03])


def test_loads_and_speeds_are_times_as_slow_as_boards_emulate_them() -> None:
    found = told(
        Load(at_s=5, agent="edge-1", processes=3),
        Speed(at_s=6, agent="pi-1", speed=0.05, for_s=4),
        Load(at_s=12, agent="edge-1", processes=0),
    )
    assert [seen.factors[EDGE] for seen in found] == pytest.approx([1, 4, 4, 4, 1])
    assert [seen.factors[PI] for seen in found] == pytest.approx([1, 1, 2, 1, 1])


def test_what_cannot_be_judged_that_way_is_named() -> None:
    with pytest.raises(ConfigError, match="is no change of a link or a load"):
        told(Kill(at_s=3, agent="edge-1"))
