"""What live spans and transfers say about profiles and links, each with its spread and age.

Decides how far to believe recent measurements; pure: `now` is passed in (any clock in seconds, never
running backwards). It must not know who reports, or what is done about a change.

Everything is a median over the last `WINDOW` samples: one slow frame or transfer moves nothing. Where a
number jumps (see `detect`) the samples from before are dropped, so that the estimate follows at once; what
drifts shows after `WINDOW // 2 + 1` samples. The spread is the median absolute deviation, relative.

Profiles. A segment's factor is measured over profiled time; an agent's is that of all its segments,
weighted by their profiled time, so it is what the agent as a whole is slower by. Load is the board's: where
a segment that matters has jumped, what the others showed before counts no more. An agent that frames have
left is asked for a sample now and then. Where one segment
differs clearly from the agent, its vertices take its own factor: in-situ profiles are some per cent off,
unevenly. Segments that no longer run are left out as soon as others are known. What a tile should take was
measured once, beside frames, on a machine that may have been busy: one that takes clearly less from its first
frames on says nothing of whole layers by that, only by what becomes of it.

Suspicion. One sample far off its level is no jump yet, but the first of one, if there is one: it is worth
looking at what else may have changed with it.

Links. Transfers tell the rate if most of the last ones took `TELLING_S` (then they crossed in many chunks,
and timers do not count; picking single long ones would pick the hiccups of a fast link). Enough of them
since the last probe replace its rate, never its latency, as a transfer's time excludes that. Those of less
than `LARGE_BYTES` count only where larger ones do not tell or cross no more.

A link that carries nothing is looked at now and then, or nobody would see it recover. A look is a single
short sample, which a busy end makes slow, and a receiver that was held up fast: one that tells something else
than what was known is doubted, and the median of both and of a second look counts; not where links that may
share its way (a radio, a backbone) have just gone the same way.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from d3bed.core.measurements import LinkRate
from d3bed.plan.detect import Detector, median

__all__ = [
    "FAST_BYTES_PER_S",
    "LARGE_BYTES",
    "LATELY_S",
    "LEAST_TRANSFERS",
    "LOOK_SOON_S",
    "TELLING_S",
    "WINDOW",
    "Factor",
    "LinkEstimate",
    "LinkEstimator",
    "ProfileCorrection",
    "Segment",
    "Tendency",
]

#: Samples that a median looks back on.
WINDOW = 7
#: A segment with fewer samples says nothing yet: the first frame of an epoch is often a cold one.
LEAST_FRAMES = 3
#: Load from longer ago than this says nothing about now; nor do transfers, if there are newer ones.
FORGET_S, FORGET_LINK_S = 60.0, 300.0
#: A segment of less than this share of the longest one's time says nothing of the board.
MATTERS = 0.25
#: A segment differs from its agent by at least this share, and by `DIFFERS_SPREADS` of its spreads.
DIFFERS, DIFFERS_SPREADS = 0.10, 3.0

#: Large transfers have at least this size; those below `SMALL_BYTES` are ruled by fixed costs.
LARGE_BYTES, SMALL_BYTES = 100_000, 6_000
#: So many transfers tell a link's rate, if their median time is at least this.
LEAST_TRANSFERS, TELLING_S = 5, 0.010
#: A link that carried nothing for `IDLE_S` may be probed, an agent that did nothing sampled. Either is worth
#: a look once what is known is older than `LOOK_AFTER_S`, a link a thorough one after `PROBE_AFTER_S`.
IDLE_S, LOOK_AFTER_S, PROBE_AFTER_S = 1.0, 2.0, 60.0
#: Looks take at most this share of a link's time. One takes so many round trips, and at least so many bytes.
LOOK_SHARE, LOOK_ROUND_TRIPS, LOOK_BYTES = 0.025, 4, 16 * 1024
#: What changed lately may soon change back: for so long after a change it is worth a look this often, and
#: looks may take this share.
LATELY_S, LOOK_SOON_S, LOOK_SOON_SHARE = 60.0, 0.5, 0.10
#: A link as fast as this hardly matters to a plan, and looks at it take boards' time.
FAST_BYTES_PER_S = 5e7
#: A tile that takes less than this share of what it should was timed on a busy machine.
TIMED_BUSY = 0.8
#: A sample of an idle agent that is off by less confirms what was known: it is one layer, once.
NEAR = 1.25
#: How far one layer may stray from the network that it stands for.
SAMPLE_SPREAD = 0.15
#: A transfer that takes so many times less than it should refutes what was known.
REFUTED = 1.5
#: A look that is off what was known by more than this is doubted; so is another latency, beyond `SAME_S`.
SAME, SAME_S = 1.15, 0.003


class _Window:
    """The last samples of a number, none `keep_s` older than the last nor from before it jumped, and when
    they came. `jumped`: whether it did, so that few samples tell."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._samples: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._detector = Detector()
        self._middle: tuple[float, float] | None = None  # median and spread, once asked for
        self.jumped = self._cut = False

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, value: float, now: float) -> bool:
        """Returns whether the number has jumped with this sample."""
        self._middle = None
        while self._samples and now - self.first_s > self._keep_s:
            self._samples.popleft()
        since = self._detector.add(value)
        if since:  # what came before the jump counts no more, this sample is the last of the new ones
            while len(self._samples) >= since:
                self._samples.popleft()
            self.jumped = True
        self._samples.append((now, value))
        return since > 0

    @property
    def is_suspicious(self) -> bool:
        """Whether the last sample may be the first ones of a jump."""
        return self._detector.is_suspicious

    @property
    def rose(self) -> bool:
        """Whether the last jump went up."""
        return self._detector.rose

    def forget_before(self, since_s: float) -> None:
        """Something else jumped then."""
        self._cut, self._middle = True, None
        while self._samples and self.first_s < since_s:
            self._samples.popleft()

    def tells(self, least: int) -> bool:
        """Whether there are enough samples: `least`, or those that showed a jump here or elsewhere."""
        return len(self) >= least or self.jumped or (self._cut and len(self) >= least - 1)

    @property
    def first_s(self) -> float:
        return self._samples[0][0]

    @property
    def last_s(self) -> float:
        return self._samples[-1][0]

    @property
    def median(self) -> float:
        return self._medians[0]

    @property
    def spread(self) -> float:
        return self._medians[1]

    @property
    def _medians(self) -> tuple[float, float]:
        if self._middle is None:
            values = [value for _, value in self._samples]
            middle = median(values)
            self._middle = middle, median([abs(value - middle) for value in values]) / middle
        return self._middle


