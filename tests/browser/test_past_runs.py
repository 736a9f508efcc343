"""Past runs on the page: watched again, compared, reported."""

from __future__ import annotations

import re
import typing

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import open_page, press

if typing.TYPE_CHECKING:
    from tests.browser.conftest import Testbed

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.asyncio(loop_scope="session")]


async def test_past_run_is_watched_again_in_the_same_views(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(2)
    await expect(page.locator("#answered")).to_have_text("2 of 2")
    await press(page.get_by_role("button", name="edge", exact=True))
    await expect(page.locator(".vertex[data-tier=edge]")).to_have_count(7)
    await testbed.answer(3)
    await expect(page.locator("#answered")).to_have_text("5 of 5")
    await testbed.end_run()
    await testbed.until_stored(1)
    await press(page.locator("#history summary"))
    row = page.locator("[data-history=runs] tr")
    await expect(row).to_contain_text("5 of 5")
    await press(row.get_by_role("button", name="replay"))
    await expect(page.locator("#replay-bar")).to_be_visible()
    slider = page.get_by_role("slider", name="Time in the run")
    await expect(slider).to_be_focused()
    await slider.press("Home")
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await expect(page.locator("#answered")).not_to_have_text("5 of 5")
    await slider.press("End")
    await expect(page.locator(".vertex[data-tier=edge]")).to_have_count(7)
    await expect(page.locator("#answered")).to_have_text("5 of 5")
    await expect(page.locator("#gantt-caption")).to_contain_text("tabby cat")
    await expect(page.locator("#side")).to_have_attribute("inert", "")
    await slider.press("Home")
    await page.select_option("[data-replay=speed]", "60")
    await press(page.get_by_role("button", name="Play", exact=True))
    await expect(page.locator("#answered")).to_have_text("5 of 5")
    await press(page.get_by_role("button", name="Back to live"))
    await expect(page.locator("#replay-bar")).to_be_hidden()
    await expect(page.locator("#phase")).to_contain_text("idle")


async def test_two_runs_are_compared(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(2)
    await testbed.end_run()
    await testbed.post("pipelines/demo/strategy", {"strategy": "device"})
    await expect(page.locator(".vertex[data-tier=device]")).to_have_count(9)
    await testbed.post("pipelines/demo/start", {})
    await testbed.answer(3)
    await testbed.end_run()
    await testbed.until_stored(2)
    await press(page.locator("#history summary"))
    boxes = page.locator("[data-history=runs] input")
    await expect(boxes).to_have_count(2)
    await boxes.nth(0).press("Space")
    await boxes.nth(1).press("Space")
    await press(page.get_by_role("button", name="Compare the two"))
    answered = page.locator("[data-history=rows] tr", has_text="frames answered")
    await expect(answered).to_have_text(re.compile("frames answered2 ?3 ?–"))
    slower = page.locator("[data-history=rows] tr", has_text="compute, device")
    await expect(slower).to_contain_text("worse")
    await expect(page.locator("[data-history=first]")).to_contain_text("optimal")


async def test_report_of_the_run_is_one_click_away(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await expect(page.locator("#report-link")).to_be_hidden()
    await testbed.join()
    await testbed.answer(3)
    link = page.locator("#report-link")
    await expect(link).to_have_attribute("href", re.compile("/report/demo-"))
    await press(link)
    await expect(page.locator("h1")).to_contain_text("Run demo-")
    assert await page.locator("svg.plot").count() >= 3
