"""The report of a run in a real browser: complete in itself, in light and dark, on a small screen too."""

from __future__ import annotations

import typing

import pytest
from playwright.async_api import Page, expect

from d3bed.lab.report import as_html, fetch
from d3bed.server.history import RunHistory

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.asyncio(loop_scope="session")]

if typing.TYPE_CHECKING:
    from tests.browser.conftest import Testbed


async def told(testbed: Testbed, frames: int) -> RunHistory:
    """Of the latest run, once that many frames are kept."""
    while len((history := await fetch(testbed.address, None)).frames.frame) < frames:
        pass
    return history


async def test_report_of_a_run_shows_what_happened_wherever_it_is_opened(
    page: Page, testbed: Testbed
) -> None:
    await testbed.join()
    for _ in range(3):
        await testbed.answer()
    text = as_html(await told(testbed, 3))
    await page.set_content(text)
    await expect(page.locator("h1")).to_contain_text("Run demo-")
    await expect(page.locator("main section")).to_have_count(9)
    assert await page.locator("svg.plot").count() >= 3
    await expect(page.locator("#epochs tbody tr")).to_have_count(1)
    await expect(page.locator(".story .decision")).to_contain_text(["start"])
    await expect(page.locator("body")).to_contain_text("pi-1 really computed")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(background) != light
    await page.set_viewport_size({"width": 400, "height": 800})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 400
