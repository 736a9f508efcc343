"""The JSON API: one table of routes, which both serves and documents.

`ROUTES` is the only list: handlers, types and the OpenAPI document all come from it. Errors are
`{"error": "…"}`, 4xx where the caller is at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from d3bed.core.errors import PlanInfeasible
from d3bed.core.ids import AgentId, CauseId, PipelineId
from d3bed.core.joining import Joined, JoinRequest
from d3bed.core.messages import ModelSpec
from d3bed.server.audit import AuditRow
from d3bed.server.bodies import (
    Changed,
    EndOrder,
    LinkOrder,
    LinkReset,
    LoadOrder,
    ModelOrder,
    NetworkOrder,
    RateOrder,
    RunOrder,
    SceneOrder,
    SpeedOrder,
    StopOrder,
    StrategyOrder,
)
from d3bed.server.doctor import Doctor, Examination
from d3bed.server.door import Caller
from d3bed.server.events import (
    Change,
    ChangeModel,
    ChangeNetwork,
    ChangeRate,
    ChangeStrategy,
    Circumstance,
    EndAgent,
    Order,
    Quantity,
    StartRun,
    StopRun,
    Subject,
    Undo,
)
from d3bed.server.history import (
    FRAMES,
    MOST_FRAMES,
    SPANS,
    FrameSpans,
    RunHistory,
    frame_series,
    frame_spans,
    run_history,
)
from d3bed.server.routing import ApiError, Route, decode, described
from d3bed.server.runner import Runner
from d3bed.server.scenes import Scenes
from d3bed.server.seconds import SecondView
from d3bed.server.settings import TILINGS
from d3bed.server.tape import Replay, replay
from d3bed.server.trace import trace
from d3bed.server.trust import (
    CloseOrder,
    CredentialView,
    InvitationView,
    Invited,
    InviteOrder,
    Outcome,
    Trust,
)
from d3bed.server.views import (
    AgentView,
    ConditionView,
    DecisionDetails,
    DecisionView,
    FrameSeries,
    LinkView,
    OrderView,
    PipelineView,
    RunReport,
    RunView,
    StateView,
)
from d3bed.server.why import WhyView, why

__all__ = ["MAX_BODY_BYTES", "ROUTES", "Api", "openapi"]

_T = TypeVar("_T")

MAX_BODY_BYTES = 64 * 1024
_LISTED = 200

_LINK_QUANTITIES: tuple[Quantity, ...] = ("bytes_per_s", "latency_s", "loss")


# ── answers ────────────────────────────────────────────────────────────────────────────


class Accepted(msgspec.Struct, frozen=True):
    """The order was taken; events of the feed that follow from it carry `cause_id`. What becomes of `order`
    is in the feed, too."""

    pipeline: PipelineId
    cause_id: CauseId | None
    message: str
    order: CauseId | None = None


class PlanRow(msgspec.Struct, frozen=True):
    """One answer of the planner; `tiers` in the text form of a plan, `route` the agent of each tier."""

    id: int
    at_s: float
    cause_id: CauseId | None
    pipeline: PipelineId
    model: str
    strategy: str
    cost_s: float
    plan_time_s: float
    latency_s: float
    route: dict[str, str]
    tiers: str


# ── handlers ──────────────────────────────────────────────────────────────────────────────────────


class Api:
    """What the routes do. Every method takes the request's path values (and body)."""

    def __init__(self, runner: Runner, trust: Trust, doctor: Doctor) -> None:
        self.trust, self._doctor = trust, doctor
        self._runner = runner
        self._coordinator = runner.coordinator
        self._scenes = Scenes(runner, self._ask)
        self._explaining = asyncio.Lock()

    async def agents(self) -> tuple[AgentView, ...]:
        return self._coordinator.agents()

    async def links(self) -> tuple[LinkView, ...]:
        return self._coordinator.links()

    async def pipelines(self) -> Sequence[PipelineView]:
        views = (self._coordinator.view(name) for name in self._coordinator.pipelines)
        return self._coordinator.drawings.spliced(views)

    async def pipeline(self, id: str) -> PipelineView:
        return self._coordinator.view(self._known(id))

    async def state(self) -> StateView:
        return self._coordinator.drawings.spliced_state(self._coordinator.snapshot())

    async def plans(self) -> list[PlanRow]:
        rows = await self._read(f"SELECT * FROM plans ORDER BY id DESC LIMIT {_LISTED}")
        for row in rows:
            row["route"] = msgspec.json.decode(row["route"])
        return msgspec.convert(rows, list[PlanRow])

    async def decisions(self) -> list[DecisionView]:
        stored = {d.cause_id: d for d in await self._latest("decisions", "at_s", list[DecisionView])}
        live = {decision.cause_id: decision for decision in self._coordinator.decisions()}
        found = sorted((stored | live).values(), key=lambda decision: decision.at_s, reverse=True)
        return found[:_LISTED]

    async def decision(self, id: str) -> DecisionDetails:
        decision = next((d for d in self._coordinator.decisions() if d.cause_id == id), None)
        if decision is None:
            rows = await self._read("SELECT view FROM decisions WHERE cause_id = ?", id)
            if not rows:
                raise ApiError(404, f"there is no decision {id!r}")
            decision = msgspec.json.decode(rows[0]["view"], type=DecisionView)
        frames = self._coordinator.frames if decision.choice == "move" else ()
        return DecisionDetails(decision, tuple(f for f in frames if f.epoch == decision.epoch))

    async def runs(self) -> list[RunView]:
        stored = {run.id: run for run in await self._latest("runs", "started_s", list[RunView])}
        live = {run.id: run.view for run in self._coordinator.runs()}
        return sorted((stored | live).values(), key=lambda run: run.started_s, reverse=True)

    async def run(self, id: str) -> RunView:
        for run in self._coordinator.runs():
            if run.id == id:
                return run.view
        return msgspec.json.decode(await self._stored(id, "view"), type=RunView)

    async def report(self, id: str) -> RunReport:
        report = self._coordinator.report(id)
        return report or msgspec.json.decode(await self._stored(id, "report"), type=RunReport)

    async def frames(self, id: str) -> FrameSeries:
        await self.run(id)
        return frame_series(id, await self._read(FRAMES, id, MOST_FRAMES))

    async def spans(self, id: str) -> list[FrameSpans]:
        await self.run(id)
        rows = await self._read(SPANS, id)
        return await asyncio.to_thread(lambda: [frame_spans(row) for row in rows])

    async def trace(self, id: str, frame: str | None = None) -> dict[str, Any]:
        """Of the latest frames, or of one."""
        found = await self.spans(id)
        if frame is not None:
            found = [each for each in found if str(each.frame) == frame]
            if not found:
                raise ApiError(
                    404, f"the spans of frame {frame} of run {id!r} are not kept (any more, or yet)"
                )
        return await asyncio.to_thread(trace, id, found)

    async def replay(self, id: str, part: str = "0") -> Replay:
        run, now = await self.run(id), self._runner.clock()
        if not part.isdecimal():
            raise ApiError(404, f"part: {part!r} is no number")
        with _store_errors():
            try:
                return await asyncio.to_thread(replay, self._runner.store.read, run, int(part), now)
            except IndexError as error:
                raise ApiError(404, str(error)) from None

    async def seconds(self) -> Sequence[SecondView | msgspec.Raw]:
        return self._coordinator.seconds()

    async def history(self, id: str) -> RunHistory:
        report = self._coordinator.report(id)
        live = (await self.run(id), report) if report is not None else None
        with _store_errors():
            found = await asyncio.to_thread(run_history, self._runner.store.read, id, live)
        if found is None:
            raise ApiError(404, f"there is no run {id!r}")
        return found

    async def openapi(self) -> dict[str, Any]:
        return openapi()

    async def strategy(self, id: str, body: StrategyOrder) -> Accepted:
        name = self._known(id)
        if body.strategy not in self._coordinator.strategies:
            known = ", ".join(self._coordinator.strategies)
            raise ApiError(400, f"strategy: unknown strategy {body.strategy!r}; known: {known}")
        if body.tiling not in (None, *TILINGS):
            raise ApiError(400, f"tiling: unknown tiling {body.tiling!r}; known: {', '.join(TILINGS)}")
        return self._order(ChangeStrategy(name, body.strategy, body.tiling, body.by))

    async def model(self, id: str, body: ModelOrder) -> Accepted:
        name, models = self._known(id), self._coordinator.settings.models
        own = ":" in body.model or body.model.endswith((".pt2", ".safetensors"))
        if body.model not in models and not own:
            known = ", ".join(models)
            raise ApiError(
                400,
                f"model: unknown model {body.model!r}; known: {known}, package.module:factory, a .pt2 file, "
                "a .safetensors file of d3bed export",
            )
        camera = self._coordinator.pipelines[name].settings.model  # it gives files or pixels to any network
        spec = await self._runner.files.stamped(
            ModelSpec(body.model, body.weights, body.input, camera.encoded, camera.floats)
        )
        return self._order(ChangeModel(name, spec, body.by))

    async def start(self, id: str, body: RunOrder) -> Accepted:
        pipeline = self._coordinator.pipelines[self._known(id)]
        if pipeline.stream.is_running:
            raise ApiError(409, f"pipeline {id}: a run is under way; stop it first")
        in_flight = body.in_flight or pipeline.settings.in_flight
        return self._order(StartRun(pipeline.settings.id, body.frames, in_flight, body.by))

    async def rate(self, id: str, body: RateOrder) -> Accepted:
        return self._order(ChangeRate(self._known(id), body.rate_per_s, body.by))

    async def stop(self, id: str, body: StopOrder) -> Accepted:
        return self._order(StopRun(self._known(id), body.by))

    async def network(self, id: str, body: NetworkOrder) -> Accepted:
        name, networks = self._known(id), self._coordinator.settings.networks
        if body.network not in networks:
            known = ", ".join(networks) or "none"
            raise ApiError(400, f"network: unknown network {body.network!r}; known: {known}")
        shaped = self._coordinator.pipelines[name].settings.shapes.keys()
        if shaped != networks[body.network].shapes.keys():
            raise ApiError(
                409,
                f"network {body.network} shapes {', '.join(networks[body.network].shapes)};"
                f" here {', '.join(shaped) or 'nothing'} is shaped: start the server with --network",
            )
        return self._order(ChangeNetwork(name, body.network, body.by))

    async def why(self, id: str, vertex: str) -> WhyView:
        active = self._coordinator.pipelines[self._known(id)].active
        if active is None:
            raise ApiError(409, f"pipeline {id} has no plan in force yet")
        names = list(active.graph.index)
        if vertex not in active.graph.index:
            raise ApiError(404, f"there is no vertex {vertex!r} in {active.graph.model}")
        at = names.index(vertex)
        async with self._explaining:
            try:
                return await asyncio.to_thread(why, active.choice.problem, at, active.plan.tiers[at])
            except PlanInfeasible as refusal:
                raise ApiError(409, str(refusal)) from refusal

    async def play(self, body: SceneOrder) -> Changed:
        scene = self._scenes.offered.get(body.scenario)
        if scene is None:
            known = ", ".join(self._scenes.offered) or "none"
            raise ApiError(400, f"scenario: there is no scenario {body.scenario!r}; known: {known}")
        if scene.refused:
            raise ApiError(409, f"scenario {scene.name}: {scene.refused}")
        if (playing := self._coordinator.world.scene) is not None:
            raise ApiError(409, f"scenario {playing.name} is being played; stop it first")
        return Changed(f"scenario {scene.name} begins", self._scenes.play(scene, body.by))

    async def stop_scenario(self, body: StopOrder) -> Changed:
        stopped = self._scenes.stop()
        return Changed("the scenario is stopped" if stopped else "no scenario is being played")

    async def _ask(self, path: str, body: dict[str, Any]) -> object:
        """A request of a scenario, as if it came over HTTP."""
        for route in ROUTES:
            if route.changes and not route.guarded and (values := route.matches(f"/api/{path}")) is not None:
                values["body"] = decode(msgspec.json.encode(body), route.body)
                return await route.call(self, **values)
        raise ApiError(404, f"nothing at {path}")

    async def conditions(self) -> tuple[ConditionView, ...]:
        return self._coordinator.conditions.views

    async def orders(self) -> tuple[OrderView, ...]:
        return self._coordinator.world.orders.latest

    async def link(self, body: LinkOrder) -> Changed:
        values: dict[Quantity, float] = {}
        if body.mbit_per_s is not None:
            values["bytes_per_s"] = body.mbit_per_s * 1e6 / 8
        if body.latency_ms is not None:
            values["latency_s"] = body.latency_ms / 1e3
        if body.loss_percent is not None:
            values["loss"] = body.loss_percent / 100
        if not values:
            what = "mbit_per_s, latency_ms or loss_percent"
            raise ApiError(400, f"nothing to change: give {what}; undo by /api/links/reset")
        return self._change(self._link(body.source, body.target), values, body.for_s, body.by)

    async def link_reset(self, body: LinkReset) -> Changed:
        return self._undo(self._link(body.source, body.target), _LINK_QUANTITIES, body.by)

    async def load(self, id: str, body: LoadOrder) -> Changed:
        if body.processes == 0:
            return self._undo((self._agent(id),), ("load",), body.by)
        return self._change((self._agent(id),), {"load": body.processes}, body.for_s, body.by)

    async def speed(self, id: str, body: SpeedOrder) -> Changed:
        if body.speed is None:
            return self._undo((self._agent(id),), ("speed",), body.by)
        return self._change((self._agent(id),), {"speed": body.speed}, body.for_s, body.by)

    async def stop_agent(self, id: str, body: EndOrder) -> Changed:
        return self._tell(EndAgent(self._agent(id), crash=False, by=body.by))

    async def kill_agent(self, id: str, body: EndOrder) -> Changed:
        return self._tell(EndAgent(self._agent(id), crash=True, by=body.by))

    async def examine(self, body: CloseOrder) -> Examination:
        return await self._doctor.examine()

    async def examination(self) -> Examination | None:
        return self._doctor.last

    # ── who is let in ─────────────────────────────────────────────────────────────────────────────

    async def credentials(self) -> list[CredentialView]:
        return await self.trust.agents()

    async def invitations(self) -> list[InvitationView]:
        return await self.trust.invitations()

    async def audit(self) -> list[AuditRow]:
        with _store_errors():
            return await self.trust.log()

    async def join(self, body: JoinRequest, caller: Caller) -> Joined:
        return await self.trust.join(body, caller)

    async def invite(self, body: InviteOrder, caller: Caller, base: str) -> Invited:
        return await self.trust.invite(body, caller, base)

    async def close_invitation(self, id: str, body: CloseOrder) -> Outcome:
        return await self.trust.close_invitation(id)

    async def revoke(self, id: str, body: CloseOrder, caller: Caller) -> Outcome:
        return await self.trust.revoke(id, caller)

    async def rotate(self, id: str, body: CloseOrder, caller: Caller) -> Outcome:
        return await self.trust.rotate(id, caller)

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _change(
        self, subject: Subject, values: dict[Quantity, float], for_s: float | None, by: str
    ) -> Changed:
        return self._tell(Change(subject, values, by, for_s))

    def _undo(self, subject: Subject, quantities: tuple[Quantity, ...], by: str) -> Changed:
        return self._tell(Undo(subject, quantities, by))

    def _tell(self, order: Circumstance) -> Changed:
        """Orders are handled at once; the note that they leave says what came of it."""
        notes = self._coordinator.world.notes
        last = notes[-1] if notes else None
        self._runner.submit(order)
        said = self._coordinator.world.notes
        new = bool(said) and said[-1] is not last
        return Changed(
            said[-1].text if new else "nothing of it was changed", self._coordinator.world.orders.last
        )

    def _link(self, source: str, target: str) -> Subject:
        ends = self._agent(source), self._agent(target)
        if self._coordinator.conditions.base(ends) is None:
            raise ApiError(
                409,
                f"link {source}→{target} is not emulated: it cannot be changed; use a network that shapes it",
            )
        return ends

    def _agent(self, id: str) -> AgentId:
        agent, world = AgentId(id), self._coordinator.world
        if world.is_connected(agent):
            return agent
        if agent in world.agents:
            raise ApiError(409, f"agent {id} has left: nothing can be changed until it is started again")
        known = ", ".join(world.agents) or "none"
        raise ApiError(404, f"there is no connected agent {id!r}; known: {known}")

    def _known(self, id: str) -> PipelineId:
        name = PipelineId(id)
        if name not in self._coordinator.pipelines:
            known = ", ".join(self._coordinator.pipelines) or "none"
            raise ApiError(404, f"there is no pipeline {id!r}; known: {known}")
        return name

    def _order(self, order: Order) -> Accepted:
        self._runner.submit(order)
        phase, text = self._coordinator.pipelines[order.pipeline].phase
        cause_id = self._coordinator.cause_of(order.pipeline)
        number = self._coordinator.world.orders.last
        return Accepted(order.pipeline, cause_id, f"{order.pipeline}: {phase}: {text}", number)

    async def _read(self, sql: str, *values: object) -> list[dict[str, Any]]:
        with _store_errors():
            return await self._runner.read(sql, *values)

    async def _latest(self, table: str, when: str, kind: type[_T]) -> _T:
        """The `view`s of the newest rows, newest first, as one value: for each row that is fetched a thread
        has to wait for its turn on the interpreter."""
        newest = f"SELECT view FROM {table} ORDER BY {when} DESC LIMIT {_LISTED}"
        (found,) = await self._read(f"SELECT json_group_array(json(view)) AS views FROM ({newest})")
        return msgspec.json.decode(found["views"], type=kind)

    async def _stored(self, id: str, column: str) -> str:
        rows = await self._read(f"SELECT {column} FROM runs WHERE id = ?", id)
        if not rows:
            raise ApiError(404, f"there is no run {id!r}")
        return str(rows[0][column])


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ApiError(503, f"the store cannot be read now ({error}); frames go on") from error


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


