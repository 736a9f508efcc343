from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from d3bed.bench import plan as bench
from d3bed.core.ids import TIERS


def test_figures_are_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs on a made graph: what is reported, not how fast it was."""
    monkeypatch.setattr(bench, "REPEATS", 2)
    monkeypatch.setattr(bench, "_inception", lambda: ("small", bench.made_graph(40, seed=1)))
    console = Console(record=True, width=140, file=(tmp_path / "terminal").open("w"))
    with console.file:
        result = bench.run(tmp_path / "plan.json", console)
    assert json.loads((tmp_path / "plan.json").read_text()) == result
    small, large = result["graphs"]
    assert (small["vertices"], large["vertices"]) == (40, 1000)
    for row in small["settings"] + large["settings"]:
        assert 0 < row["min_s"] <= row["median_s"] <= row["max_s"]
        assert row["cost_s"] <= row["best_single_tier_s"] * (1 + 1e-12)
    mixed = [row for row in large["settings"] if all(row["vertices"][tier] > 1 for tier in TIERS)]
    assert len(mixed) >= 3, "hard settings are among them"
    assert "target 30 ms" in console.export_text()


@pytest.mark.parametrize("count", [2, 50, 195])
def test_made_graphs_are_sound_and_repeatable(count: int) -> None:
    graph = bench.made_graph(count, seed=4)
    assert len(graph.vertices) == count
    assert graph == bench.made_graph(count, seed=4)
