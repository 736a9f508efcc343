"""What live transfers and probes say about links, with spread and age.

Decides how far to believe recent measurements; pure: `now` is passed in (any clock in seconds, never running
backwards). It must not know who reports, or what is done about a change.

Transfers tell the rate if most of the last ones took `TELLING_S` (then they crossed in many chunks,
and timers do not count; picking single long ones would pick the hiccups of a fast link). Enough of them
since the last probe replace its rate, never its latency, as a transfer's time excludes that. Those of less
than `LARGE_BYTES` count only where larger ones do not tell or cross no more.

A link that carries nothing is looked at now and then, or nobody would see it recover. A look is a single
short sample, which a busy end makes slow, and a receiver that was held up fast: one that tells something else
than what was known is doubted, and the median of both and of a second look counts; not where links that may
share its way (a radio, a backbone) have just gone the same way. Two witnesses of different kinds do as well:
one transfer far off, and a look far off the same way, over that link or one that may share its way.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import Literal

import msgspec

from d3bed.core.measurements import LinkRate
from d3bed.plan.detect import median
from d3bed.plan.estimate import IDLE_S, LATELY_S, LOOK_AFTER_S, LOOK_SOON_S
from d3bed.plan.window import Window

__all__ = [
    "FAST_BYTES_PER_S",
    "FORGET_LINK_S",
    "LARGE_BYTES",
    "LEAST_TRANSFERS",
    "PROBE_AFTER_S",
    "TELLING_S",
    "LinkEstimate",
    "LinkEstimator",
    "Tendency",
]

#: Large transfers have at least this size; those below `SMALL_BYTES` are ruled by fixed costs.
LARGE_BYTES, SMALL_BYTES = 100_000, 6_000
#: So many transfers tell a link's rate, if their median time is at least this.
LEAST_TRANSFERS, TELLING_S = 5, 0.010
#: Transfers from longer ago than this say nothing, if there are newer ones.
FORGET_LINK_S = 300.0
#: A link of which nothing was heard for so long is worth a thorough probe.
PROBE_AFTER_S = 60.0
#: Looks take at most this share of a link's time. One takes so many round trips, and at least so many bytes.
LOOK_SHARE, LOOK_ROUND_TRIPS, LOOK_BYTES = 0.025, 4, 16 * 1024
#: Of what changed lately looks may take this share.
LOOK_SOON_SHARE = 0.10
#: A link as fast as this hardly matters to a plan, and looks at it take boards' time.
FAST_BYTES_PER_S = 5e7
#: A transfer that takes so many times less than it should refutes what was known.
REFUTED = 1.5
#: A look that is off what was known by more than this is doubted; so is another latency, beyond `SAME_S`.
SAME, SAME_S = 1.15, 0.003
#: A look that is off by so many times is a second witness of what transfers lean to.
FAR = 1.4

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
        self.bytes_per_s = Window(FORGET_LINK_S)
        self.taken_s: deque[float] = deque()  # of the same transfers
        self._tell: bool | None = None  # once asked for

    def add(self, nbytes: int, taken_s: float, now: float) -> bool:
        self._tell = None
        self.taken_s.append(taken_s)
        jumped = self.bytes_per_s.add(nbytes / taken_s, now)
        while len(self.taken_s) > len(self.bytes_per_s):
            self.taken_s.popleft()
        return jumped

    def confirm(self) -> bool:
        """As of a window."""
        if not self.taken_s or self.taken_s[-1] < TELLING_S or not self.bytes_per_s.confirm():
            return False
        while len(self.taken_s) > 1:
            self.taken_s.popleft()
        self._tell = None
        return True

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

    def probed(
        self,
        rate: LinkRate,
        now: float,
        *,
        quick: bool = False,
        others: Tendency = 0,
        leaning: Tendency = 0,
    ) -> None:
        """The idle link was measured, or given a `quick` look: older transfers count no more. `others`: how
        links that may share its way have just changed; a look that tells the same is not doubted. Nor is one
        that is far off, where the last transfers over such a link, or itself, are `leaning` that way."""
        known = self.estimate(now) if quick else None
        doubted, self._doubtful = self._doubtful, None
        if known is not None and not _is_same(rate, known.rate):
            tendency = _tendency(known.rate, rate)
            if leaning == tendency and _is_far(rate, known.rate):
                others = leaning
            if doubted is None and (others == 0 or tendency != others):
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

    @property
    def leaning(self) -> Tendency:
        """Which way the last transfers are off, where they may be the first ones after a change."""
        if self._refuted:
            return 1
        if self._last is None or not self._last.is_suspicious:
            return 0
        return 1 if self._last.bytes_per_s.leans_up else -1

    def confirm(self, tendency: Tendency, now: float) -> bool:
        """Others that may share its way have changed that way: if the last transfer leans there as well, the
        link has changed with it. Returns whether it has."""
        if tendency == 0 or self.leaning != tendency or self._last is None or not self._last.confirm():
            return False
        self._changed_s, self.tendency = now, tendency
        return True

    def has_followed(self, tendency: Tendency, now: float, within_s: float) -> bool:
        """Whether it changed that way lately."""
        return self.tendency == tendency and now - self._changed_s < within_s

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

    def _told(self) -> Window | None:
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


def _is_far(one: LinkRate, other: LinkRate) -> bool:
    low, high = sorted((one.bytes_per_s, other.bytes_per_s))
    return high >= FAR * low


def _is_same(one: LinkRate, other: LinkRate) -> bool:
    low, high = sorted((one.bytes_per_s, other.bytes_per_s))
    delay_s = abs(one.latency_s - other.latency_s)
    return high <= SAME * low and delay_s <= max(SAME_S, (SAME - 1) * other.latency_s)


def _median(*rates: LinkRate) -> LinkRate:
    return LinkRate(
        statistics.median(rate.bytes_per_s for rate in rates),
        statistics.median(rate.latency_s for rate in rates),
    )
