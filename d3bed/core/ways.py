"""How an agent is reached that nobody can dial, because a NAT or a firewall is before it: over a line that it
keeps open to an agent which it can dial itself."""

from __future__ import annotations

import msgspec

from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkShape

__all__ = ["KeepLines", "Peer", "Way"]


class Way(msgspec.Struct, frozen=True):
    """By `agent`, whose data listener is at `address` and to whom the peer keeps a line open. It passes the
    bytes on; where it is the one that wants to send, it has the line for itself."""

    agent: AgentId
    address: str


class Peer(msgspec.Struct, frozen=True):
    """Another agent as the end of a directed link from the receiver of this message.

    `address` is `host:port` of its data listener; `shape` holds the link to an emulated rate. None can be
    dialled there where it has a `way`.
    """

    agent: AgentId
    tier: Tier
    address: str
    shape: LinkShape | None = None
    way: Way | None = None


class KeepLines(msgspec.Struct, frozen=True, tag=True):
    """Keep a line open to each of these, and to no others: somebody wants to send to you over it."""

    at: tuple[Peer, ...]
