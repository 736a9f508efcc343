"""What became of a pipeline's frames second by second, and where a frame's time went. Pure.

`parts` divides a frame's latency so that the parts add up to it: each instant counts once, for what carries
the frame on then. `Seconds` makes one `SecondView` of each second, over all frames, shown or not; the page
draws time from them, live and in a replay.
"""

from __future__ import annotations

import bisect
import zlib
from collections import deque
from collections.abc import Iterable

import msgspec

from d3bed.core.ids import AgentId, Epoch, PipelineId, Tier
from d3bed.core.measurements import SpanKind, Transfer
from d3bed.server.views import FrameView, SpanView

__all__ = ["PARTS", "SECONDS_KEPT", "WINDOW_S", "SecondView", "Seconds", "parts"]

#: What the latency of a frame is made of; the parts add up to it.
PARTS = ("device", "edge", "cloud", "transfer", "queue", "wait")
#: The page shows ten minutes.
SECONDS_KEPT = 600
_PACK = 60
#: Percentiles look back so long, on at most so many frames.
WINDOW_S, _WINDOW_FRAMES = 60.0, 6_000

#: Smaller transfers are ruled by fixed costs, and tell nothing of a link's rate.
_TELLING_BYTES = 10_000

# What an instant counts for, where several things go on at once: the first of these.
_ORDER = ("cloud", "edge", "device", "transfer", "queue", "wait")
_encoder = msgspec.json.Encoder()
_RANK = {name: rank for rank, name in enumerate(_ORDER)}
_KINDS = {SpanKind.TRANSFER: "transfer", SpanKind.SERIALISE: "transfer", SpanKind.QUEUE: "queue"}
_KIND_RANK = {kind: _RANK[name] for kind, name in _KINDS.items()}
_TIER_RANK = {tier: _RANK[tier.value] for tier in Tier}


class SecondView(msgspec.Struct, frozen=True):
    """One second of a pipeline, over all its frames that were answered in it.

    `parts_s` are means by `PARTS`; percentiles are over the last minute. `backbone_bytes` went to the cloud;
    `cloud_only_bytes` would have, had it computed all of these frames. `links`: by name (`a→b`) the bytes,
    what the large transfers achieved in bytes/s, and their target.
    """

    pipeline: PipelineId
    at_s: int
    frames_per_s: float
    epoch: Epoch | None
    parts_s: dict[str, float]
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    predicted_s: float | None
    backbone_bytes: int
    cloud_only_bytes: int
    links: dict[str, tuple[int, int | None, float | None]]


def parts(started_s: float, latency_s: float, waited_s: float, spans: Iterable[SpanView]) -> dict[str, float]:
    """Seconds per part, in the order of `PARTS`. Waiting on the device for other frames is `queue`."""
    end_s = started_s + latency_s
    edges: list[tuple[float, int, int]] = []
    if waited_s > 0:
        edges += [(started_s, _RANK["queue"], 1), (min(end_s, started_s + waited_s), _RANK["queue"], -1)]
    for span in spans:
        rank = _TIER_RANK[span.tier] if span.kind is SpanKind.COMPUTE else _KIND_RANK.get(span.kind)
        if rank is None:
            continue
        from_s, to_s = max(started_s, span.start_s), min(end_s, span.end_s)
        if to_s > from_s:
            edges += (from_s, rank, 1), (to_s, rank, -1)
    edges.sort()
    under_way, found = [0] * len(_ORDER), [0.0] * len(_ORDER)
    under_way[-1] = 1  # when nothing else goes on
    at_s = started_s
    for edge_s, rank, change in edges:
        if edge_s > at_s:
            found[next(r for r, n in enumerate(under_way) if n)] += edge_s - at_s
            at_s = edge_s
        under_way[rank] += change
    found[-1] += max(0.0, end_s - at_s)
    return {name: round(found[_RANK[name]], 6) for name in PARTS}


