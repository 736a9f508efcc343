"""The tape: thin, complete where it matters, and enough to show a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.server.schema import Retention
from d3bed.server.store import Store
from d3bed.server.tape import PART_S, PIECE_S, Tape, replay
from d3bed.server.views import AgentView, FramesView, RunView, StateView

STATE = StateView((), (), (), (), (), (), (), ("optimal",), ("alexnet",))


def run(started_s: float, ended_s: float | None) -> RunView:
    return RunView(
        "demo-1-1", PipelineId("demo"), started_s, ended_s, "alexnet", "optimal", "wifi", FramesView()
    )


def agent(name: str, queued: int) -> AgentView:
    return AgentView(
        AgentId(name), Tier.EDGE, 1, "host", "h:1", 1.0, "eager", "0", 1, "f", "connected", queued, 0, 0
    )


class Recording:
    """A tape whose rows go to a store."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory, Retention())
        self.tape = Tape(lambda: STATE)
        self.counting = True

    def tick(self, now: float) -> None:
        for row in self.tape.tick(now, counting=self.counting):
            self.store.put("tape", row, urgent=True)

    def events(self, view: RunView, part: int = 0, now: float = 1e9) -> list[dict[str, Any]]:
        """What a replay gives, from a store that was closed."""
        self.store.close()
        found = replay(self.store.read, view, part, now)
        events: list[dict[str, Any]] = msgspec.json.decode(found.events)
        return events


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(tmp_path)


def test_replay_begins_with_the_whole_state_and_keeps_the_order(recording: Recording) -> None:
    tape = recording.tape
    tape.saw("note", {"text": "before any run"}, None, 99.0)
    recording.tick(100.0)
    tape.saw("note", {"text": "one"}, "1-1", 101.0)
    tape.saw("epoch", {"epoch": 2}, "1-1", 101.0)
    recording.tick(100.0 + PIECE_S)
    tape.saw("note", {"text": "two"}, None, 111.0)
    recording.counting = False
    recording.tick(112.0)
    tape.saw("note", {"text": "after it"}, None, 113.0)
    found = recording.events(run(99.9, 112.0))
    assert [event["kind"] for event in found] == ["snapshot", "note", "epoch", "note"]
    assert found[0]["data"]["strategies"] == ["optimal"]
    assert [event["data"].get("text") for event in found[1:]] == ["one", None, "two"]


def test_of_what_changes_all_the_time_one_event_a_second_is_kept_and_the_last_one(
    recording: Recording,
) -> None:
    recording.tick(100.0)
    for tenth in range(25):
        now = 100.1 + tenth / 10
        recording.tape.saw("agent", agent("edge-1", tenth), None, now)
        recording.tape.saw("agent", agent("edge-2", tenth), None, now)
        recording.tick(now)
    recording.counting = False
    recording.tick(102.7)
    found = [event["data"] for event in recording.events(run(100.0, 102.7)) if event["kind"] == "agent"]
    of_one = [data["queued"] for data in found if data["agent"] == "edge-1"]
    assert of_one == [0, 10, 20, 24]
    assert len(found) == 8


def test_what_left_out_events_say_of_a_pipeline_is_not_lost(recording: Recording) -> None:
    recording.tick(100.0)
    recording.tape.saw("pipeline", {"id": "demo", "phase": "planning"}, None, 100.1)
    recording.tape.saw("pipeline", {"id": "demo", "epoch": 7}, None, 100.2)
    recording.tape.saw("pipeline", {"id": "demo", "phase": "running"}, None, 100.3)
    recording.tick(101.2)
    recording.counting = False
    recording.tick(101.3)
    found = [event["data"] for event in recording.events(run(100.0, 101.3)) if event["kind"] == "pipeline"]
    assert found == [
        {"id": "demo", "phase": "planning"},
        {"id": "demo", "epoch": 7, "phase": "running"},
    ]


def test_long_run_comes_in_parts_each_of_which_stands_alone(recording: Recording) -> None:
    step_s, length_s = 10.0, 2.5 * PART_S
    for number in range(int(length_s / step_s)):
        now = 1000.0 + number * step_s
        recording.tick(now)
        recording.tape.saw("note", {"n": number}, None, now + 1)
    view = run(1000.0, 1000.0 + length_s)
    last = recording.events(view, 2)
    assert last[0]["kind"] == "snapshot"
    assert last[0]["time_s"] >= 1000.0 + 2 * PART_S - step_s
    assert [event["kind"] for event in last].count("snapshot") == 1
    with pytest.raises(IndexError, match="parts 0 to 2"):
        replay(recording.store.read, view, 3, 1e9)


def test_run_of_which_nothing_was_recorded_has_no_events(recording: Recording) -> None:
    assert recording.events(run(100.0, 200.0)) == []
