"""What the dashboard and the API show: the shape of every object, and nothing else.

Pure data. The same structs are encoded for the feed, answered by the API and described in the
OpenAPI document, so that the three cannot differ. `feed` says how the page merges them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId, CauseId, Epoch, FrameId, PipelineId, Tier
from d3bed.core.measurements import BoardFacts, BoardSample, SpanKind
from d3bed.plan import Change
from d3bed.server.layout import layout

__all__ = [
    "AgentReport",
    "AgentView",
    "AlternativeView",
    "ConditionView",
    "DecisionDetails",
    "DecisionView",
    "EpochHistory",
    "EpochReport",
    "EpochView",
    "EventHistory",
    "ExactView",
    "FrameSeries",
    "FrameView",
    "FramesView",
    "GraphView",
    "LatencyReport",
    "LatencyView",
    "LinkReport",
    "LinkView",
    "MixedView",
    "MoveView",
    "NoteView",
    "OfferView",
    "OrderView",
    "Phase",
    "PipelineView",
    "PredictionView",
    "RunReport",
    "RunView",
    "SceneView",
    "ServerReport",
    "SpanView",
    "StateView",
    "TileReport",
    "VertexView",
    "graph_view",
]

Phase = Literal[
    "waiting", "loading", "profiling", "measuring", "planning", "preparing", "running", "idle", "failed"
]


class AgentView(msgspec.Struct, frozen=True):
    """`factor`: how much longer than profiled it takes now, by its live spans; null if not known.

    `heard_s` is when its last word came, `worked_s` when its last computed step was told of (null: none yet),
    both on the server's clock. `cpus`: its control group gives it so many cores; `tc`: the kernel holds its
    emulated links.
    """

    agent: AgentId
    tier: Tier
    pid: int
    host: str
    data_address: str
    speed: float
    engine: str
    version: str
    threads: int | None
    fingerprint: str | None
    state: Literal["connected", "lost"]
    queued: int
    rejected: int
    rss_bytes: int
    factor: float | None = None
    factor_spread: float | None = None
    board: BoardSample | None = None
    facts: BoardFacts | None = None
    heard_s: float | None = None
    worked_s: float | None = None
    cpus: float | None = None
    tc: bool = False


class LinkView(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """A directed link: its measured rate, and what transfers over it have shown since the start.

    `estimate_…`: what plans are made with, from the last probe or the latest transfers. `…_spread` is
    the median deviation as a share, null for a single probe; `estimate_age_s` was true when published.
    `blocked` says why nobody answers where the peer listens; then data goes over a line that it keeps open to
    the agent `via`: the sender itself, or one that both reach.
    """

    source: AgentId
    target: AgentId
    bytes_per_s: float | None
    latency_s: float | None
    rtt_s: float | None
    target_bytes_per_s: float | None
    bytes: int
    achieved_bytes_per_s: float | None
    deviation: float | None
    estimate_bytes_per_s: float | None = None
    estimate_spread: float | None = None
    estimate_age_s: float | None = None
    via: AgentId | None = None
    blocked: str = ""


class VertexView(msgspec.Struct, frozen=True):
    """`x`, `y` and `trail` are as in `layout`: columns and lanes, and the way of its output."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    output_bytes: int
    flops: int
    weight_bytes: int
    x: float
    y: float
    trail: tuple[float, ...]


class GraphView(msgspec.Struct, frozen=True):
    vertices: tuple[VertexView, ...]
    edges: tuple[tuple[int, int], ...]
    width: float
    height: float


class PredictionView(msgspec.Struct, frozen=True):
    latency_s: float
    compute_s: dict[Tier, float]


