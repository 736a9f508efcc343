"""One pipeline's decisions: from registered agents to a running plan, and from one plan to the next.

Pure. Goal-directed: a `Wish` (a model, a strategy, a cause) is what is wanted; `advance` looks at
what is known, orders whatever is missing (models, profiles, links, a plan), and may be called after
any event. A plan becomes an epoch: prepare → ready from all → activate → the old one drains → retire.

    wish ─▶ load ─▶ graphs agree ─▶ profile ─▶ measure ─▶ plan ─▶ prepare ─▶ activate
      ▲       └────────┴────────── failed: the active epoch goes on ──┴──────────┘
      └── strategy, model, agent lost or joined, link lost

A new wish replaces the one under way; what that had begun is called off. It must not know how plans
are made, who performs commands, or what time it is other than `world.now`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from d3bed.core.epochs import EpochLife, EpochState
from d3bed.core.ids import AgentId, Epoch, FrameId, Tier
from d3bed.core.messages import (
    Activate,
    ModelSpec,
    Peer,
    Prepare,
    Retire,
    Route,
    StartSource,
    StopSource,
    TileReady,
)
from d3bed.plan import Basis, Choice, Patience, changes, judge
from d3bed.server.distrust import Distrust
from d3bed.server.epochs import PlannedEpoch, Wish
from d3bed.server.events import ComputePlan
from d3bed.server.runs import Run, Start
from d3bed.server.settings import PipelineSettings
from d3bed.server.views import Phase
from d3bed.server.world import LinkRecord, World

__all__ = ["PREPARE_S", "SETTLE_S", "Pipeline"]

#: How long agents may take to prepare an epoch.
PREPARE_S = 120.0
EPOCHS_KEPT = 100
#: A run shows as running for this long after its end: then all agents' batches have come.
SETTLE_S = 0.6


class Pipeline:
    """State and decisions of one pipeline; its traffic is counted by `traffic`."""

    def __init__(self, settings: PipelineSettings, world: World) -> None:
        self.settings = settings
        self.world = world
        self.wish: Wish | None = Wish(
            "start", world.new_cause(), settings.model, settings.strategy, settings.tiling
        )
        self.active: PlannedEpoch | None = None
        self.preparing: PlannedEpoch | None = None
        self.draining: dict[Epoch, PlannedEpoch] = {}
        self.epochs: dict[Epoch, PlannedEpoch] = {}
        self.run: Run | None = None
        self.start: Start | None = None
        if settings.autostart:
            self.start = Start(settings.frames, settings.in_flight)
        self._assembled = False
        self._stage: tuple[Phase, str] = ("waiting", "for agents")
        self._problem: str | None = None
        self._request: int | None = None
        self._requests = 0
        self._runs = 0
        self._basis = Basis({}, {})
        self._patience = Patience()
        self._distrust = Distrust()

    # ── what is known ─────────────────────────────────────────────────────────────────────────────

    @property
    def members(self) -> dict[AgentId, Tier]:
        """The connected agents of this pipeline and their tiers, device first."""
        return {a: tier for a, tier in self.settings.tiers.items() if self.world.is_connected(a)}

    @property
    def target(self) -> Wish | None:
        """What is, or is about to be, in force: the wish, else the active epoch's."""
        return self.wish or (self.active.wish if self.active else None)

    @property
    def guessed(self) -> tuple[AgentId, ...]:
        """The members whose times for the active model are predicted, not measured."""
        agents = self.world.agents
        model = self.active.wish.model if self.active else None
        return tuple(a for a in self.members if model is not None and agents[a].is_guessed(model))

    @property
    def is_running(self) -> bool:
        """Whether the source is producing frames."""
        return self.run is not None and self.run.ended_s is None

    @property
    def is_counting(self) -> bool:
        """Whether a run is under way, or may still get late batches of other agents than the device."""
        run = self.run
        return run is not None and (run.ended_s is None or self.world.now - run.ended_s < SETTLE_S)

    @property
    def phase(self) -> tuple[Phase, str]:
        if self.wish is not None:
            return self._stage
        if self.active is not None:
            return ("running" if self.is_counting else "idle", self.active.sentence())
        return ("failed", self._problem) if self._problem else ("waiting", "for a device")

    # ── wishes ────────────────────────────────────────────────────────────────────────────────────

    def want(
        self,
        cause: str,
        *,
        model: ModelSpec | None = None,
        strategy: str | None = None,
        tiling: str | None = None,
        forced: bool = False,
    ) -> None:
        """Ask for a new plan; replaces the wish under way, keeping what this one leaves open."""
        base = self.target
        self._call_off(f"superseded: {cause}")
        self._problem = None
        self.wish = Wish(
            cause,
            self.world.new_cause(),
            model or (base.model if base else self.settings.model),
            strategy or (base.strategy if base else self.settings.strategy),
            tiling or (base.tiling if base else self.settings.tiling),
            forced,
        )

    def give_up(self, problem: str, *, level: Literal["warn", "error"] = "error") -> None:
        """The wish cannot be granted; an active epoch goes on."""
        self._call_off(problem)
        wish, self.wish = self.wish, None
        kept = f"; epoch {self.active.number} goes on" if self.active else ""
        self._problem = None if self.active else problem
        self.world.note(
            f"{wish.cause}: {problem}{kept}" if wish else problem,
            level,
            pipeline=self.settings.id,
            cause_id=wish.cause_id if wish else None,
        )

    def _call_off(self, reason: str) -> None:
        self._request = None
        if self.preparing is not None:
            epoch, self.preparing = self.preparing, None
            self._move(epoch, "fail")
            self._retire_everywhere(epoch)
            self._say(f"epoch {epoch.number} called off: {reason}", epoch.wish)

    # ── toward a plan ─────────────────────────────────────────────────────────────────────────────

    def advance(self) -> None:
        """Order whatever is missing for the wish. May be called at any time."""
        if self.wish is None or self._request is not None or self.preparing is not None:
            return
        members = self.members
        missing = [agent for agent in self.settings.tiers if agent not in members]
        if missing and (not self._assembled or self.settings.device in missing):
            self._stage = ("waiting", f"for {', '.join(missing)}")
            return
        self._assembled = True
        model = self.wish.model
        if (
            self._load(model, members)
            and self._agree(model, members)
            and self._profile(model, members)
            and self._measure(members)
        ):
            self._plan(self.wish, members)

    def _load(self, model: ModelSpec, members: dict[AgentId, Tier]) -> bool:
        waiting = [agent for agent in members if model not in self.world.agents[agent].loaded]
        for agent in waiting:
            self.world.order_load(agent, model, self.settings.threads)
        self._stage = ("loading", f"{', '.join(waiting)} load {model.name}")
        return not waiting

    def _agree(self, model: ModelSpec, members: dict[AgentId, Tier]) -> bool:
        """Vertex numbers mean the same everywhere only if all exported equal graphs."""
        holders: dict[str, list[AgentId]] = {}
        for agent in members:
            holders.setdefault(self.world.agents[agent].loaded[model].graph.digest, []).append(agent)
        if len(holders) == 1:
            return True
        parts = [f"{', '.join(agents)} have {digest}" for digest, agents in holders.items()]
        self.give_up(f"the graphs of {model.name} differ: {'; '.join(parts)}; install equal versions")
        return False

    def _profile(self, model: ModelSpec, members: dict[AgentId, Tier]) -> bool:
        """Where an agent has profiled other networks, their prediction will do until no frames flow."""
        records = {agent: self.world.agents[agent] for agent in members}
        waiting = [a for a, r in records.items() if model not in r.profiles and not r.predict(model)]
        for agent in waiting:
            self.world.order_profile(agent, model)
        self._stage = ("profiling", f"{', '.join(waiting)} measure {model.name}")
        return not waiting

    def _measure(self, members: dict[AgentId, Tier]) -> bool:
        waiting = []
        for agent in members:
            peers = [
                peer
                for peer in self._peers(agent, members)
                if self._must_measure(self.world.links.setdefault((agent, peer.agent), LinkRecord()))
            ]
            if peers:
                waiting.append(agent)
                self.world.order_links(agent, tuple(peers))
        self._stage = ("measuring", f"{', '.join(waiting)} measure links")
        return not waiting

    def _must_measure(self, link: LinkRecord) -> bool:
        """Links that are not known; while no frames flow, also those of which nothing was heard for long."""
        stale = link.measured is not None and link.estimator.probe_due(self.world.now)
        return not link.known or (stale and not self.is_running)

    def _peers(self, agent: AgentId, members: dict[AgentId, Tier]) -> tuple[Peer, ...]:
        """Whom `agent` may have to send to."""
        others = self.settings.neighbours(agent, members)
        return tuple(self._peer(agent, members[agent], other, members[other]) for other in others)

    def _peer(self, agent: AgentId, tier: Tier, other: AgentId, there: Tier) -> Peer:
        shape = self.world.shapes.get((agent, other)) or self.settings.shape(tier, there)
        return Peer(other, there, self.world.agents[other].register.data_address, shape)

    def _plan(self, wish: Wish, members: dict[AgentId, Tier]) -> None:
        self._stage = ("planning", f"{wish.strategy} plans {wish.model.name}")
        self._requests += 1
        self._request = self._requests
        loaded = {agent: self.world.agents[agent].loaded[wish.model] for agent in members}
        current = self.active if self.active is not None and self.active.wish.model == wish.model else None
        members = self._distrust.trusted(members, self.world.now)
        self._basis = Basis(self.world.factors(members), self.world.rates(members))
        pins, news = self._distrust.decoding(loaded, members, self.settings.device)
        if news:
            self._say(news, wish)
        self.world.command(
            ComputePlan(
                pipeline=self.settings.id,
                request=self._request,
                device=self.settings.device,
                graph=loaded[self.settings.device].graph,
                profiles={a: self.world.agents[a].expected_s(wish.model, self.world.now) for a in members},
                fixed_s={
                    a: self.world.agents[a].expected_fixed_s(wish.model, self.world.now) for a in members
                },
                agents=members,
                rates=self._basis.rates,
                pins=(*self.settings.pins.get(wish.model.name, ()), *pins),
                strategy=wish.strategy,
                tiling=wish.tiling,
                untiled=frozenset(self._distrust.untiled.get(wish.model, ())),
                current=current.choice if current else None,
            )
        )

    def plan_failed(self, request: int, problem: str) -> None:
        if request == self._request:
            self._request = None
            self.give_up(problem)

    def plan_computed(self, request: int, choice: Choice) -> None:
        """Make the plan an epoch, unless it is what is running already. Stale answers are ignored."""
        wish = self.wish
        if request != self._request or wish is None:
            return
        self._request = None
        route = choice.route
        connections = {agent: self.world.agents[agent].connection for agent in choice.participants}
        self._record_plan(wish, choice)
        active = self.active
        if active is not None and not wish.forced and active.is_same(wish.model, choice.plan, connections):
            active.wish = msgspec.structs.replace(active.wish, strategy=wish.strategy, tiling=wish.tiling)
            self._keep(active, wish, "the plan is the same")
            return
        if active is not None and wish.reconsider and choice.kept_s is not None:
            verdict = judge(choice.kept_s, choice.timeline.latency_s)
            if not verdict.move:
                self._keep(active, wish, verdict.reason)
                return
            reason = verdict.reason
            if choice.adjustment is not None:
                reason += f", {choice.adjustment.examined} of {len(choice.plan.tiers)} vertices looked at"
            wish = self.wish = msgspec.structs.replace(wish, cause=f"{wish.cause}: {reason}")
        graph = self.world.agents[self.settings.device].loaded[wish.model].graph
        same_model = active is not None and active.wish.model == wish.model
        epoch = PlannedEpoch(
            pipeline=self.settings.id,
            life=EpochLife(self.world.new_epoch()),
            wish=wish,
            graph=graph,
            choice=choice,
            moved=len(choice.plan.moved(active.plan)) if active and same_model else 0,
            connections=connections,
            due_s=self.world.now + PREPARE_S,
            basis=self._basis,
        )
        self._remember(epoch)
        self.preparing = epoch
        self._move(epoch, "prepare")
        self._stage = ("preparing", f"epoch {epoch.number}: {epoch.sentence()}")
        for agent, tier in epoch.agents.items():
            peers = tuple(self._peer(agent, tier, to, epoch.agents[to]) for to in epoch.receivers(agent))
            self.world.send(
                agent,
                Prepare(self.settings.id, epoch.number, wish.model, epoch.plan, Route(route), peers),
            )

    def _keep(self, active: PlannedEpoch, wish: Wish, reason: str) -> None:
        """The active epoch goes on, and from now on counts as made for the present conditions."""
        self.wish = None
        active.basis = self._basis
        text = f"{wish.cause}: epoch {active.number} kept, because {reason}"
        if self._patience.kept(wish.subjects, self.world.now):
            self._say(text, wish)
        else:  # stored as any decision is, but nobody needs to read it again so soon
            data, cause_id = {"text": text, "pipeline": self.settings.id}, wish.cause_id
            self.world.record("events", at_s=self.world.now, cause_id=cause_id, kind="decision", data=data)

    def _remember(self, epoch: PlannedEpoch) -> None:
        """Keep the last `EPOCHS_KEPT` epochs, and those that still carry frames."""
        self.epochs[epoch.number] = epoch
        over = (EpochState.RETIRED, EpochState.FAILED)
        gone = [number for number, old in self.epochs.items() if old.life.state in over]
        for number in gone[: max(0, len(self.epochs) - EPOCHS_KEPT)]:
            del self.epochs[number]

    # ── from epoch to epoch ───────────────────────────────────────────────────────────────────────

    def ready(self, agent: AgentId, number: Epoch, tiles: tuple[TileReady, ...] = ()) -> None:
        epoch = self.preparing
        if epoch is None or epoch.number != number:
            return
        if inexact := [tile for tile in tiles if not tile.identical]:
            block = self._distrust.never_tile(epoch, inexact)
            self.want(f"{epoch.wish.cause} (tiles of {block} on {agent} differ from the undivided network)")
            return
        epoch.tiles += tiles
        epoch.ready.add(agent)
        if not epoch.ready >= set(epoch.agents):
            return
        self._move(epoch, "activate")
        epoch.activated_at = self.world.now
        self.preparing, self.wish = None, None
        old, self.active = self.active, epoch
        if old is not None and epoch.wish.reconsider:
            self._patience.moved(old.identity, epoch.identity, self.world.now)
        if old is not None:
            self.draining[old.number] = old
            self._move(old, "drain")
        abandoned = tuple(old.number for old in self.draining.values() if old.broken)
        self.world.send(self.settings.device, Activate(self.settings.id, number, abandoned))
        predicted = f"predicted {1000 * epoch.predicted_s:.0f} ms a frame"
        if guessed := self.guessed:
            predicted += f" (times on {', '.join(guessed)} are predicted from other networks)"
        self._say(f"{epoch.wish.cause} → epoch {number}: {epoch.sentence()}; {predicted}", epoch.wish)
        if self.run is not None and self.is_running:
            self.run.epochs.append(epoch)
        elif self.start is not None:
            self.begin_run(self.start)

    def prepare_failed(self, agent: AgentId, number: Epoch, problem: str) -> None:
        if self.preparing is not None and self.preparing.number == number:
            self.give_up(f"{agent} could not prepare epoch {number}: {problem}")

    def drained(self, number: Epoch) -> None:
        """The device has all answers of an old epoch; one from before a restart is retired as well."""
        epoch = self.draining.pop(number, None)
        if epoch is not None:
            self._move(epoch, "retire")
            self._retire_everywhere(epoch)
        elif number not in self.epochs:
            self.world.saw_epoch(number)
            for agent in self.members:
                self.world.send(agent, Retire(self.settings.id, number))

    def link_lost(self, agent: AgentId, number: Epoch, peer: AgentId, problem: str) -> None:
        """Measure the link again; where that fails the planner does without it.

        Without a `peer` it is a frame that failed on `agent`: no other plan would mend that.
        """
        if self.active is None or self.active.number != number or self.active.broken:
            return
        if not peer:
            self.world.note(f"{agent}: {problem}", "error", pipeline=self.settings.id)
            return
        if self._needs(self.active, agent, peer):
            self.active.broken = True
        for ends in ((agent, peer), (peer, agent)):
            if ends in self.world.links:
                self.world.links[ends].forget()
        self.want(f"link {agent}→{peer} lost ({problem})", forced=True)

    def _needs(self, epoch: PlannedEpoch, *agents: AgentId) -> bool:
        """Whether frames cannot be finished without these, or a link between them: not so for tiles."""
        return set(agents) <= set(epoch.route.values())

    def frame_rescued(self, agent: AgentId, number: Epoch, frame: FrameId, problem: str) -> None:
        """Tiles did not come, and their owner did without. Where nobody is known to be lost, the helpers are
        left out for a while."""
        epoch = self.epochs.get(number)
        if epoch is None:
            return
        cause = f"frame {frame}: {agent} computed all tiles alone ({problem})"
        self.world.note(cause, "warn", pipeline=self.settings.id, cause_id=epoch.wish.cause_id)
        if epoch is self.active and self.wish is None:
            self._distrust.shun_helpers(epoch, self.world.now)
            self.want(cause, forced=True)

    def agent_joined(self, agent: AgentId) -> None:
        """One more to plan with. Before all were here once, `advance` waits for the others."""
        if self._assembled and (self.wish is None or self._request is not None or self.preparing is not None):
            self.want(f"{agent} joined")

    def agent_lost(self, agent: AgentId) -> None:
        """Plan without it. Without the device there is nothing to plan: its epochs are over."""
        for epoch in (self.active, *self.draining.values()):
            if epoch is not None and self._needs(epoch, agent):
                epoch.broken = True
        if agent == self.settings.device:
            self._device_lost()
        elif self.active is not None and agent in self.active.agents:
            self.want(f"{agent} lost")
        elif self.preparing is not None and agent in self.preparing.agents:
            self.want(f"{self.preparing.wish.cause} ({agent} lost on the way)")
        elif self._request is not None and self.wish is not None:
            self.want(f"{self.wish.cause} ({agent} lost on the way)")

    def _device_lost(self) -> None:
        base = self.target
        self._call_off(f"{self.settings.device} lost")
        if self.active is not None:
            self._move(self.active, "drain")
            self.draining[self.active.number] = self.active
            self.active = None
        for number in list(self.draining):
            self.drained(number)
        if self.run is not None and self.is_running:
            left = self.run.frames_wanted
            if left is not None:
                left = max(0, left - self.run.numbers.answered)
            self.start = Start(left, self.run.in_flight) if left != 0 else None
            self.end_run()
        if base is not None:
            self.wish = Wish(
                f"{self.settings.device} is back",
                self.world.new_cause(),
                base.model,
                base.strategy,
                base.tiling,
            )

    def measure_guessed(self) -> None:
        """Once no frames flow, have agents measure what was predicted for the active plan."""
        if self.active is None or self.wish is not None or self.is_running:
            return
        for agent in self.guessed:
            self.world.order_profile(agent, self.active.wish.model)

    def profiled(self, agent: AgentId, model: ModelSpec, off: float) -> None:
        """An agent has measured what was predicted, and the prediction was `off` by that share."""
        self.world.note(
            f"{agent} has measured {model.name}: its time was predicted {off:+.1%} off",
            pipeline=self.settings.id,
            cause_id=self.active.wish.cause_id if self.active else None,
        )
        active = self.active
        if active is None or self.wish is not None or active.wish.model != model:
            return
        if not self.guessed:
            self.wish = msgspec.structs.replace(
                active.wish,
                cause=f"{model.name} is measured now",
                cause_id=self.world.new_cause(),
                forced=False,
                reconsider=True,
            )

    def watch(self) -> None:
        """While frames flow: look again at links that carry none, and at the plan once conditions changed."""
        if not self.settings.adapt or self.wish is not None or self.active is None or not self.is_running:
            return
        members = self.members
        found = changes(self.active.basis, self.world.factors(members), self.world.rates(members))
        if found and self._patience.ready(self.world.now):
            cause = "; ".join(change.text for change in found[:3])
            self.wish = msgspec.structs.replace(
                self.active.wish,
                cause=cause,
                cause_id=self.world.new_cause(),
                forced=False,
                reconsider=True,
                subjects=tuple(sorted(change.subject for change in found)),
            )
            return
        for agent in members:
            peers = [p for p in self._peers(agent, members) if self._is_out_of_sight(agent, p.agent)]
            if peers:
                self.world.order_links(agent, tuple(peers))

    def _is_out_of_sight(self, source: AgentId, target: AgentId) -> bool:
        """Nothing has crossed the link, and nobody has measured it, for long."""
        link = self.world.links.get((source, target))
        return (
            link is None
            or not link.known
            or (link.measured is not None and link.estimator.probe_due(self.world.now))
        )

    def check_time(self) -> None:
        if self.preparing is not None and self.world.now >= self.preparing.due_s:
            late = sorted(set(self.preparing.agents) - self.preparing.ready)
            self.give_up(f"{', '.join(late)} not ready for epoch {self.preparing.number} in time")

    def _move(self, epoch: PlannedEpoch, event: str) -> None:
        epoch.life.move(event)
        self.record_epoch(epoch)

    def _retire_everywhere(self, epoch: PlannedEpoch) -> None:
        for agent in epoch.agents:
            self.world.send(agent, Retire(self.settings.id, epoch.number))

    # ── runs ──────────────────────────────────────────────────────────────────────────────────────

    def begin_run(self, start: Start) -> None:
        """Start the source, or note that it shall start with the first active epoch."""
        if self.active is None:
            self.start = start
            return
        self.start = None
        self.open_run(start)
        self.world.send(self.settings.device, StartSource(self.settings.id, start.frames, start.in_flight))

    def open_run(self, start: Start) -> Run:
        """Begin to count; also for a source that was running before the server (re)started."""
        self._runs += 1
        self.run = Run(
            id=f"{self.settings.id}-{self.world.boot}-{self._runs}",
            pipeline=self.settings.id,
            network=self.settings.network,
            started_s=self.world.now,
            frames_wanted=start.frames,
            in_flight=start.in_flight,
            epochs=[self.active] if self.active else [],
        )
        return self.run

    def stop_run(self) -> None:
        self.start = None
        if self.run is not None and self.is_running:
            self.run.stopped = True
            self.world.send(self.settings.device, StopSource(self.settings.id))

    def end_run(self) -> None:
        if self.run is not None and self.run.ended_s is None:
            self.run.ended_s = self.world.now
            self.run.unsaved = True

    # ── rows and words ────────────────────────────────────────────────────────────────────────────

    def _say(self, text: str, wish: Wish) -> None:
        self.world.note(text, pipeline=self.settings.id, cause_id=wish.cause_id)

    def _record_plan(self, wish: Wish, choice: Choice) -> None:
        self.world.record(
            "plans",
            at_s=self.world.now,
            cause_id=wish.cause_id,
            pipeline=self.settings.id,
            model=wish.model.name,
            strategy=wish.strategy,
            cost_s=choice.solution.cost_s,
            plan_time_s=choice.solution.plan_time_s,
            latency_s=choice.timeline.latency_s,
            route=dict(choice.route),
            tiers=choice.plan.describe(),
        )

    def record_epoch(self, epoch: PlannedEpoch) -> None:
        """Publish and store the epoch as it is now. At once on disk: numbers must never come twice."""
        view = epoch.view
        self.world.publish("epoch", view, epoch.wish.cause_id)
        self.world.record("epochs", urgent=True, **msgspec.to_builtins(view), plan=epoch.plan.describe())
