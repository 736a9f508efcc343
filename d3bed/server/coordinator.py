"""The control plane's brain: `handle(event, now) -> [command]`.

Pure. It knows which agents are there, hands every event to the pipelines that it concerns, counts
what frames and transfers show, and publishes what changed. `pipeline` decides from plan to plan.
It must not know sockets, disks, clocks or threads; only the runner performs what it commands. It
follows dask/distributed's worker state machine in form.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec

from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId, CauseId, Epoch, PipelineId
from d3bed.core.messages import (
    BoardSampled,
    ClockPing,
    ClockPong,
    Confirmed,
    Crash,
    CutOff,
    Drained,
    Fetching,
    FrameFailed,
    FrameRescued,
    FramesAnswered,
    Heartbeat,
    LinkFailed,
    LinkLost,
    LinkMeasured,
    LinksChecked,
    ModelFailed,
    ModelLoaded,
    PhotosPrepared,
    PrepareFailed,
    Preparing,
    Profiled,
    Ready,
    Register,
    SourceEnded,
    SpansRecorded,
    SpeedSampled,
    Stop,
    Transferred,
    Welcome,
)
from d3bed.server import pace
from d3bed.server.boards import Boards
from d3bed.server.conditions import Conditions
from d3bed.server.drawings import Drawings
from d3bed.server.events import (
    AgentJoined,
    AgentLost,
    AgentRevoked,
    AgentSaid,
    Change,
    ChangeModel,
    ChangeNetwork,
    ChangeRate,
    ChangeStrategy,
    CloseAgent,
    Command,
    EndAgent,
    Event,
    Noted,
    OrderAgent,
    PlanComputed,
    PlanFailed,
    SendTo,
    Shutdown,
    StartRun,
    StopRun,
    StoreFailed,
    StoreRecovered,
    Ticked,
    Undo,
)
from d3bed.server.pipeline import Pipeline
from d3bed.server.readings import Readings
from d3bed.server.runs import Run, Start
from d3bed.server.seconds import SecondView
from d3bed.server.settings import ServerSettings
from d3bed.server.statistics import Totals
from d3bed.server.traffic import Traffic
from d3bed.server.turns import Turns
from d3bed.server.views import (
    AgentView,
    DecisionView,
    FrameView,
    LinkView,
    OfferView,
    PipelineView,
    RunReport,
    StateView,
)
from d3bed.server.world import AgentRecord, World

__all__ = ["HEARTBEAT_S", "SILENCE_S", "Coordinator"]

#: Agents speak at least this often; one that is silent for `SILENCE_S` is lost.
HEARTBEAT_S = 0.5
SILENCE_S = 2.0
#: Exporting or profiling keeps an agent's interpreter busy: then it may be silent for longer.
BUSY_SILENCE_S = 30.0
#: Of a heartbeat that changes nothing else the page hears no more often than this.
SHOWN_S = 0.9
FRAMES_KEPT = 100

#: What agents say all the time; first what of that is about no pipeline.
_PRIVATE = (Heartbeat, BoardSampled, ClockPing)
_OFTEN = (*_PRIVATE, SpansRecorded, Transferred, FramesAnswered, LinkMeasured, SpeedSampled)
#: Of a pipeline, what is counted; only that conditions jumped has consequences at once.
_NUMBERS = (SpansRecorded, Transferred)
#: After these others may profile or measure links.
_FREEING = (Profiled, LinkMeasured, LinkFailed, ModelFailed)

#: WebSocket close codes for agents. After `REFUSED`, trying again would not help.
REFUSED, SILENT, SUPERSEDED = 4003, 4008, 4009


class Coordinator:
    """State of the whole server. `link_secret` is what agents prove themselves to each other with;
    `cut_off` are those who were revoked."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        link_secret: str,
        cut_off: Iterable[AgentId] = (),
        strategies: tuple[str, ...],
        boot: int = 1,
        last_epoch: Epoch = Epoch(0),  # noqa: B008
    ) -> None:
        self.settings = settings
        self.world = World(boot=boot, last_epoch=last_epoch)
        self.pipelines = {p.id: Pipeline(p, self.world) for p in settings.pipelines}
        self.conditions = Conditions(self.world, self.pipelines)
        self.strategies = strategies
        self.frames: deque[FrameView] = deque(maxlen=FRAMES_KEPT)
        self.drawings = Drawings()
        per_s = pace.shown_per_s(len(self.pipelines))
        self._traffic = {p.settings.id: Traffic(p, self.drawings, per_s) for p in self.pipelines.values()}
        self._boards = Boards(self.world)
        self._readings = Readings(self.world, self._pipelines_of)
        #: Whether changes need a token.
        self.guarded = False
        self._tiers = {agent: tier for p in settings.pipelines for agent, tier in p.tiers.items()}
        self._of_agent = {
            agent: [pipe for pipe in self.pipelines.values() if agent in pipe.settings.tiers]
            for agent in self._tiers
        }
        self._link_secret = link_secret
        self._cut_off = set(cut_off)
        self._connections: dict[int, AgentRecord] = {}
        self._graphs: dict[str, Graph] = {}
        self._shown: dict[PipelineId, PipelineView] = {}
        self._outlines: dict[PipelineId, object] = {}
        self._ticked_s: float | None = None
        pipes, traffic = list(self.pipelines.values()), list(self._traffic.values())
        self._watched = Turns(pipes, pace.watch_s(len(pipes)))
        self._looked_at: list[Pipeline] = []
        self._ripening = Turns(traffic, pace.ripen_s(len(traffic)))
        self._second_turns = Turns(traffic, pace.second_s(len(traffic)))
        self._counted = Turns(pipes, pace.count_s(len(pipes)))
        self._saved = Turns(traffic, pace.save_s(len(traffic)))

    # ── events in, commands out ───────────────────────────────────────────────────────────────────

    def handle(self, event: Event, now: float) -> list[Command]:
        """Returns what to do about `event`; `now` is the server's clock in seconds."""
        self.world.now = now
        left: Sequence[Pipeline] = ()
        match event:
            case AgentSaid(connection, message, size):
                record = self._connections.get(connection)
                if record is not None:
                    record.heard_s = now
                    record.said_bytes += size
                    self._said(record, message)
            case AgentJoined(connection, register):
                self._joined(connection, register)
            case AgentLost(connection, reason):
                left = self._lost(connection, reason)
            case AgentRevoked(agent, link_secret, by):
                self._revoked(agent, link_secret, by)
            case OrderAgent(agent, message):
                self.world.send(agent, message)
            case Noted(text, level):
                self.world.note(text, level)
            case Ticked():
                self._tick(now)
            case PlanComputed(pipeline, request, choice):
                self.pipelines[pipeline].plan_computed(request, choice)
            case PlanFailed(pipeline, request, problem):
                self.pipelines[pipeline].plan_failed(request, problem)
            case StoreFailed(problem):
                self._store_is(problem)
                self.world.note(f"nothing can be stored ({problem}); frames go on", "warn")
            case StoreRecovered(lost, remade):
                self._store_recovered(lost, remade)
            case ChangeNetwork(pipeline, network, by):
                self.conditions.change_network(self.pipelines[pipeline], network, self.settings.networks, by)
            case ChangeStrategy() | ChangeModel() | ChangeRate() | StartRun() | StopRun():
                self._ordered(event)
            case Change():
                self.conditions.change(event)
            case Undo():
                self.conditions.undo(event)
            case EndAgent(agent, crash, by):
                what, action = ("crash", "kill") if crash else ("stop", "stop")
                order = self.world.orders.begin(f"{agent}: {what}", by, {"action": action, "agent": agent})
                self.world.note(f"{agent} was told to {what} by {by}", cause_id=order)
                self.world.orders.end(order, agent)
                self.world.send(agent, Crash() if crash else Stop(f"{by} says so"))
            case Shutdown(reason):
                for agent in self.world.agents:
                    self.world.send(agent, Stop(reason))
            case _:
                assert_never(event)
        concerned, often = (left, False) if isinstance(event, AgentLost) else self._concerned(event)
        if not concerned:
            return self.world.take()
        for pipe in concerned:
            pipe.advance()
        if isinstance(event, AgentSaid) and isinstance(event.message, _FREEING):
            self._let_others_measure(event.message)
        self._publish_changes([pipe for pipe in concerned if not often or self._has_changed(pipe)])
        return self.world.take()

    def _let_others_measure(self, done: object) -> None:
        """Those that waited until nobody profiles or measures links; all others have the next tick, as have
        those that waited for a quick look."""
        for pipe in () if isinstance(done, LinkMeasured) and done.quick else self.pipelines.values():
            if pipe.awaits_turn and self.world.is_measuring:
                return
            if pipe.awaits_turn:
                pipe.advance()

    def _concerned(self, event: Event) -> tuple[Iterable[Pipeline], bool]:
        """Whose view an event may have changed, and whether it is of a kind that comes all the time, mostly
        to no such effect: with many agents one cannot look at everything after each of these."""
        match event:
            case Ticked():
                waiting = (
                    pipe for pipe in self.pipelines.values() if pipe.wish is not None or pipe.awaits_turn
                )
                return dict.fromkeys((*waiting, *self._looked_at)), True
            case PlanComputed(pipeline) | PlanFailed(pipeline):
                return (self.pipelines[pipeline],), False
            case AgentJoined(register=register):
                return self._of_agent.get(register.agent, ()), False
            case AgentSaid(connection, message):
                record, often = self._connections.get(connection), isinstance(message, _OFTEN)
                if record is None or isinstance(message, _PRIVATE):
                    return (), often
                named = self.pipelines.get(getattr(message, "pipeline", PipelineId("")))
                if isinstance(message, _NUMBERS) and named is not None and named.wish is None:
                    return (), often  # nothing was decided: what is shown has its turn
                return (self._pipelines_of(record) if named is None else (named,)), often
            case _:
                return self.pipelines.values(), False

    def _has_changed(self, pipe: Pipeline) -> bool:
        before, now = self._outlines.get(pipe.settings.id), pipe.outline
        self._outlines[pipe.settings.id] = now
        return before != now

    def _ordered(self, order: ChangeStrategy | ChangeModel | ChangeRate | StartRun | StopRun) -> None:
        """A user's wish for a pipeline; what becomes of it is for `world.orders` to tell."""
        pipe, orders, by = self.pipelines[order.pipeline], self.world.orders, order.by
        name = order.pipeline
        match order:
            case ChangeStrategy(strategy=strategy, tiling=tiling):
                tiled = f" with tiling {tiling}" if tiling else ""
                pipe.want(f"strategy {strategy} chosen{tiled}", strategy=strategy, tiling=tiling)
                action = {"action": "strategy", "strategy": strategy, "tiling": tiling, "pipeline": name}
                orders.begin(f"strategy {strategy}{tiled}", by, action, id=self.cause_of(name), plan_of=name)
            case ChangeModel(model=model):
                pipe.want(f"model {model.name} chosen", model=model)
                action = {"action": "model", "model": model.name, "weights": model.weights, "pipeline": name}
                orders.begin(f"model {model.name}", by, action, id=self.cause_of(name), plan_of=name)
            case ChangeRate(rate_per_s=rate):
                what = "frames one by one" if rate is None else f"{rate:g} frames/s" if rate else "pause"
                number = orders.begin(what, by, {"action": "rate", "rate_per_s": rate, "pipeline": name})
                pipe.set_rate(rate, number)
            case StartRun(frames=frames, in_flight=in_flight):
                number = orders.begin("start" if frames is None else f"start {frames} frames", by, {})
                pipe.stream.begin(Start(frames, in_flight, number), pipe.active)
            case StopRun():
                pipe.stream.stop(orders.begin("stop", by, {}))

    def last_words(self, now: float) -> list[Command]:
        """What is to be stored before the server stops; agents go on without it."""
        self.world.now = now
        for traffic in self._traffic.values():
            traffic.keep_frames(float("inf"))
        self._save_runs(self._traffic.values())
        return self.world.take()

    def cause_of(self, pipeline: PipelineId) -> CauseId | None:
        """What the pipeline's latest wish is remembered by."""
        target = self.pipelines[pipeline].target
        return target.cause_id if target else None

    # ── agents come and go ────────────────────────────────────────────────────────────────────────

    def _joined(self, connection: int, register: Register) -> None:
        agent, world = register.agent, self.world
        before = world.agents.get(agent)
        if before is not None and before.connected and before.register == register:
            # The same process again, over a new connection: the old one is dead, only not yet noticed.
            world.command(CloseAgent(before.connection, SUPERSEDED, "connected anew"))
            self._lost(before.connection, "it connected anew")
        if world.is_connected(agent):
            world.note(f"a second agent named {agent} was refused", "warn")
            world.command(CloseAgent(connection, REFUSED, f"an agent named {agent} is connected already"))
            return
        tier = self._tiers.get(agent, register.tier)
        if tier is not register.tier:
            problem = f"{agent} is configured as {tier}, but registers as {register.tier}"
            world.note(problem, "error")
            world.command(CloseAgent(connection, REFUSED, problem[:120]))
            return
        record = AgentRecord(register, connection, heard_s=world.now)
        world.agents[agent] = self._connections[connection] = record
        cut_off = tuple(sorted(self._cut_off))
        world.send(agent, Welcome(self._link_secret, HEARTBEAT_S, cut_off, pace.batch_s(len(self._tiers))))
        self._cut_off.discard(agent)
        self.conditions.agent_joined(agent)
        world.publish("agent", record.view(world.now))
        world.note(f"{agent} ({register.tier}) joined from {register.host}")
        world.ways.agent_joined(agent)
        for pipe in self._pipelines_of(record):
            pipe.agent_joined(agent)

    def _lost(self, connection: int, reason: str) -> Sequence[Pipeline]:
        """Returns those that it had a part in."""
        record = self._connections.pop(connection, None)
        if record is None:
            return ()
        agent = record.register.agent
        self.world.lose(agent)
        self._boards.forget(agent)
        self.world.note(f"{agent} lost: {reason}", "warn")
        self.conditions.agent_lost(agent)
        self.world.orders.agent_lost(agent)
        left = self._pipelines_of(record)
        for pipe in left:
            pipe.agent_lost(agent)
        return left

    def _revoked(self, agent: AgentId, link_secret: str, by: str) -> None:
        """Close its connection, and have the others close their links with it."""
        world, record = self.world, self.world.agents.get(agent)
        self._link_secret = link_secret
        self._cut_off.add(agent)
        world.note(f"{agent} was revoked by {by}", "warn")
        if record is not None and record.connected:
            world.command(CloseAgent(record.connection, REFUSED, f"the credential of {agent} was revoked"))
            self._lost(record.connection, "it was revoked")
        for other in world.agents:
            world.send(other, CutOff(agent, link_secret))

    def _tick(self, now: float) -> None:
        gap = now - self._ticked_s if self._ticked_s is not None else 0.0
        self._ticked_s = now
        for connection, record in list(self._connections.items()):
            if gap > 1.0:  # it was the server that slept
                record.heard_s += gap
            if now - record.heard_s <= SILENCE_S:
                continue
            busy = self.world.asked.is_busy(record.register.agent, "load", "profile")
            limit = BUSY_SILENCE_S if busy else SILENCE_S
            if now - record.heard_s > limit:
                self.world.command(CloseAgent(connection, SILENT, f"silent for {limit:g} s"))
                self._lost(connection, f"silent for {limit:g} s")
        self.conditions.end_due()
        self.world.orders.end_due()
        self.world.ways.tick()
        for agent, failure in self.world.asked.expired(now):
            self._said(self.world.agents[agent], failure)
        self._looked_at = self._watched.take(now)
        for pipe in self._looked_at:
            self.world.demand(pipe.settings.id, pipe.demand)
        for pipe in self._looked_at:
            pipe.check_time()
            pipe.watch()
            pipe.measure_guessed()
        for traffic in self._ripening.take(now):
            for frame in traffic.take_ripe():
                self.frames.append(frame)
                self.world.publish("frame", frame)
        for traffic in self._second_turns.take(now):
            traffic.count_seconds()
        counted = self._counted.take(now)
        self._publish_changes(counted, with_numbers=True)
        for pipe in counted:
            self._traffic[pipe.settings.id].publish_numbers()
        self._save_runs(self._saved.take(now))

    def _save_runs(self, of: Iterable[Traffic]) -> None:
        for traffic in of:
            traffic.save_run()
            traffic.judge_links()

    # ── what agents say ───────────────────────────────────────────────────────────────────────────

    def _said(self, record: AgentRecord, message: object) -> None:
        agent, world, asked = record.register.agent, self.world, self.world.asked
        match message:  # what comes all the time comes first
            case SpansRecorded() | Transferred() | FramesAnswered():
                self._said_of_pipeline(record, message)
            case Heartbeat(queued, rejected, rss_bytes):
                record.queued, record.rejected, record.rss_bytes = queued, rejected, rss_bytes
                if world.now - record.shown_s >= SHOWN_S:
                    record.shown_s = world.now
                    world.publish("agent", record.view(world.now))
            case BoardSampled(board):
                self._boards.sampled(record, board)
            case Confirmed(order, problem):
                world.orders.confirmed(agent, order, problem)
            case ClockPing(sent_s, wall_s):
                world.command(SendTo(record.connection, agent, ClockPong(sent_s, world.now)))
                self._boards.clock_read(record, wall_s)
            case ModelLoaded(model=model):
                asked.done(agent, ("load", model))
                shared = self._graphs.get(message.graph.digest)
                if shared is None:
                    try:
                        message.graph.check()
                    except ValueError as error:
                        self._said(record, ModelFailed(model, f"its graph makes no sense: {error}"))
                        return
                    shared = self._graphs[message.graph.digest] = message.graph
                record.loaded[model] = record.last_loaded = msgspec.structs.replace(message, graph=shared)
                world.publish("agent", record.view(world.now))
            case Fetching(model, done_bytes, of_bytes):
                record.fetched = done_bytes, of_bytes
                world.fetching(agent, model)
            case PhotosPrepared(thumbnails):
                record.thumbnails = {each.photo: each.jpeg for each in thumbnails}
            case ModelFailed(model, problem):
                asked.done(agent, ("load", model), ("profile", model))
                record.predicted.pop(model, None)  # or it would be asked to measure it again and again
                for pipe in self._pipelines_of(record):
                    pipe.agent_unable(agent, model, problem)
            case Profiled(model=model):
                asked.done(agent, ("profile", model))
                if (wrong := self._readings.profiled(record, message)) is not None:
                    self._said(record, ModelFailed(model, wrong))
            case SpeedSampled():
                self._readings.speed_sampled(record, message)
            case LinkMeasured():
                self._readings.link_measured(record, message)
            case LinkFailed():
                self._readings.link_failed(record, message)
            case LinksChecked(checks=checks):
                world.ways.checked(agent, checks)
            case _:
                self._said_of_pipeline(record, message)

    def _said_of_pipeline(self, record: AgentRecord, message: object) -> None:
        """Messages that name a pipeline; from an agent that has no part in it they are ignored."""
        agent = record.register.agent
        pipe = self.pipelines.get(getattr(message, "pipeline", PipelineId("")))
        if pipe is None or agent not in pipe.settings.tiers:
            return
        traffic = self._traffic[pipe.settings.id]
        match message:
            case SpansRecorded(spans=spans, clock_error_s=clock_error_s):
                traffic.spans_recorded(agent, spans, clock_error_s)
            case Transferred(transfers=transfers):
                traffic.transferred(agent, transfers)
            case FramesAnswered(sent=sent, frames=frames, dropped=dropped):
                traffic.frames_answered(sent, frames, dropped)
            case Ready(epoch=epoch, tiles=tiles):
                pipe.ready(agent, epoch, tiles)
            case Preparing(epoch=epoch, tiles=tiles):
                pipe.tiles_checked(agent, epoch, *tiles)
            case PrepareFailed(epoch=epoch, problem=problem):
                pipe.prepare_failed(agent, epoch, problem)
            case LinkLost(epoch=epoch, peer=peer, problem=problem):
                pipe.link_lost(agent, epoch, peer, problem)
            case FrameFailed(epoch=epoch, frame=frame, problem=problem):
                pipe.frame_failed(agent, epoch, frame, problem)
            case FrameRescued(epoch=epoch, frame=frame, problem=problem):
                pipe.frame_rescued(agent, epoch, frame, problem)
            case Drained(epoch=epoch):
                pipe.drained(epoch)
            case SourceEnded(sent=sent, answered=answered, dropped=dropped):
                traffic.source_ended(sent, answered, dropped)

    def _pipelines_of(self, record: AgentRecord) -> list[Pipeline]:
        return self._of_agent.get(record.register.agent, [])

    def _store_is(self, unstored: str | None) -> None:
        self.world.unstored = unstored
        self.world.publish("unstored", unstored)

    def _store_recovered(self, lost: int, remade: bool) -> None:
        """What the store must have and may not is recorded again."""
        self._store_is(None)
        for traffic in self._traffic.values():
            traffic.record_again(everything=remade)
        where = " in a new database: what was in the old one is gone" if remade else ""
        self.world.note(f"storing goes on{where}" + (f"; {lost} rows are lost" if lost else ""), "warn")

    # ── what the page sees ────────────────────────────────────────────────────────────────────────

    def view(self, pipeline: PipelineId) -> PipelineView:
        return self._traffic[pipeline].view(None)

    def thumbnail(self, pipeline: str, photo: str) -> bytes | None:
        """A small JPEG of what the pipeline's frames are made of."""
        pipe = self.pipelines.get(PipelineId(pipeline))
        record = self.world.agents.get(pipe.settings.device) if pipe else None
        return record.thumbnails.get(photo) if record else None

    def seconds(self) -> Sequence[SecondView | msgspec.Raw]:
        """The latest ones of all pipelines."""
        return [second for traffic in self._traffic.values() for second in traffic.seconds.kept]

    @property
    def is_counting(self) -> bool:
        return any(pipe.stream.is_counting for pipe in self.pipelines.values())

    def totals(self, pipeline: PipelineId) -> Totals:
        return self._traffic[pipeline].totals

    def runs(self) -> list[Run]:
        """The latest run of each pipeline."""
        return [p.stream.run for p in self.pipelines.values() if p.stream.run is not None]

    def decisions(self) -> list[DecisionView]:
        """The latest ones that are shown, oldest first."""
        found = [d for p in self.pipelines.values() for d in p.decisions.latest]
        return sorted(found, key=lambda decision: decision.at_s)

    def report(self, run: str) -> RunReport | None:
        """Of one of `runs`; None for older ones, which are in the store."""
        found = next((latest for latest in self.runs() if latest.id == run), None)
        return None if found is None else self._traffic[found.pipeline].report(found)

    def agents(self) -> tuple[AgentView, ...]:
        return tuple(record.view(self.world.now) for record in self.world.agents.values())

    def links(self) -> tuple[LinkView, ...]:
        return tuple(link.view(*ends, self.world.now) for ends, link in self.world.links.items())

    def snapshot(self) -> StateView:
        """Everything, as it is now; the feed numbers it."""
        epochs = [e.view for p in self.pipelines.values() for e in p.epochs.values()]
        return StateView(
            agents=self.agents(),
            links=self.links(),
            pipelines=tuple(self.view(name) for name in self.pipelines),
            epochs=tuple(sorted(epochs, key=lambda e: e.epoch)),
            frames=tuple(self.frames),
            notes=tuple(self.world.notes),
            decisions=tuple(self.decisions()),
            strategies=self.strategies,
            models=self.settings.models,
            conditions=self.conditions.views,
            orders=self.world.orders.latest,
            networks=tuple(OfferView(n, net.description) for n, net in self.settings.networks.items()),
            scenarios=tuple(OfferView(s.name, s.description, s.refused) for s in self.settings.scenes),
            scene=self.world.scene,
            unstored=self.world.unstored,
            guarded=self.guarded,
        )

    def _publish_changes(self, pipelines: Iterable[Pipeline], *, with_numbers: bool = False) -> None:
        """Publish the fields of these pipelines that differ from what was published last."""
        for name in [pipe.settings.id for pipe in pipelines]:
            before, traffic = self._shown.get(name), self._traffic[name]
            after = traffic.view(None if with_numbers else before)
            if before is None:
                changed = msgspec.structs.asdict(after)
            else:
                changed = {
                    key: value
                    for key in after.__struct_fields__
                    if (value := getattr(after, key)) is not (old := getattr(before, key)) and value != old
                }
            if changed:
                self._shown[name] = after
                self.world.publish("pipeline", {"id": name, **changed}, self.cause_of(name))
