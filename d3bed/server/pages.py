"""What a browser gets: the dashboard with the state that it shows at first, and its files, compressed once.

Third-party files (`static/vendor/`) may be missing: then the page is told so, and draws plain charts.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import mimetypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import markupsafe
import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

import d3bed
from d3bed.core.errors import ConfigError
from d3bed.server.api import Api
from d3bed.server.feed import Feed
from d3bed.server.history import RunHistory
from d3bed.server.views import StateView

__all__ = ["AsPage", "StaticFiles", "page", "photos", "report", "web_files"]

#: Makes a self-contained page of a run's history. May take a second: it is called on a thread.
AsPage = Callable[[RunHistory], str]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
#: Of each list so many are in the page itself; the feed's first message brings the rest.
_FIRST = 20
_IMPORTS = re.compile(r'^(?:import|\} from)\b[^"]*"\./([\w.]+)";$', re.MULTILINE)
_JPEG = b"\xff\xd8\xff"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def web_files() -> Path:
    """Templates and static files: inside the installed package, or in the checkout."""
    package = Path(d3bed.__file__).parent
    for place in (package / "_data" / "web", package.parent / "web"):
        if (place / "templates").is_dir():
            return place
    raise ConfigError("web", "", "the dashboard's files are missing", "install d3bed again")


@dataclass(frozen=True)
class _File:
    stamp: tuple[int, int]
    content: bytes
    compressed: bytes
    kind: str
    etag: str


class StaticFiles:
    """Serves what lies below `directory`; a file is read and compressed once, and again when it changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, _File] = {}

    @property
    def modules(self) -> list[str]:
        """Names of the scripts that the page begins with: what `main.js` imports, and what those do."""
        found, left = set[str](), ["main.js"]
        while left:
            name = left.pop()
            path = self._directory / name
            if name not in found and path.is_file():
                found.add(name)
                left += _IMPORTS.findall(path.read_text())
        return sorted(found)

    @property
    def has_charts(self) -> bool:
        return (self._directory / "vendor" / "uPlot.js").is_file()

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Handler; the route names the `file`."""
        file = self._file(request.match_info["file"])
        if file is None:
            raise web.HTTPNotFound(text=f"there is no file {request.path}")
        headers = {**_HEADERS, "Vary": "Accept-Encoding"}
        if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
            answer = web.Response(status=304, headers=headers)
        elif "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            answer = web.Response(body=file.compressed, content_type=file.kind, headers=headers)
        else:
            answer = web.Response(body=file.content, content_type=file.kind, headers=headers)
        answer.etag = file.etag
        return answer

    def _file(self, name: str) -> _File | None:
        path = (self._directory / name).resolve()
        if not path.is_relative_to(self._directory.resolve()) or not path.is_file():
            return None
        status, known = path.stat(), self._read.get(name)
        stamp = (status.st_mtime_ns, status.st_size)
        if known is None or known.stamp != stamp:
            content = path.read_bytes()
            kind = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
            etag = hashlib.sha256(content).hexdigest()[:16]
            known = _File(stamp, content, gzip.compress(content, 9, mtime=0), kind, etag)
            self._read[name] = known
        return known


def page(feed: Feed, files: StaticFiles, templates: Path) -> Handler:
    """The dashboard: drawn from what it carries of the state, before its socket opens."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(templates), autoescape=True)

    async def get(request: web.Request) -> web.StreamResponse:
        feed.flush()
        text = environment.get_template("index.html").render(
            snapshot=_for_script(feed.snapshot(_beginning)),
            version=d3bed.__version__,
            modules=files.modules,
            charts=files.has_charts,
        )
        answer = web.Response(text=text, content_type="text/html", headers=_HEADERS)
        answer.enable_compression()
        return answer

    return get


def report(api: Api, as_page: AsPage) -> Handler:
    """A run as `d3bed report --html` writes it, styles inside; a script would not run in it."""
    headers = _HEADERS | {
        "Content-Security-Policy": (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
            " form-action 'none'; frame-ancestors 'none'"
        )
    }

    async def get(request: web.Request) -> web.StreamResponse:
        history = await api.history(request.match_info["run"])
        text = await asyncio.to_thread(as_page, history)
        answer = web.Response(text=text, content_type="text/html", headers=headers)
        answer.enable_compression()
        return answer

    return get


def photos(thumbnail: Callable[[str, str], bytes | None]) -> Handler:
    """Small JPEGs of what frames are made of, as the pipeline's device gave them."""

    async def get(request: web.Request) -> web.StreamResponse:
        jpeg = thumbnail(request.match_info["id"], request.match_info["photo"])
        if jpeg is None or not jpeg.startswith(_JPEG):
            raise web.HTTPNotFound(text="there is no such photo")
        return web.Response(body=jpeg, content_type="image/jpeg", headers=_HEADERS)

    return get


def _beginning(state: object) -> object:
    """What the first screen shows of the state: times of layers are told of one that is pointed at."""
    assert isinstance(state, StateView)
    lists = {name: getattr(state, name)[-_FIRST:] for name in ("epochs", "notes", "decisions", "orders")}
    pipelines = tuple(msgspec.structs.replace(pipeline, profile_s={}) for pipeline in state.pipelines)
    return msgspec.structs.replace(state, frames=(), pipelines=pipelines, **lists)


def _for_script(json: str) -> markupsafe.Markup:
    """JSON that may stand inside a `<script type="application/json">` element."""
    for character in "<>&":
        json = json.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(json)
