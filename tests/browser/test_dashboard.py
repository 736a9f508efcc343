"""The page in a real browser, against the real server and scripted agents."""

from __future__ import annotations

import asyncio
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import Crash, ShapeLink
from d3bed.lab.scenario import Link, Strategy, read_scenario
from d3bed.server.settings import Scene, SceneEvent
from tests.browser.conftest import open_page, press, violations

DEVICE, EDGE, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm-1")

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.asyncio(loop_scope="session")]

if typing.TYPE_CHECKING:
    from tests.browser.conftest import MakeTestbed, Testbed


async def tiers(page: Page) -> list[str]:
    found: list[str] = await page.eval_on_selector_all(".vertex", "all => all.map(v => v.dataset.tier)")
    return found


async def test_before_any_agent_it_says_what_it_waits_for_and_shows_no_numbers(
    page: Page, testbed: Testbed
) -> None:
    await open_page(page, testbed)
    await expect(page.locator("#phase")).to_contain_text("pi-1")
    await expect(page.locator("#exact")).to_contain_text("not checked yet")
    await expect(page.locator("#median")).to_have_text("–")
    await expect(page.locator("#welcome")).to_be_visible()
    await expect(page.locator("#tiers")).to_be_hidden()
    assert await page.locator(".vertex").count() == 0


async def test_state_is_drawn_from_the_page_itself_before_the_socket_opens(
    page: Page, testbed: Testbed
) -> None:
    await testbed.join()
    await testbed.answer()
    await page.add_init_script("window.WebSocket = class { close() {} }")
    await page.goto(testbed.address)
    await expect(page.locator("#tiers .agent")).to_have_count(3)
    await expect(page.locator(".vertex")).to_have_count(9)
    await expect(page.locator("#connection")).to_contain_text("reconnecting")


async def test_graph_is_coloured_by_tier_and_marks_what_crosses(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=device]")).to_have_count(2)
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await expect(page.locator("#graph .cut")).to_have_attribute("data-edges", "1")
    await expect(page.locator("#cuts")).to_have_text(re.compile("device → edge: 1 tensor, 774 KB per frame"))
    await expect(page.locator("#legend")).to_contain_text("device · pi-1 · 2 vertices")
    await expect(page.locator("#plan")).to_contain_text("cloud")


async def test_keyboard_walks_through_the_layers_and_shows_their_times(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await page.locator("#zoom-in").focus()
    await page.keyboard.press("Tab")  # the drawing itself is no stop
    await expect(page.locator("#details")).to_contain_text("photo")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#details")).to_contain_text(
        "layer1 conv2d [1, 64, 55, 55] float32", use_inner_text=True
    )
    await expect(page.locator("#details .chosen")).to_have_text("device 100 ms")
    await page.keyboard.press("End")
    await expect(page.locator("#details")).to_contain_text("layer8")
    assert await page.locator("#graph [tabindex='0']").count() == 1


