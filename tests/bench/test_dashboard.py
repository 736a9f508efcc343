"""The dashboard's measurement: a short one, from a made-up testbed to figures and a file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from d3bed.bench import dashboard
from d3bed.bench.dashboard_load import made_graph

pytestmark = [pytest.mark.browser, pytest.mark.sockets, pytest.mark.processes]


def test_made_up_network_is_as_large_as_it_is_asked_for() -> None:
    for vertices in (20, 200, 1000):
        graph = made_graph(vertices)
        assert len(graph.vertices) == vertices
        assert all(edge.producer < edge.consumer for edge in graph.edges)


def test_page_and_server_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(map(shutil.which, dashboard._BROWSERS)):
        if os.environ.get("CI") == "true":
            pytest.fail("no browser is installed")
        pytest.skip("no browser is installed")
    for name in ("_WARM_S", "_THROTTLED_S", "_CHARTS_S", "_CLIENTS_S"):
        monkeypatch.setattr(dashboard, name, 1.0)
    monkeypatch.setattr(dashboard, "_BIG", 100)
    path = tmp_path / "figures.json"
    result = dashboard.run(path, Console(quiet=True), minutes=0.05, events=200, clients=[2])
    assert json.loads(path.read_text()) == result
    figures = result["figures"]
    assert result["machine"]["browser"]
    assert figures["frames_per_s"] > 0
    assert figures["event_to_pixel_ms"] is None or figures["event_to_pixel_ms"] > 0
    assert 0 < figures["page_kb_at_first_data"] <= figures["page_kb_taken"] <= figures["page_kb_all_opened"]
    assert figures["page_kb_taken"] <= figures["page_kb_gzipped"]
    assert figures["server_cpu_2"] > 0
    assert figures["server_stop_s"] > 0
    assert "heap_growth_mb" not in result["met"]  # nobody judges it by three seconds
