"""What a route of the JSON API is, and how a table of them is described as an OpenAPI document."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from d3bed import __version__
from d3bed.core.errors import D3Error
from d3bed.server.door import CALLER, Caller

__all__ = ["ApiError", "Problem", "Route", "codings", "decode", "described", "json_response"]

_T = TypeVar("_T")

#: Answers of so many bytes are compressed. The state of 500 agents has two megabytes: that is done at once,
#: in a few milliseconds, as a thread would have to wait for its turn twice. Much longer ones are left to one.
_PACKED_BYTES, _ASIDE_BYTES = 2**10, 2**23
_LEVEL, _GZIP = 1, 31


class ApiError(D3Error):
    """Answered as `{"error": text}` with `status`."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(text)


class Problem(msgspec.Struct, frozen=True):
    error: str


@dataclass(frozen=True)
class Route:
    """`call` gets the path values by name, and `body` decoded as its type where there is one; and who asks
    (`caller`), and by which address (`base`), where it has such parameters. `guarded`: about who is let in;
    reading, too, needs the token."""

    method: str
    path: str
    summary: str
    call: Callable[..., Awaitable[Any]]
    answer: Any
    body: Any = None
    guarded: bool = False

    @property
    def changes(self) -> bool:
        """Whether it changes something, and thus needs the token."""
        return self.method != "GET" or self.guarded

    @property
    def status(self) -> int:
        return 200 if self.method == "GET" else 202

    def matches(self, path: str) -> dict[str, Any] | None:
        """The values of its parts, by name, if `path` is one of its."""
        parts, given = self.path.split("/"), path.split("/")
        if len(parts) != len(given):
            return None
        pairs = list(zip(parts, given, strict=True))
        if any(part != value for part, value in pairs if not part.startswith("{")):
            return None
        return {part[1:-1]: value for part, value in pairs if part.startswith("{")}

    async def respond(self, api: object, request: web.Request) -> web.Response:
        values: dict[str, Any] = dict(request.match_info)
        if self.body is not None:
            values["body"] = _signed(decode(await request.read(), self.body), request[CALLER])
        wanted = signature(self.call).parameters
        if "caller" in wanted:
            values["caller"] = request[CALLER]
        if "base" in wanted:
            values["base"] = str(request.url.origin())
        answer = json_response(await self.call(api, **values), self.status)
        await _pack(answer, request.headers.get("Accept-Encoding", ""))
        return answer


def _signed(body: msgspec.Struct, caller: Caller) -> msgspec.Struct:
    """A page says by which name its changes are told; which session it was is in the audit log by the same
    words."""
    by = getattr(body, "by", None)
    return (
        body
        if by is None or caller.kind != "page"
        else msgspec.structs.replace(body, by=f"{by} ({caller.name})")
    )


def decode(body: bytes, kind: type[_T]) -> _T:
    """An empty body counts as `{}`."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ApiError(400, f"body: {error}") from None


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def codings(accepted: str) -> set[str]:
    """The content codings of an `Accept-Encoding`; none ("") always is."""
    found = {""}
    for each in accepted.split(","):
        coding, _, weight = each.partition(";")
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            found.add(coding.strip().lower())
    return found


async def _pack(answer: web.Response, accepted: str) -> None:
    body = answer.body
    answer.headers["Vary"] = "Accept-Encoding"
    if not isinstance(body, bytes) or len(body) < _PACKED_BYTES or "gzip" not in codings(accepted):
        return
    aside = len(body) >= _ASIDE_BYTES
    answer.body = await asyncio.to_thread(_packed, body) if aside else _packed(body)
    answer.headers["Content-Encoding"] = "gzip"


def _packed(body: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    return packer.compress(body) + packer.flush()


def described(routes: Sequence[Route]) -> dict[str, Any]:
    """Their OpenAPI 3.1 document."""
    kinds = [kind for route in routes for kind in (route.answer, route.body) if kind is not None] + [Problem]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip((repr(kind) for kind in kinds), schemas, strict=True))

    def content(kind: Any) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": schema_of[repr(kind)]}}}

    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "responses": {
                str(route.status): {"description": "done", **content(route.answer)},
                "default": {"description": "it failed; says why", **content(Problem)},
            },
        }
        if names := re.findall(r"{(\w+)}", route.path):
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        if route.body is not None:
            operation["requestBody"] = content(route.body)
        if route.changes:
            operation["security"] = [{"token": []}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "d3bed", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
