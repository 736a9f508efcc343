from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from d3bed.bench import adapt as bench
from d3bed.bench.plan import made_graph
from d3bed.core.graph import Graph


def test_figures_are_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs on made graphs: what is reported and how good the plans are, not how fast they were."""

    def graphs(console: Console) -> Iterator[tuple[tuple[str, str], Graph]]:
        yield ("resnet18", "made, of resnet18's size"), made_graph(33, seed=4)
        yield ("vit_tiny", "made, of vit_tiny's size"), made_graph(114, seed=4)

    monkeypatch.setattr(bench, "_graphs", graphs)
    for name, value in {"PROBLEMS": 2, "CHAINS": 1, "REPEATS": 1, "GROWTH": (100, 1000)}.items():
        monkeypatch.setattr(bench, name, value)
    console = Console(record=True, width=200, file=(tmp_path / "terminal").open("w"))
    with console.file:
        whole = bench.run(tmp_path / "adapt.json", console, ["offline"])
    assert json.loads((tmp_path / "adapt.json").read_text()) == whole
    result = whole["offline"]
    for row in result["strategies"]:
        assert row["problems"] == 2 * len(bench.SETTINGS)
        assert 1 - 1e-9 <= row["hpa"]["worst"] <= row["layers"]["worst"] + 1e-9
        assert row["hpa"]["mean"] <= row["hpa-greedy"]["mean"]
        assert 0 < row["hpa_median_s"] <= row["hpa_max_s"]
    for row in result["chains"]:
        assert row["changes"] == len(bench.SETTINGS) * bench.CHANGES == sum(row["stops"].values())
        assert row["adjusted"]["mean"] <= row["never moved"]["mean"]
        assert 0 < row["examined_share"] < 1
    assert result["mixed_optima"] == sum(row["mixed"] for row in result["strategies"]) > 0
    assert [row["vertices"] for row in result["growth"]] == [100, 1000]
    assert result["met"]["hpa on the five networks"]
    assert result["met"]["examined grows slower than the graph"]
    assert "made, of vit_tiny's size" in console.export_text()
