"""This agent's outgoing data links, made when a plan needs them and shared by its epochs."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from functools import partial

from d3bed.core.errors import LinkBroken
from d3bed.core.ids import AgentId, PipelineId
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import Peer
from d3bed.core.ways import Way
from d3bed.net import (
    DIAL_S,
    Limits,
    LinkTls,
    Pacing,
    Probe,
    Relay,
    Sender,
    TrafficControl,
    call,
    parse_address,
    wanted,
)

__all__ = ["Links"]

#: Names of the pipeline that connections for measuring, and for files, carry in their handshake.
_MEASURING, _FILES = PipelineId("measure"), PipelineId("files")
#: How long a relay may take to join two calls, and whoever is looked at to be dialled: that look is short.
_JOIN_S, _LOOK_DIAL_S = 4.0, 1.5


@dataclass(frozen=True)
class _Open:
    peer: Peer
    sender: Sender


class Links:
    """One `Sender` a pipeline and peer; a peer that moved gets a new one. Shaped links are held to what
    `change` said last of their peer, else to what the peer comes with; all links to a peer share one emulated
    link, whatever their pipeline. With `tc` the kernel holds them, as far as it can. `relay` has the lines
    that others keep to us."""

    def __init__(self, me: AgentId, tc: TrafficControl | None = None, tls: LinkTls | None = None) -> None:
        self._me, self._tc = me, tc
        self._open: dict[tuple[PipelineId, AgentId], _Open] = {}
        self._changed: dict[AgentId, LinkShape] = {}
        self._pacings: dict[AgentId, Pacing] = {}
        self._lock = asyncio.Lock()
        self.secret: bytes | None = None
        self.relay: Relay | None = None
        self._tls = tls

    @property
    def unsent_bytes(self) -> int:
        """Handed to the links, and still waiting to leave."""
        return sum(found.sender.unsent_bytes for found in self._open.values())

    async def to(self, pipeline: PipelineId, peer: Peer) -> Sender:
        """The link to `peer`, made if need be. Raises `LinkBroken`, `RemoteProtocolError`, `OSError`."""
        async with self._lock:
            found = self._open.get((pipeline, peer.agent))
            if found is not None and found.peer == peer and not found.sender.closed:
                return found.sender
            sender = await self._connect(pipeline, peer)
            self._open[pipeline, peer.agent] = _Open(peer, sender)
            return sender

    async def measure(self, peer: Peer, *, quick: bool = False) -> Probe:
        """Rate, latency and round trip of the directed link, on a connection of its own."""
        sender = await self._connect(_MEASURING, peer, _LOOK_DIAL_S if quick else DIAL_S)
        try:
            return await sender.probe(quick=quick)
        finally:
            await sender.close()

    async def for_files(self, peer: Peer) -> Sender:
        """A connection of its own, to ask `peer` for files; the caller closes it."""
        return await self._connect(_FILES, peer)

    async def change(self, peer: AgentId, shape: LinkShape | None) -> None:
        """Hold the shaped links to `peer`, and those to come, to another shape; None: to their own again.

        Raises `OSError` where the kernel does not take it.
        """
        if shape is None:
            self._changed.pop(peer, None)
        else:
            self._changed[peer] = shape
        for found in list(self._open.values()):
            now = self.shape(found.peer)
            if found.peer.agent == peer and now is not None and not found.sender.closed:
                rest = await self._held(found.peer, now)
                if rest is not None and not found.sender.closed:
                    found.sender.reshape(rest)

    async def change_back(self) -> None:
        """Hold all links to their own shapes again."""
        for peer in list(self._changed):
            await self.change(peer, None)

    def shape(self, peer: Peer) -> LinkShape | None:
        """What a link to `peer` is held to now."""
        return self._changed.get(peer.agent, peer.shape) if peer.shape is not None else None

    async def keep_only(self, pipeline: PipelineId, senders: set[Sender]) -> None:
        """Close the pipeline's links that no epoch uses any more. Nobody gets one of them from now on."""
        unused = {k: o for k, o in self._open.items() if k[0] == pipeline and o.sender not in senders}
        for key in unused:
            del self._open[key]
        for found in unused.values():
            await found.sender.close()

    def cut_off(self, peer: AgentId) -> None:
        """Close all links to `peer` now, whatever is on its way there."""
        for key, found in list(self._open.items()):
            if key[1] == peer:
                del self._open[key]
                found.sender.abort(f"{peer} was revoked")

    async def close(self) -> None:
        for found in self._open.values():
            await found.sender.close()
        self._open.clear()
        if self._tc is not None:
            await self._tc.close()

    async def _connect(self, pipeline: PipelineId, peer: Peer, dial_s: float = DIAL_S) -> Sender:
        if self.secret is None:
            raise LinkBroken("not registered yet: no link secret")
        way = peer.way
        shape = self.shape(peer)
        if shape is not None:
            shape = await self._held(peer, shape)
        return await Sender.connect(
            peer.address if way is None else f"{peer.address} by way of {way.agent}",
            me=self._me,
            peer=peer.agent,
            pipeline=pipeline,
            secret=self.secret,
            shape=shape,
            pacing=None if shape is None else self._pacing(peer.agent, shape),
            tls=self._tls,
            dial=None if way is None else partial(self._by_way, peer.agent, way, self.secret),
            dial_s=dial_s,
        )

    async def _by_way(self, peer: AgentId, way: Way, secret: bytes) -> socket.socket:
        """A connection to a peer that cannot be dialled."""
        if way.agent == self._me:
            if self.relay is None:
                raise LinkBroken(f"{peer} keeps no line: this agent does not listen")
            return await self.relay.take(peer)
        calling = await call(
            way.address, me=self._me, relay=way.agent, to=peer, secret=secret, limits=Limits()
        )
        await wanted(calling, relay=way.agent, to=peer, within_s=_JOIN_S)
        return calling

    async def _held(self, peer: Peer, shape: LinkShape) -> LinkShape | None:
        """What is left for user space once the kernel does what it can: it knows where packets go, and those
        that go by way of others are not all to this peer."""
        if self._tc is None or peer.way is not None:
            return shape
        return await self._tc.hold(parse_address(peer.address)[0], shape)

    def _pacing(self, peer: AgentId, shape: LinkShape) -> Pacing:
        """The emulated link to `peer`, from now on of this shape."""
        pacing = self._pacings.setdefault(peer, Pacing(shape, f"{self._me}→{peer}"))
        pacing.reshape(shape)
        return pacing
