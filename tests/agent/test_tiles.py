"""Tiles over real sockets: exact, whatever the grid; and the frame is answered whatever a helper does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from d3bed.agent.compute import ComputeThread
from d3bed.agent.executor import Executor, Observer
from d3bed.agent.prepare import epoch_work
from d3bed.core.errors import RemoteProtocolError
from d3bed.core.graph import Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import Span, SpanKind, Transfer
from d3bed.core.messages import ModelSpec, Prepare, Route
from d3bed.core.plan import Plan, TiledBlock
from d3bed.core.program import Program, moved_bytes, programs_for
from d3bed.core.regions import cut_channels
from d3bed.core.tiles import Grid, map_size
from d3bed.model import LoadedModel, fingerprint, load, to_wire
from d3bed.model.images import decode, shipped
from d3bed.net import Listener, Sender, TensorMessage
from d3bed.plan.vsm import tileable_parts
from d3bed.plan.vsm.inside import divided

pytestmark = [pytest.mark.sockets, pytest.mark.timeout(480)]

PIPELINE, EPOCH = PipelineId("test"), Epoch(1)
SECRET = b"s" * 32
DEVICE, EDGE, CLOUD = (AgentId(name) for name in ("pi", "edge-1", "vm"))
ROUTE = {Tier.DEVICE: DEVICE, Tier.EDGE: EDGE, Tier.CLOUD: CLOUD}
HELPERS = (AgentId("edge-2"), AgentId("edge-3"))
EDGES = (EDGE, *HELPERS)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load(ModelSpec("resnet18", input=(3, 96, 96)))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles that one test has checked are known to the next."""
    return tmp_path_factory.mktemp("tiles")


class Recorder(Observer):
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.transfers: list[Transfer] = []
        self.problems: list[str] = []
        self.rescues: list[str] = []

    def span(self, pipeline: PipelineId, span: Span) -> None:
        self.spans.append(span)

    def transfer(self, pipeline: PipelineId, transfer: Transfer) -> None:
        self.transfers.append(transfer)

    def lost(self, pipeline: PipelineId, epoch: Epoch, peer: AgentId, problem: str) -> None:
        self.problems.append(f"{peer} lost")

    def failed(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, problem: str) -> None:
        self.problems.append(problem)

    def rescued(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, problem: str) -> None:
        self.rescues.append(problem)


@dataclass
class Node:
    executor: Executor
    compute: ComputeThread
    listener: Listener
    seen: Recorder


class Bed:
    """A device, three edge agents and a cloud, each able to send to each over loopback TCP.

    `on_tensor`, where a test sets it for an agent, takes the place of its executor's `receive`.
    """

    def __init__(self, cache_dir: Path) -> None:
        self.cache_dir = cache_dir
        self.nodes: dict[AgentId, Node] = {}
        self.links: dict[tuple[AgentId, AgentId], Sender] = {}
        self.programs: dict[AgentId, Program] = {}
        self.on_tensor: dict[AgentId, Callable[[AgentId, PipelineId, TensorMessage], None]] = {}

    async def start(self) -> None:
        for agent in (DEVICE, *EDGES, CLOUD):
            seen, compute = Recorder(), ComputeThread(agent)
            await compute.run(lambda: torch.set_num_threads(1))
            executor = Executor(compute, 1.0, seen)

            def receive(
                peer: AgentId,
                pipeline: PipelineId,
                message: TensorMessage,
                agent: AgentId = agent,
                executor: Executor = executor,
            ) -> None:
                self.on_tensor.get(agent, executor.receive)(peer, pipeline, message)

            listener = await Listener.start(
                "127.0.0.1", 0, me=agent, secret=SECRET, on_tensor=receive, on_lost=lambda *_: None
            )
            self.nodes[agent] = Node(executor, compute, listener, seen)
        for here in self.nodes:
            for there, node in self.nodes.items():
                if here != there:
                    self.links[here, there] = await Sender.connect(
                        node.listener.address, me=here, peer=there, pipeline=PIPELINE, secret=SECRET
                    )

    async def prepare(self, model: LoadedModel, plan: Plan, *, alone_s: float | None = None) -> None:
        """`alone_s`: what the whole network would take on the owner, so that it soon gives tiles up."""
        count = len(model.graph.vertices)
        plan.check(model.graph)
        self.programs = programs_for(model.graph, plan, ROUTE)
        for agent, program in self.programs.items():
            node = self.nodes[agent]
            work, tiles = await epoch_work(
                Prepare(PIPELINE, EPOCH, model.spec, plan, Route(ROUTE), ()),
                model,
                program,
                {there: link for (here, there), link in self.links.items() if here == agent},
                keep=frozenset(model.graph.results) if agent == DEVICE else frozenset(),
                compute=node.compute,
                times_s=None if alone_s is None else (alone_s / count,) * count,
                speed=1.0,
                fingerprint=fingerprint(1),
                cache_dir=self.cache_dir,
            )
            assert all(tile.identical for tile in tiles)
            node.executor.add(work)

    async def infer(self, image: torch.Tensor, frame: int = 1) -> tuple[torch.Tensor, ...]:
        return await self.nodes[DEVICE].executor.infer(PIPELINE, EPOCH, FrameId(frame), image)

    def retire(self) -> None:
        for node in self.nodes.values():
            node.executor.retire(PIPELINE, EPOCH)

    @property
    def problems(self) -> list[str]:
        return [problem for node in self.nodes.values() for problem in node.seen.problems]

    @property
    def rescues(self) -> list[str]:
        return self.nodes[EDGE].seen.rescues

    async def stop(self) -> None:
        for link in self.links.values():
            await link.close()
        for node in self.nodes.values():
            node.executor.close()
            await node.listener.close()
            node.compute.close()


