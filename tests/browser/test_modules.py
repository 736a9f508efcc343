"""The page's pure modules, run where they will run: in the browser."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Page

from d3bed.lab.scenario import Link, Load, read_scenario
from d3bed.server.pages import _compact
from d3bed.server.views import StateView, graph_view
from tests import examples
from tests.browser.conftest import ROOT, made_graph

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.asyncio(loop_scope="session")]

if typing.TYPE_CHECKING:
    from tests.browser.conftest import Testbed


@pytest_asyncio.fixture(loop_scope="session")
async def modules(page: Page, testbed: Testbed) -> Page:
    """A page in which `load(name)` imports a module."""
    await page.goto(testbed.address)
    await page.evaluate("() => { window.load = name => import(`/static/${name}.js`) }")
    return page


async def run(page: Page, module: str, body: str, value: object = None) -> Any:
    """What `body`, a function of the module `m` and of `value`, returns."""
    return await page.evaluate(f"async value => {{ const m = await load('{module}'); {body} }}", value)


async def test_numbers_have_units_and_the_unknown_stays_unknown(modules: Page) -> None:
    shown = await run(
        modules,
        "format",
        """return [
            m.duration(null), m.duration(undefined), m.duration(NaN), m.duration(0.0082), m.duration(0.271),
            m.duration(0.9996), m.duration(1.236), m.rate(null), m.rate(1e7), m.rate(1.25e8), m.rate(1.5e8),
            m.bytes(0), m.bytes(512), m.bytes(774400), m.bytes(999999), m.bytes(12.8e6), m.bytes(null),
            m.deviation(-0.031), m.deviation(0.004), m.deviation(0.00001), m.deviation(null),
            m.count(12345), m.plural(1, "tensor"), m.plural(2, "vertex", "vertices"),
            m.speed(1), m.speed(0.2), m.speed(null), m.shape([1, 3, 8, 8], "uint8"),
            m.text(""), m.error(3e-7),
        ]""",
    )
    assert shown == [
        *["–", "–", "–", "8.20 ms", "271 ms"],
        *["1.00 s", "1.24 s", "–", "80.0 Mbit/s", "1.00 Gbit/s", "1.20 Gbit/s"],
        *["0 B", "512 B", "774 KB", "1.00 MB", "12.8 MB", "–"],
        *["−3.1 %", "+0.4 %", "±0.0 %", "–"],
        *["12,345", "1 tensor", "2 vertices"],
        *["1×", "0.2× emulated", "–", "[1, 3, 8, 8] uint8", "–", "3e-7"],
    ]


@pytest.mark.parametrize(
    ("exact", "same", "level"),
    [
        (None, True, "unknown"),
        ({"checked": 0, "identical": 0, "max_rel_err": None}, True, "unknown"),
        ({"checked": 5, "identical": 5, "max_rel_err": 0.0}, True, "exact"),
        ({"checked": 5, "identical": 4, "max_rel_err": 3e-7}, False, "close"),
        ({"checked": 5, "identical": 4, "max_rel_err": 3e-7}, True, "mismatch"),  # equal bits were promised
        ({"checked": 5, "identical": 4, "max_rel_err": 2e-5}, False, "mismatch"),
        ({"checked": 5, "identical": 4, "max_rel_err": None}, False, "mismatch"),
    ],
)
async def test_exactness_is_judged_by_what_the_fingerprints_promise(
    modules: Page, exact: object, same: bool, level: str
) -> None:
    judged = await run(modules, "format", "return m.exactness(value[0], value[1])", [exact, same])
    assert judged["level"] == level
    if exact and level != "unknown":
        assert "of 5" in judged["text"]


SNAPSHOT = {
    "type": "snapshot",
    "seq": 7,
    "now": 100.0,
    "state": {
        "agents": [{"agent": "pi-1", "state": "connected"}, {"agent": "vm-1", "state": "connected"}],
        "links": [{"from": "pi-1", "to": "vm-1", "bytes": 1}],
        "pipelines": [{"id": "demo", "phase": "running", "strategy": "optimal", "graph": {"width": 3}}],
        "epochs": [{"pipeline": "demo", "epoch": 1, "state": "active"}],
        "frames": [],
        "notes": [],
        "strategies": ["optimal"],
        "models": ["alexnet"],
    },
}


def events(first: int, *found: tuple[str, Mapping[str, object]]) -> dict[str, object]:
    listed = [
        {"seq": first + n, "time_s": 101.0, "kind": kind, "cause_id": None, "data": data}
        for n, (kind, data) in enumerate(found)
    ]
    return {"type": "events", "seq": first + len(found) - 1, "now": 101.0, "events": listed}


REDUCE = "return value.reduce(m.reduce, m.EMPTY)"


async def test_snapshot_replaces_everything(modules: Page) -> None:
    later = {
        **SNAPSHOT,
        "seq": 3,
        "state": {**typing.cast("dict[str, Any]", SNAPSHOT["state"]), "agents": []},
    }
    state = await run(modules, "store", REDUCE, [SNAPSHOT, later])
    assert state["seq"] == 3
    assert state["agents"] == []
    assert state["models"] == ["alexnet"]


async def test_events_change_the_thing_that_their_keys_name(modules: Page) -> None:
    change = events(
        8,
        ("agent", {"agent": "vm-1", "state": "lost"}),
        ("link", {"from": "vm-1", "to": "pi-1", "bytes": 2}),
        ("link", {"from": "pi-1", "to": "vm-1", "bytes": 9}),
        ("pipeline", {"id": "demo", "strategy": "edge"}),
        ("epoch", {"pipeline": "demo", "epoch": 2, "state": "proposed"}),
        ("epoch", {"pipeline": "other", "epoch": 1, "state": "failed"}),
        ("frame", {"frame": 1}),
        ("note", {"text": "it happened"}),
        ("decision", {"cause_id": "1-7", "text": "moved"}),
        ("decision", {"cause_id": "1-8", "text": "kept"}),
        ("decision", {"cause_id": "1-7", "text": "moved, measured 9 ms"}),
        ("a-kind-of-tomorrow", {}),
    )
    state = await run(modules, "store", REDUCE, [SNAPSHOT, change])
    assert [agent["state"] for agent in state["agents"]] == ["connected", "lost"]
    assert [(link["from"], link["bytes"]) for link in state["links"]] == [("pi-1", 9), ("vm-1", 2)]
    assert state["pipelines"][0]["strategy"] == "edge"
    assert state["pipelines"][0]["graph"] == {"width": 3}  # fields that an event leaves out stay
    assert [(e["pipeline"], e["epoch"], e["state"]) for e in state["epochs"]] == [
        ("demo", 1, "active"),
        ("demo", 2, "proposed"),
        ("other", 1, "failed"),
    ]
    assert len(state["frames"]) == len(state["notes"]) == 1
    assert [d["text"] for d in state["decisions"]] == ["moved, measured 9 ms", "kept"]
    assert state["seq"] == 19


async def test_only_the_last_frames_and_notes_are_kept(modules: Page) -> None:
    many = events(
        8, *[("frame", {"frame": n}) for n in range(150)], *[("note", {"text": str(n)}) for n in range(250)]
    )
    state = await run(modules, "store", REDUCE, [SNAPSHOT, many])
    assert [frame["frame"] for frame in state["frames"]] == list(range(50, 150))
    assert [note["text"] for note in state["notes"]] == [str(n) for n in range(50, 250)]


async def test_events_that_a_snapshot_contains_are_not_applied_again(modules: Page) -> None:
    overlap = events(6, ("note", {"text": "6"}), ("note", {"text": "7"}), ("note", {"text": "8"}))
    state = await run(modules, "store", REDUCE, [SNAPSHOT, overlap])
    assert [note["text"] for note in state["notes"]] == ["8"]


async def test_reducing_changes_no_state_that_it_was_given(modules: Page) -> None:
    change = events(8, ("agent", {"agent": "vm-1", "state": "lost"}), ("frame", {"frame": 1}))
    same = await run(
        modules,
        "store",
        """
        const before = m.reduce(m.EMPTY, value[0]);
        const copy = JSON.stringify(before);
        const after = m.reduce(before, value[1]);
        const kept = slice => before[slice] === after[slice];
        return [JSON.stringify(before) === copy, kept("links"), kept("agents")];
        """,
        [SNAPSHOT, change],
    )
    assert same == [True, True, False]


async def test_gap_in_the_numbers_is_noticed(modules: Page) -> None:
    found = await run(
        modules,
        "store",
        "return value.map(message => m.follows(7, message))",
        [events(8, ("note", {})), events(9, ("note", {})), events(5, *[("note", {})] * 4), SNAPSHOT],
    )
    assert found == [True, False, True, True]


async def test_tensor_crosses_each_link_once_however_many_read_it(modules: Page) -> None:
    graph = {
        "vertices": [{"output_bytes": 10**n} for n in range(5)],
        "edges": [[0, 1], [1, 2], [1, 3], [1, 4], [2, 4], [3, 4]],
    }
    found = await run(
        modules,
        "store",
        "return m.crossings(...value)",
        [graph, ["device", "device", "edge", "edge", "cloud"]],
    )
    assert found == [
        {"from": "device", "to": "edge", "tensors": 1, "bytes": 10},
        {"from": "edge", "to": "cloud", "tensors": 3, "bytes": 1110},
    ]
    assert await run(modules, "store", "return m.crossings(null, null)") == []


async def test_parts_of_a_frame_add_up_to_its_latency(modules: Page) -> None:
    frames = [
        {"latency_s": 0.5, "compute_s": {"device": 0.25, "cloud": 0.125}},
        {"latency_s": 0.25, "compute_s": {"device": 0.25, "edge": 0.25}},  # tiers overlapped
    ]
    found = await run(modules, "store", "return value.map(m.parts)", frames)
    assert found == [[0.25, 0, 0.125, 0.125], [0.25, 0.25, 0, 0]]


async def test_ticks_are_round_and_reach_the_top(modules: Page) -> None:
    found = await run(modules, "series", "return value.map(m.ticks)", [0.13, 1.0, 8.0])
    assert found[1] == [0, 0.25, 0.5, 0.75, 1.0]
    assert found[2] == [0, 2, 4, 6, 8]
    assert found[0][-1] >= 0.13


async def test_health_is_judged_by_heartbeats_and_by_work(modules: Page) -> None:
    agents = [
        {"state": "lost", "heard_s": 90, "worked_s": 90},
        {"state": "connected", "heard_s": 96, "worked_s": 96},
        {"state": "connected", "heard_s": 99, "worked_s": 99},
        {"state": "connected", "heard_s": 99, "worked_s": 90},
        {"state": "connected", "heard_s": 99, "worked_s": None},
    ]
    found = await run(
        modules,
        "testbed",
        """
        // in the plan, frames flow, the server is away
        const cases = [[true, true], [false, true], [true, false], [true, true, true]];
        return value.map(agent => cases.map(found => m.health(agent, 100, ...found)));
        """,
        agents,
    )
    assert found == [
        ["off", "off", "off", "unknown"],
        ["silent", "silent", "silent", "unknown"],
        ["working", "idle", "idle", "unknown"],
        ["stalled", "idle", "idle", "unknown"],
        ["stalled", "idle", "idle", "unknown"],
    ]


async def test_only_the_device_works_while_it_answers_alone(modules: Page) -> None:
    plan = {"plan": ["device", "edge", "cloud"], "route": {"device": "pi-1", "edge": "e-1", "cloud": "vm-1"}}
    texts = ["device [0-1] …", "the device answers alone: its plan needs who is lost"]
    found = await run(
        modules,
        "testbed",
        "return value.map(pipeline => [...m.workers(pipeline)])",
        [plan | {"phase_text": text} for text in texts],
    )
    assert found == [["pi-1", "e-1", "vm-1"], ["pi-1"]]


async def test_command_names_the_server_and_a_token_where_one_is_needed(modules: Page) -> None:
    found = await run(
        modules,
        "welcome",
        "return value.map(args => m.startHere(...args))",
        [["pi-1", "device", "http://127.0.0.1:8333", False], ["vm-1", "cloud", "http://10.0.0.2:8333", True]],
    )
    assert found == [
        "d3bed agent --name pi-1 --tier device --server http://127.0.0.1:8333",
        "d3bed agent --name vm-1 --tier cloud --server http://10.0.0.2:8333 --token TOKEN",
    ]


async def test_board_is_installed_by_an_installer_that_is_there(modules: Page) -> None:
    body = (
        "return ['', ' --ca ab12'].map(ca => m.TIERS.map(tier => value.installBoard("
        "'b-1', tier, 'https://10.0.0.2:8333', 'd3j_x', `d3bed join https://10.0.0.2:8333 --token x${ca}`)))"
    )
    plain, secured = await modules.evaluate(
        f"async () => {{ const [value, m] = [await load('welcome'), await load('store')]; {body} }}"
    )
    for lines, ca in ((plain, []), (secured, ["--ca", "ab12"])):
        for line in lines:
            words = line.split()
            assert words[:2] == ["sudo", "D3BED_TOKEN=d3j_x"]
            assert (ROOT / words[2]).is_file()
            assert words[3:] == ["--server", "https://10.0.0.2:8333", *ca, "--name", "b-1"]


async def test_recording_is_a_scenario_file_that_can_be_played(modules: Page, tmp_path: Path) -> None:
    link = {"action": "link", "from": "pi-1", "to": "edge-1", "mbit_per_s": 5, "for_s": 30}
    load = {"action": "load", "agent": "edge-1", "processes": 2}
    orders = [
        {"at_s": 90, "by": "ann", "state": "done", "action": load},  # before it began
        {"at_s": 101.25, "by": "ann", "state": "done", "action": link},
        {"at_s": 102, "by": "bob", "state": "failed", "action": load},
        {"at_s": 103, "by": "bob", "state": "done", "action": load},
        {"at_s": 104, "by": "bob", "state": "done", "action": {}},
        {"at_s": 105, "by": "scenario tour", "state": "done", "action": load},
    ]
    text = await run(modules, "record", "return m.scenarioOf(value, 100, 109.5)", orders)
    path = tmp_path / "recorded.toml"
    path.write_text(text)
    scenario = read_scenario(path)
    assert scenario.duration_s == 10
    assert scenario.events == (
        Link(at_s=1.25, source="pi-1", target="edge-1", mbit_per_s=5, for_s=30),
        Load(at_s=3, agent="edge-1", processes=2),
    )


async def test_crossing_takes_the_links_of_the_route_over_the_edge_or_directly(modules: Page) -> None:
    links = [
        {"from": "pi", "to": "e", "bytes_per_s": 1e6, "latency_s": 0.002},
        {"from": "e", "to": "vm", "bytes_per_s": 1e6, "estimate_bytes_per_s": 2e6, "latency_s": 0.01},
    ]
    route = {"device": "pi", "edge": "e", "cloud": "vm"}
    found = await run(
        modules,
        "graph",
        "return ['edge', 'cloud'].map(to => m.crossingS(value[0], value[1], 'device', to, 1e5))",
        [links, route],
    )
    assert found == pytest.approx([0.102, 0.102 + 0.06])
    direct = [*links, {"from": "pi", "to": "vm", "bytes_per_s": 1e6, "latency_s": 0.001}]
    body = "return m.crossingS(value[0], value[1], 'device', 'cloud', 1e5)"
    assert await run(modules, "graph", body, [direct, route]) == pytest.approx(0.101)
    assert await run(modules, "graph", body, [[], route]) is None


async def test_zoom_never_leaves_the_drawing(modules: Page) -> None:
    found = await run(
        modules, "zoom", "return value.map(c => m.seen(400, 200, 2, c))", [[0, 0], [200, 100], [999, 999]]
    )
    assert found == [[0, 0, 200, 100], [100, 50, 200, 100], [200, 100, 200, 100]]


SECOND = {
    "pipeline": "demo",
    "frames_per_s": 2,
    "epoch": 1,
    "parts_s": {"device": 0.1, "edge": 0, "cloud": 0.05, "transfer": 0.02, "queue": 0, "wait": 0.03},
    "p50_s": 0.2,
    "p95_s": 0.3,
    "p99_s": 0.4,
    "predicted_s": 0.18,
    "backbone_bytes": 100,
    "cloud_only_bytes": 400,
    "links": {"a→b": [10, 5, 6]},
}


async def test_seconds_become_columns_with_gaps_where_nothing_was_told(modules: Page) -> None:
    told = [{**SECOND, "at_s": at_s} for at_s in (90, 100, 102)]
    found = await run(modules, "series", "return m.columns(value, 102, 4)", told)
    assert found["times"] == [99, 100, 101, 102]
    assert found["parts"][0] == [None, 0.1, None, 0.1]
    assert found["p99"] == [None, 0.4, None, 0.4]
    assert found["links"] == [{"name": "a→b", "achieved": [None, 5, None, 5], "target": [None, 6, None, 6]}]
    assert (found["backboneBytes"], found["cloudOnlyBytes"]) == (200, 800)
    sums = await run(modules, "series", "return m.stacked(value)", [[1, None], [2, None], [3, 4]])
    assert sums == [[1, None], [3, None], [6, 4]]
    assert await run(modules, "series", "return m.latencyOf(value)", told[0]) == pytest.approx(0.2)


async def test_numbers_stay_those_of_the_last_second_that_had_frames(modules: Page) -> None:
    told = [{**SECOND, "at_s": 100}, {**SECOND, "at_s": 101, "frames_per_s": 0, "parts_s": {}}]
    found = await run(modules, "series", "return m.columns(value, 101, 4)", told)
    assert (found["newest"]["at_s"], found["latest"]["at_s"]) == (100, 101)


async def test_change_that_a_plan_came_of_is_told_once(modules: Page) -> None:
    epochs = [{"epoch": 2, "strategy": "hpa", "cause": "x", "cause_id": "1-2", "activated_at": 50}]
    decisions = [
        {"cause_id": "1-2", "at_s": 49, "text": "moved"},
        {"cause_id": "1-3", "at_s": 55, "text": "kept"},
        {"cause_id": "1-1", "at_s": 10, "text": "long ago"},
    ]
    found = await run(modules, "series", "return m.marks(...value)", [epochs, decisions, 40, 60])
    assert [(mark["kind"], mark["text"]) for mark in found] == [("switch", "moved"), ("change", "kept")]


async def test_replay_gives_the_state_of_any_moment_forth_and_back(modules: Page) -> None:
    """What the live reducer makes of the same events, wherever the slider jumps."""
    snapshot = {"time_s": 100.0, "kind": "snapshot", "data": SNAPSHOT["state"]}
    notes = [{"time_s": 100.5 + n / 10, "kind": "note", "data": {"n": n}} for n in range(450)]
    recorded = {"events": [snapshot, *notes], "from_s": 100.2, "until_s": 145.5}
    found = await run(
        modules,
        "replay",
        """
        const replay = m.createReplay(value);
        const last = timeS => replay.at(timeS).notes.at(-1)?.n ?? null;
        return [replay.isEmpty, ...[0, 100.55, 145, 120.05, 101.0, 145.5, 100.2].map(last),
                replay.at(130).agents.length, m.createReplay({events: [], from_s: 0, until_s: 1}).isEmpty];
        """,
        recorded,
    )
    assert found == [False, None, 0, 445, 195, 5, 449, None, 2, True]


async def test_seconds_survive_a_snapshot_and_are_kept_for_ten_minutes(modules: Page) -> None:
    asked = {"type": "seconds", "seconds": [{**SECOND, "at_s": at_s} for at_s in (1, 2, 3)]}
    told = events(8, ("second", {**SECOND, "at_s": 3}), ("second", {**SECOND, "at_s": 602}))
    state = await run(modules, "store", REDUCE, [SNAPSHOT, told, asked, {**SNAPSHOT, "seq": 99}])
    assert [second["at_s"] for second in state["seconds"]] == [3, 602]


async def test_pauses_grow_where_frames_are_dear_and_the_longest_overdue_comes_first(modules: Page) -> None:
    found = await run(
        modules,
        "pace",
        """
        const views = [{dueMs: 5}, {dueMs: 2}, {dueMs: 11}];
        return [[0, 16, 48, 1e4].map(m.stretch), m.dueAt(views, 10).map(view => view.dueMs)];
        """,
    )
    assert found == [[1, 1, 3, 6], [2, 5]]


async def test_graph_that_is_told_again_stays_the_same_and_old_states_stay_as_they_were(
    modules: Page,
) -> None:
    told = events(8, ("note", {"text": "later"}), ("agent", {"agent": "pi-1", "state": "lost"}))
    found = await run(
        modules,
        "store",
        """
        const one = m.reduce(m.EMPTY, value[0]);
        const two = m.reduce(one, value[1]);
        const three = m.reduce(two, structuredClone(value[0]));
        return [one.pipelines[0].graph === three.pipelines[0].graph, one.notes.length, two.notes.length,
          one.agents[0].state, two.agents[0].state, one.agents[1] === two.agents[1]];
        """,
        [SNAPSHOT, told],
    )
    assert found == [True, 0, 1, "connected", "lost", True]


async def test_graph_in_the_page_is_the_one_that_the_feed_tells(modules: Page) -> None:
    """To the letter: else it would be drawn again when the feed begins."""
    view = graph_view(made_graph("resnet18"))
    packed = msgspec.json.decode(msgspec.json.encode(_compact(view)))
    body = """
        const unpacked = m.unpacked({ state: { pipelines: [{ graph: value[0] }, { graph: null }] } });
        const [one, none] = unpacked.state.pipelines;
        return [JSON.stringify(one.graph) === JSON.stringify(value[1]), one.graph, none.graph];
    """
    told = msgspec.json.decode(msgspec.json.encode(view))
    assert await run(modules, "store", body, [packed, told]) == [True, told, None]


async def test_page_reads_what_the_server_tells_as_its_types_mean_it(modules: Page) -> None:
    """The examples are held to the server's types by tests/server/test_feed_examples.py."""
    told = json.loads(examples.FILE.read_text())
    state = await run(modules, "store", REDUCE, told)
    assert {event["kind"] for event in told[1]["events"]} >= {
        "frame",
        "note",
        "second",
        "scene",
        "conditions",
    }
    for extra in ("seq", "nowS"):
        del state[extra]
    assert len(state.pop("seconds")) == 1
    assert state == msgspec.json.decode(msgspec.json.encode(examples.after()))
    assert msgspec.convert(state, StateView) == examples.after()
