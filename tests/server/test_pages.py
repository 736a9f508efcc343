"""Files of the page: what is served, how, and what is not."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from d3bed.server.pages import StaticFiles, _beginning
from d3bed.server.views import NoteView, StateView

pytestmark = pytest.mark.sockets

Client = TestClient[web.Request, web.Application]


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    (tmp_path / "static" / "vendor").mkdir(parents=True)
    (tmp_path / "static" / "main.js").write_text("export const one = 1;\n" * 50)
    (tmp_path / "secret.js").write_text("secret")
    app = web.Application()
    app.router.add_get("/static/{file:.+}", StaticFiles(tmp_path / "static").get)
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
    assert first.notes == notes[10:]
    assert first.strategies == state.strategies
