from __future__ import annotations

import math
import pickle
import random
import struct
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3bed.core.errors import LinkBroken, LocalProtocolError, RemoteProtocolError
from d3bed.core.graph import ITEM_BYTES, Value
from d3bed.core.ids import Epoch, FrameId
from d3bed.net.codec import (
    MAGIC,
    PIECE_BYTES,
    Breach,
    Goodbye,
    Hello,
    Kind,
    Limits,
    Piece,
    Ping,
    Pong,
    Probed,
    ProbeData,
    Refused,
    TensorHeader,
    TensorMessage,
    Want,
    WireViolation,
    encode,
)
from d3bed.net.wire import TRANSITIONS, ProbeBegun, ProbeEnded, Role, Wire, WireState

if TYPE_CHECKING:
    from tests.net.conftest import LinkPair, MakeTensor

GIB = 1 << 30


def prefix(
    kind: int = Kind.TENSOR,
    header_bytes: int = 0,
    payload_bytes: int = 0,
    magic: bytes = MAGIC,
    version: int = 1,
    zero: int = 0,
) -> bytes:
    return struct.pack("<4sBBHIQQI", magic, version, kind, zero, header_bytes, payload_bytes, 1, 1)


def tensor_bytes(header: bytes, payload_bytes: int, payload: bytes = b"") -> bytes:
    return prefix(Kind.TENSOR, len(header), payload_bytes) + header + payload


def tensor_header(
    shape: tuple[int, ...], strides: tuple[int, ...] | None = None, dtype: str = "uint8"
) -> bytes:
    return msgspec.msgpack.encode(TensorHeader(1, 0, dtype, shape, shape if strides is None else strides))


def open_acceptor(allocated: list[int] | None = None) -> Wire:
    """An acceptor after its handshake that notes what it allocates."""

    def allocate(nbytes: int) -> memoryview:
        if allocated is not None:
            allocated.append(nbytes)
        return memoryview(bytearray(nbytes))

    wire = Wire(Role.ACCEPTOR, allocate=allocate)
    wire.state = WireState.OPEN
    return wire


# ── what goes through ─────────────────────────────────────────────────────────────────────────────


def test_handshake_opens_both_ends(pair: LinkPair) -> None:
    pair.open()
    assert pair.connector.state is pair.acceptor.state is WireState.OPEN


