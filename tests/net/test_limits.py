"""What is bounded, and stays so."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from d3bed.core.errors import LinkClosed
from d3bed.core.measurements import LinkShape
from d3bed.net.listener import _OncePerMinute
from d3bed.net.sender import _BYTES_IN_FLIGHT, _TENSORS_IN_FLIGHT, _Room

if TYPE_CHECKING:
    from tests.net.conftest import MakeTensor, Site


def test_a_host_is_logged_once_a_minute() -> None:
    may_log = _OncePerMinute()
    assert [may_log("10.0.0.1", now_s) for now_s in (0.0, 1.0, 59.9, 60.0, 61.0)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert may_log("10.0.0.2", 61.0)


def test_hosts_remembered_for_logging_are_bounded() -> None:
    may_log = _OncePerMinute()
    for number in range(5000):
        assert may_log(f"host-{number}", 1.0)
    assert len(may_log._last_s) <= 1024
    assert not may_log("host-4999", 2.0)


async def entered(task: asyncio.Task[None]) -> bool:
    await asyncio.sleep(0)
    return task.done()


async def test_room_is_bounded_and_first_come_first_served() -> None:
    room = _Room()
    for _ in range(_TENSORS_IN_FLIGHT):
        await room.enter(1)
    second, third = asyncio.create_task(room.enter(1)), asyncio.create_task(room.enter(1))
    assert not await entered(second)
    room.leave(1)
    assert await entered(second) and not await entered(third)
    room.leave(1)
    assert await entered(third)


async def test_room_admits_a_giant_alone() -> None:
    room = _Room()
    await room.enter(10 * _BYTES_IN_FLIGHT)
    small = asyncio.create_task(room.enter(1))
    assert not await entered(small)
    room.leave(10 * _BYTES_IN_FLIGHT)
    assert await entered(small)


async def test_cancelled_waiter_takes_no_room() -> None:
    room = _Room()
    await room.enter(_BYTES_IN_FLIGHT)
    first, second = asyncio.create_task(room.enter(_BYTES_IN_FLIGHT)), asyncio.create_task(room.enter(7))
    assert not await entered(first)
    first.cancel()
    room.leave(_BYTES_IN_FLIGHT)
    assert await entered(second)
    assert first.cancelled() and second.exception() is None


async def test_waiter_cancelled_as_it_is_let_in_gives_its_room_back() -> None:
    room = _Room()
    await room.enter(_BYTES_IN_FLIGHT)
    first = asyncio.create_task(room.enter(_BYTES_IN_FLIGHT))
    assert not await entered(first)
    room.leave(_BYTES_IN_FLIGHT)
    first.cancel()
    second = asyncio.create_task(room.enter(_BYTES_IN_FLIGHT))
    await asyncio.wait([first, second], timeout=60)
    assert first.cancelled() and second.done() and second.exception() is None


async def test_closed_room_sends_those_who_wait_away() -> None:
    room = _Room()
    await room.enter(_BYTES_IN_FLIGHT)
    waiting = asyncio.create_task(room.enter(1))
    assert not await entered(waiting)
    room.close(LinkClosed("gone"))
    with pytest.raises(LinkClosed, match="gone"):
        await waiting


@pytest.mark.sockets
async def test_emulated_latency_may_be_a_whole_number(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect(shape=LinkShape(10_000_000, 0))
    await sender.send(make_tensor())
    await site.until(lambda: site.received.tensors)
    assert not sender.closed


@pytest.mark.sockets
async def test_latency_does_not_limit_a_stream_of_small_tensors(site: Site, make_tensor: MakeTensor) -> None:
    sender = await site.connect(shape=LinkShape(2e7, 0.2))
    start_s = time.monotonic()
    under_way = 0
    for frame in range(30):
        await sender.send(make_tensor((10_000,), "uint8", frame=frame))
        under_way = max(under_way, frame + 1 - len(site.received.tensors))
    assert under_way > 1, "several are in the delay line at once"
    await site.until(lambda: len(site.received.tensors) == 30)
    assert time.monotonic() - start_s >= 0.2 + 30 * 10_000 / 2e7