# ── profiles ──────────────────────────────────────────────────────────────────────────────────────────


class Segment(msgspec.Struct, frozen=True):
    """Vertices that run back to back on an agent; `graph` is the digest of the graph they belong to.

    `tile`: where a tile of them lies; "" for all of them.
    """

    graph: str
    vertices: tuple[int, ...]
    tile: str = ""


class Factor(msgspec.Struct, frozen=True):
    """How much longer than profiled an agent takes. `spread` is relative; `age_s` that of the last sample."""

    value: float
    spread: float
    age_s: float


class ProfileCorrection:
    """What one agent's compute spans say about its profiles."""

    def __init__(self) -> None:
        self._ratios: dict[Segment, _Window] = {}
        self._profiled_s: dict[Segment, float] = {}
        #: Of tiles: what share of the time that they should take they took at first, if that was too little.
        self._first: dict[Segment, float] = {}
        #: What samples told since segments ran: the graph, and how much longer than profiled it takes.
        self._sampled: tuple[str, float] | None = None
        self._doubtful: float | None = None
        #: What follows from the ratios, once asked for: it is, many times between two frames.
        self._known: list[Segment] | None = None
        self._weighted: tuple[float, float] | None = None
        self._heard_s = self._worked_s = self._changed_s = float("-inf")

    def observe(self, segment: Segment, measured_s: float, profiled_s: float, now: float) -> bool:
        """One frame's run of a segment, and what its profile says. Without a profile it tells nothing.

        Returns whether the segment takes another time from now on than it did.
        """
        if not (measured_s > 0 and profiled_s > 0):
            return False
        self._heard_s = self._worked_s = now
        self._doubtful = None
        ratios = self._ratios.get(segment)
        if ratios is None:
            ratios = self._ratios[segment] = _Window(FORGET_S)
        new_tile = bool(segment.tile) and segment not in self._first
        before = self.factor(now) if new_tile else None  # by other segments
        jumped = ratios.add(measured_s / profiled_s, now)
        self._profiled_s[segment] = profiled_s
        if new_tile and ratios.tells(LEAST_FRAMES):
            share = ratios.median / (min(1.0, before.value) if before is not None else 1.0)
            self._first[segment] = share if share < TIMED_BUSY else 1.0
        if jumped:
            self._changed_s = now
            self._forget_others(segment)
        self._moved()
        counted = set(self._counted())
        if counted:  # what is not counted any more would never be again: the plan changed
            self._sampled = None
            since_s = min(self._ratios[other].first_s for other in counted)
            for old in [s for s, ratios in self._ratios.items() if ratios.last_s < since_s]:
                self._drop(old)
        return jumped

    def _drop(self, segment: Segment) -> None:
        """It tells nothing any more."""
        del self._ratios[segment], self._profiled_s[segment]
        self._first.pop(segment, None)
        self._moved()

    def _moved(self) -> None:
        """The ratios are others."""
        self._known = self._weighted = None

    def _forget_others(self, jumped: Segment) -> None:
        """What other segments showed before this one jumped. Small ones stray by themselves: they tell
        nothing of others."""
        if self._profiled_s[jumped] < MATTERS * max(self._profiled_s.values()):
            return
        since_s = self._ratios[jumped].first_s
        for other in [s for s in self._ratios if s != jumped]:
            self._ratios[other].forget_before(since_s)
            if not self._ratios[other]:
                self._drop(other)

    @property
    def is_suspicious(self) -> bool:
        """Whether the last frame may be the first one after a change. (An odd sample of an agent without work
        only calls for another one.)"""
        return any(
            self._ratios[s].is_suspicious for s in self._counted() if self._ratios[s].last_s == self._worked_s
        )

    def is_idle(self, now: float) -> bool:
        """Whether no frame was worked on there lately."""
        return now - self._worked_s >= IDLE_S

    def sampled(self, graph: str, ratio: float, now: float) -> None:
        """One layer of an idle agent took so many times what its profile says. What is near what was known
        confirms that; else it is doubted, and the median of both and of a second sample counts."""
        known = self.factor(now)
        believed = known.value if known is not None else 1.0
        doubted, self._doubtful, self._heard_s = self._doubtful, None, now
        if ratio <= 0 or _is_near(ratio, believed):
            return
        if doubted is None:
            self._doubtful = ratio
        elif not _is_near(counts := statistics.median((believed, doubted, ratio)), believed):
            for segment in list(self._ratios):
                self._drop(segment)
            self._sampled, self._changed_s = (graph, counts), now

    @property
    def is_doubtful(self) -> bool:
        return self._doubtful is not None

    def is_known_since(self, since_s: float) -> bool:
        """Whether spans or samples from then or later tell how fast the agent is."""
        return self._heard_s >= since_s and not self.is_doubtful

    def sample_due(self, now: float) -> bool:
        """Whether the agent is idle, and little is known of it."""
        after_s = LOOK_SOON_S if now - self._changed_s < LATELY_S else LOOK_AFTER_S
        return self.is_doubtful or now - self._heard_s >= after_s

    def forget(self, graph: str) -> None:
        """The profile of the graph with this digest is another one now."""
        if self._sampled is not None and self._sampled[0] == graph:
            self._sampled = None
        for segment in [s for s in self._ratios if s.graph == graph]:
            self._drop(segment)
        self._moved()

    def factor(self, now: float) -> Factor | None:
        """Of the agent as a whole; None where nothing is known, or nothing recent."""
        counted, age_s = self._counted(), now - self._heard_s
        if age_s > FORGET_S or not (counted or self._sampled):
            return None
        if not counted:
            assert self._sampled is not None
            return Factor(self._sampled[1], SAMPLE_SPREAD, age_s)
        if self._weighted is None:
            weights = [self._profiled_s[segment] for segment in counted]

            def weighted(numbers: Iterable[float]) -> float:
                return sum(w * n for w, n in zip(weights, numbers, strict=True)) / sum(weights)

            self._weighted = (
                weighted(self._told(segment) for segment in counted),
                weighted(self._ratios[segment].spread for segment in counted),
            )
        value, spread = self._weighted
        return Factor(value, spread, age_s)

    def corrected(self, graph: str, times_s: Sequence[float], now: float) -> tuple[float, ...]:
        """A profile of the graph with digest `graph`, as it is to be expected now.

        Load slows every network; but an agent that is faster than the profile of *another* graph says only
        that that profile was taken on a busy machine.
        """
        overall = self.factor(now)
        if overall is None:
            return tuple(times_s)
        counted = self._counted()
        seen = any(segment.graph == graph for segment in counted)
        seen |= not counted and self._sampled is not None and self._sampled[0] == graph
        scale = overall.value if seen else max(1.0, overall.value)
        found = [time_s * scale for time_s in times_s]
        for segment in counted:
            told = self._told(segment)
            off = abs(told / overall.value - 1)
            if segment.graph == graph and off > max(DIFFERS, DIFFERS_SPREADS * self._ratios[segment].spread):
                for vertex in segment.vertices:
                    found[vertex] = times_s[vertex] * told
        return tuple(found)

    def _told(self, segment: Segment) -> float:
        """What a segment says of the profile."""
        return self._ratios[segment].median / self._first.get(segment, 1.0)

    def _counted(self) -> list[Segment]:
        """Segments with enough samples that still run: seen since the window of the latest one began."""
        if self._known is None:
            self._known = self._count()
        return self._known

    def _count(self) -> list[Segment]:
        known = [s for s, ratios in self._ratios.items() if ratios.tells(LEAST_FRAMES)]
        if not known:
            return []
        latest = max(known, key=lambda segment: self._ratios[segment].last_s)
        since_s = self._ratios[latest].first_s
        return [segment for segment in known if self._ratios[segment].last_s >= since_s]


