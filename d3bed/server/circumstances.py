"""What plans were made from while frames flowed, so that they can be judged afterwards. Pure.

A ground is what hardly ever changes: the network, each agent's profile of it, what is pinned. Circumstances
are what the monitors say at a time: how much longer than profiled each agent takes, how fast each link is.
A row is kept whenever one of them is another than in the last row by more than `NEWS`.
"""

from __future__ import annotations

import hashlib

import msgspec

from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId, PipelineId, Tier
from d3bed.plan import Basis, Pin
from d3bed.server.pipeline import Pipeline

__all__ = ["NEWS", "Circumstances", "Ground", "Witness"]

NEWS = 0.05


class Ground(msgspec.Struct, frozen=True):
    """`profiles` and the `fixed` part of them in seconds per vertex, as the agents reported them."""

    pipeline: PipelineId
    device: AgentId
    graph: Graph
    agents: dict[AgentId, Tier]
    profiles: dict[AgentId, tuple[float, ...]]
    fixed: dict[AgentId, tuple[float, ...]]
    pins: tuple[Pin, ...]
    tiling: str


class Circumstances(msgspec.Struct, frozen=True):
    """`rates`: from, to, bytes per second, latency in seconds. `alone`: whether frames came one by one, so
    that latency is what plans were made for."""

    at_s: float
    ground: str
    alone: bool
    factors: dict[AgentId, float]
    rates: tuple[tuple[AgentId, AgentId, float, float], ...]


class Witness:
    """Records both for one pipeline; `look` is called now and then."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._known: object = None
        self._ground = ""
        self._last: tuple[Basis, bool] | None = None

    def forget(self) -> None:
        """The store lost what was recorded."""
        self._known, self._last = None, None

    def look(self) -> None:
        pipe = self._pipeline
        if pipe.active is None or not pipe.stream.is_running:
            self._last = None
            return
        members = {a: tier for a, tier in pipe.members.items() if self._times_s(a) is not None}
        known = (pipe.active.wish.model, pipe.active.wish.tiling, *((a, self._times_s(a)) for a in members))
        if known != self._known:
            self._known, self._last = known, None
            self._record_ground(members)
        basis = pipe.world.conditions(members, pipe.settings.id)
        alone = pipe.stream.in_flight == 1 and pipe.stream.rate_per_s is None
        if self._last is None or self._last[1] is not alone or _differ(self._last[0], basis):
            self._last = basis, alone
            found = Circumstances(
                at_s=pipe.world.now,
                ground=self._ground,
                alone=alone,
                factors=dict(basis.factors),
                rates=tuple((*ends, rate.bytes_per_s, rate.latency_s) for ends, rate in basis.rates.items()),
            )
            pipe.world.record(
                "circumstances",
                at_s=found.at_s,
                pipeline=pipe.settings.id,
                ground=self._ground,
                data=msgspec.to_builtins(found),
            )

    def _times_s(self, agent: AgentId) -> tuple[float, ...] | None:
        active = self._pipeline.active
        return self._pipeline.world.agents[agent].times_s(active.wish.model) if active else None

    def _record_ground(self, members: dict[AgentId, Tier]) -> None:
        pipe, world = self._pipeline, self._pipeline.world
        assert pipe.active is not None
        wish = pipe.active.wish
        ground = Ground(
            pipeline=pipe.settings.id,
            device=pipe.settings.device,
            graph=pipe.active.graph,
            agents=members,
            profiles={agent: self._times_s(agent) or () for agent in members},
            fixed={agent: world.agents[agent].fixed.get(wish.model, ()) for agent in members},
            pins=pipe.settings.pins.get(wish.model.name, ()),
            tiling=wish.tiling,
        )
        data = msgspec.json.encode(ground)
        self._ground = hashlib.sha256(data).hexdigest()[:16]
        world.record("grounds", id=self._ground, at_s=world.now, data=data.decode())


def _differ(before: Basis, now: Basis) -> bool:
    if before.factors.keys() != now.factors.keys() or before.rates.keys() != now.rates.keys():
        return True
    pairs = [(before.factors[agent], factor) for agent, factor in now.factors.items()]
    for ends, rate in now.rates.items():
        pairs.append((before.rates[ends].bytes_per_s, rate.bytes_per_s))
    return any(abs(a - b) > NEWS * max(a, b) for a, b in pairs)
