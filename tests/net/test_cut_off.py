"""Links with an agent that was revoked end at once, whatever is on its way."""

from __future__ import annotations

import pytest

from d3bed.core.errors import LinkBroken, RemoteProtocolError
from d3bed.core.ids import AgentId
from tests.net.conftest import DEVICE, PIPELINE, MakeTensor, Site

pytestmark = pytest.mark.sockets


async def test_a_listener_cuts_off_one_peer_and_wants_the_new_secret(
    site: Site, make_tensor: MakeTensor
) -> None:
    sender = await site.connect()
    await sender.send(make_tensor())
    site.listener.cut_off(AgentId("another"))
    await sender.send(make_tensor(frame=2))
    await site.until(lambda: len(site.received.tensors) == 2)
    site.listener.secret = b"what the others know now"
    site.listener.cut_off(DEVICE)
    await site.until(lambda: sender.closed)
    with pytest.raises(LinkBroken, match="pi-1 was revoked"):
        await sender.send(make_tensor(frame=3))
    await site.until(lambda: site.received.lost)
    ((agent, pipeline, error),) = site.received.lost
    assert (agent, pipeline) == (DEVICE, PIPELINE) and isinstance(error, RemoteProtocolError)
    with pytest.raises(LinkBroken, match="does not know the link secret"):
        await site.connect()


async def test_a_sender_gives_up_what_is_on_its_way(site: Site, make_tensor: MakeTensor) -> None:
    lost: list[Exception] = []
    sender = await site.connect(on_lost=lost.append)
    sender.abort("edge-1 was revoked")
    with pytest.raises(LinkBroken, match="edge-1 was revoked"):
        await sender.send(make_tensor())
    assert sender.closed and len(lost) == 1
