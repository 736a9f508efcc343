"""This agent's outgoing data links, made when a plan needs them and shared by its epochs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from d3bed.core.errors import LinkBroken
from d3bed.core.ids import AgentId, PipelineId
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import Peer
from d3bed.net import Probe, Sender

__all__ = ["Links"]

#: Name of the pipeline that measuring connections carry in their handshake.
_MEASURING = PipelineId("measure")


@dataclass(frozen=True)
class _Open:
    peer: Peer
    sender: Sender


class Links:
    """One `Sender` a pipeline and peer; a peer that moved or was reshaped gets a new one."""

    def __init__(self, me: AgentId) -> None:
        self._me = me
        self._open: dict[tuple[PipelineId, AgentId], _Open] = {}
        self._lock = asyncio.Lock()
        self.secret: bytes | None = None

    async def to(self, pipeline: PipelineId, peer: Peer) -> Sender:
        """The link to `peer`, made if need be. Raises `LinkBroken`, `RemoteProtocolError`, `OSError`."""
        async with self._lock:
            found = self._open.get((pipeline, peer.agent))
            if found is not None and found.peer == peer and not found.sender.closed:
                return found.sender
            sender = await self._connect(pipeline, peer)
            self._open[pipeline, peer.agent] = _Open(peer, sender)
            return sender

    async def measure(self, peer: Peer) -> Probe:
        """Rate, latency and round trip of the directed link, on a connection of its own."""
        sender = await self._connect(_MEASURING, peer)
        try:
            return await sender.probe()
        finally:
            await sender.close()

    def reshape(self, peer: AgentId, shape: LinkShape) -> None:
        """Hold the shaped links to `peer` to another rate and latency."""
        for key, found in self._open.items():
            if found.peer.agent == peer and found.sender.shape is not None:
                found.sender.reshape(shape)
                self._open[key] = _Open(msgspec.structs.replace(found.peer, shape=shape), found.sender)

    async def keep_only(self, pipeline: PipelineId, senders: set[Sender]) -> None:
        """Close the pipeline's links that no epoch uses any more."""
        for key, found in list(self._open.items()):
            if key[0] == pipeline and found.sender not in senders:
                del self._open[key]
                await found.sender.close()

    async def close(self) -> None:
        for found in self._open.values():
            await found.sender.close()
        self._open.clear()

    async def _connect(self, pipeline: PipelineId, peer: Peer) -> Sender:
        if self.secret is None:
            raise LinkBroken("not registered yet: no link secret")
        return await Sender.connect(
            peer.address,
            me=self._me,
            peer=peer.agent,
            pipeline=pipeline,
            secret=self.secret,
            shape=peer.shape,
        )
