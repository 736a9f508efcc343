"""Samples of boards: kept, shown, and an event when one is throttled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from d3bed.core.ids import AgentId
from d3bed.core.measurements import BoardSample
from d3bed.core.messages import BoardSampled, ClockPing

if TYPE_CHECKING:
    from tests.server.conftest import Stage

EDGE_1 = AgentId("edge-1")
CALM = BoardSample(load=0.5, own_cores=0.9, report_cores=0.002, memory=0.3, temperature_c=61.4)
HOT = BoardSample(
    load=1.0, own_cores=0.9, report_cores=0.002, memory=0.3, temperature_c=84.6, throttled="too hot"
)


def test_sample_is_kept_and_shown_until_the_agent_is_lost(stage: Stage) -> None:
    stage.join_all()
    stage.say(EDGE_1, BoardSampled(CALM))
    (row,) = [record.row for record in stage.records if record.table == "boards"]
    assert (row["agent"], row["at_s"], row["temperature_c"]) == (EDGE_1, stage.now, 61.4)
    record = stage.coordinator.world.agents[EDGE_1]
    assert record.view(stage.now).board == CALM
    stage.lose(EDGE_1)
    assert record.view(stage.now).board is None


def test_throttled_board_is_one_event_and_its_end_another(stage: Stage) -> None:
    stage.join_all()
    for second in range(30):
        stage.say(EDGE_1, BoardSampled(HOT if second in (3, 4, 9) else CALM))
        stage.tick(1.0)
    warnings = [text for text in stage.notes("warn") if "edge-1" in text]
    assert warnings == ["edge-1 is slower than it could be: too hot at 85 °C"]
    assert [text for text in stage.notes() if "any more" in text] == ["edge-1 is not throttled any more"]


def test_a_clock_that_jumps_is_an_event_each_time_and_one_that_is_off_is_none(stage: Stage) -> None:
    stage.join_all()
    for hours, off_s in ((0, -7200.0), (0, -7201.0), (1, -7200.0), (1, -7195.0), (0, -7200.0)):
        stage.say(EDGE_1, ClockPing(5.0, stage.now + off_s + 3600 * hours))
        stage.tick(1.0)
    stage.say(EDGE_1, ClockPing(5.0))
    why = "; frames do not go by it, the board's log does (on the board: timedatectl set-ntp true)"
    assert [text for text in stage.notes("warn") if "clock" in text] == [
        f"the clock of edge-1 jumped by 60 min: it is 60 min behind the server's now{why}",
        f"the clock of edge-1 jumped by 60 min: it is 2 h behind the server's now{why}",
    ]
