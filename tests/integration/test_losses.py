"""Nodes that are killed, stopped and come back under a stream of frames, as real processes.

No frame is lost but those of a restarted device, none is answered twice, and every answer is the undivided
network's, bit for bit. A small AlexNet, so that many frames flow.
"""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.tools import AGENTS, CONFIG, Bed, check, fetch, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]

FIXED = CONFIG.replace("[pipelines.main]", "[pipelines.main]\nadapt = false")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Agents need not measure anew in every test."""
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture
async def bed(request: pytest.FixtureRequest, tmp_path: Path, profiles: Path) -> AsyncIterator[Bed]:
    made = Bed(tmp_path, profiles, getattr(request, "param", CONFIG))
    try:
        await made.start("server", *AGENTS)
        yield made
    finally:
        await made.close()


def longest_gap_s(frames: list[dict[str, Any]]) -> float:
    """Between one answer and the next."""
    ends = sorted(row["started_s"] + row["latency_s"] for row in frames)
    return max(float(after - before) for before, after in pairwise(ends))


async def test_edges_and_the_cloud_die_stop_and_return_and_no_frame_is_lost(bed: Bed) -> None:
    await bed.more(edge="edge-1", cloud="cloud-1")
    await bed.kill("edge-1")
    await bed.more(edge="edge-2")
    await bed.start("edge-1")
    await bed.more(edge="edge-1")
    bed.send("edge-1", signal.SIGSTOP)
    await bed.more(edge="edge-2")
    bed.send("edge-1", signal.SIGCONT)
    await bed.more(edge="edge-1")
    await bed.kill("cloud-1")  # for good
    after = await bed.more(edge="edge-1")
    assert "cloud" not in after["plan"]
    await bed.kill("edge-1")
    await bed.kill("edge-2")  # now no plan is feasible: the pins forbid the device to run it all
    await bed.until(lambda view: view["frames"]["answered"] > after["frames"]["answered"] + 20, "alone")
    await bed.start("edge-2")
    await bed.more(edge="edge-2")
    view = await bed.end_run()
    assert view["frames"]["sent"] == view["frames"]["answered"] and view["frames"]["lost"] == 0
    said = [d["text"] for d in await fetch(bed.port, "/api/decisions")]
    assert any("the device answers alone" in text for text in said)
    await bed.end("server")
    frames = bed.frames()
    check(frames)
    assert len(frames) == view["frames"]["answered"]
    assert longest_gap_s(frames) < 30.0, "a stopped edge is noticed after 2 s; the machine is shared"


@pytest.mark.parametrize("bed", [FIXED], indirect=True)
async def test_the_server_and_the_device_die_and_return(bed: Bed) -> None:
    """The plan does not follow conditions: on a busy machine it might leave the cloud for a moment."""
    before = await bed.more(edge="edge-1", cloud="cloud-1")
    await bed.kill("server")
    await bed.start("server")
    back = await bed.more(edge="edge-1", cloud="cloud-1")
    assert back["epoch"] > before["epoch"] and back["run"] != before["run"]
    await bed.kill("server")
    await bed.kill("cloud-1")  # nobody is there to plan anew: the device finds out for itself
    await until(lambda: bed.said("pi-1", "link from cloud-1 ended"), "the loss")
    await bed.start("server", "cloud-1")
    await bed.more(edge="edge-1", cloud="cloud-1")
    with_old_device = len(bed.frames())
    await bed.kill("pi-1")
    await bed.start("pi-1")
    await bed.more(edge="edge-1", cloud="cloud-1")
    view = await bed.end_run()
    assert view["frames"]["sent"] == view["frames"]["answered"]
    await bed.end("server")
    frames = bed.frames()
    anew = next(n for n, row in enumerate(frames) if n >= with_old_device and row["frame"] == 1)
    check(frames[:anew], all_of_them=False)  # what a dying server had heard and not stored is not here
    check(frames[anew:])
    assert any(row["attempts"] > 1 for row in frames[:anew])
    assert longest_gap_s(frames[:anew]) < 30.0


async def test_two_hundred_random_switches_lose_repeat_and_mix_no_frame(
    tmp_path: Path, profiles: Path
) -> None:
    """Without pins, so that strategies differ; the plan stays where it was put."""
    free = FIXED[: FIXED.index("[[pipelines.main.pins")].replace("speed = 0.25", "speed = 0.4")
    bed, dice = Bed(tmp_path, profiles, free), random.Random(3)
    try:
        await bed.start("server", *AGENTS)
        first = await bed.more()
        chosen = first["strategy"]
        for number in range(200):
            chosen = dice.choice([name for name in ("device", "edge", "cloud") if name != chosen])
            await bed.post("strategy", {"strategy": chosen})
            await bed.until(
                lambda view, name=chosen: view["phase"] == "running" and view["strategy"] == name, chosen
            )
            if number % 4:  # how many frames come between two switches is up to the machine
                await bed.more(2)
        view = await bed.end_run()
        assert view["frames"]["sent"] == view["frames"]["answered"] and view["frames"]["lost"] == 0
        assert view["epoch"] >= first["epoch"] + 190, "nearly every choice is another plan"
        await bed.end("server")
    finally:
        await bed.close()
    frames = bed.frames()
    check(frames)
    assert len(frames) == view["frames"]["answered"] > 200
    assert len({row["epoch"] for row in frames}) > 100
    assert sum(row["attempts"] > 1 for row in frames) < len(frames) / 10, "a switch seldom costs a second try"