@pytest.fixture
async def bed(cache_dir: Path) -> AsyncIterator[Bed]:
    made = Bed(cache_dir)
    await made.start()
    yield made
    await made.stop()


def tiled_plan(model: LoadedModel, rng: random.Random | None = None) -> Plan:
    """All behind the first block on the edge; its largest part in thirds, or as `rng` draws it. Where a block
    is one residual unit, what its second convolution reads is exchanged, too."""
    graph = model.graph
    part = max(tileable_parts(graph), key=lambda each: len(each.vertices))
    borders = len(part.borders)
    cuts = [0, borders // 2, borders // 2 + 1, borders - 1]
    if rng is not None:
        unit = rng.randrange(3, borders - 1)
        cuts = sorted({0, *rng.sample(range(1, borders - 1), 2), unit, unit + 1, borders - 1})
    tiles = []
    for first, last in zip(cuts, cuts[1:], strict=False):
        section = part.block(first, last)
        inner = (v for v in section.vertices if graph.vertices[v].kind == "conv2d")
        mixes = set(inner if last == first + 1 else ())
        for block in divided(graph, section, mixes.__contains__):
            height, width = map_size(graph, block.sink)
            rows, columns = 3, 1
            if rng is not None:
                rows, columns = rng.choice([(1, 2), (2, 2), (3, 1), (1, 3), (2, 1)])
            grid = Grid.even((height, width), min(rows, height), min(columns, width))
            if rng is not None and rng.random() < 0.4:
                channels = graph.spec(block.sink).shape[1]
                grid = Grid(grid.rows, grid.columns, cut_channels(channels, [1, rng.choice([1, 2])]))
            count = grid.count
            agents = EDGES[:count] if rng is None else tuple(rng.choices(EDGES, k=count))
            gather = rng is not None and block.sink == section.sink and rng.random() < 0.3
            tiles.append(TiledBlock(block, grid, agents, gather))
    assert any(len(tiled.block.sources) > 1 for tiled in tiles)
    source = part.borders[0].vertex
    tiers = tuple(Tier.DEVICE if v <= source else Tier.EDGE for v in range(len(graph.vertices) - 1))
    return Plan((*tiers, Tier.CLOUD), tuple(tiles))


def photo(model: LoadedModel, number: int = 0) -> torch.Tensor:
    return decode(shipped()[number], *model.input.shape[-2:])


def equals(model: LoadedModel, answer: tuple[torch.Tensor, ...], number: int = 0) -> bool:
    whole = model.whole(photo(model, number))
    return all(torch.equal(a, b) for a, b in zip(answer, whole, strict=True))


@pytest.mark.parametrize("seed", range(8))
async def test_random_tilings_over_sockets_equal_the_whole_model(
    bed: Bed, model: LoadedModel, seed: int
) -> None:
    await bed.prepare(model, tiled_plan(model, random.Random(seed)))
    for frame in (1, 2):
        assert equals(model, await bed.infer(photo(model, frame), frame), frame)
    assert bed.problems == bed.rescues == []


async def test_frames_in_flight_share_helpers_without_mixing(bed: Bed, model: LoadedModel) -> None:
    await bed.prepare(model, tiled_plan(model))
    answers = await asyncio.gather(*(bed.infer(photo(model, n % 3), n) for n in range(9)))
    assert all(equals(model, answer, n % 3) for n, answer in enumerate(answers))
    assert bed.problems == bed.rescues == []


async def test_each_helper_computes_its_tiles_and_only_pieces_travel(bed: Bed, model: LoadedModel) -> None:
    plan = tiled_plan(model)
    await bed.prepare(model, plan)
    await bed.infer(photo(model))
    for agent in HELPERS:
        spans = [s for s in bed.nodes[agent].seen.spans if s.kind is SpanKind.COMPUTE]
        assert [span.tile for span in spans] == [(EDGES.index(agent), 0, 0)] * len(plan.tiles)
    moved = moved_bytes(model.graph, plan.tiles, EDGE)
    sent = [t for agent in EDGES for t in bed.nodes[agent].seen.transfers if t.value.whole != t.value]
    assert sum(t.bytes for t in sent) == sum(taken + gathered for taken, gathered in moved)
    assert all(taken > 0 for taken, _ in moved)


# ── helpers that fail ─────────────────────────────────────────────────────────────────────────────


async def test_a_helper_that_vanishes_costs_time_not_the_frame(bed: Bed, model: LoadedModel) -> None:
    """Its listener and links close while the frame is under way."""
    await bed.prepare(model, tiled_plan(model), alone_s=0.5)
    gone = asyncio.Event()

    def vanish(*_: object) -> None:
        gone.set()

    bed.on_tensor[HELPERS[0]] = vanish
    answering = asyncio.create_task(bed.infer(photo(model)))
    await gone.wait()
    await bed.nodes[HELPERS[0]].listener.close()
    for agent in (DEVICE, CLOUD, EDGE, HELPERS[1]):
        await bed.links[HELPERS[0], agent].close()
    assert equals(model, await answering)
    assert len(bed.rescues) == 1
    assert equals(model, await bed.infer(photo(model, 1), 2), 1), "and the next one too"


async def test_a_helper_that_never_answers_is_done_without(bed: Bed, model: LoadedModel) -> None:
    await bed.prepare(model, tiled_plan(model), alone_s=0.5)
    bed.on_tensor[HELPERS[1]] = lambda *_: None
    for frame in (1, 2, 3):
        assert equals(model, await bed.infer(photo(model, frame), frame), frame)
    assert len(bed.rescues) == 3 and "no tiles" in bed.rescues[0]


async def test_a_helper_ten_times_slower_costs_time_not_the_frame(bed: Bed, model: LoadedModel) -> None:
    """Waited for or done without: it depends on what the machine does beside."""
    await bed.prepare(model, tiled_plan(model), alone_s=0.5)
    bed.nodes[HELPERS[0]].executor.set_speed(0.1)
    for frame in (1, 2):
        assert equals(model, await bed.infer(photo(model, frame), frame), frame)
    held = [span.held_s for span in bed.nodes[HELPERS[0]].seen.spans if span.kind is SpanKind.COMPUTE]
    assert any(held) and bed.problems == []


async def test_tiles_that_come_too_late_change_nothing(bed: Bed, model: LoadedModel) -> None:
    """A helper works on a frame only after its owner has given it up, and then on the next as usual."""
    await bed.prepare(model, tiled_plan(model), alone_s=0.5)
    helper, held = HELPERS[0], list[tuple[AgentId, PipelineId, TensorMessage]]()
    bed.on_tensor[helper] = lambda *said: held.append(said)
    assert equals(model, await bed.infer(photo(model)))
    assert len(bed.rescues) == 1
    del bed.on_tensor[helper]
    for said in held:
        bed.nodes[helper].executor.receive(*said)
    owner = bed.nodes[EDGE].executor
    async with asyncio.timeout(60):
        while not owner.stale:  # noqa: ASYNC110 - tiles that nobody waits for any more
            await asyncio.sleep(0.01)
    assert equals(model, await bed.infer(photo(model, 1), 2), 1)
    assert len(bed.rescues) == 1


async def test_one_halo_lost_is_enough_to_be_noticed(bed: Bed, model: LoadedModel) -> None:
    await bed.prepare(model, tiled_plan(model), alone_s=0.5)
    helper = bed.nodes[HELPERS[0]].executor
    dropped: list[Value] = []

    def lossy(peer: AgentId, pipeline: PipelineId, message: TensorMessage) -> None:
        if peer == HELPERS[1] and not dropped:
            dropped.append(message.value)
        else:
            helper.receive(peer, pipeline, message)

    bed.on_tensor[HELPERS[0]] = lossy
    assert equals(model, await bed.infer(photo(model)))
    assert len(dropped) == 1 and len(bed.rescues) == 1


async def test_a_tile_that_comes_twice_or_of_another_epoch_is_refused(bed: Bed, model: LoadedModel) -> None:
    await bed.prepare(model, tiled_plan(model), alone_s=0.5)
    owner = bed.nodes[EDGE].executor
    refused: list[str] = []
    stale = owner.stale

    def twice(peer: AgentId, pipeline: PipelineId, message: TensorMessage) -> None:
        owner.receive(peer, pipeline, message)
        if peer == HELPERS[0]:
            other = TensorMessage(
                message.frame, Epoch(7), message.value, message.dtype, message.shape, message.strides,
                message.payload,
            )  # fmt: skip
            owner.receive(peer, pipeline, other)
            try:
                owner.receive(peer, pipeline, message)
            except RemoteProtocolError as error:
                refused.append(str(error))

    bed.on_tensor[EDGE] = twice
    assert equals(model, await bed.infer(photo(model)))
    assert refused and all("twice" in text for text in refused)
    assert owner.stale > stale


async def test_a_rectangle_that_nobody_asked_for_is_the_peers_fault(bed: Bed, model: LoadedModel) -> None:
    plan = tiled_plan(model)
    await bed.prepare(model, plan)
    whole = plan.tiles[0].block.sink
    dtype, shape, strides, payload = to_wire(torch.zeros(model.graph.spec(whole).shape))
    message = TensorMessage(FrameId(1), EPOCH, whole, dtype, shape, strides, payload)
    with pytest.raises(RemoteProtocolError, match="not expected"):
        bed.nodes[HELPERS[0]].executor.receive(EDGE, PIPELINE, message)
