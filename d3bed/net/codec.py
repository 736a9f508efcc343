"""What a message between agents looks like in bytes, and every limit on it.

A message is a fixed 32-byte prefix (little-endian), a msgpack header and, for tensors and probes, a
raw payload:

    magic "d3bd" · version u8 · kind u8 · zero u16 · header length u32 · payload length u64
    · frame u64 · epoch u32

Each limit is checked before anything of that length is allocated: the prefix bounds the header, the
header must agree with the payload length. Nothing is ever unpickled. This module must not know
sockets, clocks or the order in which messages may come (`wire` does).
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

import msgspec

from d3bed.core.errors import LocalProtocolError, RemoteProtocolError
from d3bed.core.graph import ITEM_BYTES, Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId
from d3bed.core.regions import WHOLE, Region

__all__ = [
    "MAGIC",
    "PIECE_BYTES",
    "PREFIX_BYTES",
    "VERSION",
    "Accepted",
    "Breach",
    "Challenge",
    "Goodbye",
    "Header",
    "Hello",
    "Kind",
    "Limits",
    "Message",
    "Piece",
    "PieceHeader",
    "Ping",
    "Pong",
    "Prefix",
    "ProbeData",
    "ProbeHeader",
    "Probed",
    "Proof",
    "Refused",
    "TensorHeader",
    "TensorMessage",
    "Want",
    "WireViolation",
    "decode_header",
    "decode_prefix",
    "encode",
    "kind_of",
]

MAGIC: Final = b"d3bd"
VERSION: Final = 1
PREFIX_BYTES: Final = 32
_PREFIX = struct.Struct("<4sBBHIQQI")
assert _PREFIX.size == PREFIX_BYTES

#: The most that an answer has of a file.
PIECE_BYTES: Final = 1024 * 1024


class Limits(msgspec.Struct, frozen=True):
    """What a peer may ask of us. `timeout_s` bounds the handshake and a stall within a message."""

    header_bytes: int = 4096
    dims: int = 8
    payload_bytes: int = 64 * 1024 * 1024
    timeout_s: float = 5.0


class Breach(StrEnum):
    """What was wrong, as a small fixed set: counters keyed by it cannot grow."""

    MAGIC = "magic"
    VERSION = "version"
    KIND = "kind"
    ORDER = "order"
    HEADER_SIZE = "header size"
    HEADER = "header"
    PAYLOAD_SIZE = "payload size"
    LAYOUT = "layout"
    RECEIVER = "receiver"
    SECRET = "secret"
    PROOF = "proof"
    CONTENT = "content"
    STALL = "stall"
    CROWDED = "crowded"


class WireViolation(RemoteProtocolError):
    """A `RemoteProtocolError` that also says which rule was broken."""

    def __init__(self, breach: Breach, reason: str) -> None:
        self.breach = breach
        super().__init__(reason)


class Kind(IntEnum):
    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    ACCEPTED = 4
    REFUSED = 5
    TENSOR = 6
    PING = 7
    PONG = 8
    PROBE = 9
    PROBED = 10
    GOODBYE = 11
    WANT = 12
    PIECE = 13


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Nonce = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Hello(_Header, frozen=True):
    """First words of the connecting side. `latency_s` is the one-way delay it emulates (0 if none)."""

    sender: _Name
    receiver: _Name
    pipeline: _Name
    nonce: _Nonce
    latency_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0

    @property
    def origin(self) -> tuple[AgentId, PipelineId]:
        return AgentId(self.sender), PipelineId(self.pipeline)


class Challenge(_Header, frozen=True):
    nonce: _Nonce


class Proof(_Header, frozen=True):
    """HMAC-SHA256 over both nonces and all names; see `handshake`."""

    digest: _Digest


class Accepted(_Header, frozen=True):
    """The accepting side's own proof: the sender knows whom it sends to."""

    digest: _Digest


class Refused(_Header, frozen=True):
    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class Ping(_Header, frozen=True):
    number: _Count


class Pong(_Header, frozen=True):
    number: _Count


class ProbeHeader(_Header, frozen=True):
    number: _Count


class Probed(_Header, frozen=True):
    """`taken_s` passed at the receiver from the probe's header to its last byte."""

    number: _Count
    bytes: _Count
    taken_s: Annotated[float, msgspec.Meta(ge=0)]


class Want(_Header, frozen=True):
    """What comes behind the first so many bytes of a model's file, by its SHA-256 (hex), is asked for."""

    number: _Count
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    behind_bytes: _Count


class PieceHeader(_Header, frozen=True):
    number: _Count


class Goodbye(_Header, frozen=True):
    reason: Annotated[str, msgspec.Meta(max_length=1000)]


