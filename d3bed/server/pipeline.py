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

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from d3bed.core.epochs import EpochLife
from d3bed.core.ids import AgentId, CauseId, Epoch, FrameId, Tier
from d3bed.core.measurements import LinkShape, TileReady
from d3bed.core.messages import Abandon, ModelSpec, Retire
from d3bed.core.models import CLOSE, TORCH
from d3bed.plan import YOUNG_S, Basis, Choice, Patience, Verdict, changes, explains, judge, rebased
from d3bed.server.decisions import Decisions
from d3bed.server.distrust import IN_A_ROW, Distrust
from d3bed.server.epochs import PlannedEpoch, Wish
from d3bed.server.events import ComputePlan
from d3bed.server.groundwork import LOOK_S, VERIFY_S, Groundwork, Stage
from d3bed.server.newcomers import Newcomers
from d3bed.server.settings import PipelineSettings
from d3bed.server.stalls import Stalls
from d3bed.server.stream import Stream
from d3bed.server.succession import Succession
from d3bed.server.tiles import foretell, judged_anew
from d3bed.server.views import DecisionView
from d3bed.server.world import World

__all__ = ["PREPARE_S", "Pipeline"]

#: How long agents may take to prepare an epoch.
PREPARE_S = 120.0


class Pipeline:
    """State and decisions of one pipeline; its frames are started by `stream` and counted by `traffic`."""

    def __init__(self, settings: PipelineSettings, world: World) -> None:
        self.settings, self._tiers = settings, settings.tiers
        self.world = world
        self.wish: Wish | None = Wish(
            "start", world.new_cause(), settings.model, settings.strategy, settings.tiling
        )
        self.stream = Stream(settings, world)
        self.decisions = Decisions(settings.id, world)
        self._line = Succession(settings.id, settings.device, world)
        self._ground = Groundwork(settings, world)
        self._newcomers = Newcomers(settings, self._ground, world)
        self._assembled = False
        self._stage: Stage = ("waiting", "for agents")
        self._problem: str | None = None
        self._request: int | None = None
        self._requests = 0
        self._basis = Basis({}, {})
        self._shared: dict[str, float] = {}
        self._patience = Patience()
        self._distrust = Distrust()
        self._stalls = Stalls(settings.id, world)

    # ── what is known ─────────────────────────────────────────────────────────────────────────────

    @property
    def members(self) -> dict[AgentId, Tier]:
        """The agents of this pipeline that plans are made with, and their tiers, device first: those that are
        connected, but for newcomers that still get ready."""
        tiers, world = self._tiers, self.world
        return {a: t for a, t in tiers.items() if world.is_connected(a) and a not in self._newcomers}

    @property
    def target(self) -> Wish | None:
        """What is, or is about to be, in force: the wish, else the active epoch's."""
        return self.wish or (self.active.wish if self.active else None)

    @property
    def awaits_turn(self) -> bool:
        """Whether it may be for others to be done with profiling or measuring that it has no plan yet, or
        somebody is not ready to be planned with."""
        return bool(self._newcomers) or (
            self.wish is not None and self._stage[0] in ("profiling", "measuring")
        )

    @property
    def guessed(self) -> tuple[AgentId, ...]:
        """The members whose times for the active model are predicted, not measured."""
        agents = self.world.agents
        model = self.active.wish.model if self.active else None
        return tuple(a for a in self.members if model is not None and agents[a].is_guessed(model))

    @property
    def active(self) -> PlannedEpoch | None:
        """What frames that start now run under."""
        return self._line.active

    @property
    def demand(self) -> dict[str, float]:
        """The share of time that its frames keep agents and links busy, as far as is planned."""
        if self.active is None or not self.stream.is_running:
            return {}
        choice = self.active.choice
        per_s = self.stream.frames_per_s(choice.latency_s, choice.frames_per_s)
        shared = self.active.shared
        return {stage: busy_s / shared.get(stage, 1.0) * per_s for stage, busy_s in choice.busy_s.items()}

    @property
    def draining(self) -> Mapping[Epoch, PlannedEpoch]:
        return self._line.draining

    @property
    def epochs(self) -> Mapping[Epoch, PlannedEpoch]:
        """The last ones, and all that still carry frames."""
        return self._line.epochs

    @property
    def phase(self) -> Stage:
        if self.wish is not None:
            return self._stage
        if self.active is not None:
            text = self.active.sentence()
            if self.active.broken:
                text = f"the device answers alone: {self._problem or 'its plan needs who is lost'}"
            elif self.stream.rate_per_s == 0:
                text = f"frames are paused: {text}"
            return ("running" if self.stream.is_counting else "idle", text)
        return ("failed", self._problem) if self._problem else ("waiting", "for a device")

    @property
    def outline(self) -> object:
        """Another one when what is shown of it may have changed, apart from numbers and from its agents."""
        stream = self.stream
        return self.wish, self.active, self._stage, self._problem, stream.run, stream.is_counting

    @property
    def switches(self) -> int:
        """How many epochs came into force."""
        return self._line.switches

    def record_again(self) -> None:
        """The store lost its epochs."""
        self._line.record_again()

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

    def set_rate(self, rate_per_s: float | None, order: CauseId | None = None) -> None:
        """The camera takes another number of frames a second, which may need another plan."""
        self.stream.set_rate(rate_per_s, order)
        if rate_per_s == 0:
            self.world.note("frames are paused", pipeline=self.settings.id)
        else:
            self.want("frames come one by one" if rate_per_s is None else f"{rate_per_s:g} frames/s wanted")

    def reshape(self, network: str, shapes: dict[str, LinkShape]) -> None:
        """Its links are those of another network; plans follow from what is measured."""
        self.settings = msgspec.structs.replace(self.settings, network=network, shapes=shapes)
        self._ground.settings = self.stream.settings = self.settings

    def give_up(self, problem: str, *, level: Literal["warn", "error"] = "error") -> None:
        """The wish cannot be granted; an active epoch goes on."""
        self._call_off(problem)
        self._newcomers.cannot_be_missed()
        wish, self.wish = self.wish, None
        self._problem = None if self.active is not None and not self.active.broken else problem
        if wish is None:
            self.world.note(problem, level, pipeline=self.settings.id)
            return
        news = not wish.reconsider or self._patience.kept(wish.subjects, self.world.now)
        self._patience.settle(self.world.now)
        self.decisions.failed(wish, problem, self.active, level, news=news)

    def _call_off(self, reason: str) -> None:
        self._request = None
        if (epoch := self._line.call_off()) is not None:
            self._say(f"epoch {epoch.number} called off: {reason}", epoch.wish)

    # ── toward a plan ─────────────────────────────────────────────────────────────────────────────

    def advance(self) -> None:
        """Order whatever is missing for the wish. May be called at any time."""
        target = self.target if self._newcomers else None
        if target is not None:
            if (agent := self._newcomers.ready(target.model, self.members, self._line.agents)) is not None:
                self._plan_with(agent)
        if self.wish is None or self._request is not None or self._line.preparing is not None:
            return
        members = self.members
        missing = [agent for agent in self.settings.tiers if agent not in members]
        if missing and (not self._assembled or self.settings.device in missing):
            self._stage = ("waiting", f"for {', '.join(missing)}")
            return
        self._assembled = True
        stage = self._ground.load(self.wish.model, members)
        if stage is None and (problem := self._ground.disagreement(self.wish.model, members)):
            self.give_up(problem)
            return
        stage = stage or self._ground.profile(self.wish.model, members)
        stage = stage or self._ground.measure(members, busy=self.stream.is_running)
        stage = stage or self._ground.verify(self.wish, members)
        if stage is not None:
            self._stage = stage
        else:
            self._plan(self.wish, members)

    def _plan(self, wish: Wish, members: dict[AgentId, Tier]) -> None:
        self._stage = ("planning", f"{wish.strategy} plans {wish.model.name}")
        self._requests = self._request = self._requests + 1
        loaded = {agent: self.world.agents[agent].loaded[wish.model] for agent in members}
        current = self.active if self.active is not None and self.active.wish.model == wish.model else None
        members = self._distrust.trusted(members, self.world.now)
        self._basis = self.world.conditions(members, self.settings.id)
        self._shared = self.world.slowdowns(self.settings.id, members)
        agents, now = self.world.agents, self.world.now

        def slowed(agent: AgentId, times_s: Sequence[float]) -> tuple[float, ...]:
            return tuple(time_s * self._shared.get(agent, 1.0) for time_s in times_s)

        pins, news = self._distrust.decoding(loaded, members, self.settings.device)
        if news:
            self._say(news, wish)
        self.world.command(
            ComputePlan(
                pipeline=self.settings.id,
                request=self._request,
                device=self.settings.device,
                graph=loaded[self.settings.device].graph,
                profiles={a: slowed(a, agents[a].expected_s(wish.model, now)) for a in members},
                fixed_s={a: slowed(a, agents[a].expected_fixed_s(wish.model, now)) for a in members},
                agents=members,
                rates=self._basis.rates,
                pins=(*self.settings.pins.get(wish.model.name, ()), *pins),
                strategy=wish.strategy,
                tiling="none" if wish.is_hasty(self.active) else wish.tiling,
                untiled=frozenset(self._distrust.untiled.get(wish.model, ())),
                rate_per_s=self.stream.rate_per_s or None,
                current=current.choice if current else None,
            )
        )

    def plan_failed(self, request: int, problem: str) -> None:
        if request == self._request:
            self.give_up(problem)

    def plan_computed(self, request: int, choice: Choice) -> None:
        """Make the plan an epoch, unless it is what is running already. Stale answers are ignored."""
        wish = self.wish
        if request != self._request or wish is None:
            return
        self._request = None
        connections = {agent: self.world.agents[agent].connection for agent in choice.participants}
        self.decisions.planned(wish, choice)
        active, beside = self.active, False
        if active is not None:
            found = changes(active.basis, self._basis) if wish.reconsider else []  # by now: more, or less
            if found and self._stalls.hold(active.basis, self._basis):
                self.wish = None
                return
            beside = bool(wish.seen) and not explains(found, active.choice.busy_s, choice.busy_s)
            self.wish = wish = wish.because(found or wish.seen, active.choice.busy_s, choice.busy_s)
        new = wish.forced or (active is not None and active.broken)
        if active is not None and not new and active.is_same(wish.model, choice, connections):
            active.wish = msgspec.structs.replace(active.wish, strategy=wish.strategy, tiling=wish.tiling)
            self._keep(active, wish, choice, "the plan is the same")
            return
        if active is not None and (verdict := self._verdict(active, wish, choice)) is not None:
            if verdict.move and beside:
                verdict = Verdict(False, f"what has changed matters to neither plan ({verdict.reason})")
                self._basis = rebased(active.basis, self._basis, wish.seen)
            if not verdict.move:
                self._keep(active, wish, choice, verdict.reason)
                return
            until_s = wish.begun_s + VERIFY_S  # or a plan would be made again and again
            if self.world.now < until_s and (unheard := self._ground.unheard(choice, wish.since_s)):
                self.wish = msgspec.structs.replace(wish, verify=unheard, until_s=until_s)
                return
        epoch = self._proposed(wish, choice, connections)
        self._line.propose(epoch)
        self._stage = ("preparing", f"epoch {epoch.number}: {epoch.sentence()}")
        for each in epoch.group:
            self._ground.prepare(each)

    def _verdict(self, active: PlannedEpoch, wish: Wish, choice: Choice) -> Verdict | None:
        """Whether a plan is enough better than the present one; None where that does not matter."""
        if wish.forced or active.broken or not wish.reconsider or choice.outrun or choice.kept_s is None:
            return None
        young = active.activated_at is not None and self.world.now < active.activated_at + YOUNG_S
        alike = not choice.mix and active.places_alike(choice)
        return judge(choice.kept_s, choice.latency_s, young=young and bool(wish.seen), alike=alike)

    def _proposed(self, wish: Wish, choice: Choice, connections: dict[AgentId, int]) -> PlannedEpoch:
        """The epoch of a plan; of a mix that of the first plan, which leads the others."""
        active = self.active
        same_model = active is not None and active.wish.model == wish.model

        def planned(choice: Choice, share: float, led_by: Epoch | None) -> PlannedEpoch:
            return PlannedEpoch(
                pipeline=self.settings.id,
                life=EpochLife(self.world.new_epoch()),
                wish=wish,
                graph=self.world.agents[self.settings.device].loaded[wish.model].graph,
                choice=choice,
                moved=len(choice.plan.moved(active.plan)) if active and same_model else 0,
                connections=connections,
                due_s=self.world.now + PREPARE_S,
                basis=self._basis,
                shared=self._shared,
                share=share,
                led_by=led_by,
            )

        lead = planned(choice, choice.mix[0].share if choice.mix else 1.0, None)
        lead.others = tuple(
            planned(
                msgspec.structs.replace(choice, plan=other.plan, timeline=other.timeline, mix=()),
                other.share,
                lead.number,
            )
            for other in choice.mix[1:]
        )
        return lead

    def _keep(self, active: PlannedEpoch, wish: Wish, choice: Choice, reason: str) -> None:
        """The active epoch goes on, and from now on counts as made for the present conditions."""
        self.wish = None
        active.basis = self._basis
        news = self._patience.kept(wish.subjects, self.world.now)
        self.decisions.kept(active, wish, choice, reason, news=news)

    # ── from epoch to epoch ───────────────────────────────────────────────────────────────────────

    def ready(self, agent: AgentId, number: Epoch, tiles: tuple[TileReady, ...] = ()) -> None:
        lead = self._line.preparing
        epoch = next((each for each in lead.group if each.number == number), None) if lead else None
        if lead is None or epoch is None:
            return
        tiles = epoch.tiles_of(agent, tiles)
        loaded = self.world.agents[agent].loaded.get(epoch.wish.model)
        close = CLOSE if loaded is not None and loaded.engine != TORCH else 0.0  # it promises no bits
        if inexact := [
            t
            for t in tiles
            if not (t.identical or 0 < close >= t.max_rel_err or self.settings.tolerates(t.max_rel_err))
        ]:
            block = self._distrust.never_tile(epoch, inexact)
            self.want(f"{epoch.wish.cause} (tiles of {block} on {agent} differ from the undivided network)")
            return
        epoch.tiles_ready(agent, tiles)
        epoch.ready.add(agent)
        if any(each.late for each in lead.group):
            return
        for each in lead.group:
            foretell(each, self.world)
        if (active := self.active) is not None and self._is_refuted(active, lead):
            return
        self.wish, epoch = None, lead
        old, reasons = self._line.activate(), list[str]()
        if old is not None and epoch.wish.reconsider:
            reasons.append(self._patience.moved(old.placement, epoch.placement, self.world.now))
        else:
            self._patience.settle(self.world.now)
        if self.stream.rate_per_s:
            reasons.append(f"good for {epoch.choice.frames_per_s:.3g} frames/s")
        if epoch.choice.outrun:
            reasons.append("the plan before could not keep up")
        if (adjusted := epoch.choice.adjustment) is not None:
            reasons.append(f"{adjusted.examined} of {len(epoch.plan.tiers)} vertices looked at")
        if guessed := self.guessed:
            reasons.append(f"times on {', '.join(guessed)} are predicted from other networks")
        self.decisions.moved(epoch, old, "; ".join(filter(None, reasons)))
        self.stream.activated(epoch)
        if epoch.wish.is_hasty(old) and list(self.members.values()).count(Tier.EDGE) > 1:
            self._reconsider(epoch, "there is time for tiles now")

    def _is_refuted(self, active: PlannedEpoch, lead: PlannedEpoch) -> bool:
        """Whether an epoch is not worth it: its tiles take too long, or what it was made for is over."""
        why, basis = "with tiles as timed", self.world.conditions(self.members, self.settings.id)
        if lead.wish.reconsider and (found := changes(lead.basis, basis)):
            why, self._basis = f"{found[0].text} meanwhile:", basis
            lead.choice = judged_anew(lead, active, self.world, basis)
        elif not any(each.tiles for each in lead.group):
            return False
        verdict = self._verdict(active, lead.wish, lead.choice)
        if verdict is None or verdict.move:
            return False
        self._line.call_off()
        self._keep(active, lead.wish, lead.choice, f"{why} {verdict.reason}")
        return True

    def _reconsider(self, active: PlannedEpoch, cause: str) -> None:
        """It may be for another plan now."""
        known = {"cause": cause, "cause_id": self.world.new_cause(), "forced": False, "reconsider": True}
        self.wish = msgspec.structs.replace(active.wish, **known)

    def tiles_checked(self, agent: AgentId, number: Epoch, done: int, of: int) -> None:
        lead = self._line.preparing
        if lead is not None and number in [each.number for each in lead.group]:
            self._stage = ("preparing", f"epoch {number}: {agent} has checked {done} of its {of} tiles")

    def prepare_failed(self, agent: AgentId, number: Epoch, problem: str) -> None:
        preparing = self._line.preparing
        if preparing is not None and number in [each.number for each in preparing.group]:
            self.give_up(f"{agent} could not prepare epoch {number}: {problem}")

    def drained(self, number: Epoch) -> None:
        """The device has all answers of an old epoch; one from before a restart is retired as well."""
        known = self._line.drained(number)
        self.decisions.closed(number, self.stream.in_flight)
        if not known:
            self.world.saw_epoch(number)
            for agent in self.members:
                self.world.send(agent, Retire(self.settings.id, number))

    def link_lost(self, agent: AgentId, number: Epoch, peer: AgentId, problem: str) -> None:
        """Measure the link again; where that fails the planner does without it. An older epoch's last frames
        are abandoned: they need not wait."""
        epoch = self.epochs.get(number)
        if epoch is not None and number in self.draining and epoch.needs(agent, peer):
            self._line.abandon(epoch)
            return
        if self.active is None or epoch not in self.active.group or epoch.broken:
            return
        self._line.lose(agent, peer)
        for ends in ((agent, peer), (peer, agent)):
            if ends in self.world.links:
                self.world.links[ends].forget()
        self.want(f"link {agent}→{peer} lost ({problem})", forced=True)

    def frame_failed(self, agent: AgentId, number: Epoch, frame: FrameId, problem: str) -> None:
        """No other plan would mend that, but the device need not wait for the answer."""
        self.world.note(f"{agent}: frame {frame}: {problem}", "error", pipeline=self.settings.id)
        self.world.send(self.settings.device, Abandon(self.settings.id, number, frame))

    def frame_rescued(self, agent: AgentId, number: Epoch, frame: FrameId, problem: str) -> None:
        """Tiles did not come, and their owner did without. Where that goes on and nobody is known to be lost,
        the helpers are left out for a while."""
        epoch = self.epochs.get(number)
        if epoch is None:
            return
        cause = f"frame {frame}: {agent} computed all tiles alone ({problem})"
        self.world.note(cause, "warn", pipeline=self.settings.id, cause_id=epoch.wish.cause_id)
        if epoch is self.active and self.wish is None:
            if self._distrust.shun_helpers(epoch, self.world.now):
                self.want(cause, forced=True)

    def agent_joined(self, agent: AgentId) -> None:
        """One more to plan with. Before all were here once, `advance` waits for the others. Where a plan is
        in force it first gets ready beside it: until then plans follow conditions without it."""
        if self._assembled and self.active is not None and agent != self.settings.device:
            self._newcomers.add(agent)
        else:
            self._plan_with(agent)

    def _plan_with(self, agent: AgentId) -> None:
        if self._assembled and (
            self.wish is None or self._request is not None or self._line.preparing is not None
        ):
            self.want(f"{agent} joined")

    def agent_unable(self, agent: AgentId, model: ModelSpec, problem: str) -> None:
        """It could not load or profile a model."""
        if agent in self._newcomers:
            self._newcomers.unable(agent, problem)
        elif self.wish is not None and self.wish.model == model:
            self.give_up(f"{agent} could not load or profile {model.name}: {problem}")

    def agent_lost(self, agent: AgentId) -> None:
        """Plan without it. Without the device there is nothing to plan: its epochs are over."""
        self._newcomers.discard(agent)
        self._distrust.lost(agent)
        self._line.lose(agent)
        if agent == self.settings.device:
            self._device_lost()
        elif self.active is not None and (agent in self.active.agents or self.active.broken):
            self.want(f"{agent} lost")
        elif self._line.preparing is not None and agent in self._line.preparing.agents:
            self.want(f"{self._line.preparing.wish.cause} ({agent} lost on the way)")
        elif self._request is not None and self.wish is not None:
            self.want(f"{self.wish.cause} ({agent} lost on the way)")

    def _device_lost(self) -> None:
        base = self.target
        self._call_off(f"{self.settings.device} lost")
        self._line.end_all()
        self.stream.lose_device()
        if base is not None:
            cause, cause_id = f"{self.settings.device} is back", self.world.new_cause()
            self.wish = Wish(cause, cause_id, base.model, base.strategy, base.tiling)

    def measure_guessed(self) -> None:
        """Once no frames flow, have agents measure what was predicted for the active plan."""
        if self.active is None or self.wish is not None or self.stream.is_running:
            return
        for agent in self.guessed:
            self.world.order_profile(agent, self.active.wish.model)
        for agent, model in list(self._distrust.stale.items()):
            there = model in self.world.agents[agent].loaded
            if not there or self.world.order_profile(agent, model, fresh=True):
                del self._distrust.stale[agent]

    def measured(self, decision: DecisionView) -> None:
        """A move has its result. Where predictions fail again and again, the agent that is furthest from what
        it was planned with (else the busiest) profiles anew: at once where frames can do without it."""
        active = self.active
        if active is None or decision.error is None or not self._distrust.failed(decision.error):
            return
        now = self.world.conditions(active.agents, self.settings.id).factors
        off = {agent: now[agent] / active.basis.factors.get(agent, 1.0) for agent in active.agents}
        busy_s = {agent: active.choice.busy_s.get(agent, 0.0) for agent in off}
        agent = max(off, key=lambda each: (busy_s[each] * round(abs(off[each] - 1), 1), busy_s[each]))
        text = f"{IN_A_ROW} predictions in a row failed, the last by {decision.error:+.0%}; {agent} takes"
        text += f" {off[agent]:.2f} times what it was planned with"
        if self._distrust.renew(agent, active.wish.model, self.world.now):
            if self._newcomers.renew(agent):
                del self._distrust.stale[agent]
                self.want(f"{agent} profiles anew, as predictions failed")
            text += " and profiles anew" + ("" if agent in self._newcomers else " when no frames flow")
        self.world.note(text, "warn", pipeline=self.settings.id, cause_id=decision.cause_id)

    def profiled(self, agent: AgentId, model: ModelSpec, off: float) -> None:
        """An agent has measured what was predicted, and the prediction was `off` by that share."""
        self.world.note(
            f"{agent} has measured {model.name}: its time was predicted {off:+.1%} off",
            pipeline=self.settings.id,
            cause_id=active.wish.cause_id if (active := self.active) else None,
        )
        if active is None or self.wish is not None or active.wish.model != model:
            return
        if not self.guessed:
            self._reconsider(active, f"{model.name} is measured now")

    def watch(self) -> None:
        """While frames flow: look again at links that carry none, and at the plan once conditions changed."""
        busy = self.wish is not None or not self.stream.is_running
        if busy or self.active is None or not self.settings.adapt:
            return
        if (opened := self._ground.opened(self.active)) is not None:
            self.want(opened, forced=True)
            return
        members, before = self.members, self.active.basis
        basis = self.world.conditions(members, self.settings.id)
        found = changes(before, basis) if not self._stalls.hold(before, basis) else []
        if found and (held := self._patience.held(self.world.now)):
            self.world.note(f"{found[0].text}: {held}", pipeline=self.settings.id)
        if found and self._patience.ready(self.world.now):
            since_s, now = self._ground.changed_since_s, self.world.now
            self.wish = msgspec.structs.replace(
                self.active.wish,
                cause_id=self.world.new_cause(),
                forced=False,
                reconsider=True,
                since_s=since_s,
                begun_s=now,
                until_s=now + LOOK_S,
                verify=self._ground.to_verify(members),
            ).because(found, self.active.choice.busy_s)
            return
        self._ground.measure_out_of_sight(self.active.wish.model, members)

    def check_time(self) -> None:
        epoch = self._line.preparing
        if epoch is not None and self.world.now >= epoch.due_s:
            late = sorted({agent for each in epoch.group for agent in each.late})
            self.give_up(f"{', '.join(late)} not ready for epoch {epoch.number} in time")

    # ── rows and words ────────────────────────────────────────────────────────────────────────────

    def _say(self, text: str, wish: Wish) -> None:
        self.world.note(text, pipeline=self.settings.id, cause_id=wish.cause_id)
