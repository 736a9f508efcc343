"""Regret in hindsight: nothing where the plan in force is the exact one, the true price where it is not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import AgentId, CauseId, Epoch, PipelineId, Tier
from d3bed.core.plan import Plan
from d3bed.lab.hindsight import LAG_S, hindsight, planned, static_s
from d3bed.server.circumstances import Circumstances, Ground
from d3bed.server.history import RunHistory
from d3bed.server.views import (
    EpochHistory,
    EventHistory,
    ExactView,
    FrameSeries,
    FramesView,
    LatencyReport,
    RunReport,
    RunView,
)

DEVICE, EDGE = AgentId("pi-1"), AgentId("edge-1")
MAPS = (TensorSpec((1, 8, 8, 8), "float32"),)
GRAPH = Graph(
    "two",
    (
        Vertex("input", "input", (TensorSpec((1, 3, 100, 100), "uint8"),)),
        Vertex("a", "conv2d", MAPS),
        Vertex("b", "conv2d", MAPS),
    ),
    (Edge(0, 1), Edge(1, 2)),
    (Value(2),),
)
#: The photo takes 30 ms over a fast link, the answer 2 ms; the device alone takes 200 ms, the edge 20 ms.
GROUND = Ground(
    PipelineId("demo"), DEVICE, GRAPH, {DEVICE: Tier.DEVICE, EDGE: Tier.EDGE},
    {DEVICE: (0.0, 0.1, 0.1), EDGE: (0.0, 0.01, 0.01)}, {}, (), "none",
)  # fmt: skip
FAST, SLOW = 1e6, 1e4
ALONE, AWAY = "device [0-2]\nedge   []\ncloud  []", "device [0]\nedge   [1-2]\ncloud  []"


def seen(at_s: float, bytes_per_s: float, *, factor: float = 1.0, alone: bool = True) -> Circumstances:
    rates = ((DEVICE, EDGE, bytes_per_s, 0.0), (EDGE, DEVICE, bytes_per_s, 0.0))
    return Circumstances(1000.0 + at_s, "g", alone, {DEVICE: factor, EDGE: 1.0}, rates)


def epoch(number: int, at_s: float, plan: str) -> EpochHistory:
    route = {Tier.DEVICE: DEVICE} | ({Tier.EDGE: EDGE} if plan == AWAY else {})
    return EpochHistory(
        Epoch(number), "optimal", "two", "", CauseId("1-1"), 1000.0 + at_s, 0, 0.1, plan, route, 1, 0.1
    )  # fmt: skip


Make = Callable[..., RunHistory]


@pytest.fixture
def make() -> Make:
    def history(circumstances: list[Circumstances], *epochs: EpochHistory) -> RunHistory:
        counts = FramesView(1, 1, 0)
        report = RunReport(
            "d3bed.report/1", "two", "optimal", "wifi", counts, ExactView(), LatencyReport(None, None, None),
            {}, (), (), (), {},
        )  # fmt: skip
        return RunHistory(
            format="d3bed.history/1",
            run=RunView("r", PipelineId("demo"), 1000.0, 1010.0, "two", "optimal", "wifi", counts),
            report=report,
            server=None,
            epochs=epochs,
            decisions=(),
            events=(),
            frames=FrameSeries("r", *((),) * (len(FrameSeries.__struct_fields__) - 1)),
            circumstances=tuple(circumstances),
            grounds={"g": GROUND},
        )

    return history


def test_exact_plan_in_force_is_no_regret(make: Make) -> None:
    found = hindsight(make([seen(0.0, FAST)], epoch(1, -1.0, AWAY)))
    (judged,) = found.judged
    assert (judged.start_s, judged.end_s) == (0.0, 10.0)
    assert judged.best_s == judged.kept_s == pytest.approx(0.052, rel=0.01)
    assert found.regret == 0.0 and found.problem == ""


def test_plan_that_was_kept_too_long_is_regretted_for_that_time(make: Make) -> None:
    """The link is slow from the fourth second on (seen half a second later), the switch is in the sixth."""
    found = hindsight(
        make([seen(0.0, FAST), seen(4.0 + LAG_S, SLOW)], epoch(1, -1.0, AWAY), epoch(2, 6.0, ALONE))
    )
    assert [(j.start_s, j.end_s) for j in found.judged] == [(0, 4), (4, 6), (6, 10)]
    assert [j.best_s for j in found.judged] == pytest.approx([0.052, 0.2, 0.2], rel=0.01)
    assert found.judged[1].kept_s == pytest.approx(3.225, rel=0.01)
    assert found.judged[2].kept_s == pytest.approx(0.2)
    middle = found.judged[1]
    assert middle.kept_s is not None
    assert found.regret == pytest.approx(0.2 * (middle.kept_s / middle.best_s - 1))


def test_change_whose_time_is_known_counts_from_then(make: Make) -> None:
    history = make([seen(0.0, FAST), seen(6.0, SLOW)], epoch(1, -1.0, AWAY))
    known = (EventHistory(1003.5, "note", "the link fades", "info", None, None),)
    found = hindsight(msgspec.structs.replace(history, events=known))
    assert [(j.start_s, j.end_s) for j in found.judged] == [(0, 3.5), (3.5, 10)]


def test_slower_agent_is_counted(make: Make) -> None:
    found = hindsight(make([seen(0.0, SLOW, factor=2.0)], epoch(1, -1.0, ALONE)))
    assert found.judged[0].best_s == pytest.approx(0.4)


def test_plan_that_could_not_be_carried_out_any_more_is_told_apart(make: Make) -> None:
    gone = msgspec.structs.replace(seen(0.0, FAST), factors={DEVICE: 1.0}, rates=())
    (judged,) = hindsight(make([gone], epoch(1, -1.0, AWAY))).judged
    assert judged.kept_s is None and judged.best_s == pytest.approx(0.2)


def test_what_cannot_be_judged_says_why(make: Make) -> None:
    assert "not recorded" in hindsight(make([], epoch(1, -1.0, AWAY))).problem
    assert "overlapped" in hindsight(make([seen(0.0, FAST, alone=False)], epoch(1, -1.0, AWAY))).problem
    assert "does not allow" in hindsight(make([seen(11.0, FAST)], epoch(1, -1.0, AWAY))).problem
    lost = msgspec.structs.replace(make([seen(0.0, FAST)], epoch(1, -1.0, AWAY)), grounds={})
    assert "does not allow" in hindsight(lost).problem


def test_only_the_time_in_which_frames_overlapped_is_left_out(make: Make) -> None:
    held = [seen(0.0, FAST), seen(4.0 + LAG_S, FAST, alone=False), seen(7.0 + LAG_S, FAST)]
    found = hindsight(make(held, epoch(1, -1.0, AWAY)))
    assert [(j.start_s, j.end_s) for j in found.judged] == [(0, 4), (7, 10)] and found.skips
    assert not hindsight(make(held[:1], epoch(1, -1.0, AWAY))).skips


def test_many_circumstances_are_thinned_out(make: Make) -> None:
    many = [seen(n / 100, FAST if n % 2 else SLOW) for n in range(900)]
    assert 50 <= len(hindsight(make(many, epoch(1, -1.0, AWAY))).judged) <= 200


def test_what_is_known_to_have_held_counts_from_then_on_and_frames_count_as_they_come(make: Make) -> None:
    """5 s at 50 ms and 5 s at 200 ms are 100 and 25 frames: 80 ms on average."""
    history = make([], epoch(1, 0, AWAY))
    found = hindsight(history, [seen(0, FAST), seen(5, SLOW)])
    assert [(j.start_s, j.end_s) for j in found.judged] == [(0, 5), (5, 10)]
    assert found.best_s == pytest.approx(10 / (5 / found.judged[0].best_s + 5 / 0.2))
    assert found.regret is not None and found.regret > 1


def test_one_plan_all_the_time_takes_what_its_frames_take(make: Make) -> None:
    held = [seen(0, FAST), seen(5, FAST, factor=3.0)]
    alone = Plan.parse(ALONE)
    assert static_s(GROUND, held, 1010.0, alone, {Tier.DEVICE: DEVICE}) == pytest.approx(
        10 / (5 / 0.2 + 5 / 0.6)
    )
    assert static_s(GROUND, held, 1010.0, alone, {}) is None, "nobody to run it"
    assert planned(GROUND, held[1], "device").latency_s == pytest.approx(0.6)
