"""Frames through three executors joined by real sockets: exact, complete, and robust against bad peers."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import torch

from d3bed.agent.compute import ComputeThread
from d3bed.agent.executor import EpochWork, Executor, Observer, nominal_times
from d3bed.core.errors import RemoteProtocolError, StaleEpoch
from d3bed.core.graph import Graph, Value
from d3bed.core.ids import TIERS, AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import LinkShape, Span, SpanKind, Transfer
from d3bed.core.messages import ModelSpec
from d3bed.core.plan import Plan
from d3bed.core.program import STAND_INS, programs_for
from d3bed.model import LoadedModel, compile_step, load
from d3bed.model.images import MAX_ENCODED_BYTES, decode, encoded, shipped
from d3bed.net import Listener, Sender, TensorMessage

pytestmark = [pytest.mark.sockets, pytest.mark.timeout(480)]

PIPELINE = PipelineId("test")
SECRET = b"s" * 32


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {name: load(ModelSpec(name)) for name in ("alexnet", "resnet18")} | {
        "file": load(ModelSpec("alexnet", encoded=100_000))
    }


class Recorder(Observer):
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.transfers: list[Transfer] = []
        self.problems: list[str] = []

    def span(self, pipeline: PipelineId, span: Span) -> None:
        self.spans.append(span)

    def transfer(self, pipeline: PipelineId, transfer: Transfer) -> None:
        self.transfers.append(transfer)

    def lost(self, pipeline: PipelineId, epoch: Epoch, peer: AgentId, problem: str) -> None:
        self.problems.append(problem)

    def failed(self, pipeline: PipelineId, epoch: Epoch, frame: FrameId, problem: str) -> None:
        self.problems.append(problem)


@dataclass
class Node:
    executor: Executor
    compute: ComputeThread
    listener: Listener
    seen: Recorder


class Testbed:
    """Three nodes and the links between adjacent tiers, both ways, over loopback TCP."""

    __test__ = False

    def __init__(self) -> None:
        self.nodes: dict[Tier, Node] = {}
        self.links: dict[tuple[Tier, Tier], Sender] = {}

    async def start(self, shape: LinkShape | None = None) -> None:
        for tier in TIERS:
            seen, compute = Recorder(), ComputeThread(tier)
            await compute.run(lambda: torch.set_num_threads(1))
            executor = Executor(compute, 1.0, seen)
            listener = await Listener.start(
                "127.0.0.1",
                0,
                me=AgentId(tier),
                secret=SECRET,
                on_tensor=executor.receive,
                on_lost=lambda *_: None,
            )
            self.nodes[tier] = Node(executor, compute, listener, seen)
        for here, there in zip(TIERS, TIERS[1:], strict=False):
            for a, b in ((here, there), (there, here)):
                self.links[a, b] = await Sender.connect(
                    self.nodes[b].listener.address,
                    me=AgentId(a),
                    peer=AgentId(b),
                    pipeline=PIPELINE,
                    secret=SECRET,
                    shape=shape,
                )

    def prepare(self, model: LoadedModel, plan: Plan, epoch: int) -> None:
        programs = programs_for(model.graph, plan, STAND_INS)
        for tier, node in self.nodes.items():
            program = programs[STAND_INS[tier]]
            senders = {STAND_INS[there]: link for (here, there), link in self.links.items() if here is tier}
            calls = tuple(compile_step(model, step) for step in program.steps)
            keep = frozenset(model.graph.results) if tier is Tier.DEVICE else frozenset()
            nominal_s = nominal_times(None, program.steps)
            node.executor.add(
                EpochWork(PIPELINE, Epoch(epoch), model, program, calls, nominal_s, senders, keep)
            )

    async def infer(self, epoch: int, frame: int, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        device = self.nodes[Tier.DEVICE].executor
        return await device.infer(PIPELINE, Epoch(epoch), FrameId(frame), image)

    def retire(self, epoch: int) -> None:
        for node in self.nodes.values():
            node.executor.retire(PIPELINE, Epoch(epoch))

    async def stop(self) -> None:
        for link in self.links.values():
            await link.close()
        for node in self.nodes.values():
            node.executor.close()
            await node.listener.close()
            node.compute.close()


@pytest.fixture
async def testbed() -> AsyncIterator[Testbed]:
    bed = Testbed()
    await bed.start()
    yield bed
    await bed.stop()


def random_plan(graph: Graph, rng: random.Random) -> Plan:
    ranks = [0] * len(graph.vertices)
    early, late = sorted((rng.random(), rng.random()))
    for v in range(1, len(ranks)):
        place = v / len(ranks)
        lowest = max(ranks[p] for p in graph.predecessors[v])
        drawn = (place > early) + (place > late) if rng.random() < 0.7 else rng.randint(lowest, 2)
        ranks[v] = max(lowest, drawn)
    return Plan(tuple(TIERS[r] for r in ranks))


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
async def test_random_cuts_over_sockets_equal_the_whole_model(
    testbed: Testbed, models: dict[str, LoadedModel], name: str
) -> None:
    model, rng = models[name], random.Random(7)
    image = decode(shipped()[0], *model.input.shape[-2:])
    reference = model.whole(image)
    for epoch in range(1, 25):
        plan = random_plan(model.graph, rng)
        testbed.prepare(model, plan, epoch)
        answer = await testbed.infer(epoch, 1, image)
        assert all(torch.equal(a, b) for a, b in zip(answer, reference, strict=True)), plan.describe()
        testbed.retire(epoch)
    problems = [p for node in testbed.nodes.values() for p in node.seen.problems]
    assert problems == []


async def test_frames_of_two_epochs_in_flight_do_not_mix(
    testbed: Testbed, models: dict[str, LoadedModel]
) -> None:
    model, rng = models["alexnet"], random.Random(3)
    images = [decode(path, *model.input.shape[-2:]) for path in shipped()[:3]]
    references = [model.whole(image) for image in images]
    for epoch in (1, 2):
        testbed.prepare(model, random_plan(model.graph, rng), epoch)
    jobs = [testbed.infer(1 + n % 2, n, images[n % 3]) for n in range(12)]
    for n, answer in enumerate(await asyncio.gather(*jobs)):
        assert torch.equal(answer[0], references[n % 3][0])


async def test_spans_and_transfers_tell_what_happened(
    testbed: Testbed, models: dict[str, LoadedModel]
) -> None:
    model = models["alexnet"]
    count = len(model.graph.vertices)
    third = count // 3
    plan = Plan((Tier.DEVICE,) * third + (Tier.EDGE,) * third + (Tier.CLOUD,) * (count - 2 * third))
    testbed.prepare(model, plan, 1)
    await testbed.infer(1, 1, decode(shipped()[0], *model.input.shape[-2:]))
    programs = programs_for(model.graph, plan, STAND_INS)
    for tier in TIERS:
        spans = testbed.nodes[tier].seen.spans
        compute = [s for s in spans if s.kind is SpanKind.COMPUTE]
        assert [s.vertices for s in compute] == [
            (step.vertices[0], step.vertices[-1]) for step in programs[STAND_INS[tier]].steps
        ]
        assert all(s.start_s <= s.end_s and s.held_s == 0.0 for s in spans)
    sent = testbed.nodes[Tier.EDGE].seen.transfers
    assert [t.peer for t in sent] == ["cloud", "device"] or [t.peer for t in sent] == ["cloud"]
    assert sent[0].bytes == model.graph.spec(Value(2 * third - 1)).nbytes


async def test_a_retired_epoch_gives_its_frames_back(
    testbed: Testbed, models: dict[str, LoadedModel]
) -> None:
    model = models["alexnet"]
    count = len(model.graph.vertices)
    testbed.prepare(model, Plan((Tier.DEVICE,) + (Tier.EDGE,) * (count - 1)), 1)
    image = decode(shipped()[0], *model.input.shape[-2:])
    frame = asyncio.create_task(testbed.infer(1, 1, image))
    await asyncio.sleep(0)
    testbed.nodes[Tier.DEVICE].executor.retire(PIPELINE, Epoch(1))
    with pytest.raises(StaleEpoch):
        await frame
    with pytest.raises(StaleEpoch):
        await testbed.infer(1, 2, image)


async def test_tensors_that_do_not_fit_the_plan_are_the_peers_fault(
    testbed: Testbed, models: dict[str, LoadedModel]
) -> None:
    model = models["alexnet"]
    count = len(model.graph.vertices)
    testbed.prepare(model, Plan((Tier.DEVICE,) * 4 + (Tier.EDGE,) * (count - 4)), 1)
    edge = testbed.nodes[Tier.EDGE].executor

    def message(vertex: int, shape: tuple[int, ...], epoch: int = 1) -> TensorMessage:
        strides = tuple(torch.empty(shape).stride())
        payload = memoryview(bytearray(4 * int(torch.Size(shape).numel())))
        return TensorMessage(FrameId(1), Epoch(epoch), Value(vertex), "float32", shape, strides, payload)

    with pytest.raises(RemoteProtocolError, match="not expected"):
        edge.receive(AgentId("device"), PIPELINE, message(1, (1, 3)))
    with pytest.raises(RemoteProtocolError, match="the graph says"):
        edge.receive(AgentId("device"), PIPELINE, message(3, (1, 3)))
    edge.receive(AgentId("device"), PIPELINE, message(3, (1, 3), epoch=9))
    assert edge.stale == 1


# ── files in place of pixels ──────────────────────────────────────────────────────────────────────────


def after_input(model: LoadedModel, tier: Tier) -> Plan:
    """The file goes to `tier`, which decodes it and does the rest."""
    return Plan((Tier.DEVICE,) + (tier,) * (len(model.graph.vertices) - 1))


@pytest.mark.parametrize("tier", TIERS)
async def test_a_file_is_decoded_on_any_tier_to_the_same_bits(
    testbed: Testbed, models: dict[str, LoadedModel], tier: Tier
) -> None:
    model, pixels = models["file"], models["alexnet"]
    testbed.prepare(model, after_input(model, tier), 1)
    for frame, path in enumerate(shipped(jpeg=True)):
        file = encoded(path)
        (answer,) = await testbed.infer(1, frame, file)
        assert torch.equal(answer, model.whole(file)[0])
        assert torch.equal(answer, pixels.whole(decode(path, *pixels.input.shape[-2:]))[0])
        sent = [t for t in testbed.nodes[Tier.DEVICE].seen.transfers if t.frame == frame]
        assert [t.bytes for t in sent] == ([] if tier is Tier.DEVICE else [path.stat().st_size])


async def test_random_cuts_of_a_network_that_takes_files_equal_the_whole_model(
    testbed: Testbed, models: dict[str, LoadedModel]
) -> None:
    model, rng, file = models["file"], random.Random(11), encoded(shipped(jpeg=True)[0])
    (reference,) = model.whole(file)
    for epoch in range(1, 13):
        testbed.prepare(model, random_plan(model.graph, rng), epoch)
        assert torch.equal((await testbed.infer(epoch, 1, file))[0], reference)
        testbed.retire(epoch)


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 30000 × 30000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("content", [b"no image", bomb()], ids=["text", "bomb"])
async def test_a_file_that_is_no_image_fails_its_frame_and_no_other(
    testbed: Testbed, models: dict[str, LoadedModel], content: bytes
) -> None:
    model, good = models["file"], encoded(shipped(jpeg=True)[0])
    testbed.prepare(model, after_input(model, Tier.CLOUD), 1)
    bad = asyncio.create_task(testbed.infer(1, 1, torch.frombuffer(bytearray(content), dtype=torch.uint8)))
    seen = testbed.nodes[Tier.CLOUD].seen
    async with asyncio.timeout(60):
        while not seen.problems:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    (answer,) = await testbed.infer(1, 2, good)
    assert torch.equal(answer, model.whole(good)[0])
    (problem,) = seen.problems
    assert "frame: not a readable image" in problem
    testbed.nodes[Tier.DEVICE].executor.retire(PIPELINE, Epoch(1))
    with pytest.raises(StaleEpoch):
        await bad


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("uint8", (MAX_ENCODED_BYTES + 1,)), ("uint8", (0,)), ("uint8", (1, 9)), ("int8", (9,))],
)
async def test_what_can_be_no_file_is_the_peers_fault(
    testbed: Testbed, models: dict[str, LoadedModel], dtype: str, shape: tuple[int, ...]
) -> None:
    model = models["file"]
    testbed.prepare(model, after_input(model, Tier.EDGE), 1)
    strides = tuple(torch.empty(shape).stride())
    payload = memoryview(bytearray(torch.Size(shape).numel()))
    message = TensorMessage(FrameId(1), Epoch(1), Value(0), dtype, shape, strides, payload)
    with pytest.raises(RemoteProtocolError, match="the graph says"):
        testbed.nodes[Tier.EDGE].executor.receive(AgentId("device"), PIPELINE, message)
