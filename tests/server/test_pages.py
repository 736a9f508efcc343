"""Files of the page: what is served, how, and what is not."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from d3bed.server.pages import _FIRST, StaticFiles, _beginning
from d3bed.server.views import NoteView, StateView

pytestmark = pytest.mark.sockets

Client = TestClient[web.Request, web.Application]


SMALL = {"main.js": "export const one=1;", "main.js.br": "by Brotli", "main.js.map": '{"version":3}'}


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    (tmp_path / "static" / "vendor").mkdir(parents=True)
    (tmp_path / "static" / "main.js").write_text("export const one = 1;\n" * 50)
    (tmp_path / "secret.js").write_text("secret")
    app = web.Application()
    app.router.add_get("/static/{file:.+}", StaticFiles(tmp_path / "static", tmp_path / "dist").get)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_file_comes_compressed_and_is_not_sent_again_unless_it_changed(
    client: Client, tmp_path: Path
) -> None:
    answer = await client.get("/static/main.js", headers={"Accept-Encoding": "gzip"}, auto_decompress=False)
    body = await answer.read()
    assert answer.headers["Content-Type"] == "text/javascript"
    assert gzip.decompress(body).startswith(b"export const")
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    known = {"If-None-Match": answer.headers["ETag"]}
    assert (await client.get("/static/main.js", headers=known)).status == 304
    (tmp_path / "static" / "main.js").write_text("export const two = 2;\n")
    again = await client.get("/static/main.js", headers=known)
    assert again.status == 200
    assert await again.text() == "export const two = 2;\n"


async def test_plain_file_for_those_who_cannot_decompress(client: Client) -> None:
    answer = await client.get("/static/main.js", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in answer.headers
    assert (await answer.read()).startswith(b"export const")


@pytest_asyncio.fixture
async def shrunk(tmp_path: Path) -> AsyncIterator[Client]:
    """`main.js` has a smaller one; that of `feed.js` is of another source."""
    (tmp_path / "static").mkdir()
    (tmp_path / "dist").mkdir()
    made = {}
    for name in ("main.js", "feed.js"):
        (tmp_path / "static" / name).write_text("export const one = 1;\n")
        made[name] = hashlib.sha256(b"export const one = 1;\n").hexdigest()
    for name, content in SMALL.items():
        (tmp_path / "dist" / name).write_text(content)
        (tmp_path / "dist" / name.replace("main", "feed")).write_text("export const old=1;")
    (tmp_path / "dist" / "made.json").write_text(json.dumps(made | {"feed.js": "another"}))
    app = web.Application()
    app.router.add_get("/static/{file:.+}", StaticFiles(tmp_path / "static", tmp_path / "dist").get)
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, br;q=0", "gzip"),
        ("gzip;q=1.0, BR", "br"),
        ("identity", None),
        ("", None),
    ],
)
async def test_smaller_file_is_served_as_the_browser_takes_it(
    shrunk: Client, accepted: str, coding: str | None
) -> None:
    headers = {"Accept-Encoding": accepted}
    answer = await shrunk.get("/static/main.js", headers=headers, auto_decompress=False)
    assert answer.headers.get("Content-Encoding") == coding
    assert answer.headers["Vary"] == "Accept-Encoding"
    body = await answer.read()
    small = SMALL["main.js"].encode()
    assert {"br": b"by Brotli", "gzip": gzip.compress(small, 9, mtime=0), None: small}[coding] == body


async def test_source_map_leads_to_the_source(shrunk: Client) -> None:
    answer = await shrunk.get("/static/main.js")
    assert answer.headers["SourceMap"] == "/static/main.js.map"
    found = await shrunk.get("/static/main.js.map")
    assert (found.status, found.content_type) == (200, "application/json")
    assert await found.json() == {"version": 3}


async def test_what_was_made_of_another_source_is_not_served(shrunk: Client, tmp_path: Path) -> None:
    async def got(name: str) -> tuple[str, str | None]:
        answer = await shrunk.get(f"/static/{name}", headers={"Accept-Encoding": "br, gzip"})
        return await answer.text(), answer.headers.get("SourceMap")

    assert await got("feed.js") == ("export const one = 1;\n", None)
    assert (await shrunk.get("/static/feed.js.map")).status == 404
    (tmp_path / "static" / "main.js").write_text("export const two = 2;\n")  # by somebody who works on it
    assert await got("main.js") == ("export const two = 2;\n", None)
    assert (await shrunk.get("/static/main.js.map")).status == 404
    assert (await shrunk.get("/static/made.json")).status == 404


@pytest.mark.parametrize("name", ["none.js", "%2e%2e/secret.js", "..%2fsecret.js", "vendor", "vendor/"])
async def test_only_files_below_the_folder_are_served(client: Client, name: str) -> None:
    assert (await client.get(f"/static/{name}")).status == 404


def test_charts_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    files = StaticFiles(tmp_path)
    assert not files.has_charts
    (tmp_path / "vendor" / "uPlot.js").write_text("")
    assert files.has_charts


def test_only_what_the_page_begins_with_is_asked_for_ahead(tmp_path: Path) -> None:
    (tmp_path / "main.js").write_text(
        'import { a } from "./a.js";\nconst later = () => import("./later.js");\n'
    )
    (tmp_path / "a.js").write_text('import {\n  b,\n} from "./b.js";\nimport { a } from "./main.js";\n')
    for name in ("b", "later", "unused"):
        (tmp_path / f"{name}.js").write_text("")
    assert StaticFiles(tmp_path).modules == ["a.js", "b.js", "main.js"]


def test_page_carries_the_newest_of_each_list_and_no_frames() -> None:
    notes = tuple(NoteView(f"{n}", "info", float(n)) for n in range(30))
    state = StateView((), (), (), (), (), notes, (), ("optimal",), ("alexnet",))
    first = _beginning(state)
    assert isinstance(first, StateView)
    assert first.notes == notes[-_FIRST:]
    assert first.strategies == state.strategies
