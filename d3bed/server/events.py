"""What goes into the coordinator (events) and what comes out of it (commands).

Events are facts in the past tense or orders of the user in the imperative; commands are what the
runner must do. A finished effect (`ComputePlan`) comes back as an event (`PlanComputed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId, CauseId, PipelineId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.core.messages import FromAgent, ModelSpec, Register, ToAgent
from d3bed.plan import Choice, Pin

__all__ = [
    "AgentJoined",
    "AgentLost",
    "AgentRevoked",
    "AgentSaid",
    "Change",
    "ChangeModel",
    "ChangeNetwork",
    "ChangeRate",
    "ChangeStrategy",
    "CloseAgent",
    "Command",
    "ComputePlan",
    "EndAgent",
    "Event",
    "Noted",
    "OrderAgent",
    "PlanComputed",
    "PlanFailed",
    "Publish",
    "Quantity",
    "Record",
    "SendTo",
    "Shutdown",
    "StartRun",
    "StopRun",
    "StoreFailed",
    "StoreRecovered",
    "Subject",
    "Ticked",
    "Undo",
]


# ── events ────────────────────────────────────────────────────────────────────────────────────────


class AgentJoined(msgspec.Struct, frozen=True):
    """A control connection began with `register`. `connection` numbers are never used twice."""

    connection: int
    register: Register


class AgentSaid(msgspec.Struct, frozen=True):
    """`bytes`: how long the text was as it came; 0 where another message of it was told before."""

    connection: int
    message: FromAgent
    bytes: int = 0


class AgentLost(msgspec.Struct, frozen=True):
    """The control connection is gone."""

    connection: int
    reason: str


class AgentRevoked(msgspec.Struct, frozen=True):
    """It is let in no more. From now on agents prove themselves to each other with `link_secret`."""

    agent: AgentId
    link_secret: str
    by: str


class OrderAgent(msgspec.Struct, frozen=True):
    """Pass an order on to an agent that is connected."""

    agent: AgentId
    message: ToAgent


class Noted(msgspec.Struct, frozen=True):
    """Something that the user should know."""

    text: str
    level: Literal["info", "warn", "error"] = "info"


class Ticked(msgspec.Struct, frozen=True):
    """Some time passed (about 0.05 s): look for missed heartbeats, expired waits, ripe statistics."""


class PlanComputed(msgspec.Struct, frozen=True):
    pipeline: PipelineId
    request: int
    choice: Choice


class PlanFailed(msgspec.Struct, frozen=True):
    pipeline: PipelineId
    request: int
    problem: str


class StoreFailed(msgspec.Struct, frozen=True):
    """Rows cannot be written at present; they wait."""

    problem: str


class StoreRecovered(msgspec.Struct, frozen=True):
    """Rows are written again, but for `lost` of them. `remade`: into a new, empty database."""

    lost: int
    remade: bool


class ChangeStrategy(msgspec.Struct, frozen=True):
    """`tiling` None: as it is. `by`, here and below: who says so."""

    pipeline: PipelineId
    strategy: str
    tiling: str | None = None
    by: str = "api"


class ChangeModel(msgspec.Struct, frozen=True):
    pipeline: PipelineId
    model: ModelSpec
    by: str = "api"


class ChangeNetwork(msgspec.Struct, frozen=True):
    """Links are held to another preset's rates. It must shape the links that are shaped now."""

    pipeline: PipelineId
    network: str
    by: str = "api"


class StartRun(msgspec.Struct, frozen=True):
    """`frames` None: until stopped; at most `in_flight` unanswered, None: as many as the rate needs."""

    pipeline: PipelineId
    frames: int | None
    in_flight: int | None
    by: str = "api"


class ChangeRate(msgspec.Struct, frozen=True):
    """Frames come at another rate: 0 pauses them, None is one after the other."""

    pipeline: PipelineId
    rate_per_s: float | None
    by: str = "api"


class StopRun(msgspec.Struct, frozen=True):
    pipeline: PipelineId
    by: str = "api"


#: What a user may change of a link (the first three) or an agent. A load is in busy processes.
Quantity = Literal["bytes_per_s", "latency_s", "loss", "load", "speed"]
#: Whose: an agent's, or a directed link's from the first to the second.
Subject = tuple[AgentId, ...]


class Change(msgspec.Struct, frozen=True):
    """Other conditions for a subject, for `for_s` seconds (None: until undone). `by` is who says so."""

    subject: Subject
    values: Mapping[Quantity, float]
    by: str
    for_s: float | None = None


class Undo(msgspec.Struct, frozen=True):
    """What of these was changed is as configured again."""

    subject: Subject
    quantities: tuple[Quantity, ...]
    by: str


class EndAgent(msgspec.Struct, frozen=True):
    """End an agent's process: in an orderly way, or by a `crash`."""

    agent: AgentId
    crash: bool
    by: str


class Shutdown(msgspec.Struct, frozen=True):
    """End all agents in an orderly way."""

    reason: str


Order = ChangeStrategy | ChangeModel | ChangeNetwork | ChangeRate | StartRun | StopRun
Circumstance = Change | Undo | EndAgent
Event = (
    AgentJoined
    | AgentSaid
    | AgentLost
    | AgentRevoked
    | OrderAgent
    | Noted
    | Ticked
    | PlanComputed
    | PlanFailed
    | StoreFailed
    | StoreRecovered
    | Order
    | Circumstance
    | Shutdown
)


# ── commands ──────────────────────────────────────────────────────────────────────────────────────


class SendTo(msgspec.Struct, frozen=True):
    connection: int
    agent: AgentId
    message: ToAgent


class CloseAgent(msgspec.Struct, frozen=True):
    """Close a control connection with a WebSocket close `code` and `reason` (≤ 123 bytes)."""

    connection: int
    code: int
    reason: str


class Record(msgspec.Struct, frozen=True):
    """Write one row; rows of equal primary key replace each other. `urgent`: commit at once."""

    table: str
    row: dict[str, object]
    urgent: bool = False


class Publish(msgspec.Struct, frozen=True):
    """One event of the feed; `data` is a view or a plain object, see `feed`."""

    kind: str
    data: object
    cause_id: CauseId | None = None


class ComputePlan(msgspec.Struct, frozen=True):
    """Plan off the event loop; answer with `PlanComputed` or `PlanFailed` of equal `request`."""

    pipeline: PipelineId
    request: int
    device: AgentId
    graph: Graph
    profiles: Mapping[AgentId, tuple[float, ...]]
    fixed_s: Mapping[AgentId, tuple[float, ...]]
    agents: Mapping[AgentId, Tier]
    rates: Mapping[tuple[AgentId, AgentId], LinkRate]
    pins: tuple[Pin, ...]
    strategy: str
    tiling: str
    untiled: frozenset[int]
    rate_per_s: float | None
    current: Choice | None


Command = SendTo | CloseAgent | Record | Publish | ComputePlan
