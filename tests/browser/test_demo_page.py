"""The page on a running demo: real agents, real tensors, real links; what is pressed is seen to happen.

One testbed serves all tests (or two, where workers share them); each leaves it running. A picture of each
state is written to `SCREENS`, for a person to look at.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from d3bed.config import data_dir, override, read_config
from d3bed.lab import client
from d3bed.lab.testbed import Testbed, open_testbed
from tests.browser.conftest import SCREENS, press, violations

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.sockets,
    pytest.mark.timeout(480),
    pytest.mark.asyncio(loop_scope="session"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bed() -> AsyncIterator[Testbed]:
    config = override(read_config(data_dir("configs") / "demo.toml"), port=0)
    async with open_testbed(config, ["--port", "0"]) as bed:
        yield bed


async def picture(page: Page, name: str) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    # What is off the screen is neither drawn nor painted: have it seen, and kept.
    await page.evaluate(
        "document.querySelectorAll('section, #history').forEach(s => (s.style.contentVisibility = 'visible'))"
    )
    for share in (0.25, 0.5, 0.75, 1, 0):
        await page.evaluate(f"window.scrollTo(0, document.body.scrollHeight * {share})")
        await page.evaluate("() => new Promise(then => setTimeout(then, 100))")
    await page.screenshot(path=SCREENS / f"{name}.png", full_page=True)


async def opened(page: Page, bed: Testbed, name: str = "ann", idle: bool = False) -> None:
    """The page, with frames that flow if it need not be idle."""
    view = await client.get(bed.base, f"/api/pipelines/{bed.pipeline}")
    if view["phase"] == "idle" and not idle:
        await client.post(bed.base, f"/api/pipelines/{bed.pipeline}/start", {})
    await page.goto(bed.base)
    await expect(page.locator("#connection")).to_contain_text("live")
    await page.fill("#who", name)
    await page.locator("#who").blur()


async def answered(page: Page) -> int:
    return int((await page.locator("#answered").inner_text()).split(" of ")[0].replace(",", ""))


async def until_more(page: Page, count: int) -> None:
    await page.wait_for_function(
        "n => +document.querySelector('#answered').textContent.split(' of ')[0].replaceAll(',', '') > n",
        arg=count,
    )


async def test_frames_started_from_the_page_flow_and_every_agent_is_seen_to_work(
    page: Page, bed: Testbed
) -> None:
    await opened(page, bed, idle=True)
    await press(page.get_by_role("button", name="Start", exact=True))
    await expect(page.locator("#run-said")).to_have_text("✓ start: pi-1 confirms")
    await until_more(page, 5)
    for agent in ("pi-1", "cloud-1"):
        card = page.locator(f".agent[data-agent={agent}]")
        await expect(card).to_have_attribute("data-health", "working")
        await expect(card.locator(".ages")).to_have_text(re.compile(r"heard (now|\ds ago|\d s ago) · worked"))
        await expect(card.locator(".board")).to_have_text(re.compile(r"\d+ cores? · \d"))
    await expect(page.locator(".agent[data-agent=pi-1]")).to_contain_text("0.05× emulated")
    await expect(page.locator("#exact")).to_have_attribute("data-level", "exact")
    await picture(page, "running")


async def test_strategy_pressed_on_the_page_moves_layers_and_the_feed_tells_it(
    page: Page, bed: Testbed
) -> None:
    await opened(page, bed)
    before = await page.eval_on_selector_all(".vertex", "all => all.map(v => v.dataset.tier)")
    await press(page.get_by_role("button", name="device", exact=True))
    await expect(page.locator("#strategy-said")).to_contain_text("is in force")
    await page.wait_for_function(
        "before => [...document.querySelectorAll('.vertex')].some((v, i) => v.dataset.tier !== before[i])",
        arg=before,
    )
    await expect(page.locator("#moved")).to_contain_text("moved")
    told = page.locator("#events .move", has_text="strategy device chosen")
    await expect(told.first).to_be_visible()
    await picture(page, "moved")
    await press(page.get_by_role("button", name="optimal", exact=True))
    await expect(page.locator("#strategy-said")).to_contain_text("optimal: epoch")
    await until_more(page, await answered(page))


async def test_link_slowed_from_the_page_is_planned_around_and_another_browser_sees_it(
    browser: Browser, page: Page, bed: Testbed, record_property: Callable[[str, object], None]
) -> None:
    other = await browser.new_page()
    await opened(page, bed)
    await opened(other, bed, "bob")
    # Whichever of them the plan uses: slow is what comes from the device.
    for edge in ("edge-1", "edge-2"):
        await press(page.get_by_role("button", name=f"Change pi-1 to {edge}"))
        await page.fill("#link-rate", "2")
        await press(page.get_by_role("button", name="Change link"))
        await expect(page.locator("#link-said")).to_contain_text(f"{edge}: 2 Mbit/s: pi-1 confirms")
        await page.keyboard.press("Escape")
    confirmed_s = time.monotonic()
    planned = page.locator("#events .decision .cause", has_text=re.compile(r"pi-1→edge-\d fell"))
    await expect(planned.first).to_be_visible()
    replanned_s = time.monotonic() - confirmed_s
    record_property("replanned_s", round(replanned_s, 2))
    await expect(other.locator("#conditions")).to_contain_text("2 Mbit/s")
    await expect(other.locator("#conditions")).to_contain_text("by ann")
    await picture(page, "link-slowed")
    for edge in ("edge-1", "edge-2"):
        await press(other.get_by_role("button", name=f"Undo pi-1→{edge}"))
    await expect(page.locator("#conditions-part")).to_be_hidden()
    await expect(page.locator("#orders li").first).to_contain_text("by bob")
    await other.close()


async def test_keyboard_alone_changes_a_speed_and_switches_the_network(page: Page, bed: Testbed) -> None:
    await opened(page, bed)
    button = page.locator(".agent[data-agent=edge-1] button")
    for _ in range(200):
        await page.keyboard.press("Tab")
        if await button.evaluate("button => button === document.activeElement"):
            break
    else:
        pytest.fail("Tab never came to the button")
    await page.keyboard.press("Enter")
    await expect(page.locator("#agent-dialog")).to_be_visible()
    for _ in range(30):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id") == "agent-speed":
            break
    await page.keyboard.type("0.2")
    await page.keyboard.press("Enter")
    await expect(page.locator("#agent-said")).to_contain_text("edge-1 confirms")
    await page.keyboard.press("Escape")
    await expect(button).to_be_focused()
    await expect(page.locator(".agent[data-agent=edge-1]")).to_contain_text("0.2× emulated")
    await page.locator("#network").focus()
    await page.keyboard.type("lan")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#network-said")).to_contain_text("network lan: all 4 agents confirm")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_people_with_other_eyes_and_hands_can_use_it(
    browser: Browser, bed: Testbed, scheme: Any
) -> None:
    page = await browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    await opened(page, bed)
    await until_more(page, 0)
    await press(page.locator("#events summary").first)
    await page.locator("#graph .vertex").nth(3).hover()
    await expect(page.locator("#why")).to_contain_text("Why there")
    assert await violations(page) == []
    await picture(page, scheme)
    await press(page.get_by_role("button", name="Change edge-1", exact=True))
    await press(page.get_by_role("button", name="Kill…"))
    await expect(page.locator("#agent-sure")).to_be_visible()
    assert await violations(page) == []
    await picture(page, f"{scheme}-agent")
    await page.close()


@pytest.mark.parametrize("width", [390, 1280])
async def test_it_fits_a_phone_and_its_header_a_laptop(browser: Browser, bed: Testbed, width: int) -> None:
    page = await browser.new_page(viewport={"width": width, "height": 844})
    await opened(page, bed)
    await until_more(page, 0)
    assert await page.evaluate("document.documentElement.scrollWidth") == width
    if width == 1280:
        assert await page.evaluate("document.querySelector('header').offsetHeight") < 65
    await picture(page, f"width-{width}")
    await page.close()


async def test_killed_agent_is_shown_off_and_frames_go_on(page: Page, bed: Testbed) -> None:
    await opened(page, bed)
    await press(page.get_by_role("button", name="Change edge-2", exact=True))
    await press(page.get_by_role("button", name="Kill…"))
    await press(page.get_by_role("button", name="Yes, kill edge-2"))
    await expect(page.locator(".agent[data-agent=edge-2]")).to_have_attribute("data-health", "off")
    await expect(page.locator("#agent-said")).to_have_text("✓ edge-2: crash: edge-2 is gone")
    await page.keyboard.press("Escape")
    await until_more(page, await answered(page) + 3)
    await expect(page.locator("#lost")).to_be_empty()
    await picture(page, "killed")
