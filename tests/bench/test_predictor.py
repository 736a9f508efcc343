from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from d3bed.bench import predictor as bench
from d3bed.bench.plan import made_graph
from d3bed.core.errors import ConfigError
from d3bed.plan import works


def made(seed: int) -> bench.Profile:
    """A made graph on an agent whose times are exactly a combination of the causes."""
    graph = made_graph(60, seed)
    times = [2e-5 + 1e-11 * work.flops + 1e-10 * work.output_bytes for work in works(graph)[1:]]
    return graph, (0.0, *times)


def test_figures_are_printed_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made profiles, which the regression can fit: what is reported, not how good it is."""

    def profile(names: Sequence[str], console: Console) -> dict[str, bench.Profile]:
        return {name: made(seed) for seed, name in enumerate(names)}

    monkeypatch.setattr(bench, "_profile", profile)
    console = Console(record=True, width=140, file=(tmp_path / "terminal").open("w"))
    with console.file:
        result = bench.run(tmp_path / "figures.json", console, models=["a", "b", "c", "b"])
    assert json.loads((tmp_path / "figures.json").read_text()) == result
    assert [row["model"] for row in result["networks"]] == ["a", "b", "c"]
    for row in result["networks"]:
        assert row["segments"] == row["vertices"] * (row["vertices"] + 1) / 2
        assert row["vertex"]["median"] <= row["vertex"]["p90"] < 1e-6
        assert row["segment"]["median"] < 0.01 < row["segment_by_flops"]["median"]
        assert abs(row["whole_error"]) < 1e-6 and row["unknown_kinds"] == []
    assert result["met"]
    assert "per segment" in console.export_text()


def test_real_networks_are_profiled_and_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "PASSES", 1)
    console = Console(record=True, width=80, file=(tmp_path / "terminal").open("w"))
    with console.file:
        result = bench.run(None, console, models=["alexnet", "resnet18"])
    alexnet, resnet18 = result["networks"]
    assert alexnet["vertices"] == 13 and resnet18["vertices"] == 32
    assert "add" in resnet18["unknown_kinds"] and "conv2d" not in resnet18["unknown_kinds"]
    assert "resnet18: the others hardly have" in console.export_text()
    assert all(0 < row["predicted_s"] for row in result["networks"])


def test_one_network_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two networks"):
        bench.run(tmp_path / "figures.json", Console(quiet=True), models=["alexnet", "alexnet"])
    assert not (tmp_path / "figures.json").exists()
