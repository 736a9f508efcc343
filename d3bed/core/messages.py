"""What agents and server say to each other over the control WebSocket.

Past tense for facts that an agent reports, imperative for orders that the server gives. Messages are
JSON, one a WebSocket text frame, or several of an agent (`together`), decoded at the door into one of two
tagged unions: what is not in the union, or has a wrong field, fails there as a `RemoteProtocolError`.
Tensors never travel here.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from d3bed.core.checks import LinkCheck
from d3bed.core.errors import RemoteProtocolError
from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId, CauseId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.joining import CredentialKept, CutOff, Machine, NewCredential
from d3bed.core.measurements import (
    BoardFacts,
    BoardSample,
    FrameReport,
    LinkShape,
    Span,
    Thumbnail,
    TileReady,
    Transfer,
)
from d3bed.core.models import TORCH, ModelFile, ModelSpec
from d3bed.core.numbers import Bytes, Count, EpochNumber, FrameNumber, LinkSpeed, Place, Rate, Real, Seconds
from d3bed.core.plan import Plan
from d3bed.core.protocol import PROTOCOL
from d3bed.core.ways import KeepLines, Peer

__all__ = [
    "CRASHED",
    "MAX_CONTROL_BYTES",
    "Abandon",
    "Activate",
    "BoardSampled",
    "CheckLinks",
    "ClockPing",
    "ClockPong",
    "Confirm",
    "Confirmed",
    "Crash",
    "CredentialKept",
    "CutOff",
    "Drained",
    "Fetching",
    "FrameFailed",
    "FrameRescued",
    "FramesAnswered",
    "FromAgent",
    "Heartbeat",
    "KeepLines",
    "LinkFailed",
    "LinkLost",
    "LinkMeasured",
    "LinksChecked",
    "LoadModel",
    "MeasureLinks",
    "ModelFailed",
    "ModelFile",
    "ModelLoaded",
    "ModelSpec",
    "NewCredential",
    "Peer",
    "Prepare",
    "PhotosPrepared",
    "PrepareFailed",
    "Preparing",
    "ProfileModel",
    "Profiled",
    "Ready",
    "Register",
    "Retire",
    "Route",
    "SetRate",
    "SetLoad",
    "SetSpeed",
    "ShapeLink",
    "SourceEnded",
    "SpansRecorded",
    "StartSource",
    "Stop",
    "StopSource",
    "ToAgent",
    "Transferred",
    "Welcome",
    "decode_from_agent",
    "decode_to_agent",
    "encode",
]

#: Exit code of an agent that was told to `Crash`: what shells show for a process that SIGKILL ended.
CRASHED = 137

#: The graph of a network of some thousand vertices fits well.
MAX_CONTROL_BYTES = 8 * 2**20


class Route(msgspec.Struct, frozen=True):
    """The agents of one pipeline epoch, by tier; only tiers that the plan needs, or that relay."""

    agents: dict[Tier, AgentId]


# ── agent → server ────────────────────────────────────────────────────────────────────────────────


class Register(msgspec.Struct, frozen=True, tag=True):
    """First message of a connection. `speed` < 1 is emulated slowness: 0.2 means five times slower. `cpus`: a
    control group gives the process so many cores (None: no such limit); `tc`: the kernel holds its emulated
    links. A board that joined has a `node` id and marks of its `machine`. `tls`: its data links are.
    `protocol` stays where it is in every version."""

    agent: AgentId
    tier: Tier
    pid: Count
    host: str
    data_address: str
    speed: Real
    engine: str
    version: str
    facts: BoardFacts | None = None
    cpus: Real | None = None
    tc: bool = False
    node: str = ""
    machine: Machine = Machine()
    protocol: int = PROTOCOL
    tls: bool = False


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """I am alive; `queued` steps wait for my compute thread, `rejected` bad peers were closed."""

    queued: Count = 0
    rejected: Count = 0
    rss_bytes: Bytes = 0


class BoardSampled(msgspec.Struct, frozen=True, tag=True):
    """About once a second."""

    board: BoardSample


class ClockPing(msgspec.Struct, frozen=True, tag=True):
    """`sent_s` is on the agent's own monotonic clock; the answer is a `ClockPong`. `wall_s`: seconds since
    1970, as the board's clock has them, by which nothing here goes."""

    sent_s: Real
    wall_s: Real | None = None


