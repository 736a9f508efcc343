"""Links over TLS: both ends show a certificate of one authority, with the name that they say they have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from d3bed.agent.certificate import new_key, signing_request
from d3bed.core.errors import ConfigError, LinkBroken
from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkShape
from d3bed.net import Limits, LinkTls, Listener, Sender
from d3bed.server.authority import Authority
from tests.net.conftest import DEVICE, EDGE, PIPELINE, SECRET, MakeTensor, Received, Site

pytestmark = pytest.mark.sockets

MakeTls = Callable[..., LinkTls]


@pytest.fixture
def make_tls(tmp_path: Path) -> MakeTls:
    """A certificate for a name, by an authority."""

    def make(name: str, authority: str = "ours") -> LinkTls:
        signs, key = Authority(tmp_path / authority), new_key()
        own = tmp_path / f"{authority}-{name}.pem"
        own.write_bytes(key + signs.sign_agent(name, signing_request(key)).encode())
        return LinkTls(own, signs.pem)

    return make


@pytest.fixture
async def tls_site(make_tls: MakeTls) -> AsyncIterator[Site]:
    received = Received()
    listener = await Listener.start(
        "127.0.0.1", 0, me=EDGE, secret=SECRET, on_tensor=received.on_tensor, on_lost=received.on_lost,
        limits=Limits(timeout_s=2.0), tls=make_tls(EDGE),
    )  # fmt: skip
    site = Site(listener, received)
    yield site
    for sender in site.senders:
        await sender.close()
    await listener.close()


async def connect(
    site: Site, tls: LinkTls | None, shape: LinkShape | None = None, me: AgentId = DEVICE
) -> Sender:
    made = await Sender.connect(
        site.listener.address, me=me, peer=EDGE, pipeline=PIPELINE, secret=SECRET, shape=shape, tls=tls,
        limits=Limits(timeout_s=2.0),
    )  # fmt: skip
    site.senders.append(made)
    return made


async def test_tensors_small_and_large_arrive_as_they_were_sent(
    tls_site: Site, make_tls: MakeTls, make_tensor: MakeTensor
) -> None:
    sender = await connect(tls_site, make_tls(DEVICE))
    sent = [make_tensor((1, 1, 1, n), frame=n) for n in (1, 7, 4000, 5000, 70_000, 3_000_000)]
    await asyncio.gather(*(sender.send(tensor) for tensor in sent))
    await tls_site.until(lambda: len(tls_site.received.tensors) == len(sent))
    for tensor, came in zip(sent, tls_site.received.tensors, strict=True):
        assert (came.frame, came.shape) == (tensor.frame, tensor.shape)
        assert bytes(came.payload) == bytes(tensor.payload)
    probe = await sender.probe()
    assert probe.bytes_per_s > 0 and probe.rtt_s > 0


async def test_a_shaped_link_keeps_its_rate(
    tls_site: Site, make_tls: MakeTls, make_tensor: MakeTensor
) -> None:
    sender = await connect(tls_site, make_tls(DEVICE), LinkShape(2e6))
    start_s = time.monotonic()
    transfer = await sender.send(make_tensor((1, 1, 1, 50_000)))
    assert time.monotonic() - start_s >= 0.1 and transfer.target_bytes_per_s == 2e6


async def test_another_authoritys_certificate_opens_nothing(tls_site: Site, make_tls: MakeTls) -> None:
    with pytest.raises(LinkBroken, match="certificate"):
        await connect(tls_site, make_tls(DEVICE, "theirs"))
    assert not tls_site.received.tensors


async def test_who_says_another_name_than_the_certificate_is_refused(
    tls_site: Site, make_tls: MakeTls
) -> None:
    with pytest.raises(LinkBroken, match="a certificate of edge-2, not of pi-1"):
        await connect(tls_site, make_tls("edge-2"))


async def test_a_listener_with_another_name_is_not_the_peer(tls_site: Site, make_tls: MakeTls) -> None:
    made = Sender.connect(
        tls_site.listener.address, me=DEVICE, peer=AgentId("cloud-1"), pipeline=PIPELINE, secret=SECRET,
        tls=make_tls(DEVICE),
    )  # fmt: skip
    with pytest.raises(LinkBroken, match="certificate there is of edge-1"):
        await made


async def test_plain_and_tls_do_not_meet(tls_site: Site, site: Site, make_tls: MakeTls) -> None:
    with pytest.raises(LinkBroken):
        await connect(tls_site, None)
    with pytest.raises(LinkBroken):
        await connect(site, make_tls(DEVICE))


async def test_a_cut_off_peer_is_told_over_tls_too(
    tls_site: Site, make_tls: MakeTls, make_tensor: MakeTensor
) -> None:
    sender = await connect(tls_site, make_tls(DEVICE))
    await sender.send(make_tensor())
    tls_site.listener.cut_off(DEVICE)
    await tls_site.until(lambda: sender.closed)
    with pytest.raises(LinkBroken, match="pi-1 was revoked"):
        await sender.send(make_tensor())


def test_a_missing_or_broken_certificate_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="d3bed join"):
        LinkTls(tmp_path / "none.pem", "nonsense")
