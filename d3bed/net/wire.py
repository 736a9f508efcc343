"""One end of a connection between agents, without the connection: bytes in, events out.

Data flows one way, from the side that connected (`CONNECTOR`) to the side that accepted
(`ACCEPTOR`); replies flow back. Both ends walk through the same states:

    NEW ──hello──▶ GREETED ──challenge──▶ CHALLENGED ──proof──▶ PROVED ──accepted──▶ OPEN ──goodbye──▶ CLOSED
     └───────────────┴───refused (acceptor only)──┴────────────────┴──────────────────┘

The caller, who owns socket and clock, must
- read into `get_buffer()` and report with `buffer_updated(n)` (or hand over `receive_data(data)`),
  and at the end of the stream call `receive_eof()`;
- then act on `events_received()`; a `RemoteProtocolError` means: close the connection;
- after `send(message)` write all of `data_to_send()`, in order, payloads uncopied.

A payload goes straight into a buffer from `allocate`, asked for only after the connection is open and
header and lengths were checked. `Wire` must not know asyncio, time, or who the peer is.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum

import msgspec

from d3bed.core.errors import LinkBroken, LocalProtocolError
from d3bed.core.ids import Epoch, FrameId
from d3bed.net.codec import (
    MAGIC,
    PREFIX_BYTES,
    Accepted,
    Breach,
    Challenge,
    Goodbye,
    Header,
    Hello,
    Kind,
    Limits,
    Message,
    Piece,
    PieceHeader,
    Ping,
    Pong,
    Prefix,
    Probed,
    ProbeHeader,
    Proof,
    Refused,
    TensorHeader,
    TensorMessage,
    Want,
    WireViolation,
    decode_header,
    decode_prefix,
    encode,
    kind_of,
)

__all__ = [
    "TRANSITIONS",
    "Event",
    "Limits",
    "ProbeBegun",
    "ProbeEnded",
    "Role",
    "TensorMessage",
    "Wire",
    "WireState",
]

#: Read at once while the connection is open: several small messages per system call.
_OPEN_SCRATCH_BYTES = 256 * 1024


class Role(Enum):
    CONNECTOR = "connector"
    ACCEPTOR = "acceptor"


class WireState(StrEnum):
    NEW = "new"
    GREETED = "greeted"
    CHALLENGED = "challenged"
    PROVED = "proved"
    OPEN = "open"
    CLOSED = "closed"


TRANSITIONS: dict[tuple[WireState, Kind], WireState] = {
    (WireState.NEW, Kind.HELLO): WireState.GREETED,
    (WireState.NEW, Kind.REFUSED): WireState.CLOSED,
    (WireState.GREETED, Kind.CHALLENGE): WireState.CHALLENGED,
    (WireState.GREETED, Kind.REFUSED): WireState.CLOSED,
    (WireState.CHALLENGED, Kind.PROOF): WireState.PROVED,
    (WireState.CHALLENGED, Kind.REFUSED): WireState.CLOSED,
    (WireState.PROVED, Kind.ACCEPTED): WireState.OPEN,
    (WireState.PROVED, Kind.REFUSED): WireState.CLOSED,
    (WireState.OPEN, Kind.TENSOR): WireState.OPEN,
    (WireState.OPEN, Kind.PING): WireState.OPEN,
    (WireState.OPEN, Kind.PONG): WireState.OPEN,
    (WireState.OPEN, Kind.PROBE): WireState.OPEN,
    (WireState.OPEN, Kind.PROBED): WireState.OPEN,
    (WireState.OPEN, Kind.WANT): WireState.OPEN,
    (WireState.OPEN, Kind.PIECE): WireState.OPEN,
    (WireState.OPEN, Kind.REFUSED): WireState.CLOSED,
    (WireState.OPEN, Kind.GOODBYE): WireState.CLOSED,
}

_MAY_SEND: dict[Role, frozenset[Kind]] = {
    Role.CONNECTOR: frozenset(
        {Kind.HELLO, Kind.PROOF, Kind.TENSOR, Kind.PING, Kind.PROBE, Kind.WANT, Kind.GOODBYE},
    ),
    Role.ACCEPTOR: frozenset(
        {Kind.CHALLENGE, Kind.ACCEPTED, Kind.REFUSED, Kind.PONG, Kind.PROBED, Kind.PIECE, Kind.GOODBYE},
    ),
}
_OTHER = {Role.CONNECTOR: Role.ACCEPTOR, Role.ACCEPTOR: Role.CONNECTOR}


class ProbeBegun(msgspec.Struct, frozen=True):
    """The header of a probe is here, its payload is coming: look at the clock."""

    number: int


class ProbeEnded(msgspec.Struct, frozen=True):
    """The last byte of a probe is here: look at the clock and answer `Probed`."""

    number: int
    bytes: int


Event = (
    Hello
    | Challenge
    | Proof
    | Accepted
    | Refused
    | TensorMessage
    | Ping
    | Pong
    | ProbeBegun
    | ProbeEnded
    | Probed
    | Goodbye
    | Want
    | Piece
)


def _fresh(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))


class Wire:
    """The protocol of one connection, as described at the head of this module."""

    def __init__(
        self, role: Role, limits: Limits | None = None, allocate: Callable[[int], memoryview] = _fresh
    ) -> None:
        self.role = role
        self.limits = limits or Limits()
        self.state = self._next_state = WireState.NEW
        self._violated = False
        self._allocate = allocate
        self._mine, self._theirs = _MAY_SEND[role], _MAY_SEND[_OTHER[role]]
        self._events: list[Event] = []
        self._outgoing: list[bytes | memoryview] = []
        # Bytes wait in scratch[start:end] until they make a message; payloads are filled directly.
        self._scratch = memoryview(bytearray(PREFIX_BYTES + self.limits.header_bytes))
        self._start = self._end = 0
        self._prefix: Prefix | None = None
        self._header: TensorHeader | ProbeHeader | PieceHeader | None = None
        self._payload = memoryview(b"")
        self._filled = 0

    # ── bytes in ──────────────────────────────────────────────────────────────────────────────────

    @property
    def mid_message(self) -> bool:
        """Part of a message is here and more must come."""
        return self._prefix is not None or self._end > self._start

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._header is not None:
            return self._payload[self._filled :]
        if self._start:  # what is left is less than a prefix and a header
            left = self._end - self._start
            self._scratch[:left] = bytes(self._scratch[self._start : self._end])
            self._start, self._end = 0, left
        return self._scratch[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """`nbytes` were put into `get_buffer()`. Raises `WireViolation`; after that nothing is read."""
        if self._violated or self.state is WireState.CLOSED:
            return
        if self._header is not None:
            self._filled += nbytes
        else:
            self._end += nbytes
        try:
            self._parse()
        except WireViolation:
            self._violated = True
            raise

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes that are already in memory. Raises as `buffer_updated`."""
        view = memoryview(data)
        while view and not self._violated and self.state is not WireState.CLOSED:
            buffer = self.get_buffer(len(view))
            taken = min(len(buffer), len(view))
            buffer[:taken] = view[:taken]
            view = view[taken:]
            self.buffer_updated(taken)

    def receive_eof(self) -> None:
        """The stream ended. Raises `LinkBroken` unless that was to be expected."""
        if not self._violated and self.state is not WireState.CLOSED:
            where = "in the middle of a message" if self.mid_message else "without a goodbye"
            self.state = WireState.CLOSED
            raise LinkBroken(f"connection ended {where}")

    def events_received(self) -> list[Event]:
        """What has come since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _parse(self) -> None:
        while True:
            if self._header is not None and not self._fill_payload():
                return
            if self.state is WireState.CLOSED:  # whatever follows a goodbye is not read
                return
            if self._prefix is None:
                available = self._end - self._start
                if available < PREFIX_BYTES:
                    began = bytes(self._scratch[self._start : self._start + min(available, len(MAGIC))])
                    if not MAGIC.startswith(began):
                        raise WireViolation(Breach.MAGIC, f"not a d3bed link: first bytes {began!r}")
                    return
                prefix = decode_prefix(self._scratch, self._start, self.limits)
                self._next_state = self._state_after(prefix.kind)
                self._prefix = prefix
                self._start += PREFIX_BYTES
            prefix = self._prefix
            after = self._start + prefix.header_bytes
            if after > self._end:
                return
            raw = bytes(self._scratch[self._start : after])
            self._start = after
            self._take(prefix, decode_header(prefix, raw, self.limits))

    def _state_after(self, kind: Kind) -> WireState:
        after = TRANSITIONS.get((self.state, kind)) if kind in self._theirs else None
        if after is None:
            raise WireViolation(
                Breach.ORDER, f"{kind.name} from the {_OTHER[self.role].value} while {self.state}"
            )
        return after

    def _take(self, prefix: Prefix, header: Header) -> None:
        """A checked header is here: the whole message, or all but its payload."""
        if isinstance(header, TensorHeader | ProbeHeader | PieceHeader):
            if isinstance(header, ProbeHeader):
                self._events.append(ProbeBegun(header.number))
            self._header = header
            self._payload = self._allocate(prefix.payload_bytes)
            self._filled = 0
            return
        self._events.append(header)
        self._prefix = None
        self._enter(self._next_state)

    def _fill_payload(self) -> bool:
        """Move what scratch has into the payload; True when the message is complete."""
        assert self._prefix is not None
        missing = self._prefix.payload_bytes - self._filled
        taken = min(missing, self._end - self._start)
        if taken:
            self._payload[self._filled : self._filled + taken] = self._scratch[
                self._start : self._start + taken
            ]
            self._start += taken
            self._filled += taken
        if taken < missing:
            return False
        header, prefix = self._header, self._prefix
        if isinstance(header, TensorHeader):
            self._events.append(
                TensorMessage(
                    FrameId(prefix.frame),
                    Epoch(prefix.epoch),
                    header.value,
                    header.dtype,
                    header.shape,
                    header.strides,
                    self._payload,
                )
            )
        elif isinstance(header, PieceHeader):
            self._events.append(Piece(header.number, self._payload))
        elif header is not None:
            self._events.append(ProbeEnded(header.number, prefix.payload_bytes))
        self._prefix = self._header = None
        self._payload = memoryview(b"")  # the buffer now belongs to whoever took the event
        return True

    def _enter(self, state: WireState) -> None:
        self.state = state
        if state is WireState.OPEN and self.role is Role.ACCEPTOR:
            pending = self._scratch[self._start : self._end]
            self._scratch = memoryview(bytearray(max(_OPEN_SCRATCH_BYTES, len(self._scratch))))
            self._scratch[: len(pending)] = pending
            self._start, self._end = 0, len(pending)

    # ── bytes out ─────────────────────────────────────────────────────────────────────────────────

    def send(self, message: Message) -> None:
        """Queue a message for `data_to_send`. Raises `LocalProtocolError`, and then changes nothing."""
        kind = kind_of(message)
        after = TRANSITIONS.get((self.state, kind)) if kind in self._mine else None
        if after is None:
            raise LocalProtocolError(f"{kind.name} from the {self.role.value} while {self.state}")
        head, payload = encode(message, self.limits)
        self._outgoing.append(head)
        if payload is not None:
            self._outgoing.append(payload)
        if after is not self.state:
            self._enter(after)

    def data_to_send(self) -> list[bytes | memoryview]:
        """Pieces to write, in order; each tensor is its head and its payload."""
        pieces, self._outgoing = self._outgoing, []
        return pieces
