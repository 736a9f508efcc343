"""The files of a model that the server has, fetched from it or from another agent that has them, or gets
them, so that the server need not send them to every board. From agents they come over a data link of its own:
whoever asks has proved to be an agent, and so has whoever answers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from pathlib import Path

from d3bed.agent.files import FileStore
from d3bed.agent.links import Links
from d3bed.core.errors import D3Error
from d3bed.core.messages import Fetching, LoadModel, Peer
from d3bed.net import Sender

__all__ = ["fetched"]

#: How often the server is told how far files on their way are.
_PROGRESS_S = 0.5

#: A peer that takes longer over one piece is not asked again.
_PIECE_S = 10.0


async def fetched(
    store: FileStore, order: LoadModel, links: Links, tell: Callable[[Fetching], None]
) -> dict[str, Path]:
    """Where they are, by the names that the server gives them. Raises `ModelError`."""
    spec, loop = order.model, asyncio.get_running_loop()
    near = [_Near(links, peer) for peer in order.peers]
    found: dict[str, Path] = {}
    of_bytes = sum(file.size for file in spec.files)
    used = {file.sha256 for file in spec.files}
    told_s = 0.0

    def progress(done_bytes: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > _PROGRESS_S:
            told_s = time.monotonic()
            loop.call_soon_threadsafe(tell, Fetching(spec, done_bytes, of_bytes))

    try:
        for file in spec.files:
            found[file.path] = await asyncio.to_thread(store.fetch, file, used, progress, near)
    finally:
        for each in near:
            await each.close()
    if found:
        tell(Fetching(spec, of_bytes, of_bytes))
    return found


class _Near:
    """A peer's files. Made in the event loop, called on another thread."""

    def __init__(self, links: Links, peer: Peer) -> None:
        self._links, self._peer = links, peer
        self._loop = asyncio.get_running_loop()
        self._sender: Sender | None = None

    def __str__(self) -> str:
        return self._peer.agent

    def __call__(self, sha256: str, behind_bytes: int) -> bytes:
        """Some of the file, behind its first so many bytes; empty where the peer has no more of it yet.
        Raises `OSError`."""
        asked = asyncio.run_coroutine_threadsafe(self._piece(sha256, behind_bytes), self._loop)
        try:
            return asked.result(2 * _PIECE_S)
        except (D3Error, TimeoutError, concurrent.futures.CancelledError) as error:
            raise ConnectionError(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        if self._sender is not None:
            await self._sender.close()

    async def _piece(self, sha256: str, behind_bytes: int) -> bytes:
        async with asyncio.timeout(_PIECE_S):
            if self._sender is None:
                self._sender = await self._links.for_files(self._peer)
            return await self._sender.piece(sha256, behind_bytes)
