"""A short scenario over a real testbed: what it does, and what it says of the frames."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

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

[[events]]
at_s = 1
action = "load"
agent = "pi-1"
processes = 1
for_s = 1

[[events]]
at_s = 2
action = "strategy"
strategy = "device"

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
"""


async def test_a_short_scenario_is_played_and_no_frame_is_lost(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(CONFIG)
    (tmp_path / "mine.toml").write_text(SCENARIO)
    player = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "d3bed",
            "scenario",
            "play",
            "mine.toml",
            "--strategies",
            "edge,hpa",
            "--json",
        ),
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, said = await player.communicate()
    finally:
        if player.returncode is None:
            player.kill()
    text = said.decode()
    assert player.returncode == 0, text
    answer = json.loads(output)
    assert (answer["format"], answer["scenario"]) == ("d3bed.played/1", "mine")
    assert [row["strategy"] for row in answer["played"]] == ["edge", "hpa"]
    for row in answer["played"]:
        assert (row["lost"], row["inexact"], row["backbone_bytes"]) == (0, 0, 0)
        assert row["frames"] > 5 and 0 < row["median_s"] <= row["p95_s"]
    assert answer["played"][0]["switches"] >= 1
    assert "strategy device chosen → epoch 2" in text
    assert "pi-1→edge-1: 20 Mbit/s, 1 % loss, by the scenario for 1 s" in text
    assert text.count("edge-1 is started again") == 2
    assert text.count("edge-1: speed 0.5, by the scenario") == 2