class TensorHeader(_Header, frozen=True):
    """`strides` are in elements and a dense permutation of `shape`; `region` as in `Value`."""

    vertex: _Count
    output: _Count
    dtype: str
    shape: tuple[_Count, ...]
    strides: tuple[_Count, ...]
    region: Region = WHOLE

    @property
    def value(self) -> Value:
        return Value(self.vertex, self.output, self.region)


class TensorMessage(msgspec.Struct, frozen=True, eq=False):
    """One tensor of a frame. `strides` are in elements; `payload` is its raw little-endian memory.

    Received payloads are writable memoryviews into a pooled buffer, aligned to 64 bytes or more; the
    buffer is used again when the last view of it is gone. A sent payload must not change until the
    peer has it.
    """

    frame: FrameId
    epoch: Epoch
    value: Value
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    payload: bytes | bytearray | memoryview


class Piece(msgspec.Struct, frozen=True, eq=False):
    """The answer to a `Want`: some of the file, nothing where there is no more of it yet."""

    number: int
    payload: bytes | bytearray | memoryview


class ProbeData(msgspec.Struct, frozen=True, eq=False):
    """Bytes without meaning, sent to see how long they take."""

    number: int
    payload: bytes | bytearray | memoryview


Message = (
    Hello
    | Challenge
    | Proof
    | Accepted
    | Refused
    | TensorMessage
    | Ping
    | Pong
    | ProbeData
    | Probed
    | Goodbye
    | Want
    | Piece
)
Header = (
    Hello
    | Challenge
    | Proof
    | Accepted
    | Refused
    | TensorHeader
    | Ping
    | Pong
    | ProbeHeader
    | Probed
    | Goodbye
    | Want
    | PieceHeader
)

_HEADERS: dict[Kind, type[Header]] = {
    Kind.HELLO: Hello,
    Kind.CHALLENGE: Challenge,
    Kind.PROOF: Proof,
    Kind.ACCEPTED: Accepted,
    Kind.REFUSED: Refused,
    Kind.TENSOR: TensorHeader,
    Kind.PING: Ping,
    Kind.PONG: Pong,
    Kind.PROBE: ProbeHeader,
    Kind.PROBED: Probed,
    Kind.GOODBYE: Goodbye,
    Kind.WANT: Want,
    Kind.PIECE: PieceHeader,
}
_KINDS: dict[type, Kind] = {header: kind for kind, header in _HEADERS.items()}
_KINDS |= {TensorMessage: Kind.TENSOR, ProbeData: Kind.PROBE, Piece: Kind.PIECE}
#: Of a message of another kind the header is all.
_WITH_PAYLOAD = frozenset({Kind.TENSOR, Kind.PROBE, Kind.PIECE})
_KIND_OF_BYTE: dict[int, Kind] = {kind.value: kind for kind in Kind}
_DECODERS = {kind: msgspec.msgpack.Decoder(header) for kind, header in _HEADERS.items()}
_encode_header = msgspec.msgpack.Encoder().encode


def kind_of(message: Message) -> Kind:
    return _KINDS[type(message)]


class Prefix(NamedTuple):
    kind: Kind
    header_bytes: int
    payload_bytes: int
    frame: int
    epoch: int


def decode_prefix(raw: bytes | bytearray | memoryview, offset: int, limits: Limits) -> Prefix:
    """The 32 bytes at `offset`. Raises `WireViolation` on a wrong magic, version, kind or length."""
    magic, version, byte, zero, header_bytes, payload_bytes, frame, epoch = _PREFIX.unpack_from(raw, offset)
    if magic != MAGIC:
        raise WireViolation(Breach.MAGIC, f"not a d3bed link: first bytes {magic!r}")
    if version != VERSION:
        raise WireViolation(Breach.VERSION, f"protocol version {version}, this side speaks {VERSION}")
    kind = _KIND_OF_BYTE.get(byte)
    if kind is None or zero:
        raise WireViolation(Breach.KIND, f"unknown message kind {byte}/{zero}")
    if header_bytes > limits.header_bytes:
        raise WireViolation(
            Breach.HEADER_SIZE, f"header of {header_bytes} bytes, limit {limits.header_bytes}"
        )
    most = {Kind.PIECE: PIECE_BYTES}.get(kind, limits.payload_bytes) if kind in _WITH_PAYLOAD else 0
    if payload_bytes > most:
        raise WireViolation(
            Breach.PAYLOAD_SIZE, f"{kind.name} with a payload of {payload_bytes} bytes, limit {most}"
        )
    return Prefix(kind, header_bytes, payload_bytes, frame, epoch)


