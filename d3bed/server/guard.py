"""The guard in front of every request: is it one of ours, who sends it, may they; and the page's login.

Reading is open, but for what is marked `guarded` in the table of routes. A page logs in once with the
server's token, and from then on has a session cookie that scripts cannot read and other sites cannot send.
"""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from d3bed.core.protocol import PROTOCOL, SAYS, mismatch
from d3bed.server.api import ROUTES
from d3bed.server.auth import is_foreign_host, is_foreign_origin
from d3bed.server.credentials import Denied
from d3bed.server.door import CALLER, SESSION_S, Caller
from d3bed.server.files import FILE
from d3bed.server.routing import ApiError, decode, json_response
from d3bed.server.trust import LoginOrder, Outcome, Trust

__all__ = ["CONTROL", "add_login", "guard"]

CONTROL = "/ws/agent"
_JOIN, _LOGIN, _LOGOUT = "/api/join", "/api/login", "/api/logout"
#: Their bodies hold secrets; they write down themselves what came of it.
_KNOCKS = frozenset({_JOIN, _LOGIN, _LOGOUT})
_COOKIE = "d3bed_session"
_GUARDED = frozenset(route.path for route in ROUTES if route.guarded)
_DIGITS = 10
_NEEDED = "authorization: this needs the header 'Authorization: Bearer <token>', or a login"


def guard(trust: Trust, *, loopback: bool) -> Middleware:
    """`loopback`: only requests that name this machine as their host are answered."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host, is_socket = request.headers.get("Host"), request.path.startswith("/ws/")
        if loopback and is_foreign_host(host):
            raise ApiError(403, f"host: {host!r} is not this machine; use 127.0.0.1 or localhost")
        changes = request.method not in ("GET", "HEAD")
        if (changes or is_socket) and is_foreign_origin(request.headers.get("Origin"), host):
            raise ApiError(403, "origin: another site's page may not do this")
        path = _path(request)
        try:
            caller = request[CALLER] = _caller(trust, request)
            _check_protocol(request, caller)
            if changes or path in (CONTROL, FILE) or path in _GUARDED:
                _check(caller, path)
        except Denied as denied:
            who, what = denied.name or "stranger", f"{request.method} {path}"
            trust.audit.knocked(trust.now(), who, _host(request), what, denied.text, denied.status)
            raise
        if not changes:
            return await handler(request)
        return await _audited(trust, request, path, handler)

    return check


async def _audited(trust: Trust, request: web.Request, path: str, handler: Handler) -> web.StreamResponse:
    """Answer, and write down what was changed, or who knocked in vain."""
    caller = request[CALLER]
    try:
        answer = await handler(request)
    except (ApiError, Denied) as error:
        what = f"{request.method} {path}"
        trust.audit.knocked(trust.now(), caller.who, caller.host, what, error.text, error.status)
        raise
    if path not in _KNOCKS:
        what, detail = f"{request.method} {request.path}", (await request.read()).decode("utf-8", "replace")
        trust.audit.changed(trust.now(), caller.who, caller.host, what, detail, answer.status)
    return answer


def _caller(trust: Trust, request: web.Request) -> Caller:
    return trust.door.caller(
        request.headers.get(hdrs.AUTHORIZATION), request.cookies.get(_COOKIE), _host(request), trust.now()
    )


def _check_protocol(request: web.Request, caller: Caller) -> None:
    """Raises `Denied` for a board that says that it speaks another protocol: it need not come."""
    said = request.headers.get(SAYS)
    if said is None:
        return
    number = int(said) if said.isascii() and said.isdigit() and len(said) < _DIGITS else 0
    if text := mismatch(number, PROTOCOL):
        raise Denied(400, text, name=caller.who)


def _check(caller: Caller, path: str) -> None:
    """Raises `Denied` for what this caller may not do."""
    if caller.may_change or path in (_LOGIN, _LOGOUT):
        return
    if caller.kind == "nobody":
        raise Denied(401, _NEEDED)
    if caller.kind == "agent" and path not in (CONTROL, FILE):
        raise Denied(403, "an agent's credential may not do this", name=caller.who)
    if caller.kind == "invited" and path != _JOIN:
        raise Denied(403, "a join token is for d3bed join alone", name=caller.who)


def _path(request: web.Request) -> str:
    """The route's, with names for its parts: what may be written to the log. "" for a route unknown."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _host(request: web.Request) -> str:
    return request.remote or "?"


# ── the page ──────────────────────────────────────────────────────────────────────────────────────


def add_login(app: web.Application, trust: Trust) -> None:
    """`POST /api/login` with `{"token": …}`, and `POST /api/logout`."""

    async def log_in(request: web.Request) -> web.StreamResponse:
        order = decode(await request.read(), LoginOrder)
        session = trust.door.log_in(order.token, _host(request), trust.now())
        trust.audit.knocked(trust.now(), "token", _host(request), "logged in", "", 200)
        answer = json_response(Outcome("logged in"))
        answer.set_cookie(
            _COOKIE,
            session,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="Strict",
            secure=request.secure,
        )
        return answer

    async def log_out(request: web.Request) -> web.StreamResponse:
        trust.door.log_out(request.cookies.get(_COOKIE))
        answer = json_response(Outcome("logged out"))
        answer.del_cookie(_COOKIE)
        return answer

    app.router.add_post(_LOGIN, log_in)
    app.router.add_post(_LOGOUT, log_out)
