"""`/metrics`: the text format, and numbers that agree with what happened."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from d3bed.core.ids import AgentId, Epoch, PipelineId
from d3bed.server.events import ChangeStrategy
from d3bed.server.metrics import exposition
from d3bed.server.views import ServerReport

if TYPE_CHECKING:
    from tests.server.conftest import MakeStage, Stage

DEVICE, EDGE_1, CLOUD = AgentId("pi-1"), AgentId("edge-1"), AgentId("vm-1")
SERVER = ServerReport("0.1.0", "abc-dirty", "3.11.7", "Linux", "host", 'CPU "fast"', 2)
SAMPLE = re.compile(r'([a-z0-9_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+)\})? (\S+)')


def parse(text: str) -> dict[str, float]:
    """Name and labels of every sample, and its value; fails for what Prometheus would not take."""
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, *rest = line.split(" ", 3)
            assert what in ("HELP", "TYPE") and rest
            if what == "TYPE":
                assert name not in kinds, f"{name} is told twice"
                kinds[name] = rest[0]
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        family = re.sub(r"_(bucket|sum|count)$", "", match[1])
        kind = kinds.get(match[1]) or kinds[family]
        assert kind != "counter" or match[1].endswith("_total")
        key = match[1] + (f"{{{match[2]}}}" if match[2] else "")
        assert key not in found
        found[key] = float(match[3])
    return found


def scrape(stage: Stage) -> dict[str, float]:
    return parse(exposition(stage.coordinator, SERVER))


def test_counters_go_on_over_runs_and_agree_with_what_happened(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1, 2, 3, identical=True)
    stage.transfer(DEVICE, EDGE_1, 200_000, 0.02, 1e7)
    stage.tick(1.0)
    stage.submit(ChangeStrategy(PipelineId("demo"), "edge"))
    stage.end_source(4, 3)
    stage.tick(1.0)
    stage.answer(Epoch(2), 5, identical=False)
    stage.tick(1.0)
    found = scrape(stage)
    demo = '{pipeline="demo"}'
    assert found[f"d3bed_frames_answered_total{demo}"] == 4
    assert found[f"d3bed_frames_lost_total{demo}"] == 1
    assert found[f"d3bed_answers_checked_total{demo}"] == 4
    assert found[f"d3bed_answers_identical_total{demo}"] == 3
    assert found[f"d3bed_epoch_switches_total{demo}"] == 2
    assert found[f"d3bed_epoch{demo}"] == 2
    assert found['d3bed_link_bytes_total{from="pi-1",to="edge-1"}'] == 200_000
    assert found['d3bed_compute_seconds_sum{pipeline="demo",tier="cloud"}'] == pytest.approx(0.06)
    assert found['d3bed_compute_seconds_count{pipeline="demo",tier="cloud"}'] == 3
    assert found['d3bed_compute_seconds_count{pipeline="demo",tier="edge"}'] == 1
    assert found['d3bed_build_info{version="0.1.0",commit="abc-dirty",python="3.11.7"}'] == 1


def test_histogram_counts_up_to_infinity(stage: Stage) -> None:
    stage.join_all()
    stage.answer(Epoch(1), 1, 2)
    found = scrape(stage)
    name = "d3bed_frame_latency_seconds"
    buckets = {key: value for key, value in found.items() if key.startswith(f"{name}_bucket")}
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets[f'{name}_bucket{{pipeline="demo",le="0.25"}}'] == 0
    assert buckets[f'{name}_bucket{{pipeline="demo",le="0.5"}}'] == 2
    assert buckets[f'{name}_bucket{{pipeline="demo",le="+Inf"}}'] == 2
    assert found[f'{name}_count{{pipeline="demo"}}'] == 2
    assert found[f'{name}_sum{{pipeline="demo"}}'] == pytest.approx(0.6)


def test_lost_agent_is_down_and_its_gauges_are_gone(stage: Stage) -> None:
    stage.join_all()
    assert scrape(stage)['d3bed_agent_up{agent="vm-1",tier="cloud"}'] == 1
    stage.lose(CLOUD)
    found = scrape(stage)
    assert found['d3bed_agent_up{agent="vm-1",tier="cloud"}'] == 0
    assert found['d3bed_agent_up{agent="pi-1",tier="device"}'] == 1
    assert 'd3bed_agent_queued_steps{agent="vm-1"}' not in found


def test_server_that_nobody_joined_can_be_scraped(make_stage: MakeStage) -> None:
    found = scrape(make_stage())
    assert found['d3bed_frames_answered_total{pipeline="demo"}'] == 0
    assert 'd3bed_epoch{pipeline="demo"}' not in found
