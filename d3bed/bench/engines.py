"""Engines side by side: whole networks at one thread, run in turns, the shortest run of each.

`eager` is the module as torch runs it; `torch` is what d3bed's own engine makes of it, generated code with
packed weights; `onnx` is ONNX Runtime. Times are CPU time of the thread, so that other work on the machine
disturbs little. The error is the largest difference from eager's answer, over the largest value.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from d3bed.core.errors import ConfigError
from d3bed.core.messages import ModelSpec
from d3bed.core.models import CLOSE, ONNX

__all__ = ["TARGET", "run"]

#: ONNX Runtime is to be so many times as fast as eager.
TARGET = 1.2


def run(json_path: Path | None, console: Console, *, models: Sequence[str], runs: int) -> dict[str, Any]:
    """Measure, print and optionally write the figures. Returns them."""
    import torch

    from d3bed.agent.passes import clock, frame_like, least_s, whole_step
    from d3bed.model import compile_step, fingerprint, load, relative_error, sessions

    if not sessions.available():
        raise ConfigError("bench engines", "", "ONNX Runtime is not installed", "pip install 'd3bed[onnx]'")
    load_before, threads = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        for name in models:
            model = load(ModelSpec(name))
            step = whole_step(model.graph)
            ours = compile_step(model, step)
            onnx = compile_step(dataclasses.replace(model, engine=ONNX), step)
            frame = frame_like(model)
            with torch.inference_mode():
                off = relative_error(onnx(frame), model.whole(frame))
            eager_s, torch_s, onnx_s = least_s(
                [frame], dict.fromkeys((model.whole, ours, onnx), clock(ONNX)), runs
            )
            rows.append(
                {
                    "model": name,
                    "eager_s": eager_s,
                    "torch_s": torch_s,
                    "onnx_s": onnx_s,
                    "onnx_gain": eager_s / onnx_s,
                    "max_rel_err": off,
                }
            )
    finally:
        torch.set_num_threads(threads)
    result: dict[str, Any] = {
        "format": "d3bed.bench.engines/1",
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "load": load_before},
        "fingerprints": [fingerprint(1), fingerprint(1, ONNX)],
        "target": TARGET,
        "models": rows,
    }
    table = Table("network", "eager ms", "torch ms", "onnx ms", "eager / onnx", "largest error")
    for row in rows:
        numbers = [f"{1e3 * row[key]:.1f}" for key in ("eager_s", "torch_s", "onnx_s")]
        gain, off = row["onnx_gain"], row["max_rel_err"]
        table.add_row(
            row["model"],
            *numbers,
            f"[{'green' if gain >= TARGET else 'red'}]{gain:.2f}[/]",
            f"[{'green' if off <= CLOSE else 'red'}]{off:.0e}[/]",
        )
    console.print(table)
    console.print(
        f"One thread, CPU time, shortest of {runs}; load before: {load_before:.1f}. Target: {TARGET:g}.",
        highlight=False,
    )
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