_PIPELINE = "/api/pipelines/{id}"
_AGENT = "/api/agents/{id}"
_CREDENTIAL = "/api/credentials/{id}"
ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/state", "Everything that the dashboard shows", Api.state, StateView),
    Route("GET", "/api/agents", "All agents seen since the start", Api.agents, list[AgentView]),
    Route("GET", "/api/links", "Measured links and what went over them", Api.links, list[LinkView]),
    Route("GET", "/api/conditions", "Changes in force", Api.conditions, list[ConditionView]),
    Route("GET", "/api/orders", "What users asked for, and what became of it", Api.orders, list[OrderView]),
    Route("GET", "/api/pipelines", "All pipelines", Api.pipelines, list[PipelineView]),
    Route("GET", _PIPELINE, "One pipeline", Api.pipeline, PipelineView),
    Route("GET", f"{_PIPELINE}/why/{{vertex}}", "Why a vertex is where it is", Api.why, WhyView),
    Route("GET", "/api/plans", "The planner's latest answers, newest first", Api.plans, list[PlanRow]),
    Route("GET", "/api/decisions", "Decisions, newest first", Api.decisions, list[DecisionView]),
    Route("GET", "/api/decisions/{id}", "One, by its cause, and its frames", Api.decision, DecisionDetails),
    Route("GET", "/api/runs", "Runs, newest first", Api.runs, list[RunView]),
    Route("GET", "/api/runs/{id}", "One run", Api.run, RunView),
    Route("GET", "/api/runs/{id}/report", "Its report, d3bed.report/1", Api.report, RunReport),
    Route("GET", "/api/runs/{id}/frames", "Its frames, by columns", Api.frames, FrameSeries),
    Route("GET", "/api/runs/{id}/spans", "Its latest frames' spans", Api.spans, list[FrameSpans]),
    Route("GET", "/api/runs/{id}/trace", "They as a trace for Perfetto", Api.trace, dict[str, Any]),
    Route("GET", "/api/runs/{id}/frames/{frame}/trace", "Of one frame", Api.trace, dict[str, Any]),
    Route("GET", "/api/runs/{id}/replay/{part}", "What the page was told in it", Api.replay, Replay),
    Route("GET", "/api/seconds", "The last ten minutes, by seconds", Api.seconds, list[SecondView]),
    Route("GET", "/api/runs/{id}/history", "All of it: d3bed.history/1", Api.history, RunHistory),
    Route("GET", "/api/openapi.json", "This document", Api.openapi, dict[str, Any]),
    Route("GET", "/api/doctor", "The last examination, or null", Api.examination, Examination | None),
    Route("POST", "/api/doctor", "Examine agents and links", Api.examine, Examination, CloseOrder, True),
    Route("GET", "/api/credentials", "Agents that joined", Api.credentials, list[CredentialView], None, True),
    Route("GET", "/api/invitations", "Open join tokens", Api.invitations, list[InvitationView], None, True),
    Route("GET", "/api/audit", "Who changed what, newest first", Api.audit, list[AuditRow], None, True),
    Route("POST", "/api/join", "Join as an agent, by a join token", Api.join, Joined, JoinRequest, True),
    Route("POST", "/api/invitations", "Make a join token", Api.invite, Invited, InviteOrder, True),
    Route("POST", "/api/invitations/{id}/revoke", "End one", Api.close_invitation, Outcome, CloseOrder, True),
    Route("POST", f"{_CREDENTIAL}/revoke", "Cut an agent off", Api.revoke, Outcome, CloseOrder, True),
    Route(
        "POST", f"{_CREDENTIAL}/rotate", "Give it another credential", Api.rotate, Outcome, CloseOrder, True
    ),
    Route("POST", f"{_PIPELINE}/strategy", "Plan by a strategy", Api.strategy, Accepted, StrategyOrder),
    Route("POST", f"{_PIPELINE}/model", "Switch to a model", Api.model, Accepted, ModelOrder),
    Route("POST", f"{_PIPELINE}/network", "Other link rates, by preset", Api.network, Accepted, NetworkOrder),
    Route("POST", f"{_PIPELINE}/start", "Start a run of frames", Api.start, Accepted, RunOrder),
    Route("POST", f"{_PIPELINE}/rate", "Change the frame rate", Api.rate, Accepted, RateOrder),
    Route("POST", f"{_PIPELINE}/stop", "Stop the run", Api.stop, Accepted, StopOrder),
    Route("POST", "/api/links", "Change an emulated link", Api.link, Changed, LinkOrder),
    Route("POST", "/api/links/reset", "Undo its changes", Api.link_reset, Changed, LinkReset),
    Route("POST", "/api/scenario", "Play a scenario", Api.play, Changed, SceneOrder),
    Route("POST", "/api/scenario/stop", "End it", Api.stop_scenario, Changed, StopOrder),
    Route("POST", f"{_AGENT}/load", "Load an agent's board, or end that", Api.load, Changed, LoadOrder),
    Route("POST", f"{_AGENT}/speed", "Change an emulated speed", Api.speed, Changed, SpeedOrder),
    Route("POST", f"{_AGENT}/stop", "End an agent's process", Api.stop_agent, Changed, EndOrder),
    Route("POST", f"{_AGENT}/kill", "Have it crash", Api.kill_agent, Changed, EndOrder),
)


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of `ROUTES`."""
    return described(ROUTES)
