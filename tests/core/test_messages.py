from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d3bed.core.errors import RemoteProtocolError
from d3bed.core.graph import Edge, Graph, TensorSpec, Value, Vertex, Window
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import BoardSample, FrameReport, LinkShape, Span, SpanKind, Transfer
from d3bed.core.messages import (
    MAX_CONTROL_BYTES,
    BoardSampled,
    FramesAnswered,
    FromAgent,
    Heartbeat,
    ModelFailed,
    ModelLoaded,
    ModelSpec,
    Peer,
    Prepare,
    Register,
    Route,
    SpansRecorded,
    Stop,
    ToAgent,
    Transferred,
    decode_from_agent,
    decode_to_agent,
    encode,
)
from d3bed.core.plan import Plan
from d3bed.core.together import TOGETHER_BYTES, decode_all, encode_all

GRAPH = Graph(
    "m",
    (
        Vertex("input", "input", (TensorSpec((1, 3, 8, 8), "uint8"),)),
        Vertex("conv", "conv2d", (TensorSpec((1, 4, 8, 8), "float32"),), window=Window((3, 3), (1, 1))),
    ),
    (Edge(0, 1),),
    (Value(1),),
)
PIPELINE, EPOCH = PipelineId("pi-1"), Epoch(4)
SPEC = ModelSpec("m", "random:1", (3, 8, 8))


@pytest.mark.parametrize(
    "message",
    [
        Register(AgentId("pi-1"), Tier.DEVICE, 12, "pi", "127.0.0.1:5000", 0.2, "eager", "0.1"),
        Heartbeat(queued=2, rejected=1, rss_bytes=10**9),
        ModelLoaded(SPEC, GRAPH, "abc", 1, 0.5),
        FramesAnswered(PIPELINE, 3, (FrameReport(FrameId(1), EPOCH, "cat.jpg", 0.0, 0.5, identical=True),)),
        SpansRecorded(PIPELINE, 1e-4, (Span(FrameId(1), EPOCH, SpanKind.COMPUTE, 0.0, 0.1, (1, 1)),)),
        BoardSampled(BoardSample(0.5, 1.0, 0.001, 0.3, temperature_c=61.5, throttled="hot")),
        Transferred(PIPELINE, (Transfer(AgentId("e"), FrameId(1), EPOCH, Value(1), 1024, 0.01, 1e5),)),
    ],
)
def test_what_an_agent_says_survives_the_wire(message: FromAgent) -> None:
    assert decode_from_agent(encode(message)) == message
    assert decode_from_agent(encode(message).encode()) == message


def test_what_the_server_says_survives_the_wire() -> None:
    plan = Plan((Tier.DEVICE, Tier.CLOUD))
    peer = Peer(AgentId("edge-1"), Tier.EDGE, "127.0.0.1:5001", LinkShape(1e7, 0.002))
    route = Route({Tier.DEVICE: AgentId("pi-1"), Tier.EDGE: AgentId("edge-1"), Tier.CLOUD: AgentId("vm")})
    message = Prepare(PIPELINE, EPOCH, SPEC, plan, route, (peer,))
    again = decode_to_agent(encode(message))
    assert again == message
    assert isinstance(again, Prepare)
    assert again.plan.tiers[1] is Tier.CLOUD


@pytest.mark.parametrize("union", [FromAgent, ToAgent])
def test_every_message_has_a_tag_of_its_own(union: object) -> None:
    tags = [kind.__struct_config__.tag for kind in typing.get_args(union)]
    assert len(tags) == len(set(tags)) > 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        "{" * 5000,
        '{"type": "Nonsense"}',
        '{"type": "Heartbeat", "queued": "many"}',
        '{"type": "Register", "agent": "a"}',
        '{"type": "Stop", "reason": "said by the wrong side"}',
        b"\x80\x04\x95\x10pickle",
        b'{"type": "Heartbeat", "queued": \xff}',
        '{"type": "Heartbeat", "queued": NaN}',
    ],
)
def test_a_bad_message_is_the_peers_fault(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="bad control message"):
        decode_from_agent(text)


def test_an_overlong_message_is_refused_unread() -> None:
    with pytest.raises(RemoteProtocolError, match="limit"):
        decode_from_agent(b"x" * (MAX_CONTROL_BYTES + 1))


def test_the_two_directions_are_kept_apart() -> None:
    assert decode_to_agent(encode(Stop("done"))) == Stop("done")
    with pytest.raises(RemoteProtocolError):
        decode_to_agent(encode(Heartbeat()))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_garbage_never_raises_anything_else(text: str | bytes) -> None:
    try:
        decode_from_agent(text)
    except RemoteProtocolError as error:
        assert str(error)
    else:
        assert isinstance(msgspec.json.decode(text), dict)


def test_what_is_said_at_the_same_moment_shares_texts_up_to_a_size() -> None:
    beats = [Heartbeat(queued=n) for n in range(20_000)]
    assert list(encode_all([])) == []
    assert list(encode_all(beats[:1])) == [encode(beats[0])]
    texts = list(encode_all(beats))
    assert 1 < len(texts) < 10
    assert max(map(len, texts)) <= TOGETHER_BYTES + 3 * len(beats)
    assert [message for text in texts for message in decode_all(text)] == beats
    huge = ModelFailed(SPEC, "x" * TOGETHER_BYTES)
    assert [len(decode_all(text)) for text in encode_all([beats[0], huge, beats[1]])] == [1, 1, 1]


@pytest.mark.parametrize(
    "text", ["[1]", "[[]]", "[{}]", '[{"type": "Heartbeat"}, {"type": "Stop"}]', "", "3"]
)
def test_a_bad_one_of_several_messages_is_the_peers_fault(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="bad control message"):
        decode_all(text)
    with pytest.raises(RemoteProtocolError, match="limit"):
        decode_all("[" + " " * 2 * TOGETHER_BYTES + "]")
