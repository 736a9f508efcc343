"""Which engine runs this agent's part of a network: as configured, or the fastest one on this board.

What was measured is kept beside the profiles. Call it on the compute thread.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from d3bed.agent.passes import give_back, whole_s
from d3bed.core.errors import ModelError
from d3bed.core.models import AUTO, CUDA, ENGINES, ONNX, TORCH
from d3bed.model import LoadedModel, cuda, fingerprint, sessions
from d3bed.model.keep import keep

__all__ = ["chosen"]

#: Timed runs of each engine.
_RUNS = 3

_FORMAT = "d3bed.engine/2"

_MISSING = {
    ONNX: ("ONNX Runtime is not installed on this agent", "pip install 'd3bed[onnx]', or engine = \"torch\""),
    CUDA: (
        "torch finds no CUDA device on this agent",
        'check nvidia-smi and that this torch was built for CUDA, or engine = "torch"',
    ),
}


def chosen(model: LoadedModel, wanted: str, folder: Path) -> LoadedModel:
    """The model with its engine settled. Raises `ModelError` where one is asked for that is not here."""
    here = {TORCH: True, ONNX: sessions.available(), CUDA: cuda.available()}
    if wanted != AUTO:
        if not here[wanted]:
            raise ModelError(model.spec.name, "", *_MISSING[wanted])
        return dataclasses.replace(model, engine=wanted)
    models = {name: dataclasses.replace(model, engine=name) for name in here if here[name]}
    if len(models) == 1:
        return model
    key = [_FORMAT, model.graph.digest, *(fingerprint(model.threads, name) for name in models)]
    file = folder / f"engine-{model.graph.digest}-{model.threads}.json"
    fastest = _kept(file, key)
    if fastest is None:
        times_s = whole_s(list(models.values()), _RUNS)
        give_back()
        fastest = min(zip(times_s, models, strict=True))[1]
        keep(file, json.dumps({"key": key, "fastest": fastest}).encode())
    return models[fastest]


def _kept(file: Path, key: list[str]) -> str | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return str(kept["fastest"]) if kept["key"] == key and kept["fastest"] in ENGINES[:-1] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