@pytest.mark.parametrize("dtype", sorted(ITEM_BYTES))
def test_tensor_arrives_as_it_was_sent(open_pair: LinkPair, make_tensor: MakeTensor, dtype: str) -> None:
    sent = make_tensor((1, 3, 4, 5), dtype, frame=2**40, epoch=7)
    (got,) = open_pair.say(open_pair.connector, sent)
    assert isinstance(got, TensorMessage)
    assert (got.frame, got.epoch, got.value, got.dtype) == (2**40, 7, sent.value, dtype)
    assert (got.shape, got.strides, bytes(got.payload)) == (sent.shape, sent.strides, sent.payload)
    assert not open_pair.acceptor.mid_message


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((1, 3, 4, 5), (60, 1, 15, 3)),  # channels last
        ((), ()),
        ((0, 4), (4, 1)),
        ((1, 1, 6), (999, 7, 1)),  # strides of size-1 dimensions address nothing
        ((2, 3), (1, 2)),
        ((1,) * 8, (1,) * 8),
    ],
)
def test_dense_layouts_keep_their_strides(
    open_pair: LinkPair, make_tensor: MakeTensor, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    (got,) = open_pair.say(open_pair.connector, make_tensor(shape, "int16", strides))
    assert isinstance(got, TensorMessage)
    assert (got.shape, got.strides) == (shape, strides)


def test_messages_arrive_in_order_and_whole(open_pair: LinkPair, make_tensor: MakeTensor) -> None:
    wire = open_pair.connector
    for frame in range(5):
        wire.send(make_tensor(frame=frame))
        wire.send(Ping(frame))
    got = open_pair.carry(wire)
    assert [type(event).__name__ for event in got] == ["TensorMessage", "Ping"] * 5
    assert [bytes(e.payload) for e in got if isinstance(e, TensorMessage)] == [
        make_tensor(frame=frame).payload for frame in range(5)
    ]


def test_payload_is_sent_uncopied_and_received_in_the_allocated_buffer(make_tensor: MakeTensor) -> None:
    tensor = make_tensor((1, 64, 32, 32))
    head, payload = encode(tensor, Limits())
    assert payload is not None and payload.obj is tensor.payload
    wire = open_acceptor()
    wire.receive_data(head)
    assert wire.get_buffer().nbytes == payload.nbytes  # straight into the payload, nothing in between
    wire.receive_data(payload)
    (got,) = wire.events_received()
    assert isinstance(got, TensorMessage) and isinstance(got.payload, memoryview) and not got.payload.readonly


def test_probe_tells_its_beginning_and_end(open_pair: LinkPair) -> None:
    assert open_pair.say(open_pair.connector, ProbeData(4, bytes(1000))) == [
        ProbeBegun(4),
        ProbeEnded(4, 1000),
    ]
    assert open_pair.say(open_pair.acceptor, Probed(4, 1000, 0.5)) == [Probed(4, 1000, 0.5)]
    assert open_pair.say(open_pair.acceptor, Pong(9)) == [Pong(9)]


def test_a_file_is_asked_for_and_answered_in_pieces(open_pair: LinkPair) -> None:
    want = Want(3, "0123456789abcdef" * 4, 1 << 40)
    assert open_pair.say(open_pair.connector, want) == [want]
    for payload in (b"some of it", b""):
        (got,) = open_pair.say(open_pair.acceptor, Piece(3, payload))
        assert isinstance(got, Piece) and (got.number, bytes(got.payload)) == (3, payload)


@pytest.mark.parametrize("name", ["..%2fsecrets", "0" * 63, "0" * 65, "A" * 64])
def test_a_file_is_asked_for_by_its_hash_alone(name: str) -> None:
    head, _ = encode(Want(1, name, 0), Limits())
    with pytest.raises(WireViolation) as caught:
        open_acceptor().receive_data(head)
    assert caught.value.breach is Breach.HEADER


def test_goodbye_closes_and_what_follows_is_not_read(open_pair: LinkPair, make_tensor: MakeTensor) -> None:
    assert open_pair.say(open_pair.connector, Goodbye("done")) == [Goodbye("done")]
    open_pair.acceptor.receive_data(b"garbage")
    assert open_pair.acceptor.events_received() == []
    open_pair.acceptor.receive_eof()
    assert open_pair.connector.state is open_pair.acceptor.state is WireState.CLOSED
    with pytest.raises(LocalProtocolError, match="TENSOR"):
        open_pair.connector.send(make_tensor())


def test_end_of_stream_without_goodbye_is_a_broken_link(open_pair: LinkPair) -> None:
    with pytest.raises(LinkBroken, match="without a goodbye"):
        open_pair.acceptor.receive_eof()


def test_end_of_stream_within_a_message_says_so(open_pair: LinkPair, make_tensor: MakeTensor) -> None:
    head, _ = encode(make_tensor(), Limits())
    open_pair.acceptor.receive_data(head)
    assert open_pair.acceptor.mid_message
    with pytest.raises(LinkBroken, match="middle"):
        open_pair.acceptor.receive_eof()


# ── what must not ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("data", "breach"),
    [
        (b"G", Breach.MAGIC),
        (b"GET / HTTP/1.1\r\n\r\n", Breach.MAGIC),
        (pickle.dumps({"a": 1}), Breach.MAGIC),
        (prefix(magic=b"d3be"), Breach.MAGIC),
        (prefix(version=2), Breach.VERSION),
        (prefix(kind=99), Breach.KIND),
        (prefix(zero=1), Breach.KIND),
        (prefix(header_bytes=GIB), Breach.HEADER_SIZE),
        (prefix(payload_bytes=2**63), Breach.PAYLOAD_SIZE),
        (prefix(kind=Kind.PING, payload_bytes=1), Breach.PAYLOAD_SIZE),
        (prefix(kind=Kind.HELLO), Breach.ORDER),
        (prefix(kind=Kind.PONG), Breach.ORDER),
        (prefix(kind=Kind.PIECE), Breach.ORDER),
        (prefix(kind=Kind.PIECE, payload_bytes=PIECE_BYTES + 1), Breach.PAYLOAD_SIZE),
        (tensor_bytes(b"", 4), Breach.HEADER),
        (tensor_bytes(pickle.dumps({"a": 1}), 4), Breach.HEADER),
        (tensor_bytes(b"\x91" * 4000, 4), Breach.HEADER),
        (tensor_bytes(tensor_header((5,), (1,)), 4), Breach.PAYLOAD_SIZE),
        (tensor_bytes(tensor_header((GIB,), (1,)), 4), Breach.PAYLOAD_SIZE),
        (tensor_bytes(tensor_header((2**62,) * 8), 4), Breach.PAYLOAD_SIZE),
        (tensor_bytes(tensor_header((1,) * 9), 1), Breach.LAYOUT),
        (tensor_bytes(tensor_header((2, 2), (1,)), 4), Breach.LAYOUT),
        (tensor_bytes(tensor_header((2, 2), (1, 1)), 4), Breach.LAYOUT),
        (tensor_bytes(tensor_header((2, 2), (4, 1)), 4), Breach.LAYOUT),
        (tensor_bytes(tensor_header((4,), (0,)), 4), Breach.LAYOUT),
        (tensor_bytes(tensor_header((4,), (1,), "object"), 4), Breach.LAYOUT),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_breach_is_named_and_allocates_nothing(data: bytes, breach: Breach, step: int) -> None:
    allocated: list[int] = []
    wire = open_acceptor(allocated)
    with pytest.raises(WireViolation) as caught:
        for start in range(0, len(data), step):
            wire.receive_data(data[start : start + step])
    assert caught.value.breach is breach
    assert allocated == []
    wire.receive_data(data)  # nothing more is read
    assert wire.events_received() == []
    wire.send(Refused(caught.value.reason))  # but the peer can be told
    assert wire.data_to_send()


def test_negative_dimension_is_a_bad_header() -> None:
    header = tensor_header((4,), (1,)).replace(b"\x91\x04", b"\x91\xfc")
    with pytest.raises(WireViolation, match="TENSOR header"):
        open_acceptor().receive_data(tensor_bytes(header, 4))


def test_events_before_a_breach_count(make_tensor: MakeTensor) -> None:
    wire = open_acceptor()
    head, payload = encode(make_tensor(), Limits())
    assert payload is not None
    with pytest.raises(RemoteProtocolError):
        wire.receive_data(head + payload + b"nonsense")
    assert len(wire.events_received()) == 1


def test_tensor_before_the_handshake_is_refused(make_tensor: MakeTensor) -> None:
    head, _ = encode(make_tensor(), Limits())
    wire = Wire(Role.ACCEPTOR)
    with pytest.raises(WireViolation, match="TENSOR from the connector while new"):
        wire.receive_data(head)


def test_payload_larger_than_the_limit_is_not_sent(make_tensor: MakeTensor) -> None:
    wire = Wire(Role.CONNECTOR, Limits(payload_bytes=100))
    wire.state = WireState.OPEN
    with pytest.raises(LocalProtocolError, match="limit 100"):
        wire.send(make_tensor((101,), "uint8"))
    with pytest.raises(LocalProtocolError, match="limit 100"):
        wire.send(ProbeData(1, bytes(101)))
    assert wire.data_to_send() == []


def test_payload_that_disagrees_with_its_shape_is_not_sent(open_pair: LinkPair) -> None:
    tensor = TensorMessage(FrameId(1), Epoch(1), Value(1), "uint8", (4,), (1,), b"abc")
    with pytest.raises(LocalProtocolError, match="3 bytes for uint8"):
        open_pair.connector.send(tensor)


def test_each_side_may_send_only_its_own_kinds(open_pair: LinkPair, make_tensor: MakeTensor) -> None:
    with pytest.raises(LocalProtocolError, match="TENSOR from the acceptor"):
        open_pair.acceptor.send(make_tensor())
    with pytest.raises(LocalProtocolError, match="PONG from the connector"):
        open_pair.connector.send(Pong(1))
    assert open_pair.connector.data_to_send() == open_pair.acceptor.data_to_send() == []


def test_every_state_but_closed_can_reach_closed() -> None:
    reaches = {
        state: {after for (before, _), after in TRANSITIONS.items() if before is state} for state in WireState
    }
    assert reaches[WireState.CLOSED] == set()
    assert all(WireState.CLOSED in reaches[state] for state in WireState if state is not WireState.CLOSED)


# ── anything at all ───────────────────────────────────────────────────────────────────────────────


def feed(wire: Wire, data: bytes, step: int) -> bool:
    """True if the wire took it all."""
    try:
        for start in range(0, len(data), step):
            wire.receive_data(data[start : start + step])
    except RemoteProtocolError:
        return False
    return True


@given(st.binary(max_size=300), st.integers(1, 40), st.sampled_from(list(Role)))
def test_random_bytes_raise_nothing_else(data: bytes, step: int, role: Role) -> None:
    wire = Wire(role)
    taken = feed(wire, data, step)
    assert taken or wire.events_received() == []


@given(
    kind=st.integers(0, 255),
    header=st.binary(max_size=200),
    claimed=st.integers(0, 2**32 - 1) | st.none(),
    payload_bytes=st.integers(0, 2**64 - 1) | st.integers(0, 64),
    step=st.integers(1, 50),
)
def test_random_headers_allocate_within_limits(
    kind: int, header: bytes, claimed: int | None, payload_bytes: int, step: int
) -> None:
    allocated: list[int] = []
    wire = open_acceptor(allocated)
    length = len(header) if claimed is None else claimed
    feed(wire, prefix(kind, length, payload_bytes) + header, step)
    assert all(nbytes <= wire.limits.payload_bytes for nbytes in allocated)
    assert len(wire.get_buffer()) <= max(wire.limits.payload_bytes, 4128)


@given(
    shape=st.lists(st.integers(0, 2**40) | st.integers(0, 4), max_size=10).map(tuple),
    order=st.randoms(use_true_random=False),
    dtype=st.sampled_from([*sorted(ITEM_BYTES), "str"]),
    payload_bytes=st.integers(0, 2**40) | st.none(),
)
def test_random_layouts_are_right_or_refused(
    shape: tuple[int, ...], order: object, dtype: str, payload_bytes: int | None
) -> None:
    assert isinstance(order, random.Random)
    axes = list(range(len(shape)))
    order.shuffle(axes)
    strides, inside = [0] * len(shape), 1
    for axis in axes:
        strides[axis] = min(inside, 2**62)
        inside *= shape[axis]
    nbytes = math.prod(shape) * ITEM_BYTES.get(dtype, 1)
    claimed = min(nbytes, 2**63) if payload_bytes is None else payload_bytes
    allocated: list[int] = []
    wire = open_acceptor(allocated)
    header = tensor_header(shape, tuple(strides), dtype)
    right = claimed == nbytes <= wire.limits.payload_bytes and len(shape) <= 8 and dtype in ITEM_BYTES
    assert feed(wire, tensor_bytes(header, claimed), 1 << 20) is right
    assert allocated == ([nbytes] if right else [])


@given(st.data())
def test_corrupted_stream_never_invents_a_tensor_layout(data: st.DataObject) -> None:
    payload = bytes(range(24))
    whole = tensor_bytes(tensor_header((2, 3, 4), (12, 4, 1)), 24, payload)
    position = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255))
    broken = whole[:position] + bytes([value]) + whole[position + 1 :]
    wire = open_acceptor()
    feed(wire, broken, 1 << 20)
    for event in wire.events_received():
        if isinstance(event, TensorMessage):
            assert len(event.payload) == math.prod(event.shape) * ITEM_BYTES[event.dtype]


def test_hello_names_are_bounded() -> None:
    wire = Wire(Role.CONNECTOR)
    wire.send(Hello("a" * 500, "b", "p", bytes(16)))
    acceptor = Wire(Role.ACCEPTOR)
    with pytest.raises(WireViolation, match="HELLO header"):
        acceptor.receive_data(b"".join(wire.data_to_send()))
