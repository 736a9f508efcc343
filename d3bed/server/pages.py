"""What a browser gets: the dashboard with the state that it shows at first, and its files, compressed once.

Third-party files (`static/vendor/`) may be missing: then the page is told so, and draws plain charts. So may
`dist/`, where `web/shrink.mjs` puts the page's files minified, with source maps, and compressed by Brotli.
What was made of another source than the file has now counts as missing, and the file is given out as it is.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
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
from d3bed.server.routing import codings
from d3bed.server.views import GraphView, StateView, VertexView

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
_FIRST = 5
_IMPORTS = re.compile(r'^(?:import|\} from)\b[^"]*"\./([\w.]+)";$', re.MULTILINE)
_INDENT = re.compile(r"\n\s+")
#: Nobody reads so many digits.
_DIGITS = re.compile(r"(?<=\d\.\d{6})\d+")
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
    coded: dict[str, bytes]  # by content coding, the preferred one first; "" is none
    kind: str
    etag: str
    has_map: bool


class StaticFiles:
    """Serves what lies below `directory`; a file is read and compressed once, and again when it changed.
    Where `shrunk` has a smaller one of the same source, that is served in its place."""

    def __init__(self, directory: Path, shrunk: Path | None = None) -> None:
        self._directory, self._shrunk = directory, shrunk
        made = shrunk / "made.json" if shrunk is not None else None
        self._made = json.loads(made.read_text()) if made is not None and made.is_file() else {}
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
        name = request.match_info["file"]
        file = self._map(name.removesuffix(".map")) if name.endswith(".map") else self._file(name)
        if file is None:
            raise web.HTTPNotFound(text=f"there is no file {request.path}")
        headers = {**_HEADERS, "Vary": "Accept-Encoding"}
        if file.has_map:
            headers["SourceMap"] = f"/static/{name}.map"
        if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
            answer = web.Response(status=304, headers=headers)
        else:
            taken = codings(request.headers.get("Accept-Encoding", ""))
            coding = next(coding for coding in file.coded if coding in taken)
            if coding:
                headers["Content-Encoding"] = coding
            answer = web.Response(body=file.coded[coding], content_type=file.kind, headers=headers)
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
            small = self._small(name, content)
            coded = {"br": Path(f"{small}.br").read_bytes()} if small is not None else {}
            content = small.read_bytes() if small is not None else content
            coded |= {"gzip": gzip.compress(content, 9, mtime=0), "": content}
            kind = _TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
            etag = hashlib.sha256(content).hexdigest()[:16]
            known = _File(stamp, coded, kind, etag, small is not None and Path(f"{small}.map").is_file())
            self._read[name] = known
        return known

    def _small(self, name: str, source: bytes) -> Path | None:
        """Where what `shrink.mjs` made of this very source is."""
        if self._shrunk is None or self._made.get(name) != hashlib.sha256(source).hexdigest():
            return None
        small = self._shrunk / name
        return small if small.is_file() and Path(f"{small}.br").is_file() else None

    def _map(self, name: str) -> _File | None:
        """The source map of a minified module: developer tools show its source by it."""
        file = self._file(name)
        if file is None or not file.has_map or self._shrunk is None:
            return None
        content = (self._shrunk / f"{name}.map").read_bytes()
        return _File(file.stamp, {"": content}, "application/json", file.etag, has_map=False)


def page(feed: Feed, files: StaticFiles, templates: Path) -> Handler:
    """The dashboard: drawn from what it carries of the state, before its socket opens."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(templates), autoescape=True)

    async def get(request: web.Request) -> web.StreamResponse:
        feed.flush()
        text = environment.get_template("index.html").render(
            snapshot=_for_script(_DIGITS.sub("", feed.snapshot(_beginning))),
            version=d3bed.__version__,
            modules=files.modules,
            charts=files.has_charts,
        )
        text = _INDENT.sub("\n", text)
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
    """What the first screen shows of the state: the words for what is pointed at come with the feed."""
    assert isinstance(state, StateView)
    lists = {name: getattr(state, name)[-_FIRST:] for name in ("epochs", "notes", "decisions", "orders")}
    replace = msgspec.structs.replace
    lists["decisions"] = tuple(replace(each, seen=(), alternatives=()) for each in lists["decisions"])
    offers = {
        name: tuple(replace(offer, description="") for offer in getattr(state, name))
        for name in ("networks", "scenarios")
    }
    pipelines = tuple(
        replace(pipeline, profile_s={}, graph=_compact(pipeline.graph)) for pipeline in state.pipelines
    )
    return replace(state, frames=(), pipelines=pipelines, **lists, **offers)


def _compact(graph: GraphView | None) -> dict[str, object] | None:
    """Vertices in columns, with the names of what is told of them once for all; of edges, by how much each
    begins after the one before it, and how far it leads. `store.js` undoes it."""
    if graph is None:
        return None
    names = VertexView.__struct_fields__
    columns = {name: [getattr(vertex, name) for vertex in graph.vertices] for name in names}
    begins = [0, *(producer for producer, _ in graph.edges)]
    steps = [now - before for before, now in itertools.pairwise(begins)]
    lengths = [consumer - producer for producer, consumer in graph.edges]
    return msgspec.structs.asdict(graph) | {"vertices": columns, "edges": [steps, lengths]}


def _for_script(json: str) -> markupsafe.Markup:
    """JSON that may stand inside a `<script type="application/json">` element."""
    for character in "<>&":
        json = json.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(json)
