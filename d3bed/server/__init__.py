"""The control plane and dashboard: never in the data path, no torch.

`serve` runs it; `Coordinator` is its brain (pure), `Runner` its hands. Boards read settings from here too and
have no web stack: what needs one is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from d3bed.server.coordinator import Coordinator
from d3bed.server.settings import PipelineSettings, ServerSettings
from d3bed.server.views import RunReport, StateView

if TYPE_CHECKING:
    from d3bed.server.app import serve
    from d3bed.server.runner import Runner

__all__ = [
    "Coordinator",
    "PipelineSettings",
    "RunReport",
    "Runner",
    "ServerSettings",
    "StateView",
    "serve",
]

_LATER = {"serve": "app", "Runner": "runner"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
