"""An agent's outgoing links: made once, kept while an epoch uses them, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from d3bed.agent.links import Links
from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import Peer
from d3bed.net import Listener

pytestmark = pytest.mark.sockets

MAIN = PipelineId("main")
SECRET = b"s" * 32


async def test_a_link_that_is_being_closed_is_nobodys_any_more() -> None:
    """It may take a while to close, for what is on its way; a plan that needs the peer then gets another."""
    listener = await Listener.start(
        "127.0.0.1",
        0,
        me=AgentId("edge-1"),
        secret=SECRET,
        on_tensor=lambda *_: None,
        on_lost=lambda *_: None,
    )
    links = Links(AgentId("pi-1"))
    links.secret = SECRET
    peer = Peer(AgentId("edge-1"), Tier.EDGE, listener.address, LinkShape(1e6, 0.0))
    try:
        first = await links.to(MAIN, peer)
        assert await links.to(MAIN, peer) is first
        await links.keep_only(MAIN, {first})
        assert not first.closed
        closing = asyncio.create_task(links.keep_only(MAIN, set()))
        await asyncio.sleep(0)
        second = await links.to(MAIN, peer)
        await closing
        assert first.closed and not second.closed and second is not first
    finally:
        await links.close()
        await listener.close()
