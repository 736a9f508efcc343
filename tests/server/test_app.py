"""The server as it is: real HTTP, real WebSockets, scripted agents over the true protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from d3bed.core.errors import ConfigError
from d3bed.core.ids import Epoch, FrameId, PipelineId
from d3bed.core.measurements import FrameReport
from d3bed.core.messages import (
    ClockPing,
    ClockPong,
    FramesAnswered,
    Heartbeat,
    LoadModel,
    ModelSpec,
    StartSource,
    decode_to_agent,
    encode,
)
from d3bed.core.together import encode_all
from d3bed.server import app, serve
from d3bed.server.api import ROUTES, openapi
from tests.server.lab import ALL, CLOUD, DEVICE, EDGE_1, EDGE_2, Lab, MakeScript, MakeSettings, StartLab

pytestmark = pytest.mark.sockets

DEMO = PipelineId("demo")


# ── the whole way ─────────────────────────────────────────────────────────────────────────────────


async def test_four_agents_come_to_a_running_plan(lab: Lab) -> None:
    scripts = await lab.join(*ALL)
    pipeline = await lab.running()
    assert pipeline["plan"] == ["device", "cloud", "cloud", "cloud"]
    assert pipeline["route"] == {"device": "pi-1", "edge": "edge-1", "cloud": "vm-1"}
    assert pipeline["predicted"]["latency_s"] > 0
    assert len(pipeline["graph"]["vertices"]) == 4
    agents = await lab.get("api/agents")
    assert {agent["agent"]: agent["tier"] for agent in agents} == {
        "pi-1": "device", "edge-1": "edge", "edge-2": "edge", "vm-1": "cloud",
    }  # fmt: skip
    assert all(agent["pid"] == 4711 and agent["data_address"] for agent in agents)
    links = await lab.get("api/links")
    assert {"from", "to", "bytes_per_s", "rtt_s"} <= set(links[0])
    assert len(links) == 10
    assert scripts[0].count(StartSource) == 1


async def test_switch_answers_a_cause_that_the_plans_carry(lab: Lab) -> None:
    await lab.join(*ALL)
    await lab.running()
    accepted = await lab.post("api/pipelines/demo/strategy", {"strategy": "edge"})
    assert accepted["pipeline"] == "demo" and accepted["message"].startswith("demo: planning: edge plans")
    await lab.until(lambda pipeline: pipeline["epoch"] == 2)
    plans = await lab.until(lambda rows: len(rows) == 2, "api/plans")
    assert plans[0]["strategy"] == "edge" and plans[0]["cause_id"] == accepted["cause_id"]
    assert plans[0]["route"] == {"device": "pi-1", "edge": "edge-1"}


async def test_run_is_listed_reported_and_outlives_the_server(
    start_lab: StartLab, make_settings: MakeSettings, make_script: MakeScript
) -> None:
    lab = await start_lab(make_settings())
    await lab.join(EDGE_1, EDGE_2, CLOUD)
    script = make_script(DEVICE)
    async with websockets.connect(lab.ws("ws/agent")) as device:
        await device.send(encode(script.register))
        while not script.count(StartSource):
            for answer in script.answers(decode_to_agent(await device.recv())):
                await device.send(encode(answer))
        frame = FrameReport(FrameId(1), Epoch(1), "cat.jpg", 10.0, 10.25, "cat", 1, True, 0.0)
        await device.send(encode(FramesAnswered(DEMO, 1, (frame,))))
        pipeline = await lab.until(lambda p: p["frames"]["answered"] == 1)
        (run,) = await lab.get("api/runs")
        assert run["id"] == pipeline["run"] and run["ended_s"] is None
        report = await lab.get(f"api/runs/{run['id']}/report")
        frames = await lab.until(lambda found: found["frame"], f"api/runs/{run['id']}/frames")
        assert (frames["run"], frames["latency_s"]) == (run["id"], [pytest.approx(0.25)])
        history = await lab.get(f"api/runs/{run['id']}/history")
        assert history["frames"] == frames and history["server"]["cpus"] >= 1
        assert report["exact"] == {"checked": 1, "identical": 1, "max_rel_err": 0.0}
        assert report["latency_s"]["median"] == pytest.approx(0.25)
        state = await lab.until(lambda found: len(found["frames"]) == 1, "api/state")
        assert state["frames"][0]["photo"] == "cat.jpg"
    await lab.close()
    again = await start_lab(make_settings())
    assert (await again.get(f"api/runs/{run['id']}"))["frames"]["answered"] == 1
    assert (await again.get(f"api/runs/{run['id']}/report"))["frames"]["answered"] == 1
    await again.join(*ALL)
    assert (await again.running())["epoch"] == 2


async def test_clock_ping_is_answered(lab: Lab, make_script: MakeScript) -> None:
    async with websockets.connect(lab.ws("ws/agent")) as agent:
        await agent.send(encode(make_script(DEVICE).register))
        await agent.send(encode(ClockPing(3.5)))
        for text in encode_all([Heartbeat(queued=7), ClockPing(4.5)]):
            await agent.send(text)
        answers = [decode_to_agent(await agent.recv()) for _ in range(3)]
        assert (await lab.get("api/agents"))[0]["queued"] == 7
    sent = [(pong.sent_s, pong.server_s > 1.7e9) for pong in answers[1:] if isinstance(pong, ClockPong)]
    assert sent == [(3.5, True), (4.5, True)]


# ── agents that misbehave ─────────────────────────────────────────────────────────────────────────


async def _closed(connection: ClientConnection) -> tuple[int, str]:
    async with asyncio.timeout(60):
        await connection.wait_closed()
    assert connection.close_code is not None
    return connection.close_code, connection.close_reason or ""


async def test_second_agent_of_a_name_is_refused_with_the_reason(lab: Lab, make_script: MakeScript) -> None:
    await lab.join(EDGE_1)
    await lab.until(lambda agents: len(agents) == 1, "api/agents")
    async with websockets.connect(lab.ws("ws/agent")) as second:
        register = msgspec.structs.replace(make_script(EDGE_1).register, pid=4712)
        await second.send(encode(register))
        assert await _closed(second) == (4003, "an agent named edge-1 is connected already")
    (agent,) = await lab.get("api/agents")
    assert agent["state"] == "connected"


@pytest.mark.parametrize(
    "first",
    [
        "garbage",
        b"\x80\x04pickle",
        '{"type": "Heartbeat", "protocol": 2}',
        '{"type": "Register", "protocol": 2}',
        '{"type": "Register", "protocol": 2, "agent": "", "tier": "edge", "pid": 1, "host": "h",'
        ' "data_address": "a", "speed": 1, "engine": "torch", "version": "0"}',
    ],
)
async def test_who_does_not_register_is_closed(lab: Lab, first: str | bytes) -> None:
    async with websockets.connect(lab.ws("ws/agent")) as stranger:
        await stranger.send(first)
        code, reason = await _closed(stranger)
    assert code == 1002 and reason
    assert await lab.get("api/agents") == []


async def test_who_says_nothing_is_closed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d3bed.server.sockets.REGISTER_S", 0.1)
    async with websockets.connect(lab.ws("ws/agent")) as stranger:
        assert await _closed(stranger) == (1008, "did not register in time")


async def test_agent_that_breaks_the_protocol_is_lost_and_others_stay(
    lab: Lab, make_script: MakeScript
) -> None:
    await lab.join(EDGE_1)
    async with websockets.connect(lab.ws("ws/agent")) as agent:
        await agent.send(encode(make_script(EDGE_2).register))
        await agent.send(encode(make_script(EDGE_2).register))
        assert await _closed(agent) == (1002, "registered already")
    agents = await lab.until(
        lambda found: {a["agent"]: a["state"] for a in found} == {"edge-1": "connected", "edge-2": "lost"},
        "api/agents",
    )
    assert len(agents) == 2


async def test_decisions_are_listed_from_the_store_with_the_frames_that_came_of_them(lab: Lab) -> None:
    device, *others = await lab.join(*ALL)
    await lab.running()
    (first,) = await lab.get("api/decisions")
    assert (first["choice"], first["epoch"], first["cause"]) == ("move", 1, "start")
    for frame in range(8):
        device.say_frame(frame, Epoch(1), spans=1)
    (measured,) = await lab.until(lambda found: found[0]["measured_s"] is not None, "api/decisions")
    assert measured["cause_id"] == first["cause_id"] and measured["text"].endswith("measured 300 ms")
    details = await lab.until(lambda found: found["frames"], f"api/decisions/{first['cause_id']}")
    assert details["decision"] == measured
    assert {frame["epoch"] for frame in details["frames"]} == {1} and details["frames"][0]["spans"]
    switched = await lab.post("api/pipelines/demo/strategy", {"strategy": "edge"})
    newest, oldest = await lab.until(lambda found: len(found) == 2, "api/decisions")
    assert (newest["cause_id"], oldest["cause_id"]) == (switched["cause_id"], first["cause_id"])


# ── the feed ──────────────────────────────────────────────────────────────────────────────────────


async def test_feed_gives_a_snapshot_then_events_and_resumes(lab: Lab) -> None:
    async with websockets.connect(lab.ws("ws/events")) as page:
        snapshot = json.loads(await page.recv())
        assert snapshot["type"] == "snapshot"
        assert set(snapshot["state"]) == {
            "agents", "links", "pipelines", "epochs", "frames", "notes", "decisions", "strategies",
            "models", "conditions", "orders", "networks", "scenarios", "scene", "unstored",
            "guarded",
        }  # fmt: skip
        assert "optimal" in snapshot["state"]["strategies"] and "alexnet" in snapshot["state"]["models"]
        await lab.join(*ALL)
        kinds: set[str] = set()
        seq = snapshot["seq"]
        while "epoch" not in kinds:
            message = json.loads(await page.recv())
            assert message["type"] == "events"
            for event in message["events"]:
                assert event["seq"] == seq + 1
                seq = event["seq"]
                kinds.add(event["kind"])
        assert kinds >= {"agent", "link", "pipeline", "note"}
    await lab.running()
    async with websockets.connect(lab.ws(f"ws/events?after={seq}")) as page:
        message = json.loads(await page.recv())
        assert message["type"] == "events" and message["events"][0]["seq"] == seq + 1
    async with websockets.connect(lab.ws("ws/events?after=5")) as page:
        assert json.loads(await page.recv())["type"] == "snapshot"


async def test_feed_refuses_a_number_that_is_none(lab: Lab) -> None:
    assert "after" in (await lab.get("ws/events?after=x", 400))["error"]


async def test_sockets_are_closed_with_going_away(lab: Lab, make_script: MakeScript) -> None:
    async with (
        websockets.connect(lab.ws("ws/events")) as page,
        websockets.connect(lab.ws("ws/agent")) as agent,
    ):
        await agent.send(encode(make_script(EDGE_1).register))
        await agent.recv()
        await page.recv()
        assert lab.task is not None
        lab.task.cancel()
        assert (await _closed(agent))[0] == 1001
        assert (await _closed(page))[0] == 1001


# ── the page ──────────────────────────────────────────────────────────────────────────────────────


async def test_page_carries_the_snapshot_and_no_inline_script(lab: Lab) -> None:
    async with lab.http.get(lab.address) as answer:
        text = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert answer.status == 200 and "unsafe" not in policy and "default-src 'none'" in policy
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    inline = [body for attributes, body in scripts if "src=" not in attributes]
    assert len(inline) == 1
    assert json.loads(inline[0])["state"]["pipelines"][0]["id"] == "demo"
    for path in re.findall(r'(?:src|href)="/(static/[^"]+)"', text):
        async with lab.http.get(lab.address + path) as answer:
            assert answer.status == 200, path


# ── the callers' faults ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("api/pipelines/demo/strategy", {"strategy": "magic"}, 400, "unknown strategy 'magic'"),
        ("api/pipelines/demo/strategy", {"strategi": "edge"}, 400, "strategi"),
        ("api/pipelines/demo/strategy", {}, 400, "strategy"),
        ("api/pipelines/demo/strategy", b"{nonsense", 400, "body"),
        ("api/pipelines/demo/strategy", b"\xff\xfe", 400, "body"),
        ("api/pipelines/demo/strategy", b"[" * 30_000, 400, "body"),
        ("api/pipelines/demo/strategy", b'{"strategy": "' + b"x" * 70_000 + b'"}', 413, "size"),
        ("api/pipelines/other/strategy", {"strategy": "edge"}, 404, "no pipeline 'other'; known: demo"),
        ("api/pipelines/demo/model", {"model": "alexnut"}, 400, "unknown model 'alexnut'"),
        ("api/pipelines/demo/model", {"model": "alexnet", "input": [3, 0, 224]}, 400, "input"),
        ("api/pipelines/demo/start", {"frames": 0}, 400, "frames"),
        ("api/pipelines/demo/start", {"in_flight": 1000}, 400, "in_flight"),
        ("api/pipelines", {}, 405, "Method"),
        ("api/nothing", {}, 404, "Not Found"),
    ],
)
async def test_bad_orders_are_refused_with_words(
    lab: Lab, path: str, body: Any, status: int, words: str
) -> None:
    answer = await lab.post(path, body, status)
    assert set(answer) == {"error"} and words in answer["error"]


@pytest.mark.parametrize(
    "path",
    [
        "api/pipelines/x",
        "api/runs/x",
        "api/runs/x/report",
        "api/runs/x/frames",
        "api/runs/x/history",
        "api/x",
        "x",
    ],
)
async def test_unknown_things_are_404(lab: Lab, path: str) -> None:
    assert set(await lab.get(path, 404)) == {"error"}


async def test_metrics_are_text_that_needs_no_token(start_lab: StartLab, make_settings: MakeSettings) -> None:
    lab = await start_lab(make_settings(token="secret"))
    await lab.join(*ALL, token="secret")
    await lab.running()
    async with lab.http.get(lab.address + "metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'd3bed_agent_up{agent="pi-1",tier="device"} 1\n' in await answer.text()


async def test_deleted_database_is_warned_of_and_made_again_while_the_server_answers(
    start_lab: StartLab, make_settings: MakeSettings
) -> None:
    settings = make_settings()
    lab = await start_lab(settings)
    await lab.join(*ALL)
    await lab.running()
    (settings.data_dir / "d3bed.sqlite3").unlink()
    await lab.until(lambda state: sum("stor" in note["text"] for note in state["notes"]) == 2, "api/state")
    notes = [note for note in (await lab.get("api/state"))["notes"] if "stor" in note["text"]]
    assert [note["level"] for note in notes] == ["warn", "warn"]
    assert "was deleted" in notes[0]["text"] and "storing goes on in a new database" in notes[1]["text"]
    pipeline = await lab.get("api/pipelines/demo")
    assert pipeline["phase"] == "running"
    await lab.until(lambda runs: runs and runs[0]["id"] == pipeline["run"], "api/runs")


async def test_second_run_is_refused_while_one_is_under_way(lab: Lab) -> None:
    await lab.join(*ALL)
    await lab.running()
    assert "stop it first" in (await lab.post("api/pipelines/demo/start", {}, 409))["error"]
    await lab.post("api/pipelines/demo/stop")


async def test_other_sites_and_rebound_names_are_refused(lab: Lab) -> None:
    path = "api/pipelines/demo/strategy"
    evil = {"Origin": "http://evil.org"}
    assert "origin" in (await lab.post(path, {"strategy": "edge"}, 403, headers=evil))["error"]
    assert "origin" in (await lab.get("ws/events", 403, headers=evil))["error"]
    assert "origin" in (await lab.get("ws/agent", 403, headers=evil))["error"]
    rebound = {"Host": "evil.org:80", "Origin": "http://evil.org:80"}
    assert "host" in (await lab.post(path, {"strategy": "edge"}, 403, headers=rebound))["error"]
    assert "host" in (await lab.get("api/state", 403, headers=rebound))["error"]
    own = {"Origin": lab.address.rstrip("/")}
    await lab.post(path, {"strategy": "edge"}, headers=own)


async def test_token_is_needed_for_changes_and_by_agents(
    start_lab: StartLab, make_settings: MakeSettings
) -> None:
    lab = await start_lab(make_settings(token="sesame-open-sesame"))
    await lab.get("api/state")
    path, body = "api/pipelines/demo/strategy", {"strategy": "edge"}
    assert "Bearer" in (await lab.post(path, body, 401))["error"]
    await lab.post(path, body, 401, headers={"Authorization": "Bearer wrong"})
    await lab.post(path, body, headers={"Authorization": "Bearer sesame-open-sesame"})
    with pytest.raises(websockets.InvalidStatus, match="401"):
        await websockets.connect(lab.ws("ws/agent"))
    await lab.join(*ALL, token="sesame-open-sesame")
    await lab.running()


async def test_token_is_made_and_told_once_beyond_loopback(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "is_loopback", lambda host: False)
    told: list[str] = []
    file = make_settings().data_dir / "token"

    async def start(tell: Callable[[str], object] | None) -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(serve(make_settings(), ready=lambda _: ready.set(), tell=tell))
        await ready.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    await start(told.append)
    await start(told.append)
    assert len(told) == 1 and file.read_text().strip() in told[0]
    file.unlink()
    await start(None)  # as a service, whose words a log keeps
    said = capsys.readouterr().err
    assert str(file) in said and file.read_text().strip() not in said


async def test_port_in_use_is_named_with_a_remedy(make_settings: MakeSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = msgspec.structs.replace(make_settings(), port=port)
        with pytest.raises(ConfigError, match=f"port {port} is in use .* --port"):
            await serve(settings)


async def test_impossible_settings_are_refused(make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigError, match="edge-1"):
        await serve(make_settings(edges=(EDGE_1,), cloud=EDGE_1))
    with pytest.raises(ConfigError, match="unknown strategy 'magic'"):
        await serve(make_settings(strategy="magic"))


# ── the document ──────────────────────────────────────────────────────────────────────────────────


async def test_document_describes_exactly_the_routes(lab: Lab) -> None:
    document = await lab.get("api/openapi.json")
    assert document == json.loads(json.dumps(openapi()))
    described = {(m.upper(), path) for path, item in document["paths"].items() for m in item}
    assert described == {(route.method, route.path) for route in ROUTES}
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


async def test_every_get_route_answers(lab: Lab) -> None:
    await lab.join(*ALL)
    run = (await lab.running())["run"]
    (cause,) = [decision["cause_id"] for decision in await lab.get("api/decisions")]
    for route in ROUTES:
        if route.method == "GET" and "{frame}" not in route.path:  # of no frame are spans kept here
            name = {"runs": run, "decisions": cause}.get(route.path.split("/")[2], "demo")
            path = route.path.lstrip("/").replace("{id}", name).replace("{vertex}", "conv1")
            answer = await lab.get(path.replace("{part}", "0"))
            assert answer is not None or path == "api/doctor", "only doctor says null: not yet looked"


# ── without torch, and small ──────────────────────────────────────────────────────────────────────


def test_import_needs_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import d3bed.server;"
        "assert not {'scipy', 'numpy', 'websockets', 'd3bed.model'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SERVER = """
