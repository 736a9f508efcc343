"""Which control protocol is spoken, and how a first message of any version says so.

`PROTOCOL` grows when a message of another number would not be understood: new fields that may be left out do
not count. The data links have a number of their own, in each prefix (`net.codec`).
"""

from __future__ import annotations

import msgspec

from d3bed.core.errors import RemoteProtocolError

__all__ = ["PROTOCOL", "SAYS", "mismatch", "spoken"]

PROTOCOL = 2

#: The HTTP header in which a board that joins, or asks whether it may come, says its own.
SAYS = "D3bed-Protocol"


def mismatch(agent: int, server: int) -> str:
    """Why these two cannot talk, and who is to be upgraded; "" if they can."""
    if agent == server:
        return ""
    older = "agent" if agent < server else "server"
    return f"the agent speaks protocol {agent}, the server {server}: upgrade d3bed on the {older}"


class _First(msgspec.Struct, frozen=True):
    """Of a first message, in whatever version, what says in which; without it is the first."""

    protocol: int = 1


_decoder = msgspec.json.Decoder(_First)


def spoken(text: str | bytes) -> int:
    """The protocol of an agent's first message. Raises `RemoteProtocolError` for what is no object."""
    try:
        return _decoder.decode(text).protocol
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError(f"bad control message: {error}") from error
