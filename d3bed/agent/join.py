"""Joining: a join token goes out, the board's own credential comes back and is written down.

Runs before there is an agent, in the standard library alone: a board has no web stack.
"""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from d3bed.agent.identity import Identity, find_identity, new_node, write_identity
from d3bed.agent.machine import read_machine
from d3bed.core.errors import ConfigError
from d3bed.core.ids import Tier
from d3bed.core.joining import Joined, JoinRequest, same_machine

__all__ = ["join"]

_TIMEOUT_S = 10.0
_MOST_BYTES = 64 * 1024


def join(server: str, token: str, path: Path, *, name: str | None, tier: Tier | None) -> tuple[Identity, str]:
    """Write the identity that the server gives to `path`; and a word about a copied one that was there ("").

    A board that joins again keeps its node id. Raises `ConfigError` with the server's reason.
    """
    server = server.rstrip("/")
    before = find_identity(path)
    node = before.node if before is not None else new_node()
    machine, told = read_machine(node), ""
    if before is not None and not same_machine(before.machine, machine):
        told = (
            f"{path} is a copy of {before.agent}'s, which is another machine: this one gets an id of its own"
        )
        node = new_node()
        machine = read_machine(node)
    request = JoinRequest(node, machine, socket.gethostname()[:255], name, tier)
    joined = _ask(server, token, request)
    identity = Identity(node, machine, joined.agent, joined.tier, server, joined.credential)
    write_identity(path, identity)
    return identity, told


def _ask(server: str, token: str, body: JoinRequest) -> Joined:
    request = urllib.request.Request(
        f"{server}/api/join",
        data=msgspec.json.encode(body),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return msgspec.json.decode(answer.read(_MOST_BYTES), type=Joined)
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigError(server, "join", f"refused: {_reason(error)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no such URL, no JSON
        reason = getattr(error, "reason", error)
        raise ConfigError(
            server, "join", f"no d3bed server answers here ({reason})", "check the address"
        ) from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return msgspec.json.decode(error.read(_MOST_BYTES), type=dict[str, str])["error"][:300]
    except (msgspec.DecodeError, KeyError, OSError):
        return f"HTTP {error.code}"
