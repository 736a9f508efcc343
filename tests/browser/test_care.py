"""Agents and links examined from the page, and agents' credentials revoked there."""

from __future__ import annotations

import re
import time
import typing

import pytest
from playwright.async_api import Page, expect

from d3bed.core.ids import AgentId, Tier
from d3bed.core.joining import Machine
from d3bed.server.credentials import Credentials
from tests.browser.conftest import press, violations

if typing.TYPE_CHECKING:
    from tests.browser.conftest import MakeTestbed, Testbed

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.asyncio(loop_scope="session")]


async def test_page_tells_what_the_doctor_does(page: Page, testbed: Testbed) -> None:
    await testbed.join()
    await page.goto(testbed.address)
    await press(page.locator("#care summary"))
    await press(page.get_by_role("button", name="Examine all"))
    await expect(page.locator("[data-care=examined]")).to_contain_text(re.compile(r"findings? in \d"))
    findings = page.locator("[data-care=findings] li")
    await expect(findings.filter(has_text="pi-1→edge-1").first).to_be_visible()
    levels = await findings.evaluate_all("all => all.map(li => li.className)")
    assert levels == sorted(levels, key=["error", "warn", "ok"].index)
    await testbed.leave(AgentId("edge-1"))
    await expect(page.locator("article[data-agent=edge-1]")).to_have_attribute("data-health", "off")
    await press(page.get_by_role("button", name="Examine all"))
    await expect(findings.first).to_contain_text("edge-1, connection")
    await expect(findings.first).to_have_class("error")
    assert await violations(page) == []


async def test_credential_is_revoked_after_one_more_question(page: Page, make_testbed: MakeTestbed) -> None:
    testbed = await make_testbed(token="open sesame")
    await testbed.stop()
    path = testbed.settings.data_dir / "credentials.json"
    known = Credentials(path)
    known.issue(time.time(), AgentId("pi-1"), Tier.DEVICE, "n" * 32, Machine(), host="192.0.2.7", by="test")
    known.write(known.encoded(time.time()))
    await testbed.start()
    await page.goto(testbed.address)
    await press(page.locator("#care summary"))
    await press(page.get_by_role("button", name="Show who is let in"))
    await page.locator("#token").fill("open sesame")
    await press(page.get_by_role("button", name="Use", exact=True))
    row = page.locator("[data-care=credentials] tr")
    await expect(row).to_contain_text("pi-1")
    await press(row.get_by_role("button", name="Revoke the credential of pi-1"))
    await press(row.get_by_role("button", name="No"))
    await expect(row).to_contain_text("good")
    await press(row.get_by_role("button", name="Revoke the credential of pi-1"))
    assert await violations(page) == []
    await press(row.get_by_role("button", name="Yes, cut pi-1 off"))
    await expect(page.locator("[data-care=said]")).to_have_text("✓ pi-1 is cut off and must join anew")
    await expect(row).to_contain_text("revoked")
    await expect(row).to_contain_text(re.compile(r"by page [0-9a-f]{8}"))
    assert await row.get_by_role("button").count() == 0
