"""What the coordinator knows of agents and links, and the orders that agents have yet to answer.

Pure: commands pile up in `out` until `take` hands them over. Orders that disturb each other are kept
apart here: two agents of one host never profile at the same time (they share cores and a disk
cache), and links are measured by one agent at a time while nobody profiles.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from d3bed.core.ids import AgentId, CauseId, Epoch, PipelineId, Tier
from d3bed.core.measurements import BoardSample, LinkRate
from d3bed.core.messages import (
    LinkMeasured,
    LoadModel,
    MeasureLinks,
    ModelLoaded,
    ModelSpec,
    Peer,
    ProfileModel,
    Register,
    SampleSpeed,
    ToAgent,
)
from d3bed.plan import (
    Basis,
    LinkEstimator,
    Predictor,
    ProfileCorrection,
    Tendency,
    samples_of,
    slowdowns,
)
from d3bed.server.asked import Asked, Order
from d3bed.server.events import Command, Publish, Record, SendTo
from d3bed.server.orders import Orders
from d3bed.server.statistics import LinkTraffic
from d3bed.server.views import AgentView, LinkView, NoteView, SceneView
from d3bed.server.ways import Ways

__all__ = ["AgentRecord", "LinkRecord", "World"]

#: So many agents are named to one that needs a model's files.
MOST_NEAR = 3
#: How long an order may take before it counts as failed.
LOAD_S, PROFILE_S, LINK_S, QUICK_LINK_S = 300.0, 600.0, 60.0, 5.0
NOTES_KEPT = 200
#: An agent that does not answer is not asked again for so long.
SAMPLE_S = 0.3
#: A link that could not be measured is tried again after so long.
RETRY_LINK_S = 5.0
#: Epochs that a server which crashed may have given out and not stored.
MOST_UNKNOWN_EPOCHS = 1000
#: Links that share an end are taken to change together within so long.
TENDENCY_S = 2.0
UNCHANGED: tuple[float, Tendency] = (float("-inf"), 0)
#: For so long transfers that are off vouch for looks that are.
LEANS_S = 1.0
Ends = tuple[AgentId, AgentId]
#: What agents tell of transfers is as old as this at most, mostly.
TOLD_S = 0.1
#: Looks wait for so long for a profile that waits for them.
PROFILE_WAITS_S = 1.0
#: A prediction is used if operators that were never profiled take at most this share of it.
MOST_GUESSED = 0.2


@dataclass
class AgentRecord:
    """One registered agent.

    `profiles`, and the `fixed` part of them, are as the agent reported them; `predicted` stands in for a
    profile that is not there yet; `correction` is what its live spans say about either. `speed` and
    `processes` (busy ones) are what it was told to emulate, or to carry, since it registered; `clock_error_s`
    bounds how far its times are off, `said_bytes` counts what it told; `board` is its last sample.
    """

    register: Register
    connection: int
    heard_s: float
    worked_s: float | None = None
    #: When a heartbeat was shown last.
    shown_s: float = float("-inf")
    connected: bool = True
    queued: int = 0
    rejected: int = 0
    rss_bytes: int = 0
    clock_error_s: float = 0.0
    said_bytes: int = 0
    board: BoardSample | None = None
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    loaded: dict[ModelSpec, ModelLoaded] = field(default_factory=dict)
    profiles: dict[ModelSpec, tuple[float, ...]] = field(default_factory=dict)
    fixed: dict[ModelSpec, tuple[float, ...]] = field(default_factory=dict)
    predicted: dict[ModelSpec, tuple[float, ...]] = field(default_factory=dict)
    correction: ProfileCorrection = field(default_factory=ProfileCorrection)
    #: When it was asked for a sample of its speed last.
    asked_s: float = float("-inf")
    speed: float | None = None
    processes: int = 0
    last_loaded: ModelLoaded | None = None
    #: Bytes of a model's files that came, and how many there are.
    fetched: tuple[int, int] = (0, 0)

    @property
    def emulated_speed(self) -> float:
        """1: as fast as its machine."""
        return self.register.speed if self.speed is None else self.speed

    @property
    def threads(self) -> int:
        """Intra-op threads of the model that it loaded last; 1 before."""
        return self.last_loaded.threads if self.last_loaded else 1

    def times_s(self, model: ModelSpec) -> tuple[float, ...] | None:
        """Seconds per vertex: measured, else predicted."""
        return self.profiles.get(model) or self.predicted.get(model)

    def is_guessed(self, model: ModelSpec) -> bool:
        """Whether the model's times are predicted, not measured."""
        return model not in self.profiles and model in self.predicted

    def expected_s(self, model: ModelSpec, now: float) -> tuple[float, ...]:
        """Seconds per vertex as they are to be expected now: the profile, or what is predicted, corrected."""
        times_s = self.times_s(model)
        assert times_s is not None
        return self.correction.corrected(self.loaded[model].graph.digest, times_s, now)

    def predict(self, model: ModelSpec) -> bool:
        """Whether times of a loaded model can be told from the other networks that the agent profiled."""
        if model not in self.predicted:
            samples = [
                sample
                for other, times_s in self.profiles.items()
                if other in self.loaded
                for sample in samples_of(self.loaded[other].graph, times_s)
            ]
            graph = self.loaded[model].graph
            if not samples:
                return False
            predictor = Predictor.fit(samples)
            times_s = predictor.predict(graph)
            unknown = set(predictor.unknown(graph))
            guessed_s = sum(t for v, t in zip(graph.vertices, times_s, strict=True) if v.kind in unknown)
            if guessed_s > MOST_GUESSED * sum(times_s):
                return False
            self.predicted[model] = times_s
        return True

    def expected_fixed_s(self, model: ModelSpec, now: float) -> tuple[float, ...]:
        """The size-independent part of that, for tiles; empty where it is not known."""
        factor = self.correction.factor(now)
        return tuple(s * (factor.value if factor else 1.0) for s in self.fixed.get(model, ()))

    def view(self, now: float) -> AgentView:
        register, loaded, factor = self.register, self.last_loaded, self.correction.factor(now)
        return AgentView(
            agent=register.agent,
            tier=register.tier,
            pid=register.pid,
            host=register.host,
            data_address=register.data_address,
            speed=self.emulated_speed,
            engine=loaded.engine if loaded else register.engine,
            version=register.version,
            threads=loaded.threads if loaded else None,
            fingerprint=loaded.fingerprint if loaded else None,
            state="connected" if self.connected else "lost",
            queued=self.queued,
            rejected=self.rejected,
            rss_bytes=self.rss_bytes,
            board=self.board,
            facts=register.facts,
            heard_s=self.heard_s,
            worked_s=self.worked_s,
            factor=factor.value if factor else None,
            factor_spread=factor.spread if factor else None,
            cpus=register.cpus,
            tc=register.tc,
        )


