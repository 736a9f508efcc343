"""Which engine runs this agent's part of a network: as configured, or the faster one on this board.

What was measured is kept beside the profiles. Call it on the compute thread.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from d3bed.agent.profiler import frame_like, whole_step
from d3bed.core.errors import ModelError
from d3bed.core.models import AUTO, ONNX, TORCH
from d3bed.model import LoadedModel, compile_step, fingerprint, sessions
from d3bed.model.keep import keep

__all__ = ["chosen", "least_s"]

#: Timed runs of each engine, in turns, behind one that warms up.
_RUNS = 3

_FORMAT = "d3bed.engine/1"


def chosen(model: LoadedModel, wanted: str, folder: Path) -> LoadedModel:
    """The model with its engine settled. Raises `ModelError` where ONNX Runtime is asked for and missing."""
    if wanted == TORCH or (wanted == AUTO and not sessions.available()):
        return model
    with_onnx = dataclasses.replace(model, engine=ONNX)
    if wanted == ONNX:
        if not sessions.available():
            raise ModelError(
                model.spec.name,
                "",
                "ONNX Runtime is not installed on this agent",
                "pip install 'd3bed[onnx]', or engine = \"torch\"",
            )
        return with_onnx
    key = [_FORMAT, model.graph.digest, fingerprint(model.threads), fingerprint(model.threads, ONNX)]
    file = folder / f"engine-{model.graph.digest}-{model.threads}.json"
    faster = _kept(file, key)
    if faster is None:
        step = whole_step(model.graph)
        calls = [compile_step(each, step) for each in (model, with_onnx)]
        torch_s, onnx_s = least_s(frame_like(model), *calls)
        faster = ONNX if onnx_s < torch_s else TORCH
        keep(file, json.dumps({"key": key, "faster": faster}).encode())
    return with_onnx if faster == ONNX else model


def _kept(file: Path, key: list[str]) -> str | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return str(kept["faster"]) if kept["key"] == key and kept["faster"] in (TORCH, ONNX) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def least_s(
    frame: torch.Tensor, *calls: Callable[..., tuple[torch.Tensor, ...]], runs: int = _RUNS
) -> list[float]:
    """The least seconds that each took for a frame, run in turns."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    samples: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for call in calls:
            call(frame)
        for _ in range(runs):
            for call, taken_s in zip(calls, samples, strict=True):
                began_s = clock()
                call(frame)
                taken_s.append(clock() - began_s)
    return [min(taken_s) for taken_s in samples]