class ModelLoaded(msgspec.Struct, frozen=True, tag=True):
    """The model is in memory. Equal fingerprints of torch's own engine promise bit-identical results.

    `engine` runs this agent's part of it: torch's operators or ONNX Runtime. `decoder` makes pixels of
    files, where the model takes those: equal ones promise equal pixels.
    """

    model: ModelSpec
    graph: Graph
    fingerprint: str
    threads: Count
    took_s: Real
    decoder: str = ""
    engine: str = TORCH


class Fetching(msgspec.Struct, frozen=True, tag=True):
    """Files of a model are on their way to this board: so many of so many bytes."""

    model: ModelSpec
    done_bytes: Bytes
    of_bytes: Bytes


class ModelFailed(msgspec.Struct, frozen=True, tag=True):
    model: ModelSpec
    problem: str


class PhotosPrepared(msgspec.Struct, frozen=True, tag=True):
    thumbnails: Annotated[tuple[Thumbnail, ...], msgspec.Meta(max_length=16)]  # of what frames are made of


class Profiled(msgspec.Struct, frozen=True, tag=True):
    """Seconds per vertex on this agent, its emulated speed included; 0 for the input vertex.

    `fixed_s`: how much of that a tile of the vertex takes whatever its size; empty where it is not known.
    """

    model: ModelSpec
    times_s: tuple[Seconds, ...]
    from_cache: bool
    took_s: Real
    fixed_s: tuple[Seconds, ...] = ()


class SpeedSampled(msgspec.Struct, frozen=True, tag=True):
    """Answer to `SampleSpeed`: how long one vertex takes now, its emulated speed included."""

    model: ModelSpec
    vertex: Place
    taken_s: Seconds


class LinkMeasured(msgspec.Struct, frozen=True, tag=True):
    """The directed link from the sender of this message to `peer`; `quick` as it was asked for."""

    peer: AgentId
    bytes_per_s: LinkSpeed
    latency_s: Seconds
    rtt_s: Seconds
    target_bytes_per_s: Rate | None = None
    quick: bool = False


class LinkFailed(msgspec.Struct, frozen=True, tag=True):
    """A peer could not be measured; `unreachable`: nor dialled, or somebody else answered there."""

    peer: AgentId
    problem: str
    unreachable: bool = False


class LinksChecked(msgspec.Struct, frozen=True, tag=True):
    """Answer to `CheckLinks`. `clock_s`: this board's time of day, in seconds since 1970, when the question
    came and when it was answered."""

    number: int
    checks: tuple[LinkCheck, ...]
    clock_s: tuple[float, float]


class LinkLost(msgspec.Struct, frozen=True, tag=True):
    """A link that an active epoch needs broke; the server decides what follows."""

    pipeline: PipelineId
    epoch: EpochNumber
    peer: AgentId
    problem: str


class FrameFailed(msgspec.Struct, frozen=True, tag=True):
    """A step of a frame could not be computed here; nobody can finish the frame under this epoch."""

    pipeline: PipelineId
    epoch: EpochNumber
    frame: FrameNumber
    problem: str


class FrameRescued(msgspec.Struct, frozen=True, tag=True):
    """Tiles of a frame did not come; their owner computed that part alone, and the frame goes on."""

    pipeline: PipelineId
    epoch: EpochNumber
    frame: FrameNumber
    problem: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """All that `Prepare` asked for is done: segments compiled, tiles checked, links up."""

    pipeline: PipelineId
    epoch: EpochNumber
    took_s: Real
    tiles: tuple[TileReady, ...] = ()


class Preparing(msgspec.Struct, frozen=True, tag=True):
    pipeline: PipelineId
    epoch: EpochNumber
    tiles: tuple[Count, Count]  # so many of an agent's are checked, of how many


class PrepareFailed(msgspec.Struct, frozen=True, tag=True):
    pipeline: PipelineId
    epoch: EpochNumber
    problem: str


class Drained(msgspec.Struct, frozen=True, tag=True):
    """The device has the answer of every frame that it started under this epoch."""

    pipeline: PipelineId
    epoch: EpochNumber


