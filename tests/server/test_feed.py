"""The feed: numbering, resuming, snapshots, slow clients."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from d3bed.server.feed import QUEUED_BATCHES, RING_BYTES, Feed, Subscription


class State:
    """A state that is a list, a clock that stands still, and the feed over them."""

    def __init__(self, ring_bytes: int = RING_BYTES, queued_batches: int = QUEUED_BATCHES) -> None:
        self.items: list[int] = []
        self.feed = Feed(
            lambda: {"items": self.items},
            lambda: 1000.0,
            ring_bytes=ring_bytes,
            queued_batches=queued_batches,
        )

    def add(self, *items: int) -> None:
        for item in items:
            self.items.append(item)
            self.feed.publish("note", {"item": item}, "c-1")


async def take(subscription: Subscription) -> dict[str, Any]:
    async with asyncio.timeout(60):
        found: dict[str, Any] = json.loads(await subscription.next())
    return found


def numbers(message: dict[str, Any]) -> list[int]:
    return [event["data"]["item"] for event in message["events"]]


async def test_new_client_gets_a_snapshot_then_numbered_events() -> None:
    state = State()
    state.add(1)
    client = state.feed.subscribe()
    first = await take(client)
    assert first == {"type": "snapshot", "seq": state.feed.seq, "now": 1000.0, "state": {"items": [1]}}
    state.add(2, 3)
    state.feed.flush()
    message = await take(client)
    assert message["type"] == "events" and numbers(message) == [2, 3]
    assert [event["seq"] for event in message["events"]] == [first["seq"] + 1, first["seq"] + 2]
    assert message["seq"] == first["seq"] + 2
    assert message["events"][0] | {"seq": 0, "data": 0} == {
        "seq": 0, "time_s": 1000.0, "kind": "note", "cause_id": "c-1", "data": 0,
    }  # fmt: skip


async def test_client_that_comes_back_gets_what_it_missed_and_nothing_twice() -> None:
    state = State()
    state.add(1, 2)
    seen = state.feed.seq
    state.add(3)
    state.feed.flush()
    state.add(4)
    client = state.feed.subscribe(seen)
    assert numbers(await take(client)) == [3, 4]
    state.add(5)
    state.feed.flush()
    assert numbers(await take(client)) == [5]


async def test_up_to_date_client_gets_nothing_until_something_happens() -> None:
    state = State()
    state.add(1)
    client = state.feed.subscribe(state.feed.seq)
    state.add(2)
    state.feed.flush()
    assert numbers(await take(client)) == [2]


async def test_gap_too_old_for_the_ring_gets_a_snapshot() -> None:
    state = State(ring_bytes=300)
    state.add(0)
    seen = state.feed.seq
    state.add(*range(1, 20))
    assert (await take(state.feed.subscribe(seen)))["type"] == "snapshot"
    state.add(20)
    assert numbers(await take(state.feed.subscribe(state.feed.seq - 1))) == [20]


async def test_number_from_another_life_of_the_server_gets_a_snapshot() -> None:
    state = State()
    state.add(1)
    for strange in (0, state.feed.seq + 5, -1):
        assert (await take(state.feed.subscribe(strange)))["type"] == "snapshot"


async def test_client_that_does_not_read_loses_its_queue_and_gets_a_snapshot() -> None:
    state = State(queued_batches=3)
    slow, quick = state.feed.subscribe(), state.feed.subscribe()
    assert (await take(quick))["type"] == "snapshot"
    for item in range(10):
        state.add(item)
        state.feed.flush()
        assert numbers(await take(quick)) == [item]
    message = await take(slow)
    assert message["type"] == "snapshot" and message["state"]["items"] == list(range(10))
    state.add(10)
    state.feed.flush()
    assert numbers(await take(slow)) == [10]


async def test_snapshot_after_overflow_holds_what_was_not_flushed_yet() -> None:
    state = State(queued_batches=1)
    client = state.feed.subscribe()
    for item in range(3):
        state.add(item)
        state.feed.flush()
    state.add(3)
    message = await take(client)
    assert message["state"]["items"] == [0, 1, 2, 3] and message["seq"] == state.feed.seq
    state.add(4)
    state.feed.flush()
    assert numbers(await take(client)) == [4]


async def test_batches_are_encoded_once_for_all() -> None:
    state = State()
    clients = [state.feed.subscribe(state.feed.seq) for _ in range(3)]
    state.add(1)
    state.feed.flush()
    batches = [await client.next() for client in clients]
    assert batches[0] is batches[1] is batches[2]


async def test_closed_subscription_gets_nothing_more() -> None:
    state = State()
    client = state.feed.subscribe(state.feed.seq)
    client.close()
    state.add(1)
    state.feed.flush()
    waiting = asyncio.create_task(client.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
