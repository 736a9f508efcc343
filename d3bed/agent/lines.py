"""Lines that this agent keeps open to others, so that peers who cannot dial it reach it all the same."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable

from d3bed.core.errors import D3Error
from d3bed.core.ids import AgentId
from d3bed.core.messages import Peer
from d3bed.net import Limits, call, wanted

__all__ = ["Lines"]

_log = logging.getLogger(__name__)

#: A line that could not be opened is tried again after this long, and longer each time.
_RETRY_S, _RETRY_MOST_S = 0.2, 5.0


class Lines:
    """`secret` tells the link secret, None before there is one; `adopt` gets a line that became a link."""

    def __init__(
        self, me: AgentId, secret: Callable[[], bytes | None], adopt: Callable[[socket.socket], None]
    ) -> None:
        self._me, self._secret, self._adopt = me, secret, adopt
        self._kept: dict[Peer, asyncio.Task[None]] = {}

    def keep(self, at: Iterable[Peer]) -> None:
        """One to each of these from now on, and to no others; links that lines became go on."""
        wished = set(at)
        for peer in self._kept.keys() - wished:
            self._kept.pop(peer).cancel()
        for peer in wished - self._kept.keys():
            self._kept[peer] = asyncio.create_task(self._keep(peer))

    async def close(self) -> None:
        tasks = list(self._kept.values())
        self.keep(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, peer: Peer) -> None:
        """Each time that the line is taken, another one."""
        wait_s, problem = _RETRY_S, ""
        while True:
            try:
                line = await self._line(peer)
            except (D3Error, OSError, TimeoutError) as error:
                said = str(error) or type(error).__name__
                if said != problem:
                    _log.warning("the line to %s is down: %s", peer.agent, said)
                problem = said
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _RETRY_MOST_S)
            else:
                wait_s, problem = _RETRY_S, ""
                self._adopt(line)

    async def _line(self, peer: Peer) -> socket.socket:
        secret = self._secret()
        if secret is None:
            raise ConnectionError("not registered yet: no link secret")
        line = await call(
            peer.address, me=self._me, relay=peer.agent, to=None, secret=secret, limits=Limits()
        )
        await wanted(line, relay=peer.agent, to=None)
        return line
