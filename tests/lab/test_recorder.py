"""From the feed of a testbed that people play with to a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d3bed.lab.recorder import Recorder
from d3bed.lab.scenario import (
    Kill,
    Link,
    Load,
    Model,
    Pause,
    Rate,
    Reset,
    Resume,
    Speed,
    Start,
    Strategy,
    read_scenario,
)

STATE: dict[str, Any] = {
    "agents": [{"agent": "pi-1", "state": "connected"}, {"agent": "edge-1", "state": "connected"}],
    "pipelines": [
        {"id": "main", "strategy": "optimal", "model": "alexnet", "rate_per_s": None, "counting": True}
    ],
    "conditions": [],
}


def condition(*agents: str, since_s: float, until_s: float | None = None, **values: float) -> dict[str, Any]:
    return {"agents": list(agents), "values": values, "by": "ann", "since_s": since_s, "until_s": until_s}


class Feed:
    def __init__(self) -> None:
        self.recorder = Recorder(STATE, 100.0)

    def say(self, kind: str, at_s: float, data: Any) -> None:
        self.recorder.saw({"kind": kind, "time_s": 100.0 + at_s, "data": data})

    def conditions(self, at_s: float, *now: dict[str, Any]) -> None:
        self.say("conditions", at_s, list(now))


def test_changes_are_written_with_their_end_and_without_one_for_what_ended_by_itself() -> None:
    feed = Feed()
    link = condition("pi-1", "edge-1", since_s=101, until_s=104, bytes_per_s=1e6, loss=0.01)
    load = condition("edge-1", since_s=102, load=2)
    feed.conditions(1, link)
    feed.conditions(2, link, load)
    feed.conditions(4.05, load)
    feed.conditions(6)
    assert feed.recorder.events == [
        Link(at_s=1, source="pi-1", target="edge-1", mbit_per_s=8, loss_percent=1, for_s=3),
        Load(at_s=2, agent="edge-1", processes=2),
        Load(at_s=6, agent="edge-1", processes=0),
    ]


def test_undone_and_replaced_changes_are_told_apart() -> None:
    feed = Feed()
    first = condition("pi-1", "edge-1", since_s=101, until_s=160, bytes_per_s=1e6)
    second = condition("pi-1", "edge-1", since_s=102, bytes_per_s=2e6)
    feed.conditions(1, first)
    feed.conditions(2, second)
    feed.conditions(3)
    feed.conditions(4, condition("edge-1", since_s=104, speed=0.2))
    feed.conditions(5)
    assert feed.recorder.events == [
        Link(at_s=1, source="pi-1", target="edge-1", mbit_per_s=8, for_s=59),
        Link(at_s=2, source="pi-1", target="edge-1", mbit_per_s=16),
        Reset(at_s=3, source="pi-1", target="edge-1"),
        Speed(at_s=4, agent="edge-1", speed=0.2),
        Speed(at_s=5, agent="edge-1"),
    ]


def test_agents_that_leave_and_return_and_other_wishes_are_recorded() -> None:
    feed = Feed()
    feed.conditions(0.5, condition("edge-1", since_s=100.5, load=2))
    feed.say("agent", 1, {"agent": "edge-1", "state": "connected"})
    feed.say("agent", 2, {"agent": "edge-1", "state": "lost"})
    feed.conditions(2)
    feed.say("agent", 3, {"agent": "edge-1", "state": "connected"})
    feed.say("pipeline", 4, {"id": "main", "strategy": "edge"})
    feed.say("pipeline", 5, {"id": "main", "model": "resnet18", "phase": "loading"})
    feed.say("pipeline", 6, {"id": "main", "phase": "running"})
    feed.say("pipeline", 6.2, {"id": "main", "phase": "idle", "counting": False})
    feed.say("pipeline", 6.6, {"id": "main", "phase": "running", "counting": True})
    feed.say("pipeline", 7, {"id": "main", "rate_per_s": 15.0})
    feed.say("pipeline", 8, {"id": "main", "rate_per_s": None})
    assert feed.recorder.events == [
        Load(at_s=0.5, agent="edge-1", processes=2),
        Kill(at_s=2, agent="edge-1"),
        Start(at_s=3, agent="edge-1"),
        Strategy(at_s=4, strategy="edge", pipeline="main"),
        Model(at_s=5, model="resnet18", pipeline="main"),
        Pause(at_s=6.2, pipeline="main"),
        Resume(at_s=6.6, pipeline="main"),
        Rate(at_s=7, rate_per_s=15, pipeline="main"),
        Rate(at_s=8, pipeline="main"),
    ]


def test_the_file_can_be_played(tmp_path: Path) -> None:
    feed = Feed()
    feed.conditions(1, condition("pi-1", "edge-1", since_s=101, latency_s=0.02))
    feed.say("note", 8, {})
    path = tmp_path / "mine.toml"
    path.write_text(feed.recorder.scenario("mine").to_toml())
    found = read_scenario(path)
    assert (found.events, found.duration_s) == (tuple(feed.recorder.events), 8)
    found.check(("pi-1", "edge-1"), ("main",))
