"""The control connection: one WebSocket to the server, re-made with back-off when it is lost.

What agents tell repeats itself: compressed, as the connection is, it takes about a tenth.

An agent registers from scratch on every connection and goes on inferring while there is none. A server
that refuses the registration (wrong token, name taken) ends the agent with its reason: trying again
would not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable

import msgspec
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from d3bed.agent.clock import ClockOffset
from d3bed.agent.reporter import Reporter
from d3bed.core.errors import ConfigError, RemoteProtocolError
from d3bed.core.messages import (
    MAX_CONTROL_BYTES,
    ClockPing,
    ClockPong,
    Heartbeat,
    Register,
    ToAgent,
    Welcome,
    decode_to_agent,
    encode,
)
from d3bed.core.together import encode_all

__all__ = ["REFUSED", "run_control"]

_log = logging.getLogger(__name__)

#: WebSocket close code with which the server refuses a registration for good.
REFUSED = 4003

#: A server that says nothing for so long (it answers a clock ping every 4 s) is tried anew: behind a cut
#: cable a connection looks alive for minutes, and goes on late once the cable is back.
SILENT_S = 6.0
_LOOK_S = 0.5

#: Before the next try, within half of it; and how long one may take: a server that has many to welcome at the
#: same moment must not be asked by all of them again meanwhile.
_BACK_OFF_S = (0.2, 0.5, 1.0, 2.0)
_OPEN_S = (3.0, 6.0, 12.0)


async def run_control(
    server: str,
    token: Callable[[], str | None],
    register: Callable[[], Register],
    load: Callable[[], Heartbeat],
    clock: ClockOffset,
    reporter: Reporter,
    handle: Callable[[ToAgent], Awaitable[None]],
    authority: str = "",
) -> None:
    """Keep one control connection alive until cancelled. Raises `ConfigError` when refused."""
    address = server.rstrip("/").replace("http", "ws", 1) + "/ws/agent"
    context = None
    if address.startswith("wss:"):
        context = ssl.create_default_context(cadata=authority or None)
    failures = 0
    while True:
        secret = token()  # the server may have given us another
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        try:
            async with connect(
                address,
                additional_headers=headers,
                max_size=MAX_CONTROL_BYTES,
                max_queue=64,
                proxy=None,
                ssl=context,
                open_timeout=_OPEN_S[min(failures, len(_OPEN_S) - 1)],
                close_timeout=1,
            ) as socket:
                await socket.send(encode(register()))
                failures = 0
                await _serve(socket, load, clock, reporter, handle)
        except InvalidStatus as error:
            status = error.response.status_code
            if status in (401, 403):
                problem = f"the server refused it (HTTP {status}): {_reason(error)}"
                raise ConfigError(server, "token", problem, "d3bed join, or pass --token") from error
            _log.warning("server answered HTTP %d", status)
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code == REFUSED:
                raise ConfigError(server, "agent", f"the server refused it: {error.rcvd.reason}") from error
            _log.warning("connection to the server was lost: %s", error)
        except ssl.SSLCertVerificationError as error:
            problem = f"its certificate is not trusted: {error.verify_message}"
            raise ConfigError(server, "TLS", problem, "join again, with its --ca: d3bed join") from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            _log.warning("no connection to %s yet: %s", server, error)
        delay_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
        failures += 1
        await asyncio.sleep(delay_s * random.uniform(0.5, 1.5))


def _reason(error: InvalidStatus) -> str:
    """What the server said, if it was a d3bed server."""
    try:
        said = msgspec.json.decode(error.response.body or b"", type=dict[str, str])
    except (msgspec.DecodeError, UnicodeError):
        return "no reason given"
    return said.get("error", "no reason given")[:300]


async def _serve(
    socket: ClientConnection,
    load: Callable[[], Heartbeat],
    clock: ClockOffset,
    reporter: Reporter,
    handle: Callable[[ToAgent], Awaitable[None]],
) -> None:
    heartbeat_s = 0.5
    quiet = 0  # looks since it last said something: where this process was held up, they are few

    async def watch() -> None:
        nonlocal quiet
        while quiet < SILENT_S / _LOOK_S:
            await asyncio.sleep(_LOOK_S)
            quiet += 1
        _log.warning("the server has said nothing for %g s: connecting anew", SILENT_S)
        socket.transport.abort()

    async def beat() -> None:
        count = 0
        while True:
            if count < 8 or count % 8 == 0:  # a quick first estimate, then now and then
                await socket.send(encode(ClockPing(time.monotonic(), time.time())))
            reporter.beat(load())
            count += 1
            await asyncio.sleep(heartbeat_s if count >= 8 else 0.05)

    async def report() -> None:
        while True:
            await reporter.wait()
            began_s = time.thread_time()
            for text in encode_all(reporter.drain()):
                await socket.send(text)
            reporter.spent_s += time.thread_time() - began_s
            await reporter.rest()

    tasks = [asyncio.create_task(work()) for work in (beat, report, watch)]
    try:
        async for text in socket:
            received_s, quiet = time.monotonic(), 0
            try:
                message = decode_to_agent(text)
            except RemoteProtocolError as error:
                _log.error("server: %s", error)
                await socket.close(1008, "bad control message")
                return
            match message:
                case ClockPong(sent_s, server_s):
                    clock.sample(sent_s, server_s, received_s)
                    await handle(message)
                case Welcome():
                    heartbeat_s, reporter.batch_s = message.heartbeat_s, message.batch_s
                    await handle(message)
                case _:
                    await handle(message)
        raise socket.protocol.close_exc  # the loop above ends quietly when the server says goodbye
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(ConnectionClosed):
            await asyncio.gather(*tasks, return_exceptions=True)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)
