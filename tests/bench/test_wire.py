from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from d3bed.bench import wire


@pytest.mark.processes
@pytest.mark.sockets
def test_bench_carries_all_tensors_and_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "THROUGHPUT", {10_000: (20, 0.5), 400_000: (3, 0.8)})
    monkeypatch.setattr(wire, "ROUNDS", 2)
    monkeypatch.setattr(wire, "RATES_MBIT", (80,))
    monkeypatch.setattr(wire, "SHAPED_BYTES", (100_000,))
    screen = io.StringIO()
    result = wire.run(tmp_path / "wire.json", Console(file=screen, width=120))
    assert json.loads((tmp_path / "wire.json").read_text()) == result
    rates = {(row["way"], row["tensor_bytes"]): row["bytes_per_s"] for row in result["throughput"]}
    assert {way for way, _ in rates} >= {"raw", "default", "pickle"}
    assert all(rate > 0 for rate in rates.values())
    (shaped,) = result["shaping"]
    assert shaped["target_bytes_per_s"] == 1e7 and shaped["tensors"] == 12
    assert "raw blocking sockets" in screen.getvalue() and "shaped links" in screen.getvalue()
