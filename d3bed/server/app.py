"""The HTTP server: dashboard, JSON API, WebSockets, and the guards in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from d3bed import __version__
from d3bed.core.errors import ConfigError
from d3bed.plan import STRATEGIES
from d3bed.server.about import about
from d3bed.server.api import MAX_BODY_BYTES, ROUTES, Api
from d3bed.server.auth import is_loopback, kept_secret
from d3bed.server.coordinator import Coordinator
from d3bed.server.credentials import Denied
from d3bed.server.doctor import Doctor
from d3bed.server.files import FILE, ModelFiles
from d3bed.server.guard import CONTROL, add_login, guard
from d3bed.server.health import healthz
from d3bed.server.metrics import CONTENT_TYPE, exposition
from d3bed.server.pages import AsPage, StaticFiles, page, photos, report, web_files
from d3bed.server.routing import ApiError, Problem, Route, json_response
from d3bed.server.runner import Runner, make_clock
from d3bed.server.settings import ServerSettings
from d3bed.server.sockets import Sockets
from d3bed.server.store import Store
from d3bed.server.trust import Trust
from d3bed.server.views import ServerReport

if TYPE_CHECKING:
    from d3bed.server.authority import Authority

__all__ = ["make_app", "serve"]

logger = logging.getLogger(__name__)

_SHUTDOWN_S = 3.0


async def serve(
    settings: ServerSettings,
    *,
    ready: Callable[[str], None] | None = None,
    tell: Callable[[str], object] | None = None,
    as_page: AsPage | None = None,
    brain: type[Coordinator] = Coordinator,
) -> None:
    """Serve until cancelled. `ready` gets the address as soon as requests are answered. `as_page` makes a
    page of a run's history, at `/report/RUN`; without it there is none.

    `tell` gets a newly made token, once; without it a terminal does, but no log. `brain` is what decides; a
    measurement brings its own. Raises `ConfigError`: a port in use, a bad host, a data directory that cannot
    be used, impossible settings.
    """
    settings.check(tuple(STRATEGIES))
    listener = _listen(settings.host, settings.port)
    try:
        store = Store(settings.data_dir, settings.retention)
        try:
            await _serve(settings, listener, store, ready, tell, as_page, brain)
        finally:
            await asyncio.to_thread(store.close)
    finally:
        listener.close()


async def _serve(
    settings: ServerSettings,
    listener: socket.socket,
    store: Store,
    ready: Callable[[str], None] | None,
    tell: Callable[[str], object] | None,
    as_page: AsPage | None,
    brain: type[Coordinator],
) -> None:
    token = settings.token
    if token is None and not is_loopback(settings.host):
        token, is_new = kept_secret(settings.data_dir / "token")
        if is_new:
            shown = f": {token}" if tell is not None or sys.stderr.isatty() else ""
            say = tell or sys.stderr.write
            say(f"the token for agents and for changes is in {settings.data_dir / 'token'}{shown}\n")
    this = await asyncio.to_thread(about)
    store.put("servers", {"boot": store.boot, "at_s": time.time(), "data": this})
    files = ModelFiles()
    settings = await files.stamped_all(settings)
    link_secret, _ = kept_secret(settings.data_dir / "link-secret")
    authority, context = await asyncio.to_thread(_tls, settings)
    trust = Trust(settings.data_dir, token, authority)
    coordinator = brain(
        settings,
        link_secret=link_secret,
        cut_off=trust.credentials.revoked,
        strategies=tuple(STRATEGIES),
        boot=store.boot,
        last_epoch=store.last_epoch,
    )
    coordinator.guarded = token is not None
    runner = Runner(coordinator, store, make_clock(), files)
    trust.attach(runner)
    app = make_app(runner, this, trust, loopback=is_loopback(settings.host), as_page=as_page)
    web_runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await web_runner.setup()
    try:
        runner.start()
        await web.SockSite(web_runner, listener, ssl_context=context).start()
        async with _announcement(settings, listener, authority):
            if ready is not None:
                ready(_address(settings.host, listener, "https" if context is not None else "http"))
            await asyncio.Event().wait()
    finally:
        await web_runner.cleanup()
        await runner.stop()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OverflowError:
        raise ConfigError("server", "port", f"{port} is no port", "use 0 to 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            problem, remedy = f"port {port} is in use", "stop what listens there, or use another --port"
            raise ConfigError("server", "port", problem, remedy) from None
        raise ConfigError("server", "host", f"cannot listen on {host} port {port} ({error})") from None


def _tls(settings: ServerSettings) -> tuple[Authority | None, ssl.SSLContext | None]:
    """The authority and the server's context, where it speaks TLS. Raises `ConfigError`."""
    if not settings.tls:
        return None, None
    from d3bed.server.authority import Authority, own_names

    authority = Authority(settings.data_dir / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(authority.serve_as(own_names(settings.host, *settings.names)))
    return authority, context


def _announcement(
    settings: ServerSettings, listener: socket.socket, authority: Authority | None
) -> contextlib.AbstractAsyncContextManager[None]:
    if not settings.announce:
        return contextlib.nullcontext()
    from d3bed.net.discovery import announced

    pin = authority.fingerprint if authority is not None else ""
    return announced(settings.host, listener.getsockname()[1], pin, __version__)


def _address(host: str, listener: socket.socket, scheme: str) -> str:
    port = listener.getsockname()[1]
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"


# ── the application ───────────────────────────────────────────────────────────────────────────────


def make_app(
    runner: Runner, this: ServerReport, trust: Trust, *, loopback: bool, as_page: AsPage | None
) -> web.Application:
    """`loopback`: only requests that name this machine as their host are answered."""
    doctor = Doctor(runner)
    api, sockets = Api(runner, trust, doctor), Sockets(runner, trust, doctor)
    app = web.Application(
        middlewares=[_errors_as_json, guard(trust, loopback=loopback)], client_max_size=MAX_BODY_BYTES
    )
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(api, route))
    app.router.add_get("/metrics", _metrics(runner, this))
    app.router.add_get("/healthz", healthz(runner))
    app.router.add_get(CONTROL, sockets.agent)
    if trust.authority is not None:
        app.router.add_get("/ca.pem", _authority(trust.authority))
    add_login(app, trust)
    app.router.add_get(FILE, runner.files.get)
    app.router.add_get("/ws/events", sockets.events)
    place = web_files()
    files = StaticFiles(place / "static", place / "dist")
    app.router.add_get("/static/{file:.+}", files.get)
    app.router.add_get("/api/pipelines/{id}/photos/{photo}", photos(runner.coordinator.thumbnail))
    app.router.add_get("/", page(runner.feed, files, place / "templates"))
    if as_page is not None:
        app.router.add_get("/report/{run}", report(api, as_page))

    async def say_goodbye(_: web.Application) -> None:
        await sockets.close()

    app.on_shutdown.append(say_goodbye)
    return app


def _metrics(runner: Runner, this: ServerReport) -> Handler:
    async def metrics(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=exposition(runner.coordinator, this).encode(), headers={"Content-Type": CONTENT_TYPE}
        )

    return metrics


def _authority(authority: Authority) -> Handler:
    async def pem(request: web.Request) -> web.StreamResponse:
        return web.Response(text=authority.pem, content_type="application/x-pem-file")

    return pem


def _handler(api: Api, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await route.respond(api, request)

    return handle


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (ApiError, Denied) as error:
        return json_response(Problem(error.text), error.status)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = json_response(Problem(error.text or error.reason), error.status)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except ConnectionError:
        if not request.transport or request.transport.is_closing():
            logger.debug("%s %s: whoever asked has gone", request.method, request.path)
            raise
        logger.exception("%s %s failed", request.method, request.path)
        return json_response(Problem("the server failed; its log says why"), 500)
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return json_response(Problem("the server failed; its log says why"), 500)