import asyncio, sys
import msgspec
from d3bed.server import ServerSettings, serve
settings = msgspec.json.decode(sys.argv[1], type=ServerSettings, dec_hook=lambda kind, value: kind(value))
asyncio.run(serve(settings, ready=lambda url: print(url, flush=True)))
"""


@pytest.mark.processes
async def test_server_with_four_agents_and_a_deep_model_stays_small(
    make_settings: MakeSettings, make_script: MakeScript
) -> None:
    text = msgspec.json.encode(make_settings(frames=None), enc_hook=str).decode()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, text, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    async with aiohttp.ClientSession() as http:
        lab = Lab(address, http, make_script)
        try:
            scripts = await lab.join(*ALL, layers=195)
            await lab.running()
            for number in range(300):
                scripts[0].say_frame(number, Epoch(1))
            await lab.until(lambda pipeline: pipeline["frames"]["answered"] == 300)
            resident_bytes = psutil.Process(process.pid).memory_info().rss
        finally:
            await lab.close()
            process.terminate()
            await process.communicate()
    assert resident_bytes <= 120e6, f"{resident_bytes / 1e6:.0f} MB"


async def test_model_is_loaded_with_the_pipelines_threads(lab: Lab) -> None:
    (script, *_) = await lab.join(*ALL)
    await lab.running()
    (load,) = [message for message in script.heard if isinstance(message, LoadModel)]
    assert load.threads == 1


async def test_another_model_still_takes_what_the_camera_gives(
    start_lab: StartLab, make_settings: MakeSettings
) -> None:
    lab = await start_lab(make_settings(model=ModelSpec("alexnet", encoded=44_000)))
    (script, *_) = await lab.join(*ALL)
    await lab.running()
    await lab.post("api/pipelines/demo/model", {"model": "resnet18"})
    await lab.until(lambda pipeline: pipeline["epoch"] == 2)
    loads = [message.model for message in script.heard if isinstance(message, LoadModel)]
    assert [(model.name, model.encoded) for model in loads] == [("alexnet", 44_000), ("resnet18", 44_000)]
