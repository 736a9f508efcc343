"""What an agent has to say at the same moment: messages that share a WebSocket text, as a JSON array.

A text costs the server more than what is in it; one message alone is no array.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from d3bed.core.errors import RemoteProtocolError
from d3bed.core.messages import MAX_CONTROL_BYTES, FromAgent

__all__ = ["TOGETHER_BYTES", "decode_all", "encode_all"]

#: A text holds as many messages as fit, and one at least. With what is between them it is never twice as
#: long: hundreds of thousands of small ones would hold up everybody else.
TOGETHER_BYTES = 2**18

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[FromAgent | tuple[FromAgent, ...]]
_decoder = msgspec.json.Decoder(FromAgent | tuple[FromAgent, ...])


def encode_all(messages: Iterable[FromAgent]) -> Iterator[str]:
    """As few texts as possible, in order."""
    parts: list[bytes] = []
    size = 0
    for part in map(_encoder.encode, messages):
        if parts and size + len(part) > TOGETHER_BYTES:
            yield _joined(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    if parts:
        yield _joined(parts)


def _joined(parts: list[bytes]) -> str:
    return (parts[0] if len(parts) == 1 else b"[%s]" % b",".join(parts)).decode()


def decode_all(text: str | bytes) -> tuple[FromAgent, ...]:
    """What one text holds. Raises `RemoteProtocolError` on anything that is not known messages."""
    several = text[:1] in ("[", b"[")
    if len(text) > (limit := 2 * TOGETHER_BYTES if several else MAX_CONTROL_BYTES):
        what = "messages" if several else "message"
        raise RemoteProtocolError(f"control {what} of {len(text)} bytes, limit {limit}")
    try:
        found = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError(f"bad control message: {error}") from error
    return found if isinstance(found, tuple) else (found,)
