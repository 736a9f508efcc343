"""What a server is told when it starts. Read from TOML by `config`, never here.

Pure data; `ServerSettings.check` raises `ConfigError` for what the types cannot say. A pipeline
without a cloud, or without edges, is legal: the planner then has fewer tiers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import ModelSpec
from d3bed.core.models import PAPER_MODELS
from d3bed.plan import Pin
from d3bed.plan.vsm import METHODS
from d3bed.server.schema import Retention

__all__ = ["TILINGS", "Network", "PipelineSettings", "Scene", "SceneEvent", "ServerSettings"]

#: How stacks of layers may be shared among edge agents; see `plan.vsm`.
TILINGS = (*METHODS, "none")


class PipelineSettings(msgspec.Struct, frozen=True, dict=True):
    """One device's frames through one model.

    `network` names the preset that `shapes` came from; `shapes` maps a directed pair of tiers, as in
    `"device-edge"`, to what such links are held to (absent: as fast as they are). `pins` go by the
    name of the model whose vertices they name. `threads` is the intra-op thread count of all agents.
    With `adapt` the plan follows when agents or links change while frames flow. `tiling` is how stacks of
    layers are shared among several edge agents: a method of `plan.vsm`, or `none`; their tiles are
    bit-identical to the undivided network, or with a `tolerance` no more than that off.
    With `autostart` the source starts at the first plan: `frames` of them (None: until stopped), at
    `rate_per_s` (None: one after the other; 0: paused), at most `in_flight` unanswered (None: as many as
    that needs).
    """

    id: PipelineId
    device: AgentId
    edges: tuple[AgentId, ...]
    cloud: AgentId | None
    model: ModelSpec
    strategy: str = "optimal"
    network: str = "unshaped"
    shapes: dict[str, LinkShape] = {}
    pins: dict[str, tuple[Pin, ...]] = {}
    threads: int = 1
    in_flight: int | None = None
    rate_per_s: float | None = None
    frames: int | None = None
    autostart: bool = True
    adapt: bool = True
    tiling: str = "vsm"
    tolerance: float = 0.0

    @cached_property
    def tiers(self) -> dict[AgentId, Tier]:
        """All agents of the pipeline, device first, and their tiers."""
        found = {self.device: Tier.DEVICE} | {edge: Tier.EDGE for edge in self.edges}
        return found | ({self.cloud: Tier.CLOUD} if self.cloud is not None else {})

    def tolerates(self, max_rel_err: float | None) -> bool:
        """Whether tiles, or answers by them, that are not bit-identical may be so far off."""
        return max_rel_err is not None and 0 < self.tolerance >= max_rel_err

    def shape(self, here: Tier, there: Tier) -> LinkShape | None:
        return self.shapes.get(f"{here.value}-{there.value}")

    def is_shaped(self, source: AgentId, target: AgentId) -> bool:
        """Whether the link is one of this pipeline's and held to an emulated rate."""
        tiers = self.tiers
        both = source in tiers and target in tiers
        return both and self.shape(tiers[source], tiers[target]) is not None

    def neighbours(self, agent: AgentId, members: Mapping[AgentId, Tier]) -> list[AgentId]:
        """Of the members, whom `agent` may send to: those on the next tiers, up and down, that have any;
        other edge agents, for tiles; past the edge, unless links are emulated and the network has no such
        link."""
        tier, present = members[agent], sorted({t.rank for t in members.values()})

        def may_send(there: Tier) -> bool:
            if tier is there:
                return tier is Tier.EDGE
            far = abs(present.index(there.rank) - present.index(tier.rank)) > 1
            return not far or not self.shapes or self.shape(tier, there) is not None

        return [other for other, there in members.items() if other != agent and may_send(there)]


class Network(msgspec.Struct, frozen=True):
    """A preset that pipelines may be switched to; `shapes` as in `PipelineSettings`."""

    description: str
    shapes: dict[str, LinkShape]


class SceneEvent(msgspec.Struct, frozen=True):
    """A request of the JSON API, `at_s` seconds after the start; `words` say what it is."""

    at_s: float
    path: str
    body: dict[str, Any]
    words: str


class Scene(msgspec.Struct, frozen=True):
    """A scenario that the server can play; `refused` says why it cannot, where it cannot."""

    name: str
    description: str
    duration_s: float
    events: tuple[SceneEvent, ...]
    refused: str = ""


class ServerSettings(msgspec.Struct, frozen=True):
    """`host` and `port` to listen on (port 0: any free one); `data_dir` holds database and secrets.

    `token` is required of agents and of requests that change something whenever it is set; where
    `host` is not loopback and none is given, one is made in `data_dir` on the first start. With `tls` it
    speaks HTTPS, by a certificate of its own authority for its own names and addresses and these `names`.
    With `announce` it says by multicast DNS that it is there. `retention` says how much of what happened is
    kept. `networks` by name, and `scenes`, are what users may choose from.
    """

    data_dir: Path
    pipelines: tuple[PipelineSettings, ...]
    host: str = "127.0.0.1"
    port: int = 8333
    token: str | None = None
    tls: bool = False
    names: tuple[str, ...] = ()
    announce: bool = False
    models: tuple[str, ...] = PAPER_MODELS
    retention: Retention = Retention()
    networks: dict[str, Network] = {}
    scenes: tuple[Scene, ...] = ()

    def check(self, strategies: tuple[str, ...]) -> None:
        """Raise `ConfigError` for repeated ids, one agent on two tiers, or an unknown strategy."""
        for name, count in Counter(p.id for p in self.pipelines).items():
            if count > 1:
                raise ConfigError("pipelines", name, "two pipelines have this id", "rename one")
        tiers: dict[AgentId, Tier] = {}
        for pipeline in self.pipelines:
            names = Counter([pipeline.device, *pipeline.edges, *([pipeline.cloud] if pipeline.cloud else [])])
            for agent, count in names.items():
                tier = pipeline.tiers[agent]
                if count > 1 or tiers.setdefault(agent, tier) is not tier:
                    raise ConfigError(f"pipeline {pipeline.id}", agent, "has two places", "rename one agent")
            if pipeline.strategy not in strategies:
                raise ConfigError(
                    f"pipeline {pipeline.id}",
                    "strategy",
                    f"unknown strategy {pipeline.strategy!r}",
                    f"one of {', '.join(strategies)}",
                )
