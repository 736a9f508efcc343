"""The control plane and dashboard: never in the data path, no torch.

`serve` runs it; `Coordinator` is its brain (pure), `Runner` its hands.
"""

from __future__ import annotations

from d3bed.server.app import serve
from d3bed.server.coordinator import Coordinator
from d3bed.server.runner import Runner
from d3bed.server.settings import PipelineSettings, ServerSettings
from d3bed.server.views import RunReport, StateView

__all__ = [
    "Coordinator",
    "PipelineSettings",
    "RunReport",
    "Runner",
    "ServerSettings",
    "StateView",
    "serve",
]