@dataclass
class LinkRecord:
    """A directed link: `measured` or why it could not be; both None: not known (again).

    `measured` is the last probe; `estimator` weighs it against the transfers since. `blocked`, `via` and
    `refuted` are of `ways`.
    """

    measured: LinkMeasured | None = None
    problem: str | None = None
    retry_s: float = 0.0
    traffic: LinkTraffic = field(default_factory=LinkTraffic)
    estimator: LinkEstimator = field(default_factory=LinkEstimator)
    blocked: str = ""
    via: AgentId | None = None
    refuted: set[AgentId] = field(default_factory=set)
    retry_direct_s: float = 0.0

    @property
    def known(self) -> bool:
        return self.measured is not None or self.problem is not None

    def is_out_of_sight(self, now: float) -> bool:
        """Nothing has crossed it, and nobody has measured it, for a while."""
        if self.measured is None:
            return self.problem is None or now >= self.retry_s
        return self.estimator.look_due(now)

    def is_known_since(self, since_s: float, now: float, others: tuple[float, Tendency] = UNCHANGED) -> bool:
        """Whether what is known of it is from then or later; that it cannot be used is known as well. What
        was heard last may be the beginning of a change: then that is not known yet. Nor is it where `others`
        that may share its way have changed, and it has neither done so as well nor been used since."""
        known = self.estimator.estimate(now)
        if known is None or self.problem is not None:
            return self.problem is not None
        if self.estimator.is_suspicious:
            return False
        heard_s, (changed_s, tendency) = now - known.age_s, others
        if tendency and self.estimator.has_followed(tendency, now, TENDENCY_S):
            return heard_s >= since_s
        begun_s = heard_s - TOLD_S if tendency and known.source == "transfers" else heard_s
        return heard_s >= since_s and begun_s >= changed_s

    def probed(self, measured: LinkMeasured, now: float, others: Tendency = 0, leaning: Tendency = 0) -> None:
        self.measured, self.problem = measured, None
        self.traffic.target_bytes_per_s = measured.target_bytes_per_s
        rate = LinkRate(measured.bytes_per_s, measured.latency_s)
        self.estimator.probed(rate, now, quick=measured.quick, others=others, leaning=leaning)

    def failed(self, problem: str, now: float) -> None:
        self.measured, self.problem, self.estimator = None, problem, LinkEstimator()
        self.retry_s = now + RETRY_LINK_S

    def forget(self) -> None:
        self.measured, self.problem, self.estimator = None, None, LinkEstimator()

    def view(self, source: AgentId, target: AgentId, now: float) -> LinkView:
        measured, traffic, estimate = self.measured, self.traffic, self.estimator.estimate(now)
        return LinkView(
            source=source,
            target=target,
            bytes_per_s=measured.bytes_per_s if measured else None,
            latency_s=measured.latency_s if measured else None,
            rtt_s=measured.rtt_s if measured else None,
            target_bytes_per_s=traffic.target_bytes_per_s,
            bytes=traffic.bytes,
            achieved_bytes_per_s=traffic.achieved_bytes_per_s,
            deviation=traffic.deviation,
            estimate_bytes_per_s=estimate.bytes_per_s if estimate else None,
            estimate_spread=estimate.spread if estimate else None,
            estimate_age_s=estimate.age_s if estimate else None,
            via=self.via,
            blocked=self.blocked,
        )


