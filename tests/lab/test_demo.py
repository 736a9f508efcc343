"""The demo's own parts that need no testbed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from aiohttp import web

from d3bed.config import data_dir, read_config
from d3bed.lab.demo import DemoOptions, _Progress, _tour
from d3bed.lab.processes import Children
from d3bed.lab.scenario import find_scenario, read_scenario

pytestmark = pytest.mark.sockets


async def test_a_tour_that_breaks_says_so_and_frames_come_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a server of another version, whose answers are not understood."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    config = read_config(data_dir("configs") / "demo.toml")
    options = DemoOptions(config, (), None, False, None, read_scenario(find_scenario("tour")))
    progress = _Progress()
    try:
        async with Children(tmp_path) as children:
            with caplog.at_level(logging.ERROR):
                await _tour(options, base, children, progress)
    finally:
        await runner.cleanup()
    assert progress.tour is not None and "mistake of d3bed's own, KeyError('phase')" in progress.tour
    assert "the tour failed" in caplog.text and "Traceback" in caplog.text
    assert asked[-1] == "/api/pipelines/main/start"
