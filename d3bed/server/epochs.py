"""One plan epoch as the server knows it: what was decided, why, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from d3bed.core.epochs import EpochLife
from d3bed.core.graph import Graph
from d3bed.core.ids import TIERS, AgentId, CauseId, Epoch, PipelineId, Tier
from d3bed.core.measurements import Span, TileReady
from d3bed.core.messages import ModelSpec
from d3bed.core.plan import Plan
from d3bed.core.program import Program, Rescue, Step, programs_for
from d3bed.core.tiles import Tile
from d3bed.plan import TILED_STRATEGIES, Basis, Change, Choice, what_matters
from d3bed.server.events import Subject
from d3bed.server.statistics import Recent
from d3bed.server.views import EpochReport, EpochView

__all__ = ["PlannedEpoch", "Wish", "placement"]


#: A mix whose shares stray by less is the same mix.
SHARE_BAND = 0.05


class Wish(msgspec.Struct, frozen=True):
    """Something that calls for a new plan.

    `forced`: even an equal plan becomes a new epoch. `reconsider`: the present plan may go on, conditions
    have changed; it goes on unless the new one is enough better. `seen` is what changed.
    Agents and links that the new one is about to use must have been heard of `since_s`; those in `verify` are
    looked at for that, until `until_s` at most. What may be used instead is looked at as well. `begun_s`:
    when it was wished.
    """

    cause: str
    cause_id: CauseId
    model: ModelSpec
    strategy: str
    tiling: str
    forced: bool = False
    reconsider: bool = False
    seen: tuple[Change, ...] = ()
    since_s: float = 0.0
    begun_s: float = 0.0
    until_s: float = 0.0
    verify: tuple[Subject, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """The agents and links that changed."""
        return tuple(sorted(change.subject for change in self.seen))

    def is_hasty(self, before: PlannedEpoch | None) -> bool:
        """Whether the device answers alone until it is granted: a plan without tiles is ready in a moment,
        tiles may have to be checked first, for seconds."""
        tiled = self.tiling != "none" and self.strategy in TILED_STRATEGIES
        return tiled and before is not None and before.broken

    def because(self, seen: Sequence[Change], *busy_s: Mapping[str, float]) -> Wish:
        """With these changes; what of them matters to the plan in force, and to a new one, is the cause."""
        told = what_matters(seen, *busy_s)
        cause = "; ".join(change.text for change in told) or self.cause
        return msgspec.structs.replace(self, seen=tuple(seen), cause=cause)


@dataclass(eq=False)
class PlannedEpoch:
    """A plan, who carries it out, and what came of it.

    `choice` is the planner's answer: the plan, its route, what is predicted. `moved` counts vertices
    against the epoch before, if that had the same model. `connections` are those of the agents that take
    part when it was decided: an agent that came back under another one knows nothing of this epoch.

    Where frames take several plans in turn, each plan has an epoch, with its `share` of the frames; the first
    leads, and has the `others`.
    """

    pipeline: PipelineId
    life: EpochLife
    wish: Wish
    graph: Graph
    choice: Choice
    moved: int
    connections: dict[AgentId, int]
    due_s: float
    basis: Basis
    #: How many times longer agents and links were planned to take, because other pipelines use them.
    shared: dict[str, float] = field(default_factory=dict)
    share: float = 1.0
    others: tuple[PlannedEpoch, ...] = ()
    led_by: Epoch | None = None
    ready: set[AgentId] = field(default_factory=set)
    activated_at: float | None = None
    #: Whether a node or link that it needs was lost: its unanswered frames must run again.
    broken: bool = False
    #: Links that its agents were told to make by way of others; see `ways`.
    detours: set[tuple[AgentId, AgentId]] = field(default_factory=set)
    #: Whether one of its answers differed from the undivided model.
    differed: bool = False
    latency_s: Recent = field(default_factory=lambda: Recent(256))
    #: What agents found when they checked their tiles, and how long tiled parts take.
    tiles: list[TileReady] = field(default_factory=list)
    tiled_s: dict[tuple[int, int], Recent] = field(default_factory=dict)
    _tile_times_s: dict[tuple[AgentId, tuple[int, int], tuple[int, int, int]], float] = field(
        default_factory=dict
    )

    @property
    def number(self) -> Epoch:
        return self.life.epoch

    @property
    def late(self) -> set[AgentId]:
        """Those that have yet to prepare it."""
        return set(self.agents) - self.ready

    @property
    def lead(self) -> Epoch:
        """The number of the epoch that leads the mix; without a mix its own."""
        return self.number if self.led_by is None else self.led_by

    @property
    def group(self) -> tuple[PlannedEpoch, ...]:
        """All that are active together with it, itself first."""
        return (self, *self.others)

    @property
    def plan(self) -> Plan:
        return self.choice.plan

    @property
    def route(self) -> dict[Tier, AgentId]:
        """The tiers that the plan uses, or that relay."""
        return self.choice.route

    @property
    def predicted_s(self) -> float:
        return self.choice.timeline.latency_s

    @property
    def placement(self) -> object:
        """Equal for epochs whose frames are at the same places: the same vertices on the same tiers and
        agents, however large anybody's tiles are."""
        places = tuple(_places(each.plan) for each in self.group)
        return self.wish.model.key, places, tuple(sorted(self.route.items()))

    def places_alike(self, choice: Choice) -> bool:
        """Whether a plan would have its frames at the same places."""
        return self.route == choice.route and [_places(each.plan) for each in self.group] == [
            _places(choice.plan)
        ]

    @cached_property
    def agents(self) -> dict[AgentId, Tier]:
        """All that take part: those of the route, and edge agents that help with tiles."""
        return self.choice.participants

    def needs(self, *agents: AgentId) -> bool:
        """Whether frames cannot be finished without these, or a link between them: not so for tiles."""
        return set(agents) <= set(self.route.values())

    @cached_property
    def _programs(self) -> dict[AgentId, Program]:
        return programs_for(self.graph, self.plan, self.route)

    @cached_property
    def _steps(self) -> dict[AgentId, list[Step]]:
        return {agent: [s for s in program.steps if s.vertices] for agent, program in self._programs.items()}

    @property
    def tiled_parts(self) -> tuple[Rescue, ...]:
        """Runs of tiled blocks between which nothing is gathered, as their owner would do them alone."""
        return self._programs[self.route[Tier.EDGE]].rescues if self.plan.tiles else ()

    def tiles_of(self, agent: AgentId, told: Iterable[TileReady]) -> tuple[TileReady, ...]:
        """Of what an agent tells of tiles, what is about its own of this epoch."""
        steps = self.tiles_on(agent)
        own = {((s.vertices[0], s.vertices[-1]), s.tile.place) for s in steps if s.tile is not None}
        return tuple(each for each in told if (each.vertices, each.tile) in own)

    def tiles_ready(self, agent: AgentId, tiles: Iterable[TileReady]) -> None:
        """An agent has checked its tiles, and timed them."""
        self.tiles += tiles
        self._tile_times_s |= {(agent, t.vertices, t.tile): t.time_s for t in tiles if t.time_s > 0}

    def tile_time_s(self, agent: AgentId, tile: Tile) -> float | None:
        """What an agent took for a tile when it prepared it, comparable to its profile."""
        place = (tile.patches[0].vertex, tile.patches[-1].vertex)
        return self._tile_times_s.get((agent, place, tile.place))

    def tiles_on(self, agent: AgentId) -> list[Step]:
        """The tiles that an agent computes of every frame."""
        return [step for step in self._steps.get(agent, ()) if step.tile is not None]

    def tiled(self, place: tuple[int, int], taken_s: float) -> None:
        """A tiled part, by its first and last vertex, took so long for a frame."""
        if place in self.choice.timeline.tiled_s:
            self.tiled_s.setdefault(place, Recent(256)).add(taken_s)

    def receivers(self, agent: AgentId) -> list[AgentId]:
        """Whom an agent sends values to."""
        return sorted({to for ways in self._programs[agent].forward.values() for to in ways})

    @cached_property
    def steps(self) -> dict[AgentId, int]:
        """Compute steps of each agent's program, agents without any left out."""
        return {agent: len(steps) for agent, steps in self._steps.items() if steps}

    def step_of(self, agent: AgentId, span: Span) -> Step | None:
        """What a compute span stands for: no two steps of an agent share vertices and tile."""
        return self._steps_by_span.get((agent, span.vertices, span.tile))

    @cached_property
    def _steps_by_span(self) -> dict[tuple[AgentId, tuple[int, int], tuple[int, int, int] | None], Step]:
        return {
            (
                agent,
                (step.vertices[0], step.vertices[-1]),
                step.tile.place if step.tile else None,
            ): step
            for agent, program in self._programs.items()
            for step in (*program.steps, *(rescue.step for rescue in program.rescues))
            if step.vertices
        }

    @cached_property
    def text(self) -> str:
        return self.plan.describe(self.graph)

    def is_same(self, model: ModelSpec, choice: Choice, connections: dict[AgentId, int]) -> bool:
        """Whether frames would be run just as under this epoch and the others of its mix."""
        if (self.wish.model, self.connections) != (model, connections):
            return False
        shares = [(v.plan, v.share) for v in choice.mix] or [(choice.plan, 1.0)]
        return len(shares) == len(self.group) and all(
            each.plan == plan and abs(each.share - share) < SHARE_BAND
            for each, (plan, share) in zip(self.group, shares, strict=True)
        )

    @property
    def view(self) -> EpochView:
        return EpochView(
            pipeline=self.pipeline,
            epoch=self.number,
            strategy=self.wish.strategy,
            model=self.wish.model.name,
            cause=self.wish.cause,
            cause_id=self.wish.cause_id,
            state=self.life.state.value,
            activated_at=self.activated_at,
            moved=self.moved,
            predicted_s=self.predicted_s,
            measured_s=self.latency_s.median,
        )

    @property
    def report(self) -> EpochReport:
        return EpochReport(
            epoch=self.number,
            strategy=self.wish.strategy,
            cause=self.wish.cause,
            activated_at=self.activated_at,
            moved=self.moved,
        )

    def sentence(self) -> str:
        """What its plan does, in words; where frames take several plans in turn, what each does."""
        if self.others:
            return "; ".join(f"{e.share:.0%} of frames {e._placement}" for e in self.group)
        return self._placement

    @cached_property
    def _placement(self) -> str:
        return placement(self.plan, self.route)


def _places(plan: Plan) -> object:
    return tuple(plan.tiers), frozenset(plan.tile_agents)


def placement(plan: Plan, route: Mapping[Tier, AgentId]) -> str:
    """What a plan does, in words, as in `7 vertices on the device (pi-1), 6 in the cloud (vm)`."""
    places = {Tier.DEVICE: "on the device", Tier.EDGE: "on the edge", Tier.CLOUD: "in the cloud"}
    parts = []
    for tier in TIERS:
        count = len(plan.segment(tier))
        if tier in route and count:
            noun = "vertex" if count == 1 else "vertices"
            where = str(route[tier])
            if tier is Tier.EDGE and (helpers := [a for a in plan.tile_agents if a != where]):
                where += f" with tiles on {', '.join(helpers)}"
            parts.append(f"{count} {noun} {places[tier]} ({where})")
    return ", ".join(parts)