class World:
    """Shared by the pipelines. `now` is the server's clock at the event that is being handled."""

    def __init__(self, *, boot: int, last_epoch: Epoch) -> None:
        self.now = 0.0
        self.agents: dict[AgentId, AgentRecord] = {}
        self.links: dict[tuple[AgentId, AgentId], LinkRecord] = {}
        #: When a link that has an end there, over that medium, changed last, how, and which one.
        self._link_changes: dict[tuple[AgentId, Tier], tuple[float, Tendency, Ends]] = {}
        #: When transfers over such a link were off last, but not sure yet; which way, and which link.
        self._leanings: dict[tuple[AgentId, Tier], tuple[float, Ends]] = {}
        #: By agent and link (as `pi-1→edge-1`): the share of time that each pipeline keeps it busy.
        self._users: dict[str, dict[PipelineId, float]] = {}
        self._demands: dict[PipelineId, Mapping[str, float]] = {}
        self.notes: list[NoteView] = []
        self.orders = Orders(self)
        self.ways = Ways(self)
        #: The scenario that is being played.
        self.scene: SceneView | None = None
        #: Why nothing can be stored at present.
        self.unstored: str | None = None
        self._out: list[Command] = []
        self.boot = boot
        self._causes = 0
        self.asked = Asked()
        #: When a profile had to wait for others.
        self._profile_waits_s = float("-inf")
        self._epoch = last_epoch

    # ── numbers ───────────────────────────────────────────────────────────────────────────────────

    def new_cause(self) -> CauseId:
        self._causes += 1
        return CauseId(f"{self.boot}-{self._causes}")

    def new_epoch(self) -> Epoch:
        self._epoch = Epoch(self._epoch + 1)
        return self._epoch

    def saw_epoch(self, epoch: Epoch) -> None:
        """An agent still runs an epoch from before a crash: never give out its number again. One that makes
        numbers up cannot use up those that links can carry."""
        if epoch <= self._epoch + MOST_UNKNOWN_EPOCHS:
            self._epoch = max(self._epoch, epoch)

    # ── commands ──────────────────────────────────────────────────────────────────────────────────

    def take(self) -> list[Command]:
        out, self._out = self._out, []
        return out

    def command(self, command: Command) -> None:
        self._out.append(command)

    def send(self, agent: AgentId, message: ToAgent) -> None:
        """Send to a connected agent; to one that is not, nothing."""
        record = self.agents.get(agent)
        if record is not None and record.connected:
            self._out.append(SendTo(record.connection, agent, message))

    def publish(self, kind: str, data: object, cause_id: CauseId | None = None) -> None:
        self._out.append(Publish(kind, data, cause_id))

    def record(self, table: str, *, urgent: bool = False, **row: object) -> None:
        self._out.append(Record(table, row, urgent))

    def note(
        self,
        text: str,
        level: Literal["info", "warn", "error"] = "info",
        *,
        pipeline: PipelineId | None = None,
        cause_id: CauseId | None = None,
    ) -> None:
        """Say something to the user, and remember it."""
        note = NoteView(text, level, self.now, cause_id, pipeline)
        self.notes = [*self.notes[1 - NOTES_KEPT :], note]
        self.publish("note", note, cause_id)
        self.record("events", at_s=self.now, cause_id=cause_id, kind="note", data=msgspec.to_builtins(note))

    # ── agents ────────────────────────────────────────────────────────────────────────────────────

    def is_connected(self, agent: AgentId) -> bool:
        record = self.agents.get(agent)
        return record is not None and record.connected

    def link(self, source: AgentId, target: AgentId) -> LinkRecord:
        """What is known of a link; at first nothing."""
        found = self.links.get((source, target))
        if found is None:
            found = self.links[source, target] = LinkRecord()
        return found

    def link_changed(self, source: AgentId, target: AgentId) -> None:
        """Its rate has just jumped: those of others that share an end and a medium with it may have, too."""
        change = self.now, self.links[source, target].estimator.tendency, (source, target)
        medium = self._medium(source, target)
        self._link_changes[source, medium] = self._link_changes[target, medium] = change

    def link_leans(self, source: AgentId, target: AgentId) -> None:
        """Its last transfer is far off: looks at it, or at others of its medium, may tell the same."""
        medium, seen = self._medium(source, target), (self.now, (source, target))
        self._leanings[source, medium] = self._leanings[target, medium] = seen

    def leaning_near(self, source: AgentId, target: AgentId) -> tuple[Ends, Tendency]:
        """A link that shares an end and a medium with this one, or itself, over which transfers are off as
        yet, and which way; (itself, 0) where there is none."""
        medium, itself = self._medium(source, target), (source, target)
        for end in itself:
            at_s, ends = self._leanings.get((end, medium), (float("-inf"), itself))
            if self.now - at_s < LEANS_S and (link := self.links.get(ends)) and link.estimator.leaning:
                return ends, link.estimator.leaning
        return itself, 0

    def links_changed(self, source: AgentId, target: AgentId) -> tuple[float, Tendency]:
        """When rates of links that share an end and a medium with this one, or its own, changed lately, in
        either direction, and how; if they did not, (-inf, 0)."""
        at_s, tendency, _ = self._latest_change(source, target)
        return (at_s, tendency) if self.now - at_s < TENDENCY_S else UNCHANGED

    def others_went(self, source: AgentId, target: AgentId) -> Tendency:
        """How the rate of another link that shares an end and a medium with this one changed lately."""
        at_s, tendency, ends = self._latest_change(source, target)
        return tendency if ends != (source, target) and self.now - at_s < TENDENCY_S else 0

    def _latest_change(self, source: AgentId, target: AgentId) -> tuple[float, Tendency, Ends]:
        medium = self._medium(source, target)
        never = (*UNCHANGED, (source, target))
        changes = (self._link_changes.get((end, medium), never) for end in (source, target))
        return max(changes, key=lambda change: change[0])

    def _medium(self, *ends: AgentId) -> Tier:
        """What its ends send by, after a tier: all links of a device cross its radio, those of edge boxes to
        the cloud their way out. After a restart of the server one of them may not have come back yet."""
        tiers = {self.agents[end].register.tier for end in ends if end in self.agents}
        return next(tier for tier in (Tier.DEVICE, Tier.CLOUD, Tier.EDGE) if tier in tiers)

    def lose(self, agent: AgentId) -> None:
        """Forget all that a new process of this name would not have, and the links at its ends."""
        record = self.agents[agent]
        record.connected = False
        record.board = None
        record.loaded.clear()
        record.profiles.clear()
        record.fixed.clear()
        record.predicted.clear()
        record.correction = ProfileCorrection()
        for ends, link in self.links.items():
            if agent in ends:
                link.forget()
        self.ways.agent_lost(agent)
        self.asked.forget(agent)
        self.publish("agent", record.view(self.now))

    # ── orders ────────────────────────────────────────────────────────────────────────────────────

    def order_load(self, agent: AgentId, model: ModelSpec, threads: int) -> None:
        if not self.asked.is_asked(agent, ("load", model)):
            peers = self._with_files(agent, model) if model.files else ()
            self._order(agent, ("load", model), LOAD_S, LoadModel(model, threads, peers))

    def _with_files(self, agent: AgentId, model: ModelSpec) -> tuple[Peer, ...]:
        """Who has the model's files, or is getting them, of those near: of the same tier. Whoever was told
        last comes first, so that each sends them on once, as they come, to the next."""
        at = self.asked.at(("load", model))
        tier = self.agents[agent].register.tier
        have = [name for name, record in self.agents.items() if model in record.loaded]
        near = [
            name
            for name in (*reversed(at), *have)
            if name != agent and self.agents[name].connected and self.agents[name].register.tier is tier
        ]
        return tuple(
            Peer(name, tier, self.agents[name].register.data_address, None, self.ways.of(agent, name))
            for name in near[:MOST_NEAR]
        )

    def fetching(self, agent: AgentId, model: ModelSpec) -> None:
        """Files are on their way: it loads once they are there."""
        self.asked.extend(agent, ("load", model), self.now + LOAD_S)

    def order_profile(self, agent: AgentId, model: ModelSpec, *, fresh: bool = False) -> bool:
        """Waits (does nothing) while another agent of the host profiles or links are measured. With `fresh`
        a profile on its disk does not do. Returns whether it did not have to wait."""
        host = self.agents[agent].register.host
        busy = self.asked.is_at("link", "look") or self.asked.is_profiled_on(host)
        self._profile_waits_s = self.now if busy else float("-inf")
        if not busy:
            self._order(agent, ("profile", model), PROFILE_S, ProfileModel(model, fresh))
        return not busy

    def order_sample(self, agent: AgentId, model: ModelSpec) -> None:
        """Does nothing where that was asked lately, or the model has no measured profile there."""
        record = self.agents[agent]
        if self.now - record.asked_s >= SAMPLE_S and model in record.profiles:
            record.asked_s = self.now
            self.send(agent, SampleSpeed(model))

    @property
    def is_measuring(self) -> bool:
        """Whether any agent profiles or measures links."""
        return self.asked.is_at("link", "look", "profile")

    def order_links(self, agent: AgentId, peers: tuple[Peer, ...], *, quick: bool = False) -> None:
        """Waits (does nothing) while any agent profiles or measures links. Several agents may have a quick
        look at once: it is short, and what strays is looked at twice. None begins one while a profile waits:
        there would always be one."""
        if quick:
            busy = self.now < self._profile_waits_s + PROFILE_WAITS_S
            busy = busy or self.asked.is_busy(agent, "look") or self.asked.is_at("link", "profile")
        else:
            busy = self.is_measuring
        if busy:
            return
        until_s = self.now + (QUICK_LINK_S if quick else LINK_S) * len(peers)
        for peer in peers:
            order: Order = ("look", peer.agent) if quick else ("link", peer.agent)
            self.asked.ask(agent, self.agents[agent].register.host, order, until_s)
        self.send(agent, MeasureLinks(peers, quick))

    def _order(self, agent: AgentId, order: Order, limit_s: float, message: ToAgent) -> None:
        if self.asked.ask(agent, self.agents[agent].register.host, order, self.now + limit_s):
            self.send(agent, message)

    def demand(self, pipeline: PipelineId, shares: Mapping[str, float]) -> None:
        """The share of time that a pipeline now keeps agents and links busy."""
        for stage in self._demands.get(pipeline, {}).keys() - shares.keys():
            del self._users[stage][pipeline]
        self._demands[pipeline] = shares
        for stage, share in shares.items():
            self._users.setdefault(stage, {})[pipeline] = share

    def slowdowns(self, pipeline: PipelineId, members: Collection[AgentId]) -> dict[str, float]:
        """How many times longer these agents and the links among them take for this one, because others use
        them, too."""
        found = defaultdict[PipelineId, dict[str, float]](dict)
        for stage in (*members, *map("→".join, itertools.permutations(members, 2))):
            for other, share in self._users.get(stage, {}).items():
                if other != pipeline:
                    found[other][stage] = share
        return slowdowns(found.values()) if found else {}

    def conditions(self, members: Collection[AgentId], pipeline: PipelineId) -> Basis:
        """How much longer than profiled each member takes now, 1 where nothing recent says otherwise; and
        the measured links among them, as fast as they are now. Both with the use of other pipelines."""
        shared = self.slowdowns(pipeline, members)
        factors, rates, spreads = {}, {}, {}
        for agent in members:
            factor = self.agents[agent].correction.factor(self.now)
            factors[agent] = (factor.value if factor is not None else 1.0) * shared.get(agent, 1.0)
            if factor is not None:
                spreads[str(agent)] = factor.spread
        for ends in itertools.permutations(members, 2):
            link = self.links.get(ends)
            estimate = link.estimator.estimate(self.now) if link and link.measured else None
            if estimate is None:
                continue
            name = "→".join(ends)
            bytes_per_s = estimate.rate.bytes_per_s / shared.get(name, 1.0)
            rates[ends] = LinkRate(bytes_per_s, estimate.rate.latency_s)
            if estimate.spread is not None:
                spreads[name] = estimate.spread
        return Basis(factors, rates, spreads)