# ── links ─────────────────────────────────────────────────────────────────────────────────────────────


#: A rate rose, fell, or did neither.
Tendency = Literal[-1, 0, 1]


class LinkEstimate(msgspec.Struct, frozen=True):
    """A directed link as it is now. `spread` is relative, None for a single probe.

    Without any probe the latency is taken as 0.
    """

    bytes_per_s: float
    latency_s: float
    spread: float | None
    age_s: float
    source: Literal["probe", "transfers"]

    @property
    def rate(self) -> LinkRate:
        return LinkRate(self.bytes_per_s, self.latency_s)


class _Transfers:
    """The last transfers of alike sizes."""

    def __init__(self) -> None:
        self.bytes_per_s = _Window(FORGET_LINK_S)
        self.taken_s: deque[float] = deque()  # of the same transfers
        self._tell: bool | None = None  # once asked for

    def add(self, nbytes: int, taken_s: float, now: float) -> bool:
        self._tell = None
        self.taken_s.append(taken_s)
        jumped = self.bytes_per_s.add(nbytes / taken_s, now)
        while len(self.taken_s) > len(self.bytes_per_s):
            self.taken_s.popleft()
        return jumped

    @property
    def is_suspicious(self) -> bool:
        """The last one, or the one before, took so long that its rate says something."""
        return self.bytes_per_s.is_suspicious and max(list(self.taken_s)[-2:]) >= TELLING_S

    @property
    def tell(self) -> bool:
        if self._tell is None:
            enough = self.bytes_per_s.tells(LEAST_TRANSFERS)
            self._tell = enough and median(self.taken_s) >= TELLING_S
        return self._tell


