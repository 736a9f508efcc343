"""A real server, agents that follow a script over real WebSockets, and a real browser.

The agents speak the true protocol with made-up measurements, so that a test can say what happens when.
Chromium is the system's: without one the tests are skipped, with `CI=true` they fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from d3bed.core.checks import LinkCheck
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex
from d3bed.core.ids import AgentId, CauseId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import FrameReport, LinkShape, Span, SpanKind, Thumbnail, Transfer
from d3bed.core.messages import (
    Activate,
    CheckLinks,
    Confirm,
    Confirmed,
    Crash,
    Drained,
    FramesAnswered,
    FromAgent,
    Heartbeat,
    LinkMeasured,
    LinksChecked,
    LoadModel,
    MeasureLinks,
    ModelLoaded,
    ModelSpec,
    PhotosPrepared,
    Prepare,
    Profiled,
    ProfileModel,
    Ready,
    Register,
    SourceEnded,
    SpansRecorded,
    ToAgent,
    Transferred,
    decode_to_agent,
    encode,
)
from d3bed.core.plan import Plan
from d3bed.lab.report import as_html
from d3bed.plan import Pin
from d3bed.server import PipelineSettings, ServerSettings, serve
from d3bed.server.settings import Network, Scene
from d3bed.server.store import read_rows

#: What comes, comes; a busy machine is not what fails a test.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)

logger = logging.getLogger(__name__)

PIPELINE = PipelineId("demo")
DEVICE, EDGE, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm-1")
TIER_OF = {DEVICE: Tier.DEVICE, EDGE: Tier.EDGE, CLOUD: Tier.CLOUD}
#: Seconds per layer, so far apart that the best plan sends all that it may to the cloud.
TIME_S = {DEVICE: 0.1, EDGE: 0.02, CLOUD: 0.005}
GAP_S = 0.01
NETWORKS = {
    "wifi": Network("as it is", {"device-edge": LinkShape(1e7, 0.001)}),
    "lte": Network("slower", {"device-edge": LinkShape(1.5e6, 0.025)}),
}
SPEED = {DEVICE: 0.2, EDGE: 0.5, CLOUD: 1.0}

ROOT = Path(__file__).resolve().parents[2]
#: Where tests write pictures of the page.
SCREENS = Path(os.environ.get("D3BED_SCREENS", ROOT / "build" / "screens"))
AXE = ROOT / "web" / "dev" / "axe.js"

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
).split()


def made_graph(model: str) -> Graph:
    """The photo, then eight layers in a row; another model has two branches in the middle."""
    photo = Vertex("photo", "input", (TensorSpec((1, 3, 224, 224), "uint8"),))
    kinds = ("conv2d", "max_pool2d", "conv2d", "max_pool2d", "conv2d", "conv2d", "linear", "linear")
    maps, answer = TensorSpec((1, 64, 55, 55), "float32"), TensorSpec((1, 1000), "float32")
    layers = (
        Vertex(f"layer{n}", kind, (answer if n == 8 else maps,), flops=10**6, weight_bytes=92_928)
        for n, kind in enumerate(kinds, 1)
    )
    edges = [(n, n + 1) for n in range(8)]
    if model != "alexnet":
        edges.remove((3, 4))
        edges += [(2, 4), (3, 5)]
    return Graph(model, (photo, *layers), tuple(Edge(a, b) for a, b in sorted(edges)), (Value(8),))


def picture() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(made, "JPEG")
    return made.getvalue()


class Actor:
    """One well-behaved agent on a control connection."""

    def __init__(self, agent: AgentId, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.agent = agent
        self.tier = TIER_OF[agent]
        self.epoch: Epoch | None = None
        self.active = asyncio.Event()
        self.plans: dict[Epoch, Plan] = {}
        self.heard: list[ToAgent] = []
        #: Whether it confirms orders, and what it says that it could not do.
        self.confirms, self.unable = True, ""
        self._unconfirmed: list[CauseId] = []
        self._socket = socket
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._beat())]

    async def say(self, *messages: FromAgent | Register) -> None:
        for message in messages:
            await self._socket.send_str(encode(message))

    async def confirm(self) -> None:
        """All that it did not yet."""
        await self.say(*[Confirmed(order) for order in self._unconfirmed])
        self._unconfirmed.clear()

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    async def _beat(self) -> None:
        while not self._socket.closed:
            await self.say(Heartbeat(rss_bytes=123_000_000))
            await asyncio.sleep(0.5)

    async def _listen(self) -> None:
        async for message in self._socket:
            await self.say(*self._answers(decode_to_agent(message.data)))

    def _answers(self, message: ToAgent) -> list[FromAgent]:
        self.heard.append(message)
        match message:
            case LoadModel(model, threads):
                thumbnails = (Thumbnail("cat.jpg", picture()),) if self.agent == DEVICE else ()
                return [
                    PhotosPrepared(thumbnails),
                    ModelLoaded(model, made_graph(model.name), "same", threads, 0.1),
                ]
            case ProfileModel(model):
                return [Profiled(model, (0.0, *[TIME_S[self.agent]] * 8), False, 0.1)]
            case MeasureLinks(peers):
                return [LinkMeasured(p.agent, 1e7, 0.001, 0.002, 1e7) for p in peers]
            case CheckLinks(number, peers):
                checks = tuple(LinkCheck(p.agent, p.address, "", rtt_s=0.002, bytes_per_s=1e7) for p in peers)
                return [LinksChecked(number, checks, (time.time(), time.time()))]
            case Prepare(epoch=epoch, plan=plan):
                self.plans[epoch] = plan
                return [Ready(PIPELINE, epoch, 0.01)]
            case Confirm(order):
                self._unconfirmed.append(order)
                return [Confirmed(order, self.unable)] if self.confirms else []
            case Crash():
                self._leaving = asyncio.create_task(self._socket.close())
                return []
            case Activate(epoch=epoch):
                before, self.epoch = self.epoch, epoch
                self.active.set()
                return [Drained(PIPELINE, before)] if before is not None else []
            case _:
                return []


class Testbed:
    """A server on a port of its own and the actors that joined it."""

    __test__ = False

    def __init__(self, settings: ServerSettings, http: aiohttp.ClientSession) -> None:
        self.settings = settings
        self.address = ""
        self.actors: dict[AgentId, Actor] = {}
        self._http = http
        self._server: asyncio.Task[None] | None = None
        self._frames = 0

    async def start(self) -> None:
        """Start the server; a second time it listens on the same port."""
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._server = asyncio.create_task(
            serve(self.settings, ready=ready.set_result, tell=str, as_page=as_html)
        )
        either: set[asyncio.Future[Any]] = {self._server, ready}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._server.done():
            self._server.result()
        self.address = ready.result()
        port = int(self.address.rstrip("/").rpartition(":")[2])
        self.settings = msgspec.structs.replace(self.settings, port=port)

    async def stop(self) -> None:
        for agent in list(self.actors):
            await self.leave(agent)
        if self._server is not None:
            self._server.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._server

    async def join(self, *agents: AgentId) -> None:
        token = self.settings.token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for agent in agents or TIER_OF:
            socket = await self._http.ws_connect(f"{self.address}ws/agent", headers=headers)
            tier, speed = TIER_OF[agent], SPEED[agent]
            register = Register(agent, tier, 4711, "laptop", "127.0.0.1:4000", speed, "torch", "0.1.0")
            await socket.send_str(encode(register))
            self.actors[agent] = Actor(agent, socket)

    async def leave(self, agent: AgentId) -> None:
        await self.actors.pop(agent).leave()

    async def post(self, path: str, body: dict[str, Any]) -> None:
        async with self._http.post(f"{self.address}api/{path}", json=body) as answer:
            assert answer.status == 202, await answer.text()

    async def answer(
        self, count: int = 1, *, photo: str = "cat.jpg", max_rel_err: float | None = 0.0
    ) -> None:
        """The device answers `count` frames under its active epoch; all agents report their spans."""
        device = self.actors[DEVICE]
        async with asyncio.timeout(60):
            await device.active.wait()
        assert device.epoch is not None
        epoch, plan = device.epoch, device.plans[device.epoch]
        for _ in range(count):
            self._frames += 1
            frame, at_s = FrameId(self._frames), time.time() - 1
            start_s = at_s
            for actor in self.actors.values():
                mine = [v for v in plan.segment(actor.tier) if v]
                if mine:
                    end_s = start_s + TIME_S[actor.agent] * len(mine)
                    held_s = (end_s - start_s) * (1 - SPEED[actor.agent])
                    span = Span(
                        frame, epoch, SpanKind.COMPUTE, start_s, end_s, (mine[0], mine[-1]), held_s=held_s
                    )
                    await actor.say(SpansRecorded(PIPELINE, 0.001, (span,)))
                    start_s = end_s + GAP_S
            crossing = Span(frame, epoch, SpanKind.TRANSFER, at_s + 0.1, at_s + 0.11, (1, 1), peer=EDGE)
            slow = Transfer(EDGE, frame, epoch, Value(1), 774_400, 774_400 / 0.95e7, 1e7)
            identical = None if max_rel_err is None else max_rel_err == 0
            top = (("tabby cat", 9.75), ("tiger cat", 3.0))
            report = FrameReport(
                frame, epoch, photo, at_s, start_s, "tabby cat", 1, identical, max_rel_err, top=top
            )
            await device.say(
                SpansRecorded(PIPELINE, 0.001, (crossing,)),
                Transferred(PIPELINE, (slow,)),
                FramesAnswered(PIPELINE, self._frames, (report,)),
            )

    async def end_run(self) -> None:
        """The device has sent all frames that it was asked for."""
        await self.actors[DEVICE].say(SourceEnded(PIPELINE, self._frames, self._frames))
        self._frames = 0

    async def until_stored(self, runs: int) -> None:
        """So many runs are over, and in the store with what the page was told of them."""
        path = self.settings.data_dir / "d3bed.sqlite3"
        ended = "SELECT count(*) AS n FROM runs WHERE ended_s IS NOT NULL"
        taped = "SELECT coalesce(max(until_s), 0) - (SELECT max(ended_s) FROM runs) AS n FROM tape"
        async with asyncio.timeout(60):
            while read_rows(path, ended)[0]["n"] < runs or read_rows(path, taped)[0]["n"] < 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # a file: nothing wakes us


async def open_page(page: Page, testbed: Testbed) -> None:
    await page.goto(testbed.address)
    await expect(page.locator("#connection")).to_contain_text("live")


async def press(button: Locator) -> None:
    """By key: where the page shifts between a pointer's press and its release, on a busy machine, that is no
    click, for no button."""
    await expect(button).to_be_enabled()
    await button.press("Enter")


async def violations(page: Page) -> list[str]:
    """What axe-core finds fault with, each with the first element that it is about."""
    if not AXE.is_file():
        missing = "axe-core is missing: python web/vendor.py --dev"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found["violations"]]


MakeTestbed = Callable[..., Awaitable[Testbed]]


@pytest_asyncio.fixture(loop_scope="session")
async def make_testbed(tmp_path: Path) -> AsyncIterator[MakeTestbed]:
    """Start a server; a pin keeps the photo and `layer1` on the device."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())

        async def make(*, token: str | None = None, scenes: tuple[Scene, ...] = ()) -> Testbed:
            pipeline = PipelineSettings(
                id=PIPELINE,
                device=DEVICE,
                edges=(EDGE,),
                cloud=CLOUD,
                model=ModelSpec("alexnet"),
                network="wifi",
                shapes={"device-edge": LinkShape(1e7, 0.001)},
                pins={model: (Pin("layer1", (Tier.DEVICE,)),) for model in ("alexnet", "resnet18")},
            )
            settings = ServerSettings(
                tmp_path / "data", (pipeline,), port=0, token=token, scenes=scenes, networks=NETWORKS
            )
            testbed = Testbed(settings, http)
            stack.push_async_callback(testbed.stop)
            await testbed.start()
            return testbed

        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def testbed(make_testbed: MakeTestbed) -> Testbed:
    return await make_testbed()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    executable = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if executable is None:
        missing = f"no browser: none of {', '.join(CHROMIUM)} is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page that fails its test when a script of it fails or when it asks another host for anything."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(f"script failed: {error}"))
    page.on(
        "console",
        lambda said: failures.append(said.text) if "Content Security Policy" in said.text else None,
    )
    page.on("requestfailed", lambda request: logger.warning("%s failed: %s", request.url, request.failure))
    page.on(
        "request",
        lambda request: None if "://127.0.0.1:" in request.url else failures.append(f"asked {request.url}"),
    )
    yield page
    await context.close()
    assert not failures
