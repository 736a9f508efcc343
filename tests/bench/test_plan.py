from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from d3bed.bench import plan as bench
from d3bed.core.ids import TIERS


def test_figures_are_printed_written_and_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs on made graphs: what is reported, not how fast it was."""
    monkeypatch.setattr(bench, "REPEATS", 2)
    monkeypatch.setattr(bench, "SIZES", (100, 1000))
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
    assert [row["vertices"] for row in result["growth"]] == [100, 1000]

    limits = result["limits"]
    assert {kind["kind"] for kind in limits["kinds"]} == {"memory", "frame rate", "direct link"}
    for row in limits["settings"]:
        assert -1e-7 < row["regret"] <= row["gap"] / (1 - row["gap"]) + 1e-7, "the gap is no lie"
        assert row["gap"] <= 0.01 + 1e-9
    for row in result["rates"]:
        assert row["single_tier_per_s"] <= row["plan_per_s"] * (1 + 2e-5)
        assert row["plan_per_s"] <= row["mix_per_s"] * (1 + 2e-5) <= row["mix_bound_per_s"] * (1 + 4e-5)
        assert sum(row["shares"]) == pytest.approx(1)
    assert max(row["mix_gain"] for row in result["rates"]) > 1.1

    shown = console.export_text()
    for words in ("target 15 ms", "growth with the graph", "within limits", "highest frame rate"):
        assert words in shown
    plot = ElementTree.fromstring((tmp_path / "plan.svg").read_text())
    assert "1,000" in {element.text for element in plot.iter()}


@pytest.mark.parametrize("count", [2, 50, 195])
def test_made_graphs_are_sound_and_repeatable(count: int) -> None:
    graph = bench.made_graph(count, seed=4)
    assert len(graph.vertices) == count
    assert graph == bench.made_graph(count, seed=4)
