"""The server's state as the event feed tells it, for the terminal: snapshot plus numbered events.

The same reduction as `web/static/store.js` does for the page; `server/feed.py` describes both message
kinds. `State` is pure; `follow` keeps one up to date over the WebSocket.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import connect

from d3bed.core.errors import RemoteProtocolError

__all__ = ["State", "follow", "follow_messages"]

_KEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "agent": ("agents", ("agent",)),
    "link": ("links", ("from", "to")),
    "pipeline": ("pipelines", ("id",)),
    "epoch": ("epochs", ("pipeline", "epoch")),
    "decision": ("decisions", ("cause_id",)),
}
_WHOLE = {"conditions", "unstored"}
_LISTS = {"frame": ("frames", 100), "note": ("notes", 200)}


class State:
    """What the dashboard knows: lists of plain JSON objects by kind."""

    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.data = snapshot

    def apply(self, kind: str, data: Any) -> None:
        """One event: merge by its key, append, or replace the whole list."""
        if kind in _WHOLE:
            self.data[kind] = data
            return
        if kind in _LISTS:
            name, keep = _LISTS[kind]
            rows = self.data.setdefault(name, [])
            rows.append(data)
            del rows[:-keep]
            return
        if kind not in _KEYS:
            return  # a newer server may know more kinds
        name, fields = _KEYS[kind]
        rows = self.data.setdefault(name, [])
        for row in rows:
            if all(row.get(field) == data.get(field) for field in fields):
                row.update(data)
                return
        rows.append(dict(data))

    @property
    def pipeline(self) -> dict[str, Any]:
        """The first pipeline; empty before there is one."""
        rows = self.data.get("pipelines") or [{}]
        return dict(rows[0])


async def follow(base: str) -> AsyncIterator[State]:
    """Connect to `http://host:port` and yield the state after every batch of events."""
    async for state, _ in follow_messages(base):
        yield state


async def follow_messages(base: str) -> AsyncIterator[tuple[State, dict[str, Any]]]:
    """The same, with the message that led there (`server/feed.py`)."""
    address = base.replace("http", "ws", 1) + "/ws/events"
    state: State | None = None
    async with connect(address, max_size=32 * 2**20, compression=None, proxy=None) as socket:
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "snapshot":
                state = State(message["state"])
            elif state is None:
                raise RemoteProtocolError("events before a snapshot")
            for event in message.get("events", ()):
                state.apply(event["kind"], event["data"])
            yield state, message
