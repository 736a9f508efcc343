"""An agent: one process on one board, from registration to the last frame.

Wires the parts together and answers the server's orders. Orders that take long (load, profile,
measure, prepare) run as tasks beside the control connection; tensor work goes to the compute thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import assert_never
from urllib.parse import urlsplit

import torch

from d3bed import __version__
from d3bed.agent.board import SAMPLE_S, Board, facts
from d3bed.agent.checks import PROBE_S, check_link
from d3bed.agent.clock import ClockOffset
from d3bed.agent.compute import ComputeThread
from d3bed.agent.control import resident_bytes, run_control
from d3bed.agent.engines import chosen
from d3bed.agent.executor import Executor
from d3bed.agent.files import FileStore
from d3bed.agent.identity import change_credential, key_file, read_identity
from d3bed.agent.lines import Lines
from d3bed.agent.links import Links
from d3bed.agent.load import BusyProcesses
from d3bed.agent.machine import read_machine
from d3bed.agent.near import fetched
from d3bed.agent.passes import give_back, room_for_weights
from d3bed.agent.prepare import alone_on_host, epoch_work
from d3bed.agent.profiler import ProfileCache
from d3bed.agent.reporter import Reporter
from d3bed.agent.sampling import Sampler
from d3bed.agent.settings import AgentSettings
from d3bed.agent.source import Active, Photo, Source, prepare_photos
from d3bed.core.errors import ConfigError, D3Error, LinkBroken, ModelError, Unreachable
from d3bed.core.ids import AgentId, Epoch, PipelineId, Tier
from d3bed.core.joining import Machine
from d3bed.core.measurements import FrameReport, Thumbnail
from d3bed.core.messages import (
    CRASHED,
    Abandon,
    Activate,
    CheckLinks,
    ClockPong,
    Confirm,
    Confirmed,
    Crash,
    CredentialKept,
    CutOff,
    Drained,
    Heartbeat,
    KeepLines,
    LinkFailed,
    LinkMeasured,
    LinksChecked,
    LoadModel,
    MeasureLinks,
    ModelFailed,
    ModelLoaded,
    ModelSpec,
    NewCredential,
    PhotosPrepared,
    Prepare,
    PrepareFailed,
    Preparing,
    Profiled,
    ProfileModel,
    Ready,
    Register,
    Retire,
    SampleSpeed,
    SetLoad,
    SetRate,
    SetSpeed,
    ShapeLink,
    SourceEnded,
    SpeedSampled,
    StartSource,
    Stop,
    StopSource,
    ToAgent,
    Welcome,
)
from d3bed.core.program import programs_for
from d3bed.model import LoadedModel, fingerprint, load
from d3bed.model.constants import Recent
from d3bed.model.images import decoder, folder, shipped
from d3bed.net import LinkTls, Listener, Sender, TrafficControl

__all__ = ["SERVER_GONE_S", "Agent", "reachable"]

_log = logging.getLogger(__name__)

#: After so long without a word from the server (it answers a clock ping every 4 s) it counts as gone.
SERVER_GONE_S = 8.0

#: A peer that does not answer for so long while it is looked at holds up nobody else.
LOOK_S = 2.0


class Agent:
    """The state of one agent process; `run` lives until the server says stop or it is cancelled."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self._token = settings.token
        self._node, self._machine = _board(settings.identity)
        self._compute = ComputeThread(settings.agent)
        self._clock = ClockOffset()
        self._reporter = Reporter(self._clock)
        self._executor = Executor(self._compute, settings.speed, self._reporter)
        self._sampler = Sampler(self._executor)
        self._tls = _link_tls(settings)
        self._links = Links(settings.agent, TrafficControl() if settings.tc else None, self._tls)
        self._profiles = ProfileCache(settings.cache_dir)
        self._files = FileStore(
            settings.cache_dir / "models",
            settings.server,
            lambda: self._token,
            settings.models_bytes,
            tls=ssl.create_default_context(cadata=settings.authority) if settings.authority else None,
        )
        self._weights = Recent(room_for_weights(settings.weights_bytes))
        self._threads = 1
        self._models: dict[str, LoadedModel] = {}
        self._photos: dict[str, list[Photo]] = {}
        self._nominal_s: dict[str, tuple[float, ...]] = {}
        self._sources: dict[PipelineId, Source] = {}
        self._prepared: dict[tuple[PipelineId, Epoch], ModelSpec] = {}
        #: Links of epochs that are being prepared.
        self._reserved: dict[tuple[PipelineId, Epoch], set[Sender]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._load_on_board = BusyProcesses()
        self._facts = facts()
        #: What could not be done of what was asked since the last `Confirm`.
        self._unable = ""
        self._heard_s = time.monotonic()

    async def run(self) -> None:
        """Raises `ConfigError` when the listener cannot bind or the server refuses the registration."""
        settings = self.settings
        if settings.tc:
            TrafficControl.check()
        try:
            self._listener = await Listener.start(
                settings.listen_host,
                settings.listen_port,
                me=settings.agent,
                secret=None,
                on_tensor=self._executor.receive,
                on_lost=self._peer_left,
                tls=self._tls,
            )
        except OSError as error:
            where = f"{settings.listen_host}:{settings.listen_port}"
            raise ConfigError(where, "listen", str(error.strerror or error), "choose another port") from error
        self._links.relay = self._listener.relay
        self._listener.file_of = self._files.piece
        self._lines = Lines(settings.agent, lambda: self._links.secret, self._listener.adopt)
        control = asyncio.create_task(
            run_control(
                settings.server,
                lambda: self._token,
                self._registration,
                self._heartbeat,
                self._clock,
                self._reporter,
                self._handle,
                settings.authority,
            )
        )
        self._spawn(self._watch_board())
        stopped = asyncio.create_task(self._stopped.wait())
        self._spawn(self._watch_server())
        try:
            await asyncio.wait((control, stopped), return_when=asyncio.FIRST_COMPLETED)
            if control.done():
                await control
        finally:
            self._files.close()
            for task in (control, stopped, *self._tasks):
                task.cancel()
            await asyncio.gather(control, stopped, *self._tasks, return_exceptions=True)
            for source in self._sources.values():
                await source.close()
            self._executor.close()
            await self._lines.close()
            await self._links.close()
            await self._listener.close()
            self._compute.close()
            self._load_on_board.carry(0)

    # ── what the server asks ──────────────────────────────────────────────────────────────────────

    async def _handle(self, message: ToAgent) -> None:
        self._heard_s = time.monotonic()
        match message:
            case Welcome(link_secret, _, cut_off):
                await self._change_back()  # what is in force is said anew
                self._lines.keep(())
                self._cut_off(bytes.fromhex(link_secret), *cut_off)
            case CutOff(agent, link_secret):
                self._cut_off(bytes.fromhex(link_secret), agent)
            case NewCredential():
                await self._keep(message)
            case ClockPong():
                pass  # taken by the connection, too, which knows when it came
            case LoadModel():
                self._spawn(self._load(message))
            case ProfileModel():
                self._spawn(self._profile(message))
            case SampleSpeed(model):
                self._spawn(self._sample(model))
            case MeasureLinks():
                self._spawn(self._measure(message))
            case KeepLines(at):
                self._lines.keep(at)
            case CheckLinks():
                self._spawn(self._check(message))
            case Prepare():
                self._spawn(self._prepare(message))
            case Activate():
                self._activate(message)
            case Abandon(pipeline, epoch, frame):
                self._executor.abandon(pipeline, epoch, frame)
            case Retire():
                self._executor.retire(message.pipeline, message.epoch)
                self._prepared.pop((message.pipeline, message.epoch), None)
                self._spawn(self._close_unused(message.pipeline))
            case StartSource() | StopSource() | SetRate() | ShapeLink() | SetSpeed() | SetLoad():
                try:
                    await self._change(message)
                except (D3Error, OSError) as error:
                    self._unable = f"{type(message).__name__}: {error}"
                    _log.error("could not do as told: %s", self._unable)
            case Confirm(order):
                problem, self._unable = self._unable, ""
                self._reporter.fact(Confirmed(order, problem))
            case Crash():
                os._exit(CRASHED)
            case Stop():
                _log.info("the server says stop: %s", message.reason)
                self._stopped.set()
            case _:
                assert_never(message)

    async def _change(
        self, message: StartSource | StopSource | SetRate | ShapeLink | SetSpeed | SetLoad
    ) -> None:
        """Done when it returns, so that a `Confirm` that follows can say so."""
        match message:
            case StartSource():
                self._source(message.pipeline).start(message.frames, message.in_flight, message.rate_per_s)
            case StopSource():
                self._source(message.pipeline).stop()
            case SetRate(pipeline, rate_per_s):
                self._source(pipeline).set_rate(rate_per_s)
            case ShapeLink(peer, shape):
                await self._links.change(peer, shape)
            case SetSpeed(speed):
                self._executor.set_speed(speed)
            case SetLoad(processes):
                self._load_on_board.carry(processes)

    def _cut_off(self, link_secret: bytes, *agents: AgentId) -> None:
        """Prove and ask for this secret from now on, and have no links with these agents."""
        self._links.secret = self._listener.secret = link_secret
        for agent in agents:
            self._listener.cut_off(agent)
            self._links.cut_off(agent)

    async def _keep(self, order: NewCredential) -> None:
        path = self.settings.identity
        if path is None:
            _log.warning("the server sent a credential, but this agent has no identity file")
            return
        try:
            await asyncio.to_thread(change_credential, path, order.credential)
        except ConfigError as error:
            _log.error("the new credential is not used: %s", error)
            return
        self._token = order.credential
        self._reporter.fact(CredentialKept(order.id))

    async def _change_back(self) -> None:
        """Be as configured: no changed links, no other speed, no load."""
        try:
            await self._links.change_back()
        except OSError as error:
            _log.error("links cannot be changed back: %s", error)
        self._executor.set_speed(self.settings.speed)
        self._load_on_board.carry(0)

    async def _watch_server(self) -> None:
        """Changed conditions must not outlive the server that knows when they end."""
        while True:
            await asyncio.sleep(0.5)
            if time.monotonic() - self._heard_s > SERVER_GONE_S:
                await self._change_back()

    def _registration(self) -> Register:
        settings = self.settings
        return Register(
            agent=settings.agent,
            tier=settings.tier,
            pid=os.getpid(),
            host=socket.gethostname(),
            data_address=settings.address or reachable(self._listener.address, settings.server),
            speed=settings.speed,
            engine=settings.engine,
            version=__version__,
            facts=self._facts,
            cpus=settings.cpus,
            tc=settings.tc,
            node=self._node,
            machine=self._machine,
            tls=self._tls is not None,
        )

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self._compute.queued, self._listener.rejected, resident_bytes())

    async def _watch_board(self) -> None:
        board = await asyncio.to_thread(Board)
        while True:
            await asyncio.sleep(SAMPLE_S)
            spent_s, sending_bytes = self._reporter.spent_s, self._links.unsent_bytes
            self._reporter.sampled(await asyncio.to_thread(board.sample, spent_s, sending_bytes))

    async def _load(self, order: LoadModel) -> None:
        started_s = time.monotonic()
        spec, key = order.model, order.model.key
        try:
            files = {}
            if key not in self._models:
                files = await fetched(self._files, order, self._links, self._reporter.fact)
        except ConfigError as error:
            self._reporter.fact(ModelFailed(spec, str(error)))
            return
        async with self._one_at_a_time:
            try:
                if key not in self._models:
                    self._threads = order.threads
                    model = await self._compute.run(lambda: self._load_model(spec, order.threads, files))
                    async with alone_on_host(self.settings.cache_dir):
                        model = await self._compute.run(
                            lambda: chosen(model, self.settings.engine, self.settings.cache_dir)
                        )
                    if self.settings.tier is Tier.DEVICE:
                        self._photos[key] = await self._compute.run(lambda: self._load_photos(model))
                    self._models[key] = model
            except ConfigError as error:
                self._reporter.fact(ModelFailed(spec, str(error)))
                return
        loaded = self._models[key]
        if key in self._photos:
            thumbnails = tuple(Thumbnail(photo.name, photo.thumbnail) for photo in self._photos[key])
            self._reporter.fact(PhotosPrepared(thumbnails))
        self._reporter.fact(
            ModelLoaded(
                spec,
                loaded.graph,
                fingerprint(order.threads, loaded.engine),
                order.threads,
                time.monotonic() - started_s,
                decoder() if spec.encoded else "",
                loaded.engine,
            )
        )

    def _load_model(self, spec: ModelSpec, threads: int, files: Mapping[str, Path]) -> LoadedModel:
        torch.set_num_threads(threads)
        # Loading and exporting build parameters, which inference mode would spoil for good.
        with torch.inference_mode(False):
            kept = self.settings.cache_dir / "exported"
            on_device = self.settings.tier is Tier.DEVICE
            model = load(spec, files, kept=kept, reference=on_device, recent=self._weights)
        give_back()
        return model

    def _load_photos(self, model: LoadedModel) -> list[Photo]:
        where = self.settings.photos
        paths = folder(where) if where is not None else shipped(jpeg=model.spec.encoded > 0)
        if not paths:
            raise ModelError(str(where), "photos", "no image found", "point `photos` at a folder of images")
        return prepare_photos(model, paths)

    async def _profile(self, order: ProfileModel) -> None:
        started_s = time.monotonic()
        async with self._one_at_a_time:
            model = self._models.get(order.model.key)
            if model is None:
                self._reporter.fact(ModelFailed(order.model, "asked to profile a model that is not loaded"))
                return
            print_ = fingerprint(self._threads, model.engine)
            profile, cached = await self._compute.run(
                lambda: self._profiles.profile(model, print_, self._threads, fresh=order.fresh)
            )
        self._nominal_s[order.model.key] = profile.times_s
        self._sampler.forget(order.model.key)
        times_s, fixed_s = (tuple(t / self.settings.pace for t in numbers) for numbers in profile)
        self._reporter.fact(Profiled(order.model, times_s, cached, time.monotonic() - started_s, fixed_s))

    async def _sample(self, spec: ModelSpec) -> None:
        """Without an answer where frames are under way: then spans tell."""
        model, nominal_s = self._models.get(spec.key), self._nominal_s.get(spec.key)
        if model is None or nominal_s is None or self._compute.queued or self._executor.is_busy:
            return
        found = await self._sampler.sample(model, nominal_s)
        if found is not None:
            self._reporter.fact(SpeedSampled(spec, *found))

    async def _measure(self, order: MeasureLinks) -> None:
        for peer in order.peers:
            limit_s = LOOK_S if order.quick else PROBE_S
            try:
                async with asyncio.timeout(limit_s):  # a peer may be stopped
                    found = await self._links.measure(peer, quick=order.quick)
            except (D3Error, OSError, TimeoutError) as error:
                said = str(error) or f"not measured within {limit_s:g} s"
                unreachable = isinstance(error, Unreachable)
                self._reporter.fact(LinkFailed(peer.agent, said, unreachable))
                continue
            shape = self._links.shape(peer)
            target = shape.bytes_per_s if shape else None
            self._reporter.fact(
                LinkMeasured(peer.agent, found.bytes_per_s, found.latency_s, found.rtt_s, target, order.quick)
            )

    async def _check(self, order: CheckLinks) -> None:
        asked_s = time.time()
        checks = tuple([await check_link(peer, self._links.measure) for peer in order.peers])
        self._reporter.fact(LinksChecked(order.number, checks, (asked_s, time.time())))

    async def _prepare(self, order: Prepare) -> None:
        started_s = time.monotonic()
        reserved = self._reserved[order.pipeline, order.epoch] = set()
        try:
            model = self._models.get(order.model.key)
            if model is None:
                raise ModelError(order.model.name, "", "not loaded on this agent")
            order.plan.check(model.graph)
            programs = programs_for(model.graph, order.plan, order.route.agents)
            program = programs.get(self.settings.agent)
            if program is None:
                raise ModelError(order.model.name, "", "the plan has no work for this agent")
            senders = {}
            for peer in order.peers:
                senders[peer.agent] = await self._links.to(order.pipeline, peer)
                reserved.add(senders[peer.agent])
            on_device = self.settings.tier is Tier.DEVICE
            loop = asyncio.get_running_loop()

            def progress(done: int, of: int) -> None:
                told = Preparing(order.pipeline, order.epoch, (done, of))
                loop.call_soon_threadsafe(self._reporter.fact, told)

            work, tiles = await epoch_work(
                order,
                model,
                program,
                senders,
                keep=frozenset(model.graph.results) if on_device else frozenset(),
                compute=self._compute,
                times_s=self._nominal_s.get(order.model.key),
                speed=self.settings.speed,
                fingerprint=fingerprint(self._threads, model.engine),
                cache_dir=self.settings.cache_dir,
                progress=progress,
            )
        except (D3Error, OSError, TimeoutError, ValueError) as error:
            self._reporter.fact(
                PrepareFailed(order.pipeline, order.epoch, str(error) or type(error).__name__)
            )
            return
        finally:
            del self._reserved[order.pipeline, order.epoch]
        self._executor.add(work)
        self._prepared[order.pipeline, order.epoch] = order.model
        self._reporter.fact(Ready(order.pipeline, order.epoch, time.monotonic() - started_s, tiles))

    def _activate(self, order: Activate) -> None:
        shares = dict(order.mix) or {order.epoch: 1.0}
        specs = {self._prepared.get((order.pipeline, epoch)) for epoch in shares}
        spec = specs.pop()
        if specs or spec is None or spec.key not in self._photos:
            _log.error("told to activate epoch %d, which is not prepared here", order.epoch)
            return
        active = Active(shares, self._models[spec.key], self._photos[spec.key])
        self._source(order.pipeline).activate(active, order.depth, order.expected_s)

    async def _close_unused(self, pipeline: PipelineId) -> None:
        """What is on its way on these links may take a while to leave: orders do not wait for it."""
        used = self._executor.senders_in_use(pipeline)
        reserved = (senders for (name, _), senders in self._reserved.items() if name == pipeline)
        await self._links.keep_only(pipeline, used.union(*reserved))

    # ── plumbing ──────────────────────────────────────────────────────────────────────────────────

    def _source(self, pipeline: PipelineId) -> Source:
        source = self._sources.get(pipeline)
        if source is None:

            def on_frame(report: FrameReport) -> None:
                source = self._sources[pipeline]
                self._reporter.frame(pipeline, report, source.sent, source.dropped)

            source = self._sources[pipeline] = Source(
                pipeline,
                self._executor,
                on_frame=on_frame,
                on_drained=lambda epoch: self._reporter.fact(Drained(pipeline, epoch)),
                on_ended=lambda *counts: self._reporter.fact(SourceEnded(pipeline, *counts)),
            )
        return source

    def _peer_left(self, peer: AgentId, pipeline: PipelineId, error: Exception) -> None:
        # The sender's side reports a broken link. The device need not wait to be told by the server, which
        # may be gone as well: without a goodbye nothing will come from there.
        _log.info("link from %s ended: %s", peer, error)
        if self.settings.tier is Tier.DEVICE and isinstance(error, LinkBroken):
            self._executor.peer_lost(pipeline, peer)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an order failed: %s", error, exc_info=error)


def _board(identity: Path | None) -> tuple[str, Machine]:
    """The node id of a board that joined, and the marks of the machine that it is on now."""
    if identity is None:
        return "", Machine()
    node = read_identity(identity).node
    return node, read_machine(node)


def _link_tls(settings: AgentSettings) -> LinkTls | None:
    """Where the server speaks TLS, data links do."""
    if settings.identity is None or not settings.authority:
        return None
    return LinkTls(key_file(settings.identity), settings.authority)


def reachable(address: str, server: str) -> str:
    """What peers are told of a listener: where it binds to every address, the one that faces the server.

    Nothing is sent: connecting a datagram socket only chooses the local address.
    """
    host, _, port = address.rpartition(":")
    if host not in ("0.0.0.0", "[::]"):
        return address
    target = urlsplit(server)
    family = socket.AF_INET6 if host == "[::]" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target.hostname or "", target.port or 80))
        except OSError:
            return address  # the server cannot be reached either; registering will say so
        found = probe.getsockname()[0]
    return f"[{found}]:{port}" if family == socket.AF_INET6 else f"{found}:{port}"