class FramesAnswered(msgspec.Struct, frozen=True, tag=True):
    """A batch of answers; of this run `sent` frames were started so far, `dropped` came and were not."""

    pipeline: PipelineId
    sent: Count
    frames: tuple[FrameReport, ...]
    dropped: Count = 0


class SpansRecorded(msgspec.Struct, frozen=True, tag=True):
    """A batch of spans; `clock_error_s` bounds how far they may be off the server's clock."""

    pipeline: PipelineId
    clock_error_s: Real
    spans: tuple[Span, ...]


class Transferred(msgspec.Struct, frozen=True, tag=True):
    """A batch of transfers on links from this agent."""

    pipeline: PipelineId
    transfers: tuple[Transfer, ...]


class SourceEnded(msgspec.Struct, frozen=True, tag=True):
    """The source sent or dropped all frames that it was asked for, and each sent was answered or given up."""

    pipeline: PipelineId
    sent: Count
    answered: Count
    dropped: Count = 0


class Confirmed(msgspec.Struct, frozen=True, tag=True):
    """Answer to `Confirm`; `problem` says which of what was asked before could not be done, and why."""

    order: CauseId
    problem: str = ""


FromAgent = (
    Register
    | Heartbeat
    | BoardSampled
    | ClockPing
    | CredentialKept
    | ModelLoaded
    | Fetching
    | ModelFailed
    | PhotosPrepared
    | Profiled
    | SpeedSampled
    | LinkMeasured
    | LinkFailed
    | LinkLost
    | LinksChecked
    | FrameFailed
    | FrameRescued
    | Ready
    | Preparing
    | PrepareFailed
    | Drained
    | FramesAnswered
    | SpansRecorded
    | Transferred
    | SourceEnded
    | Confirmed
)


# ── server → agent ────────────────────────────────────────────────────────────────────────────────


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """Answer to `Register`. `link_secret` (hex) proves agents to each other on data links; agents that were
    `cut_off` have none. `batch_s`: what need not leave at once is told this often."""

    link_secret: str
    heartbeat_s: Seconds
    cut_off: tuple[AgentId, ...] = ()
    batch_s: Seconds = 0.1


class ClockPong(msgspec.Struct, frozen=True, tag=True):
    """`sent_s` is echoed; `server_s` is the server's clock when it answered."""

    sent_s: float
    server_s: float


class LoadModel(msgspec.Struct, frozen=True, tag=True):
    """Load and export; `threads` is the intra-op thread count, the same on the whole pipeline. `peers` have
    the model's files, or are getting them: they are asked before the server."""

    model: ModelSpec
    threads: int
    peers: tuple[Peer, ...] = ()


class ProfileModel(msgspec.Struct, frozen=True, tag=True):
    """Measure per-vertex times in situ, or take them from the disk cache unless `fresh`."""

    model: ModelSpec
    fresh: bool = False


class SampleSpeed(msgspec.Struct, frozen=True, tag=True):
    """Time one layer, some milliseconds long; not while frames are under way."""

    model: ModelSpec


class MeasureLinks(msgspec.Struct, frozen=True, tag=True):
    """Measure the directed link to each peer, one after the other; `quick`: in a few round trips and 10 ms of
    payload, which is a few per cent off."""

    peers: tuple[Peer, ...]
    quick: bool = False


class CheckLinks(msgspec.Struct, frozen=True, tag=True):
    """Find out how far you get to each peer, one after the other, and say so by this number."""

    number: int
    peers: tuple[Peer, ...]


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Get ready to run your part of `plan`: compile segments, connect to `peers` (next hops). Tiles need not
    make the undivided network's bits: they may be off by `tolerance`, as `TileReady.max_rel_err` counts."""

    pipeline: PipelineId
    epoch: Epoch
    model: ModelSpec
    plan: Plan
    route: Route
    peers: tuple[Peer, ...]
    tolerance: float = 0.0


