"""Numbers of a run, kept in bounded memory.

Pure. Medians and percentiles are over the last `RECENT` samples, not over the whole run. Rates count
bytes over link time, so that a long transfer weighs more than a short one.
"""

from __future__ import annotations

import bisect
from array import array

from d3bed.core.ids import AgentId, Epoch, Tier
from d3bed.core.measurements import FrameReport, Transfer

__all__ = ["BIG_BYTES", "LATENCY_BUCKETS_S", "RECENT", "LinkTraffic", "Recent", "RunStatistics", "Totals"]

#: How many samples medians and percentiles look back on.
RECENT = 1024
#: Transfers from this size on tell a link's rate; smaller ones are ruled by fixed costs.
BIG_BYTES = 100_000

#: Upper bounds of the latency histogram.
LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Recent:
    """The last `limit` samples of a number, kept in order as well: many ask for its quantiles."""

    def __init__(self, limit: int = RECENT) -> None:
        self._limit = limit
        # A server has thousands of these: as plain numbers they take a third of the memory. Once there are
        # `limit` samples, each takes the place of the oldest.
        self._samples, self._ordered = array("d"), array("d")
        self._next = 0

    def add(self, sample: float) -> None:
        if len(self._samples) < self._limit:
            self._samples.append(sample)
        else:
            del self._ordered[bisect.bisect_left(self._ordered, self._samples[self._next])]
            self._samples[self._next] = sample
        self._next = (self._next + 1) % self._limit
        bisect.insort(self._ordered, sample)

    @property
    def last(self) -> float | None:
        return self._samples[self._next - 1] if self._samples else None

    def quantile(self, share: float) -> float | None:
        """Linear interpolation between order statistics; None without samples."""
        ordered = self._ordered
        if not ordered:
            return None
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    @property
    def median(self) -> float | None:
        return self.quantile(0.5)

    @property
    def p95(self) -> float | None:
        return self.quantile(0.95)


class LinkTraffic:
    """Bytes over one directed link and how fast they went."""

    def __init__(self) -> None:
        self.bytes = 0
        self.target_bytes_per_s: float | None = None
        self._all_bytes = self._big_bytes = 0
        self._all_s = self._big_s = 0.0
        self._due_s = self._taken_s = 0.0  # of those with a target

    def add(self, transfer: Transfer) -> None:
        self.bytes += transfer.bytes
        self.target_bytes_per_s = transfer.target_bytes_per_s
        if transfer.taken_s > 0:
            self._all_bytes += transfer.bytes
            self._all_s += transfer.taken_s
            if transfer.bytes >= BIG_BYTES:
                self._big_bytes += transfer.bytes
                self._big_s += transfer.taken_s
                if transfer.target_bytes_per_s:
                    self._due_s += transfer.bytes / transfer.target_bytes_per_s
                    self._taken_s += transfer.taken_s

    @property
    def achieved_bytes_per_s(self) -> float | None:
        """Over the transfers of at least `BIG_BYTES` where there are such, else over all."""
        big = self._big_bytes > 0
        size, taken_s = (self._big_bytes, self._big_s) if big else (self._all_bytes, self._all_s)
        return size / taken_s if taken_s else None

    @property
    def deviation(self) -> float | None:
        """Achieved over target, less one, each transfer against its own target; None without one, or without
        transfers that can tell."""
        return self._due_s / self._taken_s - 1 if self._taken_s else None


class RunStatistics:
    """What one run of the source has shown so far."""

    def __init__(self) -> None:
        self.sent = self.answered = self.lost = self.dropped = 0
        self.checked = self.identical = 0
        self.max_rel_err: float | None = None
        #: Of the latest epoch that answered frames, so that it can be compared with that one's prediction.
        self.latency_s = Recent()
        self._epoch = 0
        self.compute_s: dict[Tier, Recent] = {}
        self.traffic: dict[tuple[AgentId, AgentId], LinkTraffic] = {}

    def add_answer(self, report: FrameReport, lead: Epoch) -> None:
        """`lead`: the frame's epoch; of a mix of plans the first one's, so that they count as one."""
        self.answered += 1
        self.sent = max(self.sent, self.answered)
        if lead > self._epoch:
            self._epoch, self.latency_s = lead, Recent()
        if lead == self._epoch:
            self.latency_s.add(report.latency_s)
        if report.identical is not None:
            self.checked += 1
            self.identical += report.identical
        if report.max_rel_err is not None:
            self.max_rel_err = max(self.max_rel_err or 0.0, report.max_rel_err)

    def add_compute(self, tier: Tier, compute_s: float) -> None:
        """`compute_s` is the sum of one frame's compute spans on one tier."""
        recent = self.compute_s.get(tier)
        if recent is None:
            recent = self.compute_s[tier] = Recent()
        recent.add(compute_s)

    def add_transfer(self, sender: AgentId, transfer: Transfer) -> None:
        traffic = self.traffic.get((sender, transfer.peer))
        if traffic is None:
            traffic = self.traffic[sender, transfer.peer] = LinkTraffic()
        traffic.add(transfer)


class Totals:
    """What a pipeline has shown since the server started, over all runs.

    `buckets`: answers by latency, each at most its bound of `LATENCY_BUCKETS_S` and over the one before.
    `compute_s`: seconds and frames by tier.
    """

    def __init__(self) -> None:
        self.answered = self.lost = self.dropped = self.rerun = 0
        self.checked = self.identical = 0
        self.latency_s = 0.0
        self.buckets = [0] * len(LATENCY_BUCKETS_S)
        self.compute_s: dict[Tier, tuple[float, int]] = {}

    def add_answer(self, report: FrameReport) -> None:
        self.answered += 1
        self.rerun += report.attempts > 1
        self.checked += report.identical is not None
        self.identical += report.identical is True
        self.latency_s += report.latency_s
        bucket = bisect.bisect_left(LATENCY_BUCKETS_S, report.latency_s)
        if bucket < len(self.buckets):
            self.buckets[bucket] += 1

    def add_compute(self, tier: Tier, compute_s: float) -> None:
        seconds, count = self.compute_s.get(tier, (0.0, 0))
        self.compute_s[tier] = (seconds + compute_s, count + 1)
