"""Joining: a join token goes out, the board's own credential comes back and is written down; and knocking,
which asks whether that is still good, and the protocol the same.

Both run before there is an agent, in the standard library alone: a board has no web stack, and torch takes
seconds to import.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from d3bed.agent.identity import Identity, find_identity, key_file, new_node, write_identity, write_secret
from d3bed.agent.machine import read_machine
from d3bed.core.errors import ConfigError
from d3bed.core.ids import Tier
from d3bed.core.joining import Joined, JoinRequest, same_machine
from d3bed.core.protocol import PROTOCOL, SAYS, mismatch

__all__ = ["join", "knock"]

_TIMEOUT_S, _KNOCK_S = 10.0, 2.0
_MOST_BYTES = 64 * 1024


class _Told(msgspec.Struct):
    """Of what a server says of its health."""

    protocol: int = PROTOCOL


def join(
    server: str, token: str, path: Path, *, name: str | None, tier: Tier | None, pin: str | None = None
) -> tuple[Identity, str]:
    """Write the identity that the server gives to `path`; and a word about a copied one that was there ("").

    A board that joins again keeps its node id. `pin` is the fingerprint of a TLS server's authority. Raises
    `ConfigError` with the server's reason.
    """
    server = server.rstrip("/")
    before = find_identity(path)
    authority, key, asked = "", b"", None
    if server.startswith("https:"):
        from d3bed.agent.certificate import new_key, signing_request

        if pin is None:
            raise ConfigError("--ca", "", "is needed with https", "it is on the line of d3bed agents invite")
        authority = _authority(server, pin)
        key = new_key()
        asked = signing_request(key)
    elif pin is not None:
        raise ConfigError("--ca", "", f"{server} is not https", "write the address as the server shows it")
    node = before.node if before is not None else new_node()
    machine, told = read_machine(node), ""
    if before is not None and not same_machine(before.machine, machine):
        told = (
            f"{path} is a copy of {before.agent}'s, which is another machine: this one gets an id of its own"
        )
        node = new_node()
        machine = read_machine(node)
    request = JoinRequest(node, machine, socket.gethostname()[:255], name, tier, asked)
    joined = _ask(server, token, request, authority)
    if joined.certificate is not None:
        write_secret(key_file(path), key + joined.certificate.encode())
    identity = Identity(node, machine, joined.agent, joined.tier, server, joined.credential, authority)
    write_identity(path, identity)
    return identity, told


def knock(server: str, token: str | None, authority: str) -> None:
    """Raises `ConfigError` with the reason where the server refuses this token or credential, or speaks
    another protocol. Whatever else there may be, above all a server that is not there yet, is for the agent
    to meet."""
    headers = {SAYS: str(PROTOCOL)} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        request = urllib.request.Request(f"{server.rstrip('/')}/healthz", headers=headers)
        context = ssl.create_default_context(cadata=authority) if authority else None
        with _opener(context).open(request, timeout=_KNOCK_S) as answer:
            told = msgspec.json.decode(answer.read(_MOST_BYTES), type=_Told)
    except urllib.error.HTTPError as error:
        with error:
            problem = f"the server refused it (HTTP {error.code}): {_reason(error)}"
            if error.code == 400:
                raise ConfigError(server, "protocol", problem) from None
            if error.code in (401, 403):
                raise ConfigError(server, "token", problem, "d3bed join, or pass --token") from None
    except (OSError, http.client.HTTPException, ValueError, msgspec.DecodeError):
        pass
    else:
        if other := mismatch(PROTOCOL, told.protocol):  # it knows nothing of the header
            raise ConfigError(server, "protocol", other)


def _authority(server: str, pin: str) -> str:
    """The authority's certificate (PEM), as the server tells it to anybody: believed for its fingerprint."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _opener(context).open(f"{server}/ca.pem", timeout=_TIMEOUT_S) as answer:
            pem: str = answer.read(_MOST_BYTES).decode()
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = f"no d3bed server with TLS answers here ({getattr(error, 'reason', error)})"
        raise ConfigError(server, "join", problem, "check the address") from None
    if not hmac.compare_digest(found, pin.lower().replace(":", "").removeprefix("sha256")):
        raise ConfigError(
            server,
            "--ca",
            "another authority signs for the server that answers here: not the one of the invitation",
            "do not go on unless you know why; d3bed ca on the server shows the right one",
        )
    return pem


def _opener(context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _ask(server: str, token: str, body: JoinRequest, authority: str) -> Joined:
    request = urllib.request.Request(
        f"{server}/api/join",
        data=msgspec.json.encode(body),
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            SAYS: str(PROTOCOL),
        },
        method="POST",
    )
    context = ssl.create_default_context(cadata=authority) if authority else None
    try:
        with _opener(context).open(request, timeout=_TIMEOUT_S) as answer:
            return msgspec.json.decode(answer.read(_MOST_BYTES), type=Joined)
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigError(server, "join", f"refused: {_reason(error)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no such URL, no JSON
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            problem = f"the server's certificate is not for this address ({reason.verify_message})"
            remedy = "start it with --tls-name and the name or address that boards use"
            raise ConfigError(server, "join", problem, remedy) from None
        raise ConfigError(
            server, "join", f"no d3bed server answers here ({reason})", "check the address"
        ) from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return msgspec.json.decode(error.read(_MOST_BYTES), type=dict[str, str])["error"][:300]
    except (msgspec.DecodeError, KeyError, OSError):
        return f"HTTP {error.code}"
