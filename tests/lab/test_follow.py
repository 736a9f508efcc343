"""Snapshot plus events, reduced for the terminal."""

from __future__ import annotations

from d3bed.lab.follow import State


def test_an_agent_event_replaces_what_was_known_of_that_agent() -> None:
    state = State({"agents": [{"agent": "a", "state": "connected", "speed": 1.0}, {"agent": "b"}]})
    state.apply("agent", {"agent": "a", "state": "lost"})
    state.apply("agent", {"agent": "c", "state": "connected"})
    assert state.data["agents"][0] == {"agent": "a", "state": "lost", "speed": 1.0}
    assert [a["agent"] for a in state.data["agents"]] == ["a", "b", "c"]


def test_a_link_is_known_by_both_its_ends() -> None:
    state = State({"links": [{"from": "a", "to": "b", "bytes": 1}]})
    state.apply("link", {"from": "b", "to": "a", "bytes": 5})
    state.apply("link", {"from": "a", "to": "b", "bytes": 2})
    assert [link["bytes"] for link in state.data["links"]] == [2, 5]


def test_frames_are_kept_to_the_last_hundred() -> None:
    state = State({})
    for number in range(150):
        state.apply("frame", {"frame": number})
    assert [f["frame"] for f in state.data["frames"]] == list(range(50, 150))


def test_changes_in_force_are_told_as_a_whole() -> None:
    state = State({"conditions": [{"subject": "edge-1"}, {"subject": "edge-2"}]})
    state.apply("conditions", [{"subject": "edge-2"}])
    assert state.data["conditions"] == [{"subject": "edge-2"}]


def test_kinds_of_a_newer_server_are_ignored() -> None:
    state = State({"agents": []})
    state.apply("weather", {"sun": True})
    assert state.data == {"agents": []}
    assert state.pipeline == {}
