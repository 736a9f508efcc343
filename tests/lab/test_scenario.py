"""Scenario files: what they say, and what is refused with file, line, key and remedy."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from d3bed.config import read_config
from d3bed.core.errors import ConfigError
from d3bed.lab.camera_day import CHANGES, DURATION_S, camera_day, camera_day_toml
from d3bed.lab.scenario import (
    ACTIONS,
    Event,
    Kill,
    Link,
    Load,
    Pause,
    Rate,
    Resume,
    Scenario,
    Speed,
    Start,
    find_scenario,
    in_words,
    read_scenario,
    shipped_scenarios,
)

HEAD = 'format = "d3bed.scenario/1"\ndescription = "x"\nduration_s = 10\n'
AGENTS, PIPELINES = ("pi-1", "edge-1"), ("main",)


def written(tmp_path: Path, *events: str, head: str = HEAD) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(head + "".join(f"\n[[events]]\n{event}\n" for event in events))
    return path


def test_events_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    found = read_scenario(
        written(
            tmp_path,
            'at_s = 5\naction = "load"\nagent = "edge-1"\nprocesses = 2\nfor_s = 3',
            'at_s = 1.5\naction = "link"\nfrom = "pi-1"\nto = "edge-1"\nboth = true\nmbit_per_s = 8',
        )
    )
    assert found.events == (
        Link(at_s=1.5, source="pi-1", target="edge-1", both=True, mbit_per_s=8.0),
        Load(at_s=5, agent="edge-1", processes=2, for_s=3),
    )
    found.check(AGENTS, PIPELINES)
    assert found.events[0].orders(["main"]) == [
        ("links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 8.0}),
        ("links", {"from": "edge-1", "to": "pi-1", "mbit_per_s": 8.0}),
    ]
    assert found.events[1].orders(["main"]) == [("agents/edge-1/load", {"processes": 2, "for_s": 3.0})]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ('at_s = -1\naction = "kill"\nagent = "pi-1"', r"line 5: events\[0\]\.at_s: -1 .*use 0 to"),
        (
            'at_s = 11\naction = "kill"\nagent = "pi-1"',
            r"events\[0\]\.at_s: 11 is not in .*\(10\)",
        ),
        ('at_s = nan\naction = "kill"\nagent = "pi-1"', r"events\[0\]\.at_s: nan"),
        ('at_s = 1\naction = "kil"\nagent = "pi-1"', r"events\[0\]\.action: no action.*did you mean kill"),
        ("at_s = 1", r"line 5: events\[0\]\.action: is missing"),
        ('at_s = 1\naction = "kill"\nagnet = "pi-1"', r"events\[0\]\.agnet: no such key.*agent"),
        ('at_s = 1\naction = "kill"', r"events\[0\]\.agent: is missing"),
        ('action = "kill"\nagent = "pi-1"', r"events\[0\]\.at_s: is missing"),
        ('at_s = 1\naction = "load"\nagent = "pi-1"\nprocesses = 65', r"events\[0\]\.processes: .*<= 64"),
        ('at_s = 1\naction = "load"\nagent = "pi-1"\nprocesses = 1\nfor_s = 0', r"events\[0\]\.for_s"),
        ('at_s = 1\naction = "link"\nfrom = "pi-1"\nto = "edge-1"', r"events\[0\]: changes nothing.*give"),
        ('at_s = 1\naction = "link"\nform = "pi-1"\nto = "edge-1"', r"events\[0\]\.form: no such key.*from"),
        ('at_s = "soon"\naction = "kill"\nagent = "pi-1"', r"events\[0\]\.at_s: Expected `float`"),
    ],
)
def test_a_mistake_is_named_with_line_key_and_remedy(tmp_path: Path, event: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: .*" + says):
        read_scenario(written(tmp_path, event))


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("", r"format: is missing — begin the file"),
        ('format = "d3bed.scenario/2"\n', "format: 'd3bed.scenario/2' is not 'd3bed.scenario/1'"),
        ('format = "d3bed.scenario/1"\nduration_s = 3\n', "description: is missing"),
        (HEAD + "speed = 3\n", "speed: no such key"),
        (HEAD.replace("10", "-10"), "duration_s: .*> 0"),
        ("format = d3bed\n", "not valid TOML: .*line 1"),
    ],
)
def test_a_wrong_head_is_named(tmp_path: Path, head: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: " + says):
        read_scenario(written(tmp_path, head=head))


@pytest.mark.parametrize(
    ("events", "says"),
    [
        (('at_s = 1\naction = "kill"\nagent = "egde-1"',), r"line 5: events\[0\]\.agent: no agent.*edge-1\?"),
        (
            ('at_s = 1\naction = "reset"\nfrom = "pi-1"\nto = "edge-9"',),
            r"events\[0\]\.to: no agent named 'edge-9'",
        ),
        (
            ('at_s = 1\naction = "strategy"\nstrategy = "edge"\npipeline = "mian"',),
            r"events\[0\]\.pipeline: no pipeline named 'mian' — did you mean main\?",
        ),
        (
            (
                'at_s = 1\naction = "kill"\nagent = "edge-1"',
                'at_s = 2\naction = "load"\nagent = "edge-1"\nprocesses = 1',
            ),
            r"line 10: events\[1\]: edge-1 has left at 1 s — have it started before",
        ),
        (('at_s = 1\naction = "start"\nagent = "edge-1"',), r"events\[0\]: edge-1 is running"),
        (
            ('at_s = 1\naction = "pause"', 'at_s = 2\naction = "pause"\npipeline = "main"'),
            r"events\[1\]: frames of main do not flow — have it resumed before",
        ),
        (
            ('at_s = 1\naction = "resume"', 'at_s = 2\naction = "resume"'),
            r"events\[1\]: frames of main flow already",
        ),
    ],
)
def test_what_does_not_fit_the_testbed_is_named(tmp_path: Path, events: tuple[str, ...], says: str) -> None:
    found = read_scenario(written(tmp_path, *events))
    with pytest.raises(ConfigError, match=says):
        found.check(AGENTS, PIPELINES)


def test_an_agent_may_be_loaded_again_once_it_was_started_again() -> None:
    events = (Kill(at_s=1, agent="edge-1"), Start(at_s=2, agent="edge-1"), Speed(at_s=3, agent="edge-1"))
    Scenario("x", "x.toml", "x", 10, events, ("a", "b", "c")).check(AGENTS, PIPELINES)
    assert events[2].orders(["main"]) == [("agents/edge-1/speed", {"speed": None})]


def test_an_event_is_of_one_pipeline_or_of_all_and_one_that_is_resumed_first_has_no_frames_before() -> None:
    events = (Rate(at_s=1, rate_per_s=5), Resume(at_s=2, pipeline="door"), Pause(at_s=3))
    found = Scenario("x", "x.toml", "x", 10, events, ("a", "b", "c"))
    found.check(AGENTS, ("yard", "door"))
    assert [found.begins_with_frames(name) for name in ("yard", "door")] == [True, False]
    assert events[0].orders(["yard", "door"]) == [
        ("pipelines/yard/rate", {"rate_per_s": 5.0}),
        ("pipelines/door/rate", {"rate_per_s": 5.0}),
    ]
    assert events[1].orders(["yard", "door"]) == [("pipelines/door/start", {})]


def test_a_written_scenario_reads_as_it_was(tmp_path: Path) -> None:
    day = camera_day()
    path = tmp_path / "camera-day.toml"
    path.write_text(camera_day_toml())
    read = read_scenario(path)
    assert (read.events, read.duration_s, read.seed) == (day.events, day.duration_s, day.seed)


def test_the_shipped_scenarios_fit_the_testbeds_that_they_name() -> None:
    names = [path.stem for path in shipped_scenarios()]
    assert {"wifi-fades", "edge-overloaded", "backbone-congested", "edge-dies", "cloud-gone"} <= set(names)
    for path in shipped_scenarios():
        found = read_scenario(path)
        config = read_config(found.testbed)
        found.check([agent.name for agent in config.agents], [pipeline.id for pipeline in config.pipelines])
        assert found.events and found.description


def test_the_day_of_a_camera_is_what_its_seed_makes() -> None:
    path = find_scenario("camera-day")
    assert path.read_text() == camera_day_toml()
    assert camera_day(1).events != camera_day(2).events


@pytest.mark.parametrize("seed", range(50))
def test_a_day_has_forty_changes_that_are_some(seed: int) -> None:
    day = camera_day(seed)
    times_s = sorted({event.at_s for event in day.events})
    assert len(times_s) == CHANGES == 40
    gaps_s = [b - a for a, b in itertools.pairwise([0.0, *times_s, DURATION_S])]
    assert min(gaps_s[1:-1]) > 1.95 and min(gaps_s) > 0.95
    now: dict[object, float] = {}
    for event in day.events:
        assert isinstance(event, Link | Load)
        what = (event.source, event.target) if isinstance(event, Link) else event.agent
        value = event.mbit_per_s if isinstance(event, Link) else event.processes
        assert value is not None and now.get(what) != value
        now[what] = value


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean wifi-fades"):
        find_scenario("wifi-fade")


def test_every_action_of_the_reference_is_known() -> None:
    assert set(ACTIONS) >= {"link", "reset", "load", "speed", "kill", "stop", "start", "strategy", "model"}
    assert set(ACTIONS) >= {"rate", "pause", "resume"}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        (
            [Link(at_s=1, source="a", target="b", both=True, mbit_per_s=8, for_s=20)],
            "a ↔ b: 8 Mbit/s for 20 s",
        ),
        (
            [
                Link(at_s=1, source="a", target=target, mbit_per_s=0.5, latency_ms=10, loss_percent=2)
                for target in "bc"
            ],
            "a → b, a → c: 0.5 Mbit/s, 10 ms, 2 % loss",
        ),
        ([Load(at_s=1, agent="a", processes=1), Kill(at_s=1, agent="b")], "a: 1 busy process; b: it crashes"),
        ([Load(at_s=1, agent="a", processes=0)], "a: no other work any more"),
        ([Rate(at_s=1, rate_per_s=12.5)], "12.5 frames a second"),
        ([Rate(at_s=1, pipeline="door")], "door: frames come one after the other"),
        ([Speed(at_s=1, agent="a", says="it cools down")], "it cools down (a: its configured speed again)"),
    ],
)
def test_what_happens_at_once_is_said_in_words(events: list[Event], words: str) -> None:
    assert in_words(events) == words
    told = Scenario("x", "x.toml", "x", 10, tuple(events), ("",) * len(events))
    told.check("abc", ["door"])
    assert told.to_toml().count("says") == sum(event.says is not None for event in events)
    assert all("says" not in body for event in events for _, body in event.orders(["door"]))


def test_every_action_has_words() -> None:
    values: dict[str, Any] = {
        "source": "a",
        "target": "b",
        "agent": "a",
        "processes": 1,
        "strategy": "hpa",
        "model": "vgg16",
    }
    for kind in ACTIONS.values():
        known = {key: value for key, value in values.items() if key in kind.__struct_fields__}
        assert in_words([kind(at_s=1, **known)]), kind
