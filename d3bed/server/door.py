"""At the door: who is it that asks, by token, credential or page session, and how often may they guess.

Pure but for the credentials it is given; times are passed in. A wrong secret counts against the host it came
from; one that was right once (revoked, expired, used) is refused with its reason, but is no guess.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
from collections import OrderedDict
from typing import Literal

import msgspec
from aiohttp import web

from d3bed.server.credentials import Credential, Credentials, Denied

__all__ = ["CALLER", "SESSION_S", "Caller", "Door", "Limiter"]

#: A browser is logged in for so long, and so many browsers at a time.
SESSION_S, _SESSIONS = 12 * 3600.0, 64
#: Wrong secrets from one host: so many at once, then one more in so many seconds; and hosts remembered.
GUESSES, GUESS_S, _HOSTS = 10, 6.0, 4096


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request. `local`: nobody in particular, on a server that has no token (loopback only).
    `name` is safe to log; `id` is that of the credential or join token."""

    kind: Literal["local", "admin", "page", "agent", "invited", "nobody"]
    host: str
    name: str = ""
    id: str = ""

    @property
    def may_change(self) -> bool:
        return self.kind in ("local", "admin", "page")

    @property
    def who(self) -> str:
        return self.name or self.kind


#: Where the guard leaves the caller for the handlers.
CALLER = web.RequestKey("caller", Caller)


class Limiter:
    """A bucket of guesses for each host; `hosts` of them are remembered, those that guessed last."""

    def __init__(self, hosts: int = _HOSTS) -> None:
        self._hosts = hosts
        self._full_s: OrderedDict[str, float] = OrderedDict()  # when a host's bucket will be full again

    def wait_s(self, host: str, now: float) -> float:
        """How long the host must wait before it may guess; 0: it may."""
        return max(0.0, self._full_s.get(_network(host), 0.0) - now - (GUESSES - 1) * GUESS_S)

    def guessed(self, host: str, now: float) -> None:
        key = _network(host)
        self._full_s[key] = max(self._full_s.pop(key, now), now) + GUESS_S
        if len(self._full_s) > self._hosts:
            self._full_s.popitem(last=False)


class Door:
    """`token` None: whoever reaches the server may change things, and it is on loopback."""

    def __init__(self, token: str | None, credentials: Credentials) -> None:
        self._token = token
        self._credentials = credentials
        self._limiter = Limiter()
        self._sessions: OrderedDict[str, float] = OrderedDict()  # digest → when it ends

    def caller(self, authorization: str | None, session: str | None, host: str, now: float) -> Caller:
        """Raises `Denied`: 401 with the reason, or 429 after too many guesses."""
        if authorization:
            return self._by_secret(_bearer(authorization), host, now)
        if session is not None and self._sessions.get(_digest(session), 0.0) > now:
            return Caller("page", host, f"page {_digest(session)[:8]}")
        return Caller("nobody", host) if self._token is not None else Caller("local", host)

    def log_in(self, secret: str, host: str, now: float) -> str:
        """A new session for the server's token. Raises as `caller`."""
        if self._by_secret(secret, host, now).kind not in ("admin", "local"):
            raise Denied(403, "a page logs in with the server's own token")
        session = secrets.token_hex(24)
        self._sessions[_digest(session)] = now + SESSION_S
        if len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def log_out(self, session: str | None) -> None:
        self._sessions.pop(_digest(session or ""), None)

    def _by_secret(self, secret: str, host: str, now: float) -> Caller:
        wait_s = self._limiter.wait_s(host, now)
        if wait_s > 0:
            raise Denied(429, f"too many wrong tokens from here; wait {math.ceil(wait_s)} s")
        if self._token is not None and hmac.compare_digest(
            secret.encode("utf-8", "replace"), self._token.encode()
        ):
            return Caller("admin", host, "token")
        if self._token is None and not secret.startswith("d3"):
            return Caller("local", host)
        try:
            found = self._credentials.check(secret, now)
        except Denied as denied:
            if denied.guess:
                self._limiter.guessed(host, now)
            raise
        if isinstance(found, Credential):
            return Caller("agent", host, f"agent {found.agent}", found.id)
        return Caller("invited", host, f"join token {found.id}", found.id)


def _bearer(authorization: str) -> str:
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


def _network(host: str) -> str:
    """An IPv6 host has a whole /64 to ask from."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False).network_address)
    return str(address)