class FramesView(msgspec.Struct, frozen=True):
    """`dropped` came, and were never started: the stream outran its plan."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    dropped: int = 0


class ExactView(msgspec.Struct, frozen=True):
    checked: int = 0
    identical: int = 0
    max_rel_err: float | None = None


class LatencyView(msgspec.Struct, frozen=True):
    last: float | None = None
    median: float | None = None
    p95: float | None = None


class MixedView(msgspec.Struct, frozen=True):
    """One plan of a mix and its `share` of the frames."""

    epoch: Epoch
    share: float
    text: str
    predicted_s: float


class PipelineView(msgspec.Struct, frozen=True):
    """`plan` and `profile_s` go by vertex number; null where nothing is known yet. Profiles of agents that
    are `guessed` are predicted from other networks. `rate_per_s` is the camera's, null: one frame after the
    other; the plan `sustains_per_s`. `members` are all agents that it is configured with, here or not. Where
    frames take several plans in turn, `mix` are all of them. While `run` is `counting`, its frames still
    come, whatever phase the plan is in. Of `photos` there are pictures
    (`/api/pipelines/{id}/photos/{photo}`)."""

    id: PipelineId
    phase: Phase
    phase_text: str
    model: str
    strategy: str
    network: str
    epoch: Epoch | None
    plan: tuple[Tier, ...] | None
    plan_text: str | None
    route: dict[Tier, AgentId]
    graph: GraphView | None
    profile_s: dict[Tier, tuple[float, ...]]
    guessed: tuple[AgentId, ...]
    predicted: PredictionView | None
    frames: FramesView
    exact: ExactView
    latency_s: LatencyView
    compute_s: dict[Tier, float]
    emulated: bool
    same_fingerprint: bool
    run: str | None
    counting: bool
    tiles: tuple[TileReport, ...] = ()
    rate_per_s: float | None = None
    sustains_per_s: float | None = None
    mix: tuple[MixedView, ...] = ()
    members: dict[AgentId, Tier] = {}
    photos: tuple[str, ...] = ()


class EpochView(msgspec.Struct, frozen=True):
    """`moved`: how many vertices changed tier against the epoch before; `measured_s`: median latency."""

    pipeline: PipelineId
    epoch: Epoch
    strategy: str
    model: str
    cause: str
    cause_id: CauseId
    state: str
    activated_at: float | None
    moved: int
    predicted_s: float
    measured_s: float | None


class SpanView(msgspec.Struct, frozen=True, gc=False):
    agent: AgentId
    tier: Tier
    kind: SpanKind
    start_s: float
    end_s: float
    held_s: float
    vertices: tuple[int, int]
    peer: AgentId | None
    tile: tuple[int, int, int] | None = None


class FrameView(msgspec.Struct, frozen=True, gc=False):
    """`waited_s` of its latency it waited on the device until it was started; `parts_s` is all of it by
    part (`seconds.PARTS`). `top` are the classes with the largest scores."""

    pipeline: PipelineId
    run: str
    frame: FrameId
    epoch: Epoch
    photo: str
    answer: str
    started_s: float
    latency_s: float
    identical: bool | None
    max_rel_err: float | None
    attempts: int
    compute_s: dict[Tier, float]
    spans: tuple[SpanView, ...]
    waited_s: float = 0.0
    parts_s: dict[str, float] = {}
    top: tuple[tuple[str, float], ...] = ()


class FrameSeries(msgspec.Struct, frozen=True):
    """Every answered frame of a run that is kept, a column per number: entry i of each is of one frame.

    `device_s` and the like are compute seconds on that tier, held time included; null where it had none. For
    `waited_s` of its latency a frame waited on the device until it was started.
    """

    run: str
    frame: tuple[FrameId, ...]
    epoch: tuple[Epoch, ...]
    started_s: tuple[float, ...]
    latency_s: tuple[float, ...]
    device_s: tuple[float | None, ...]
    edge_s: tuple[float | None, ...]
    cloud_s: tuple[float | None, ...]
    waited_s: tuple[float, ...]
    attempts: tuple[int, ...]
    identical: tuple[bool | None, ...]


class NoteView(msgspec.Struct, frozen=True):
    text: str
    level: Literal["info", "warn", "error"]
    time_s: float
    cause_id: CauseId | None = None
    pipeline: PipelineId | None = None


class ConditionView(msgspec.Struct, frozen=True):
    """What a user changed of an agent or a directed link, and is in force. `until_s` null: until undone.

    `values` go by quantity: bytes_per_s, latency_s, loss (share), load (busy processes), speed; `what` is
    them in words. A load is emulated where the agent's speed is: then that drops instead.
    """

    subject: str
    agents: tuple[AgentId, ...]
    what: str
    values: dict[str, float]
    by: str
    since_s: float
    until_s: float | None
    emulated: bool


class OrderView(msgspec.Struct, frozen=True):
    """What a user asked for: `what` in words, `action` as a scenario file has it, but for its time.

    It is pending until who it is for has done it, by their own word (`answer`), or has not.
    """

    id: CauseId
    what: str
    by: str
    at_s: float
    action: dict[str, Any]
    state: Literal["pending", "done", "failed"] = "pending"
    answer: str = ""
    ended_s: float | None = None


class OfferView(msgspec.Struct, frozen=True):
    """What can be chosen by `name`; `refused` says why it cannot at present."""

    name: str
    description: str
    refused: str = ""


class SceneView(msgspec.Struct, frozen=True):
    """The scenario that is being played: `done` of its `events` were asked for, the `next` is at `next_s`
    (server's clock; null: none is left, and it ends at `begun_s + duration_s`)."""

    name: str
    by: str
    begun_s: float
    duration_s: float
    events: int
    done: int
    next: str
    next_s: float | None


class AlternativeView(msgspec.Struct, frozen=True):
    """What could have been done, in words, and the latency that was predicted for it."""

    plan: str
    predicted_s: float


class MoveView(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """So many vertices changed from one tier to another; `vertices` names the first of them."""

    source: Tier
    target: Tier
    count: int
    vertices: tuple[str, ...]


class DecisionView(msgspec.Struct, frozen=True):
    """What was decided when a `cause` called for a plan: to `move` to another epoch, to `keep` the present
    one, or nothing, because it did `fail`. `text` is all of it in a sentence.

    `epoch` and `plan` are what frames run under after it (no plan: what it needs is lost, and the device
    answers alone); `kept_s` is what staying was predicted to take,
    under the conditions `seen`, and `predicted_s` what the choice was. Of a move, `measured_s` is the median
    of its first `frames`, `before_s` what the last frame under the plan before took (null: there was none, or
    it was of another model), and `error` is measured over predicted, less 1; null until they are answered,
    the error also where frames wait for each other, as the prediction is of one alone. `moves` says what
    changed tier, where the model stayed the same.
    """

    pipeline: PipelineId
    cause_id: CauseId
    at_s: float
    cause: str
    seen: tuple[Change, ...]
    alternatives: tuple[AlternativeView, ...]
    choice: Literal["move", "keep", "fail"]
    epoch: Epoch | None
    plan: str
    reason: str
    kept_s: float | None
    predicted_s: float | None
    measured_s: float | None = None
    frames: int = 0
    error: float | None = None
    level: Literal["info", "warn", "error"] = "info"
    text: str = ""
    moves: tuple[MoveView, ...] = ()
    before_s: float | None = None


class DecisionDetails(msgspec.Struct, frozen=True):
    """A decision, and the latest frames (with their spans) under the epoch that came of it."""

    decision: DecisionView
    frames: tuple[FrameView, ...]


class StateView(msgspec.Struct, frozen=True):
    """All that the page shows: the snapshot of the feed. `guarded`: changes need a token; `unstored`: why
    nothing can be stored at present."""

    agents: tuple[AgentView, ...]
    links: tuple[LinkView, ...]
    pipelines: tuple[PipelineView, ...]
    epochs: tuple[EpochView, ...]
    frames: tuple[FrameView, ...]
    notes: tuple[NoteView, ...]
    decisions: tuple[DecisionView, ...]
    strategies: tuple[str, ...]
    models: tuple[str, ...]
    conditions: tuple[ConditionView, ...] = ()
    orders: tuple[OrderView, ...] = ()
    networks: tuple[OfferView, ...] = ()
    scenarios: tuple[OfferView, ...] = ()
    scene: SceneView | None = None
    unstored: str | None = None
    guarded: bool = False


# ── d3bed.history/1 ───────────────────────────────────────────────────────────────────────────────


class ServerReport(msgspec.Struct, frozen=True):
    """`commit`: null outside a checkout; ends in `-dirty` where files differ from it."""

    version: str
    commit: str | None
    python: str
    system: str
    host: str
    processor: str
    cpus: int


class EpochHistory(msgspec.Struct, frozen=True):
    """An epoch that frames of a run were answered under, or could have been.

    `plan` is its text form, `route` the agents of its tiers; `predicted_s` is of one frame. Of the run's
    frames under it, `frames` were answered, `measured_s` is their median latency once they were started.
    """

    epoch: Epoch
    strategy: str
    model: str
    cause: str
    cause_id: CauseId
    activated_at: float | None
    moved: int
    predicted_s: float
    plan: str
    route: dict[Tier, AgentId]
    frames: int
    measured_s: float | None


class EventHistory(msgspec.Struct, frozen=True):
    """`text` says in words what happened. Without a `pipeline` it is about an agent, a link or the server."""

    at_s: float
    kind: str
    text: str
    level: str
    pipeline: PipelineId | None
    cause_id: CauseId | None


# ── d3bed.report/1 ────────────────────────────────────────────────────────────────────────────────


class LatencyReport(msgspec.Struct, frozen=True):
    median: float | None
    p95: float | None
    predicted: float | None


class AgentReport(msgspec.Struct, frozen=True):
    agent: AgentId
    tier: Tier
    pid: int
    data_address: str
    speed: float
    engine: str
    threads: int | None
    fingerprint: str | None
    cpus: float | None = None
    tc: bool = False


class LinkReport(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    source: AgentId
    target: AgentId
    bytes: int
    target_bytes_per_s: float | None
    achieved_bytes_per_s: float | None
    deviation: float | None


class EpochReport(msgspec.Struct, frozen=True):
    epoch: Epoch
    strategy: str
    cause: str
    activated_at: float | None
    moved: int


class TileReport(msgspec.Struct, frozen=True):
    """A tiled block: tile number i of the `grid` (tiles down, across) is run by `agents[i]`; `rows`,
    `columns` and, where these are shared out, `channels` say where its map is cut. `vertices` are those that
    it holds, `sources` those whose values it reads, by their numbers in the graph.

    `redundancy` is FLOPs of all tiles over the block's; `exchanged_bytes` cross links for its inputs per
    frame, `gathered_bytes` to join its tiles; `fallbacks` vertices of tiles are computed on whole maps to
    stay exact; with a tolerance tiles may be off by `max_rel_err`. `predicted_s` and `measured_s` are of the
    whole run of blocks `part` that it belongs to, cutting up and joining included.
    """

    part: str
    block: str
    grid: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    agents: tuple[AgentId, ...]
    redundancy: float
    exchanged_bytes: int
    gathered_bytes: int
    fallbacks: int
    identical: bool
    predicted_s: float
    measured_s: float | None
    max_rel_err: float = 0.0
    channels: tuple[int, ...] = ()
    vertices: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()


class RunReport(msgspec.Struct, frozen=True):
    """`compute_s`: median over frames of the compute time on each tier, held time included. `tolerance`: how
    far off tiles were allowed to be; 0 where only exact ones were."""

    format: Literal["d3bed.report/1"]
    model: str
    strategy: str
    network: str
    frames: FramesView
    exact: ExactView
    latency_s: LatencyReport
    compute_s: dict[Tier, float]
    agents: tuple[AgentReport, ...]
    links: tuple[LinkReport, ...]
    epochs: tuple[EpochReport, ...]
    plan: dict[str, Tier]
    tiles: tuple[TileReport, ...] = ()
    tolerance: float = 0.0


class RunView(msgspec.Struct, frozen=True):
    """One run of a source; `ended_s` is None while it goes on. With `cut` the server died in it, and it ends
    with the last that the store knows of that time."""

    id: str
    pipeline: PipelineId
    started_s: float
    ended_s: float | None
    model: str
    strategy: str
    network: str
    frames: FramesView
    cut: bool = False


def graph_view(graph: Graph) -> GraphView:
    placed = layout(graph)
    vertices = tuple(
        VertexView(
            name=vertex.name,
            kind=vertex.kind,
            shape=vertex.outputs[0].usual_shape,
            dtype=vertex.outputs[0].dtype,
            output_bytes=graph.output_bytes[number],
            flops=vertex.flops,
            weight_bytes=vertex.weight_bytes,
            x=float(place["x"]),
            y=float(place["y"]),
            trail=tuple(place["trail"]),
        )
        for number, (vertex, place) in enumerate(zip(graph.vertices, placed["nodes"], strict=True))
    )
    edges = tuple((edge.producer, edge.consumer) for edge in graph.edges)
    return GraphView(vertices, edges, float(placed["width"]), float(placed["height"]))
