"""A short scenario over a real testbed: what it does, and what it says of the frames."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from d3bed.config import read_config
from d3bed.lab import client
from d3bed.lab.scenario import Load, Rate, Strategy, read_scenario
from d3bed.lab.testbed import open_testbed

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]

CONFIG = """
[[agents]]
name = "pi-1"
tier = "device"
speed = 0.4

[[agents]]
name = "edge-1"
tier = "edge"

[pipelines.main]
device = "pi-1"
edges = ["edge-1"]
strategy = "edge"
network = "wifi"
"""
SECOND = """
[[agents]]
name = "pi-2"
tier = "device"
speed = 0.3

[pipelines.door]
device = "pi-2"
edges = ["edge-1"]
strategy = "edge"
network = "wifi"
"""
SCENARIO = """
format = "d3bed.scenario/1"
description = "all kinds of events"
duration_s = 8
config = "two.toml"

[[events]]
at_s = 0.5
action = "link"
from = "pi-1"
to = "edge-1"
both = true
mbit_per_s = 20
loss_percent = 1
for_s = 1
says = "the Wi-Fi fades"

[[events]]
at_s = 1
action = "load"
agent = "pi-1"
processes = 1
for_s = 1

[[events]]
at_s = 1.5
action = "rate"
rate_per_s = 4

[[events]]
at_s = 2
action = "strategy"
strategy = "device"
pipeline = "main"

[[events]]
at_s = 2.5
action = "resume"
pipeline = "door"

[[events]]
at_s = 3
action = "kill"
agent = "edge-1"

[[events]]
at_s = 4
action = "start"
agent = "edge-1"

[[events]]
at_s = 5
action = "speed"
agent = "edge-1"
speed = 0.5

[[events]]
at_s = 7
action = "pause"
pipeline = "door"
"""


async def d3bed(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "d3bed", *arguments),
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_short_scenario_of_two_pipelines_is_played_and_no_frame_is_lost(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(CONFIG + SECOND)
    (tmp_path / "mine.toml").write_text(SCENARIO)
    options = ("--strategies", "edge,hpa", "--json")
    player = await d3bed(tmp_path, "scenario", "play", "mine.toml", *options)
    try:
        output, said = await player.communicate()
    finally:
        if player.returncode is None:
            player.kill()
    text = said.decode()
    assert player.returncode == 0, text
    answer = json.loads(output)
    assert (answer["format"], answer["scenario"]) == ("d3bed.played/1", "mine")
    rows = [(row["pipeline"], row["strategy"]) for row in answer["played"]]
    assert rows == [("main", "edge"), ("door", "edge"), ("main", "hpa"), ("door", "hpa")]
    for row in answer["played"]:
        assert (row["lost"], row["inexact"], row["backbone_bytes"]) == (0, 0, 0)
        assert row["frames"] > 0 and 0 < row["median_s"] <= row["p95_s"]
    assert answer["played"][0]["switches"] >= 1
    assert "main: strategy device chosen → epoch" in text
    assert "◇ the Wi-Fi fades (pi-1 ↔ edge-1: 20 Mbit/s, 1 % loss for 1 s)" in text
    assert "◇ pi-1: 1 busy process for 1 s, emulated: its speed drops" in text
    assert text.count("◇ edge-1: it is started again") == text.count("◇ edge-1: speed 0.5") == 2
    assert "by the scenario" not in text  # a step is told once


async def test_what_people_do_on_a_running_testbed_is_recorded_and_can_be_played_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toml").write_text(CONFIG)
    async with open_testbed(read_config(tmp_path / "two.toml"), ["--port", "0"]) as bed:
        recorder = await d3bed(tmp_path, "scenario", "record", "-o", "told.toml", "--server", bed.base)
        try:
            assert recorder.stderr is not None
            assert b"recording" in await recorder.stderr.readline()
            await client.post(bed.base, "/api/agents/edge-1/load", {"processes": 1, "for_s": 0.5})
            await client.post(bed.base, "/api/pipelines/main/rate", {"rate_per_s": 5})
            await bed.switch(strategy="device")
            told = [(await recorder.stderr.readline()).decode() for _ in range(3)]
            for line, words in zip(
                told,
                ("edge-1: 1 busy process for 0.5 s", "main: 5 frames a second", "main: strategy device"),
                strict=True,
            ):
                assert words in line
            async with asyncio.timeout(60):
                while (await client.get(bed.base, "/api/conditions")) != []:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            recorder.send_signal(signal.SIGINT)
            output, said = await recorder.communicate()
        finally:
            if recorder.returncode is None:
                recorder.kill()
        assert recorder.returncode == 0, said.decode()
        assert "told.toml: 3 events" in output.decode()
        found = read_scenario(tmp_path / "told.toml").events
        assert [type(event) for event in found] == [Load, Rate, Strategy]
        assert found[0] == Load(at_s=found[0].at_s, agent="edge-1", processes=1, for_s=0.5)

        await bed.switch(strategy="edge")
        player = await d3bed(tmp_path, "scenario", "play", "told.toml", "--server", bed.base, "--json")
        output, said = await player.communicate()
        assert player.returncode == 0, said.decode()
        (row,) = json.loads(output)["played"]
        assert (row["strategy"], row["lost"], row["inexact"]) == ("edge", 0, 0)
        after = await client.get(bed.base, "/api/pipelines/main")
        assert (after["strategy"], after["rate_per_s"]) == ("edge", 5)