def decode_header(prefix: Prefix, raw: bytes, limits: Limits) -> Header:
    """The header of `prefix`'s message, checked against its payload length. Raises `WireViolation`."""
    if prefix.kind is Kind.TENSOR:
        header, payload_bytes = _tensor_header(raw, limits)
        if payload_bytes != prefix.payload_bytes:
            raise WireViolation(
                Breach.PAYLOAD_SIZE,
                f"payload of {prefix.payload_bytes} bytes for {header.dtype}{list(header.shape)}, "
                f"which takes {payload_bytes}",
            )
        return header
    return _decode(prefix.kind, raw)


def encode(message: Message, limits: Limits) -> tuple[bytes, memoryview | None]:
    """Prefix and header in one piece, and the payload as it is, uncopied.

    Raises `LocalProtocolError` if the message breaks a limit or disagrees with itself.
    """
    kind = _KINDS[type(message)]
    match message:
        case TensorMessage():
            header, nbytes = _tensor_header_bytes(
                message.value, message.dtype, message.shape, message.strides, limits
            )
            payload = _flat(message.payload)
            if payload.nbytes != nbytes:
                raise LocalProtocolError(
                    f"payload of {payload.nbytes} bytes for {message.dtype}{list(message.shape)}"
                )
            head = _PREFIX.pack(MAGIC, VERSION, kind, 0, len(header), nbytes, message.frame, message.epoch)
            return head + header, payload
        case ProbeData() | Piece():
            made = ProbeHeader if isinstance(message, ProbeData) else PieceHeader
            header, payload = _encode_header(made(message.number)), _flat(message.payload)
            most = limits.payload_bytes if isinstance(message, ProbeData) else PIECE_BYTES
            if payload.nbytes > most:
                raise LocalProtocolError(f"{kind.name} of {payload.nbytes} bytes, limit {most}")
            return _PREFIX.pack(MAGIC, VERSION, kind, 0, len(header), payload.nbytes, 0, 0) + header, payload
        case _:
            header = _encode_header(message)
            if len(header) > limits.header_bytes:
                raise LocalProtocolError(f"header of {len(header)} bytes, limit {limits.header_bytes}")
            return _PREFIX.pack(MAGIC, VERSION, kind, 0, len(header), 0, 0, 0) + header, None


def _flat(payload: bytes | bytearray | memoryview) -> memoryview:
    view = memoryview(payload)
    if view.nbytes == 0:
        return memoryview(b"")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _decode(kind: Kind, raw: bytes) -> Header:
    try:
        return _DECODERS[kind].decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireViolation(Breach.HEADER, f"bad {kind.name} header: {error}") from error


# A pipeline sends the same few tensor headers for every frame (frame and epoch are in the prefix), so
# each is decoded and checked once. Errors are not cached; entries are bounded by the header limit.


@lru_cache(maxsize=512)
def _tensor_header(raw: bytes, limits: Limits) -> tuple[TensorHeader, int]:
    header = _decode(Kind.TENSOR, raw)
    assert isinstance(header, TensorHeader)
    return header, _check_layout(header.dtype, header.shape, header.strides, limits)


@lru_cache(maxsize=512)
def _tensor_header_bytes(
    value: Value, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], limits: Limits
) -> tuple[bytes, int]:
    try:
        nbytes = _check_layout(dtype, shape, strides, limits)
    except WireViolation as violation:
        raise LocalProtocolError(f"cannot send {value}: {violation.reason}") from violation
    return _encode_header(
        TensorHeader(value.vertex, value.output, dtype, shape, strides, value.region)
    ), nbytes


def _check_layout(dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], limits: Limits) -> int:
    """Bytes of such a tensor. Raises `WireViolation` if it is too large or its strides are not dense."""
    item_bytes = ITEM_BYTES.get(dtype)
    if item_bytes is None:
        raise WireViolation(Breach.LAYOUT, f"unknown dtype {dtype[:32]!r}")
    if len(shape) > limits.dims or len(strides) != len(shape):
        raise WireViolation(
            Breach.LAYOUT, f"{len(shape)} dimensions and {len(strides)} strides, limit {limits.dims}"
        )
    elements = 1
    for size in shape:
        elements *= size
    if elements * item_bytes > limits.payload_bytes:
        raise WireViolation(
            Breach.PAYLOAD_SIZE,
            f"{dtype}{list(shape)} takes {elements * item_bytes} bytes, limit {limits.payload_bytes}",
        )
    # Dense: from the smallest stride up, each dimension starts where the ones inside it end. The
    # strides of dimensions of size 1, and of empty tensors, address nothing and may be anything.
    inside = 1
    for stride, size in sorted(zip(strides, shape, strict=True)) if elements else ():
        if size != 1:
            if stride != inside:
                raise WireViolation(Breach.LAYOUT, f"strides {list(strides)} of {list(shape)} are not dense")
            inside *= size
    return elements * item_bytes
