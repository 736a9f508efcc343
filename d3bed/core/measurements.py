"""What agents measure and report, and what a plan is made from. All times are in seconds.

`start_s` and the like are on the *server's* clock: an agent adds its clock offset (four timestamps,
least round trip) before it reports. Nothing here reads a clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from d3bed.core.graph import Value
from d3bed.core.ids import AgentId
from d3bed.core.numbers import Bytes, Count, EpochNumber, FrameNumber, Place, Rate, Real, Seconds

__all__ = [
    "BoardFacts",
    "BoardSample",
    "FrameReport",
    "LinkRate",
    "LinkShape",
    "Span",
    "SpanKind",
    "TileReady",
    "Transfer",
]


class LinkShape(msgspec.Struct, frozen=True):
    """What an emulated link is held to: payload `bytes_per_s`, one-way `latency_s`, and the `loss` of that
    share of its segments, as a TCP stream feels it (see `net.shaping`)."""

    bytes_per_s: Rate
    latency_s: Real = 0.0
    loss: Real = 0.0


class LinkRate(msgspec.Struct, frozen=True):
    """A measured directed link: a transfer of n bytes takes `latency_s + n / bytes_per_s`."""

    bytes_per_s: float
    latency_s: float


class SpanKind(StrEnum):
    COMPUTE = "compute"  # a step of vertices; of that, `held_s` was emulated slowness
    WAIT = "wait"  # a tier had nothing to do for this frame until an input came
    QUEUE = "queue"  # inputs were there, the compute thread was busy
    SERIALISE = "serialise"  # making a tensor ready to send, or joining it from tiles
    TILED = "tiled"  # tiled blocks in a row, from cutting up their source to joining the tiles
    TRANSFER = "transfer"  # from handing it to the link until the peer had all of it


class Span(msgspec.Struct, frozen=True, gc=False):
    """What one agent did for one frame from `start_s` to `end_s`.

    `vertices` is the first and last vertex number of the group, of which perhaps only a `tile` (row,
    column) was computed; for a transfer `peer` is the receiver and `vertices` the producer twice.
    """

    frame: FrameNumber
    epoch: EpochNumber
    kind: SpanKind
    start_s: Real
    end_s: Real
    vertices: tuple[Place, Place]
    held_s: Real = 0.0
    peer: AgentId | None = None
    tile: tuple[Place, Place, Place] | None = None


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """One tensor's way over a link, seen by the sender.

    `taken_s` counts from the first byte offered to the link until the last byte left it, latency
    excluded; `target_bytes_per_s` is what the link was shaped to for it (time lost to emulated loss counts),
    None if it is not shaped.
    """

    peer: AgentId
    frame: FrameNumber
    epoch: EpochNumber
    value: Value
    bytes: Bytes
    taken_s: Real
    target_bytes_per_s: Rate | None = None

    @property
    def achieved_bytes_per_s(self) -> float:
        return self.bytes / self.taken_s if self.taken_s > 0 else float("inf")


class FrameReport(msgspec.Struct, frozen=True, gc=False):
    """One answered frame, seen by the device.

    `identical` and `max_rel_err` compare the answer with the undivided model on the device; None
    where this frame was not checked. `attempts` counts the runs it took (1 unless a node was lost).
    `alone`: the device answered it without the plan, as that could not be carried out.
    `started_s` is when the frame came; for `waited_s` of its latency others were under way. `top` are the
    classes with the largest scores, best first, where the answer is a row of scores.
    """

    frame: FrameNumber
    epoch: EpochNumber
    photo: str
    started_s: Real
    answered_s: Real
    answer: str = ""
    attempts: Count = 1
    identical: bool | None = None
    max_rel_err: Real | None = None
    waited_s: Real = 0.0
    alone: bool = False
    top: tuple[tuple[str, float], ...] = ()

    @property
    def latency_s(self) -> float:
        return self.answered_s - self.started_s


class BoardFacts(msgspec.Struct, frozen=True):
    """What a board is: its name, as the maker or the hypervisor gives it, its processor, what it has."""

    name: str
    processor: str
    cores: Count
    memory_bytes: Bytes


class Thumbnail(msgspec.Struct, frozen=True):
    """A photo that frames are made of: its name in their reports, and a small JPEG of it."""

    photo: Annotated[str, msgspec.Meta(max_length=255)]
    jpeg: Annotated[bytes, msgspec.Meta(max_length=64 * 2**10)]


class BoardSample(msgspec.Struct, frozen=True):
    """How a board does, and what its agent takes of it; what a board cannot tell is None.

    `load` and `memory` are shares (0 to 1) of all cores and of the memory; `own_cores` counts the cores
    that the agent kept busy since the last sample, `report_cores` those that went into telling the server
    what it does. `throttled` says why the board holds back its processor; empty: it does not, as far as
    it can tell. `sending_bytes` wait to leave over the agent's links.
    """

    load: Real
    own_cores: Real
    report_cores: Real
    memory: Real
    sending_bytes: Bytes = 0
    temperature_c: Real | None = None
    frequency_hz: Rate | None = None
    throttled: str = ""


class TileReady(msgspec.Struct, frozen=True):
    """A tile (row, column) of the block from the first to the last of `vertices` was checked.

    `identical`: it makes the bits that the undivided network makes of a photo; `fallbacks` of its vertices
    are computed on maps of the whole size for that. Else `max_rel_err` is the largest difference, over the
    largest value of the map. The agent takes `time_s` for it, as slow as its profile; 0: not known.
    """

    vertices: tuple[Place, Place]
    tile: tuple[Place, Place, Place]
    identical: bool
    fallbacks: Count
    max_rel_err: Real = 0.0
    time_s: Seconds = 0.0
