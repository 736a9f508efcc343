"""What live spans say about profiles, with spread and age.

Decides how far to believe recent measurements; pure: `now` is passed in (any clock in seconds, never
running backwards). It must not know who reports, or what is done about a change.

A segment's factor is measured over profiled time; an agent's is that of all its segments, weighted by their
profiled time, so it is what the agent as a whole is slower by. Load is the board's: where a segment that
matters has jumped, what the others showed before counts no more. An agent that frames have left is asked for
a sample now and then. Where one segment differs clearly from the agent, its vertices take its own factor:
in-situ profiles are some per cent off, unevenly. Segments that no longer run are left out as soon as others
are known. What a tile should take was measured once, beside frames, on a machine that may have been busy: one
that takes clearly less from its first frames on says nothing of whole layers by that, only by what becomes of
it.

One sample far off its level is no jump yet, but the first of one, if there is one: it is worth
looking at what else may have changed with it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from d3bed.plan.window import Window

__all__ = [
    "FORGET_S",
    "IDLE_S",
    "LATELY_S",
    "LOOK_AFTER_S",
    "LOOK_SOON_S",
    "Factor",
    "ProfileCorrection",
    "Segment",
]

#: A segment with fewer samples says nothing yet: the first frame of an epoch is often a cold one.
LEAST_FRAMES = 3
#: Load from longer ago than this says nothing about now.
FORGET_S = 60.0
#: A segment of less than this share of the longest one's time says nothing of the board.
MATTERS = 0.25
#: A segment differs from its agent by at least this share, and by `DIFFERS_SPREADS` of its spreads.
DIFFERS, DIFFERS_SPREADS = 0.10, 3.0
#: A link that carried nothing for `IDLE_S` may be probed, an agent that did nothing sampled. Either is worth
#: a look once what is known is older than `LOOK_AFTER_S`.
IDLE_S, LOOK_AFTER_S = 1.0, 2.0
#: What changed lately may soon change back: for so long after a change it is worth a look this often.
LATELY_S, LOOK_SOON_S = 60.0, 0.5
#: A tile that takes less than this share of what it should was timed on a busy machine.
TIMED_BUSY = 0.8
#: A sample of an idle agent that is off by less confirms what was known: it is one layer, once.
NEAR = 1.25
#: How far one layer may stray from the network that it stands for.
SAMPLE_SPREAD = 0.15


class Segment(msgspec.Struct, frozen=True, cache_hash=True):
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
        self._ratios: dict[Segment, Window] = {}
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
            ratios = self._ratios[segment] = Window(FORGET_S)
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
        if len(self._ratios) == 1:  # as most often: there is no other that it could outlast
            if ratios.tells(LEAST_FRAMES):
                self._sampled = None
            return jumped
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


def _is_near(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return high <= NEAR * low