class LinkEstimator:
    """What probes and transfers say about one directed link."""

    def __init__(self) -> None:
        self._probe: tuple[float, LinkRate] | None = None
        self._doubtful: LinkRate | None = None
        self._large, self._small = _Transfers(), _Transfers()
        self._last: _Transfers | None = None
        #: Whether a transfer was far faster than the link is thought to be, and too short to say how fast.
        self._refuted = False
        self._used_s: float | None = None
        self._changed_s = float("-inf")
        #: How its rate changed last.
        self.tendency: Tendency = 0

    def probed(self, rate: LinkRate, now: float, *, quick: bool = False, others: Tendency = 0) -> None:
        """The idle link was measured, or given a `quick` look: older transfers count no more. `others`: how
        links that may share its way have just changed; a look that tells the same is not doubted."""
        known = self.estimate(now) if quick else None
        doubted, self._doubtful = self._doubtful, None
        if known is not None and not _is_same(rate, known.rate):
            if doubted is None and (others == 0 or _tendency(known.rate, rate) != others):
                self._doubtful, rate = rate, known.rate
            else:
                rate = rate if doubted is None else _median(known.rate, doubted, rate)
                if not _is_same(rate, known.rate):
                    self._changed_s, self.tendency = now, _tendency(known.rate, rate)
        self._probe = (now, rate)
        self._large, self._small, self._last = _Transfers(), _Transfers(), None
        self._refuted = False

    def transferred(self, nbytes: int, taken_s: float, now: float) -> bool:
        """A tensor crossed the link in `taken_s`, latency excluded. Returns whether the link carries another
        rate from now on than it did."""
        self._used_s = now
        if nbytes < SMALL_BYTES or taken_s <= 0:
            return False
        expected_s = 0.0
        if taken_s < TELLING_S and (believed := self.estimate(now)) is not None:
            expected_s = nbytes / believed.bytes_per_s
        self._refuted = expected_s / REFUTED >= TELLING_S > taken_s
        self._last = self._large if nbytes >= LARGE_BYTES else self._small
        jumped = self._last.add(nbytes, taken_s, now)
        if jumped:
            self._changed_s, self.tendency = now, 1 if self._last.bytes_per_s.rose else -1
        return jumped

    def has_changed(self, now: float) -> bool:
        """Whether it was with what was heard just now that it changed."""
        return self._changed_s == now

    def estimate(self, now: float) -> LinkEstimate | None:
        """None if nothing is known."""
        rates = self._told()
        if rates is not None:
            latency_s = self._probe[1].latency_s if self._probe is not None else 0.0
            age_s = now - rates.last_s
            return LinkEstimate(rates.median, latency_s, rates.spread, age_s, "transfers")
        if self._probe is None:
            return None
        at_s, rate = self._probe
        return LinkEstimate(rate.bytes_per_s, rate.latency_s, None, now - at_s, "probe")

    @property
    def is_doubtful(self) -> bool:
        """Whether the last look told something else than what was known, and another one is wanted."""
        return self._doubtful is not None and self._told() is None

    @property
    def is_refuted(self) -> bool:
        """Whether the link is faster than transfers can tell: it is worth a look though it is in use."""
        return self._refuted

    @property
    def is_suspicious(self) -> bool:
        """Whether the last thing heard may be the beginning of a change."""
        if self.is_doubtful or self._refuted:
            return True
        return self._last is not None and self._last.is_suspicious

    def _told(self) -> _Window | None:
        """Rates of the large transfers; of small ones where large ones do not tell, or cross no more."""
        large, small = self._large.bytes_per_s, self._small.bytes_per_s
        if self._small.tell and not (self._large.tell and large.last_s >= small.first_s):
            return small
        return large if self._large.tell else None

    def probe_due(self, now: float) -> bool:
        """Whether a thorough probe would disturb nobody and tell something new."""
        known = self.estimate(now)
        return self.is_idle(now) and (known is None or known.age_s >= PROBE_AFTER_S)

    def look_due(self, now: float) -> bool:
        """Whether a quick look would: more often, as long as that takes little of the link's time."""
        known = self.estimate(now)
        if self.is_doubtful:
            return True
        if self._refuted:
            return self._probe is None or now - self._probe[0] >= LOOK_SOON_S
        if not self.is_idle(now) or known is None:
            return self.is_idle(now)
        lately = now - self._changed_s < LATELY_S and known.bytes_per_s < FAST_BYTES_PER_S
        after_s, share = (LOOK_SOON_S, LOOK_SOON_SHARE) if lately else (LOOK_AFTER_S, LOOK_SHARE)
        look_s = LOOK_BYTES / known.bytes_per_s + LOOK_ROUND_TRIPS * 2 * known.latency_s
        return known.age_s >= max(after_s, look_s / share)

    def is_idle(self, now: float) -> bool:
        """Whether no frame has crossed it lately."""
        return self._used_s is None or now - self._used_s >= IDLE_S


def _tendency(before: LinkRate, after: LinkRate) -> Tendency:
    if _is_same(LinkRate(before.bytes_per_s, 0.0), LinkRate(after.bytes_per_s, 0.0)):
        return 0
    return 1 if after.bytes_per_s > before.bytes_per_s else -1


def _is_near(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return high <= NEAR * low


def _is_same(one: LinkRate, other: LinkRate) -> bool:
    low, high = sorted((one.bytes_per_s, other.bytes_per_s))
    delay_s = abs(one.latency_s - other.latency_s)
    return high <= SAME * low and delay_s <= max(SAME_S, (SAME - 1) * other.latency_s)


def _median(*rates: LinkRate) -> LinkRate:
    return LinkRate(
        statistics.median(rate.bytes_per_s for rate in rates),
        statistics.median(rate.latency_s for rate in rates),
    )