class Activate(msgspec.Struct, frozen=True, tag=True):
    """To the device: frames that start from now on belong to this epoch.

    Where they take several plans in turn, `mix` has the share of each one's epoch, this one's included.
    `depth` frames under way keep every stage busy; a frame is expected to take `expected_s`.
    """

    pipeline: PipelineId
    epoch: Epoch
    depth: int = 1
    mix: tuple[tuple[Epoch, float], ...] = ()
    expected_s: float = 0.0


class Abandon(msgspec.Struct, frozen=True, tag=True):
    """To the device: frames of this epoch cannot be finished (a node was lost), or one `frame` cannot: run
    them again, under a later epoch or on the device alone, which also answers new frames until then."""

    pipeline: PipelineId
    epoch: Epoch
    frame: FrameId | None = None


class Retire(msgspec.Struct, frozen=True, tag=True):
    """Forget this epoch; nothing of it is under way any more."""

    pipeline: PipelineId
    epoch: Epoch


class StartSource(msgspec.Struct, frozen=True, tag=True):
    """To the device: start frames; None = until told to stop.

    They come at `rate_per_s`, or as soon as there is room (None). At most `in_flight` are unanswered; None
    leaves that to the source: one, or with a rate as many as the plan needs.
    """

    pipeline: PipelineId
    frames: int | None = None
    in_flight: int | None = None
    rate_per_s: float | None = None


class SetRate(msgspec.Struct, frozen=True, tag=True):
    """To the device: frames come at another rate from now on; 0 pauses, None is as soon as there is room."""

    pipeline: PipelineId
    rate_per_s: float | None


class StopSource(msgspec.Struct, frozen=True, tag=True):
    pipeline: PipelineId


class ShapeLink(msgspec.Struct, frozen=True, tag=True):
    """Hold your shaped links to `peer`, and those to come, to `shape` instead of what `Peer` says, from the
    next tensor on; None: as `Peer` says. Forgotten when you register, or hear nothing for some seconds."""

    peer: AgentId
    shape: LinkShape | None


class SetSpeed(msgspec.Struct, frozen=True, tag=True):
    """Emulate another speed from the next step on (0 < speed ≤ 1). Forgotten as in `ShapeLink`."""

    speed: float


class SetLoad(msgspec.Struct, frozen=True, tag=True):
    """Keep so many processes of your board busy with other work; 0 ends them. Forgotten as in `ShapeLink`."""

    processes: int


class Confirm(msgspec.Struct, frozen=True, tag=True):
    """Answer with `Confirmed` once all is done that you were told before to change or start."""

    order: CauseId


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the process in an orderly way."""

    reason: str


class Crash(msgspec.Struct, frozen=True, tag=True):
    """End the process at once, without a goodbye to anyone, as if SIGKILL ended it; its code is `CRASHED`."""


ToAgent = (
    Welcome
    | CutOff
    | NewCredential
    | ClockPong
    | LoadModel
    | ProfileModel
    | SampleSpeed
    | MeasureLinks
    | CheckLinks
    | Prepare
    | Activate
    | Abandon
    | Retire
    | StartSource
    | StopSource
    | SetRate
    | ShapeLink
    | KeepLines
    | SetSpeed
    | SetLoad
    | Confirm
    | Stop
    | Crash
)

_T = TypeVar("_T")


_encoder = msgspec.json.Encoder()
_from_agent: msgspec.json.Decoder[FromAgent] = msgspec.json.Decoder(FromAgent)
_to_agent: msgspec.json.Decoder[ToAgent] = msgspec.json.Decoder(ToAgent)


def encode(message: FromAgent | ToAgent) -> str:
    return _encoder.encode(message).decode()


def decode_from_agent(text: str | bytes) -> FromAgent:
    """Raises `RemoteProtocolError` on anything that is not exactly one known message."""
    return _decode(_from_agent, text)


def decode_to_agent(text: str | bytes) -> ToAgent:
    """Raises `RemoteProtocolError` on anything that is not exactly one known message."""
    return _decode(_to_agent, text)


def _decode(decoder: msgspec.json.Decoder[_T], text: str | bytes) -> _T:
    if len(text) > MAX_CONTROL_BYTES:
        raise RemoteProtocolError(f"control message of {len(text)} bytes, limit {MAX_CONTROL_BYTES}")
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise RemoteProtocolError(f"bad control message: {error}") from error