async def test_answered_frames_fill_numbers_chart_and_gantt(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(3)
    await expect(page.locator("#answered")).to_have_text("3 of 3")
    await expect(page.locator("#exact")).to_have_text("✓ bit-identical 3 of 3")
    await expect(page.locator("#exact")).to_have_attribute("data-level", "exact")
    await expect(page.locator("#median")).to_have_text("155 ms")
    await expect(page.locator("#emulated")).to_be_visible()
    await expect(page.locator("[data-time=value-device]")).to_have_text("100 ms")
    await expect(page.locator("[data-time=value-total]")).to_have_text("155 ms")
    await expect(page.locator("[data-time=value-p99]")).to_have_text("155 ms")
    await page.locator("#time-card").scroll_into_view_if_needed()
    await expect(page.locator("#time-card canvas")).to_have_count(4)
    await expect(page.locator("#gantt .rowname")).to_have_text(["pi-1", "pi-1 → edge-1", "vm-1"])
    assert await page.locator("#gantt .held").count() == 1
    await expect(page.locator("#gantt-caption")).to_contain_text("cat.jpg → tabby cat")


async def test_without_its_charts_the_page_draws_plain_ones(page: Page, testbed: Testbed) -> None:
    await page.route("**/vendor/uPlot.js", lambda route: route.abort())
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(3)
    await page.locator("#time-card").scroll_into_view_if_needed()
    await expect(page.locator("#numbers tr").first).to_contain_text("100 ms")
    await expect(page.locator("#chart .bar")).to_have_count(4)
    await expect(page.locator("#time-card canvas")).to_have_count(0)


async def test_link_that_misses_its_target_is_flagged(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer()
    row = page.locator("#links tr", has_text="pi-1 → edge-1")
    await expect(row.locator(".flag")).to_have_text("⚠ −5.0 %")
    await expect(row).to_contain_text("80.0 Mbit/s")


async def test_inexact_answer_is_shouted(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(2)
    await testbed.answer(max_rel_err=3e-3)
    await expect(page.locator("#exact")).to_contain_text("MISMATCH: bit-identical 2 of 3")
    await expect(page.locator("#exact")).to_have_attribute("data-level", "mismatch")


async def test_strategy_button_moves_layers_and_the_events_say_why(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    pressed = page.locator("#strategies [aria-pressed=true]")
    await expect(pressed).to_have_text("optimal")
    await press(page.get_by_role("button", name="edge", exact=True))
    await expect(pressed).to_have_text("edge")
    await expect(page.locator(".vertex[data-tier=edge]")).to_have_count(7)
    assert await tiers(page) == ["device"] * 2 + ["edge"] * 7
    await expect(page.locator("#epochs tr")).to_have_count(2)
    await expect(page.locator("#epochs tr").first).to_contain_text("active")
    await expect(page.locator("#events li").first).to_contain_text("edge")
    await expect(page.locator("#events .cause").first).to_be_visible()


async def test_other_model_is_loaded_and_drawn(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex")).to_have_count(9)
    await page.select_option("#model", "resnet18")
    await press(page.get_by_role("button", name="Load"))
    await expect(page.locator("#fact-model")).to_have_text("resnet18")
    await expect(page.locator("#graph .edge").first).to_have_attribute("data-edges", re.compile("[89]"))


async def test_refused_order_is_explained_beside_its_button(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    button = page.locator("#strategies button").first
    # At once: with the next drawing it would be what the server offers again.
    await button.evaluate("button => { button.value = 'nonsense'; button.click(); }")
    await expect(page.locator("#strategy-said")).to_contain_text("unknown strategy 'nonsense'")
    await expect(button).not_to_have_attribute("aria-busy", "true")


async def test_changed_conditions_are_listed_with_their_time_left(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await expect(page.locator("#conditions-part")).to_be_hidden()
    await testbed.post("links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5, "for_s": 90, "by": "ann"})
    await testbed.post("agents/vm-1/load", {"processes": 2})
    first, second = page.locator("#conditions li").nth(0), page.locator("#conditions li").nth(1)
    await expect(first).to_have_text(
        re.compile(r"pi-1→edge-1: 5 Mbit/s, emulated ?[78]\d s left, by ann ?Undo")
    )
    await expect(second).to_have_text(re.compile(r"vm-1: 2 busy processes ?until undone, by api ?Undo"))
    await testbed.post("agents/vm-1/load", {"processes": 0})
    await expect(page.locator("#conditions li")).to_have_count(1)


async def test_lost_agent_is_shown_as_lost(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    card = page.locator(".agent[data-agent=vm-1]")
    await expect(card).to_contain_text("idle")
    await testbed.leave(next(agent for agent in testbed.actors if agent == "vm-1"))
    await expect(card).to_have_attribute("data-health", "off")
    await expect(card).to_contain_text("off")


async def test_page_comes_back_after_the_server_restarts(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(2)
    await expect(page.locator("#answered")).to_have_text("2 of 2")
    await testbed.stop()
    await expect(page.locator("#connection")).to_contain_text("reconnecting")
    await expect(page.locator("#answered")).to_have_text("2 of 2")  # what is known stays
    await testbed.start()
    await expect(page.locator("#connection")).to_contain_text("live")
    await expect(page.locator("#welcome")).to_be_visible()
    await testbed.join()
    await expect(page.locator("#tiers .agent")).to_have_count(3)


async def test_hidden_tab_lets_go_and_resumes_without_loss(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(2)
    await expect(page.locator("#answered")).to_have_text("2 of 2")
    hide = """hidden => {
        Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    await page.evaluate(hide, True)
    await expect(page.locator("#connection")).to_contain_text("paused")
    await testbed.answer(3)
    received: list[dict[str, Any]] = []

    def listen(socket: Any) -> None:
        socket.on("framereceived", lambda data: received.append(data))

    page.on("websocket", listen)
    await page.evaluate(hide, False)
    await expect(page.locator("#answered")).to_have_text("5 of 5")
    assert '"type":"events"' in str(received[0])  # resumed from the ring, not from a new snapshot


async def test_token_is_asked_for_once(page: Page, make_testbed: MakeTestbed) -> None:
    testbed = await make_testbed(token="open sesame")
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await press(page.get_by_role("button", name="edge", exact=True))
    await page.locator("#token").fill("open sesame")
    await press(page.get_by_role("button", name="Use", exact=True))
    await expect(page.locator(".vertex[data-tier=edge]")).to_have_count(7)
    await press(page.get_by_role("button", name="device", exact=True))
    await expect(page.locator(".vertex[data-tier=device]")).to_have_count(9)
    await expect(page.locator("#token-dialog")).to_be_hidden()
    # The session is told with the name, in the words of the audit log.
    await expect(page.locator("#orders li").first).to_contain_text(
        re.compile(r"by the page \(page [0-9a-f]{8}\)")
    )


async def test_without_token_the_page_only_reads(page: Page, make_testbed: MakeTestbed) -> None:
    testbed = await make_testbed(token="open sesame")
    await open_page(page, testbed)
    await press(page.get_by_role("button", name="edge", exact=True))
    await press(page.get_by_role("button", name="Cancel"))
    await expect(page.locator("#strategy-said")).to_contain_text("token")
    await expect(page.locator("#strategies [aria-pressed=true]")).to_have_text("optimal")


async def test_switch_is_marked_on_the_axis_of_time(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(2)
    await press(page.get_by_role("button", name="edge", exact=True))
    await expect(page.locator(".vertex[data-tier=edge]")).to_have_count(7)
    await testbed.answer(2)
    await expect(page.locator("[data-time=mark]")).to_contain_text("strategy edge chosen")
    await page.select_option("[data-time=window]", "60")
    await expect(page.locator("[data-time=when]")).to_have_text(re.compile("second"))


async def test_frame_that_is_chosen_stays_with_all_that_is_known_of_it(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(3)
    caption, follow = page.locator("#gantt-caption"), page.get_by_role("button", name="Follow the newest")
    await expect(caption).to_contain_text("frame 3")
    await press(page.get_by_role("button", name="Older frame"))
    await expect(caption).to_contain_text("frame 2")
    await expect(follow).to_have_attribute("aria-pressed", "false")
    await testbed.answer(2)
    await expect(page.locator("#answered")).to_have_text("5 of 5")
    await expect(caption).to_contain_text("frame 2")
    await page.locator("#frames-canvas").press("ArrowRight")
    await expect(caption).to_contain_text("frame 3")
    await expect(page.locator("[data-frames=top] li")).to_have_text(["tabby cat9.75", "tiger cat3.00"])
    await expect(page.locator("[data-frames=exact]")).to_contain_text("bit-identical")
    photo = page.locator("[data-frames=photo]")
    await expect(photo).to_be_visible()
    assert await photo.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    link = page.get_by_role("link", name="Perfetto trace of this frame")
    address = testbed.address.rstrip("/") + (await link.get_attribute("href") or "")
    async with asyncio.timeout(60):
        while not (await page.request.get(address)).ok:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # its spans are on their way to the store
    async with page.expect_download() as found:
        await press(link)
    trace = json.loads((await (await found.value).path()).read_text())
    assert {event["args"]["frame"] for event in trace["traceEvents"] if event["ph"] == "X"} == {3}
    # The newest frame is the first one from the right, in the row of the cloud.
    canvas = page.locator("#frames-canvas")
    width = await canvas.evaluate("canvas => canvas.clientWidth")
    for back in range(12, 90, 2):
        await canvas.hover(position={"x": width - back, "y": 6 + 2.5 * 22})
        if await canvas.evaluate("canvas => canvas.style.cursor") == "pointer":
            break
    await page.mouse.down()
    await page.mouse.up()
    await expect(caption).to_contain_text("frame 5")
    await press(follow)
    await testbed.answer()
    await expect(caption).to_contain_text("frame 6")


async def test_names_from_outside_never_become_markup(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(photo="<img src=x onerror=window.hacked=1></script><script>window.hacked=1</script>")
    await expect(page.locator("#gantt-caption")).to_contain_text("<img src=x")
    await page.reload()
    await expect(page.locator("#gantt-caption")).to_contain_text("</script>")
    assert await page.locator("main img[onerror]").count() == 0
    assert await page.evaluate("window.hacked === undefined")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
async def test_nothing_overflows_the_page(
    browser: Browser, testbed: Testbed, scheme: Any, width: int
) -> None:
    await testbed.join()
    await testbed.answer(5)
    context = await browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = await context.new_page()
    await open_page(page, testbed)
    await expect(page.locator("#answered")).to_have_text("5 of 5")
    assert await page.evaluate("document.documentElement.scrollWidth") == width
    await context.close()


async def test_two_browsers_see_one_anothers_changes(browser: Browser, page: Page, testbed: Testbed) -> None:
    other = await browser.new_page()
    await asyncio.gather(open_page(page, testbed), open_page(other, testbed))
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await press(page.get_by_role("button", name="edge", exact=True))
    await expect(other.locator(".vertex[data-tier=edge]")).to_have_count(7)
    await expect(other.locator("#strategies [aria-pressed=true]")).to_have_text("edge")
    await other.close()


async def test_order_waits_until_the_agent_confirms_it_and_undo_ends_it(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    device = testbed.actors[DEVICE]
    device.confirms = False
    await page.fill("#who", "ann")
    await press(page.get_by_role("button", name="Change pi-1 to edge-1"))
    await page.fill("#link-rate", "5")
    await press(page.get_by_role("button", name="Change link"))
    await expect(page.locator("#link-said")).to_contain_text("waiting for it to be confirmed")
    await expect(page.locator("#link-set")).to_have_attribute("aria-busy", "true")
    await expect(page.locator("#orders li").first).to_have_attribute("data-state", "pending")
    await device.confirm()
    await expect(page.locator("#link-said")).to_have_text("✓ pi-1→edge-1: 5 Mbit/s: pi-1 confirms")
    await page.keyboard.press("Escape")
    await expect(page.locator("#link-dialog")).to_be_hidden()
    await expect(page.locator("#orders li").first).to_contain_text("by ann")
    device.confirms = True
    await press(page.get_by_role("button", name="Undo pi-1→edge-1"))
    await expect(page.locator("#conditions-part")).to_be_hidden()


async def test_failed_order_says_what_the_agent_said(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    testbed.actors[EDGE].unable = "SetLoad: no more processes"
    await press(page.get_by_role("button", name="Change edge-1", exact=True))
    await press(page.locator("#agent-load-set"))
    await expect(page.locator("#agent-said")).to_contain_text("✖ edge-1: 2 busy processes: edge-1: SetLoad")
    await page.keyboard.press("Escape")
    await press(page.get_by_role("button", name="Trouble"))
    await expect(page.locator("#events > li")).to_have_count(1)


async def test_killing_asks_first(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await press(page.get_by_role("button", name="Change vm-1", exact=True))
    await press(page.get_by_role("button", name="Kill…"))
    await expect(page.locator("#agent-sure")).to_contain_text("Have vm-1 crash")
    await press(page.get_by_role("button", name="No", exact=True))
    await expect(page.locator("#agent-sure")).to_be_hidden()
    assert Crash() not in testbed.actors[CLOUD].heard
    await press(page.get_by_role("button", name="Kill…"))
    await press(page.get_by_role("button", name="Yes, kill vm-1"))
    await expect(page.locator(".agent[data-agent=vm-1]")).to_have_attribute("data-health", "off")
    await expect(page.locator("#agent-said")).to_have_text("✓ vm-1: crash: vm-1 is gone")
    await expect(page.locator("#events")).to_contain_text("vm-1 lost")


async def test_missing_agents_come_with_the_command_that_starts_them(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await expect(page.locator("#arrivals [data-here=false]")).to_have_count(3)
    here = page.locator("#arrivals [data-agent=edge-1] code").first
    command = f"d3bed agent --name edge-1 --tier edge --server {testbed.address.rstrip('/')}"
    await expect(here).to_have_text(command)
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await press(page.get_by_role("button", name=f"Copy: {command}", exact=True))
    await page.wait_for_function("async w => (await navigator.clipboard.readText()) === w", arg=command)
    await testbed.join(DEVICE, EDGE)
    await expect(page.locator("#arrivals [data-here=true]")).to_have_count(2)
    await testbed.join(CLOUD)
    await expect(page.locator("#welcome")).to_be_hidden()


async def test_graph_tells_what_crosses_what_moved_and_why_it_is_there(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await expect(page.locator("#graph .crossing")).to_have_text(re.compile(r"774 KB · \d+(\.\d+)? ms"))
    await press(page.get_by_role("button", name="edge", exact=True))
    await expect(page.locator("#moved")).to_contain_text(
        "Epoch 2 moved 7 vertices. cloud → edge: layer2, layer3"
    )
    await expect(page.locator(".vertex.moved")).to_have_count(7)
    await page.fill("#search", "layer3")
    await expect(page.locator(".vertex.hit")).to_have_count(1)
    await page.keyboard.press("Enter")
    await expect(page.locator("#details")).to_contain_text("layer3")
    await expect(page.locator("#why")).to_contain_text("The optimal plan has it on the cloud")
    before = await page.get_attribute("#graph", "viewBox")
    await page.keyboard.press("+")
    assert await page.get_attribute("#graph", "viewBox") != before
    for _ in range(4):
        await page.keyboard.press("+")
    await expect(page.locator("#graph :focus")).to_be_in_viewport()
    seen = """() => {
        const box = name => document.querySelector(name).getBoundingClientRect();
        const [a, b] = [box("#graph :focus"), box("#graph")];
        return a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom;
    }"""
    assert await page.evaluate(seen)  # what was looked for
    await page.keyboard.press("0")
    await expect(page.locator("#graph")).to_have_attribute("viewBox", before or "")


async def test_decision_opens_its_evidence_and_the_feed_can_be_filtered(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await testbed.answer(3)
    await press(page.get_by_role("button", name="edge", exact=True))
    move = page.locator("#events .decision.move").first
    await expect(move).to_contain_text("strategy edge chosen · epoch 2 · moved 7 vertices cloud → edge")
    await press(move.locator("summary"))
    await expect(move).to_contain_text("What could have been done")
    await expect(move.locator(".alternatives tr")).not_to_have_count(0)
    await testbed.answer(8)  # now it has a measured result, and is still open
    await expect(page.locator("#events .decision.move").first).to_contain_text("Measured: ")
    await press(page.get_by_role("button", name="Moves", exact=True))
    await expect(page.locator("#events > li")).to_have_count(2)
    await page.fill("#event-search", "joined")
    await expect(page.locator("#events")).to_have_text("Nothing of that kind.")


async def test_scenario_is_played_shown_and_stopped_from_the_page(
    page: Page, make_testbed: MakeTestbed
) -> None:
    slow = SceneEvent(0.0, "links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5}, "link slower")
    load = SceneEvent(500.0, "agents/edge-1/load", {"processes": 1}, "load edge-1")
    scenes = (
        Scene("starts", "needs who started the agents", 9, (), "it has agents started"),
        Scene("fades", "the link fades", 600, (slow, load)),
    )
    testbed = await make_testbed(scenes=scenes)
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    assert await page.locator("#scenario option[value=starts]").is_disabled()
    await press(page.get_by_role("button", name="Play", exact=True))
    await expect(page.locator("#scenario-now")).to_contain_text("fades, by the page: 1 of 2 changes")
    await expect(page.locator("#scenario-now")).to_contain_text("load edge-1")
    await expect(page.locator("#conditions")).to_contain_text("by scenario fades")
    await press(page.locator("#play"))
    await expect(page.locator("#conditions-part")).to_be_hidden()
    await expect(page.locator("#play")).to_have_text("Play")


async def test_what_users_do_is_recorded_as_a_scenario(page: Page, testbed: Testbed, tmp_path: Path) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await testbed.post("agents/edge-1/load", {"processes": 1})
    await expect(page.locator("#orders li")).to_have_count(1)
    await press(page.get_by_role("button", name="Record"))
    await expect(page.locator("#record-said")).to_contain_text("recording")
    await testbed.post("links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5})
    await press(page.get_by_role("button", name="edge", exact=True))
    await expect(page.locator("#strategy-said")).to_contain_text("is in force")
    async with page.expect_download() as download:
        await press(page.get_by_role("button", name="Save"))
    path = tmp_path / "recorded.toml"
    await (await download.value).save_as(path)
    assert [type(event) for event in read_scenario(path).events] == [Link, Strategy]


async def test_network_is_switched_from_the_page(page: Page, testbed: Testbed) -> None:
    await open_page(page, testbed)
    await testbed.join()
    await expect(page.locator(".vertex[data-tier=cloud]")).to_have_count(7)
    await page.select_option("#network", "lte")
    await press(page.get_by_role("button", name="Switch"))
    await expect(page.locator("#network-said")).to_have_text("✓ network lte: all 3 agents confirm")
    assert ShapeLink(EDGE, LinkShape(1.5e6, 0.025)) in testbed.actors[DEVICE].heard


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_empty_and_full_page_have_no_fault_that_axe_finds(
    browser: Browser, testbed: Testbed, scheme: Any
) -> None:
    page = await browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    await open_page(page, testbed)
    await expect(page.locator("#arrivals li")).to_have_count(3)
    assert await violations(page) == []
    await testbed.join()
    await testbed.answer(10)
    await testbed.post("links", {"from": "pi-1", "to": "edge-1", "mbit_per_s": 5})
    await press(page.get_by_role("button", name="edge", exact=True))
    await expect(page.locator("#strategy-said")).to_contain_text("is in force")
    await press(page.locator("#events summary").first)
    assert await violations(page) == []
    await press(page.get_by_role("button", name="Change pi-1 to edge-1"))
    await expect(page.locator("#link-dialog")).to_be_visible()
    assert await violations(page) == []
    await page.close()