class Seconds:
    """Of one pipeline. What is kept is JSON, all but the last minute packed: a server of many pipelines would
    grow by megabytes for ten minutes else, and nobody but readers of the API wants them again."""

    def __init__(self, pipeline: PipelineId, tiers: dict[AgentId, Tier]) -> None:
        self._pipeline, self._tiers = pipeline, tiers
        self._packed: deque[bytes] = deque(maxlen=SECONDS_KEPT // _PACK)
        self._latest: list[bytes] = []
        self._latencies: deque[tuple[float, float]] = deque()
        self._ordered: list[float] = []  # the latencies alone
        self._begun_s: int | None = None
        self._clear()

    @property
    def last(self) -> msgspec.Raw:
        """The latest `SecondView`; there must be one."""
        return msgspec.Raw(self._latest[-1])

    @property
    def kept(self) -> list[msgspec.Raw]:
        """The latest ones, oldest first."""
        texts = [text for pack in self._packed for text in zlib.decompress(pack).split(b"\n")]
        return [msgspec.Raw(text) for text in (texts + self._latest)[-SECONDS_KEPT:]]

    def _clear(self) -> None:
        self._frames = 0
        self._parts_s = dict.fromkeys(PARTS, 0.0)
        self._links: dict[tuple[AgentId, AgentId], tuple[int, int, float, float | None]] = {}
        self._backbone_bytes = self._cloud_only_bytes = 0

    def add_frame(self, frame: FrameView, input_bytes: int) -> None:
        """`input_bytes` would have crossed the backbone, had the cloud computed all of it."""
        self._frames += 1
        for name, part_s in frame.parts_s.items():
            self._parts_s[name] += part_s
        self._latencies.append((frame.started_s + frame.latency_s, frame.latency_s))
        bisect.insort(self._ordered, frame.latency_s)
        if len(self._latencies) > _WINDOW_FRAMES:
            self._forget_oldest()
        self._cloud_only_bytes += input_bytes

    def _forget_oldest(self) -> None:
        _, latency_s = self._latencies.popleft()
        del self._ordered[bisect.bisect_left(self._ordered, latency_s)]

    def add_transfer(self, sender: AgentId, transfer: Transfer) -> None:
        if self._tiers.get(transfer.peer) is Tier.CLOUD:
            self._backbone_bytes += transfer.bytes
        ends = sender, transfer.peer
        total, big, taken_s, _ = self._links.get(ends, (0, 0, 0.0, None))
        if transfer.bytes >= _TELLING_BYTES and transfer.taken_s > 0:
            big, taken_s = big + transfer.bytes, taken_s + transfer.taken_s
        self._links[ends] = total + transfer.bytes, big, taken_s, transfer.target_bytes_per_s

    def tick(self, now: float, *, counting: bool, epoch: Epoch | None, predicted_s: float | None) -> bool:
        """Whether a second is over and there is something to tell of it: then it is the `last`."""
        second = int(now)
        if self._begun_s is None or self._begun_s > second:
            self._begun_s = second
        if second == self._begun_s:
            return False
        begun_s, self._begun_s = self._begun_s, second
        told = counting or bool(self._frames) or bool(self._links)
        if told:
            view = self._view(begun_s, second - begun_s, epoch, predicted_s)
            if len(self._latest) == _PACK:
                self._packed.append(zlib.compress(b"\n".join(self._latest)))
                self._latest = []
            self._latest.append(_encoder.encode(view))
        self._clear()
        return told

    def _view(self, at_s: int, length_s: int, epoch: Epoch | None, predicted_s: float | None) -> SecondView:
        count, ordered = self._frames, self._ordered
        while self._latencies and self._latencies[0][0] < at_s - WINDOW_S:
            self._forget_oldest()

        def quantile(share: float) -> float | None:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 6) if ordered else None

        return SecondView(
            pipeline=self._pipeline,
            at_s=at_s,
            frames_per_s=round(count / length_s, 2),
            epoch=epoch,
            parts_s={name: round(total_s / count, 6) for name, total_s in self._parts_s.items()}
            if count
            else {},
            p50_s=quantile(0.5),
            p95_s=quantile(0.95),
            p99_s=quantile(0.99),
            predicted_s=None if predicted_s is None else round(predicted_s, 6),
            backbone_bytes=self._backbone_bytes,
            cloud_only_bytes=self._cloud_only_bytes,
            links={
                "→".join(ends): (total, round(big / taken_s) if taken_s else None, target)
                for ends, (total, big, taken_s, target) in self._links.items()
            },
        )
