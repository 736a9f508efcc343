"""When to reconsider a running plan, and whether to move.

Decides from three pure questions: did something leave the band that the plan was made for (`changes`), is
the new plan enough better to be worth a switch (`judge`), and is it time to decide again (`Patience`)?
Must not know how estimates come about, or how a plan is carried out. `now` is passed in.

The bands and the least gain are ours, chosen above the noise of estimates on an emulated testbed (medians
over seven samples stray by a few per cent); a number that scatters more has a wider band. A decision makes
the present conditions the middle of new bands: what changed has to change that much again, or back. The
paper's abstract says that processing time and network conditions trigger a partial re-partition; how wide
its thresholds are we do not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkRate

__all__ = [
    "FACTOR_BAND",
    "KEPT_PART",
    "LEAST_GAIN",
    "RATE_BAND",
    "YOUNG_S",
    "Basis",
    "Change",
    "Patience",
    "Verdict",
    "changes",
    "explains",
    "judge",
    "rebased",
    "what_matters",
]

#: A plan is reconsidered when an agent takes this many times as long as it was planned for, or as little;
#: or when a link's rate (or its latency, beyond `LATENCY_SLACK_S`) leaves its band.
FACTOR_BAND, RATE_BAND = 1.25, 1.25
LATENCY_SLACK_S = 0.005
#: Bands reach over at least so many of the estimate's spreads: five of its standard deviations or so.
BAND_SPREADS = 3.5
#: A new plan must save this share of the frame's latency, and this much: predictions are about so far off on
#: a testbed, and what they say of less is noise.
LEAST_GAIN, LEAST_GAIN_S = 0.07, 0.002
#: So soon after a move another one must save so many times as much: little is known of the new plan yet.
YOUNG_S, YOUNG = 5.0, 2.0
#: One that only cuts other tiles must save so many times as much: what tiles take is known less well.
ALIKE = 1.5
#: Seconds between decisions; doubled, up to the second, each time a plan comes back that was left lately. One
#: to keep the plan needs a part of that.
COOL_S, COOL_MOST_S, LATELY_S = 1.0, 60.0, 30.0
KEPT_PART = 0.3
#: Of what has changed at the same moment, so many are told as the cause: those that change a frame's time by
#: at least this share of what the first of them does.
MOST_TOLD, MATTERS = 3, 0.1
#: For so long, a decision to keep the plan is no news for the same agents and links.
QUIET_S = 60.0


class Basis(msgspec.Struct, frozen=True):
    """Conditions, as a plan was made for or as they are now: how much longer than profiled each agent takes,
    and directed link rates. `spreads` are relative, by agent or `pi-1→edge-1`, of those that are known to
    have one."""

    factors: dict[AgentId, float]
    rates: dict[tuple[AgentId, AgentId], LinkRate]
    spreads: dict[str, float] = {}


class Change(msgspec.Struct, frozen=True):
    """One number that left its band. `text` says it, as in `pi-1→edge-1 fell from 80.0 to 11.2 Mbit/s`.

    `spread` is that of the later value, relative; None where it comes from a single measurement.
    """

    subject: str
    quantity: Literal["factor", "bytes_per_s", "latency_s"]
    before: float
    after: float
    spread: float | None
    text: str


def changes(basis: Basis, now: Basis) -> list[Change]:
    """What has left its band since `basis`, largest ratio first. What is not known now has not changed."""
    found: list[Change] = []
    for agent, before in basis.factors.items():
        after, spread = now.factors.get(agent, before), now.spreads.get(agent)
        if _left(before, after, FACTOR_BAND, spread):
            word = "slower" if after > before else "faster"
            ratio = max(after / before, before / after)
            found.append(
                Change(agent, "factor", before, after, spread, f"{agent} became {ratio:.1f}× {word}")
            )
    for ends, before_rate in basis.rates.items():
        after_rate, name = now.rates.get(ends, before_rate), "→".join(ends)
        spread = now.spreads.get(name)
        was, now_is = before_rate.bytes_per_s, after_rate.bytes_per_s
        if _left(was, now_is, RATE_BAND, spread):
            word = "fell" if now_is < was else "rose"
            text = f"{name} {word} from {_digits(was * 8e-6)} to {_digits(now_is * 8e-6)} Mbit/s"
            found.append(Change(name, "bytes_per_s", was, now_is, spread, text))
        elif abs(after_rate.latency_s - before_rate.latency_s) > max(
            LATENCY_SLACK_S, (RATE_BAND - 1) * before_rate.latency_s
        ):
            delays = before_rate.latency_s, after_rate.latency_s
            text = f"the latency of {name} went from {delays[0] * 1e3:.3g} to {delays[1] * 1e3:.3g} ms"
            found.append(Change(name, "latency_s", *delays, None, text))
    for ends in now.rates.keys() - basis.rates.keys():  # those could not be measured then
        name, rate = "→".join(ends), now.rates[ends].bytes_per_s
        text = f"{name} is there again, with {_digits(rate * 8e-6)} Mbit/s"
        found.append(Change(name, "bytes_per_s", 0.0, rate, None, text))
    return sorted(found, key=lambda change: -_ratio(change.before, change.after))


def what_matters(
    found: Sequence[Change], kept_busy_s: Mapping[str, float], new_busy_s: Mapping[str, float] | None = None
) -> list[Change]:
    """What changes a frame's time most, most first: under the plan in force, which kept each agent and link
    busy for so long before, or under a new one, which will do so now. Where nothing does, all of it."""

    effects_s = [_effect_s(change, kept_busy_s, new_busy_s or {}) for change in found]
    least_s = MATTERS * max(effects_s, default=0.0)
    told = [(s, change) for s, change in zip(effects_s, found, strict=True) if s >= least_s]
    return [change for _, change in sorted(told, key=lambda each: -each[0])][:MOST_TOLD]


def _effect_s(change: Change, kept_busy_s: Mapping[str, float], new_busy_s: Mapping[str, float]) -> float:
    """What it changes of a frame's time, under one of two plans."""
    before, after = change.before, change.after
    kept_s, new_s = kept_busy_s.get(change.subject, 0.0), new_busy_s.get(change.subject, 0.0)
    if change.quantity == "latency_s":
        return abs(after - before) if kept_s or new_s else 0.0
    if change.quantity == "bytes_per_s":  # a frame's time is the inverse of it
        before, after = after, before
    of_kept_s = kept_s * abs(_over(after, before) - 1) if kept_s else 0.0
    return max(of_kept_s, new_s * abs(_over(before, after) - 1) if new_s else 0.0)


def explains(
    found: Sequence[Change], kept_busy_s: Mapping[str, float], new_busy_s: Mapping[str, float]
) -> bool:
    """Whether what has changed matters to one of the plans at all. What a new plan would gain elsewhere comes
    from numbers that stray within their bands."""
    return sum(_effect_s(change, kept_busy_s, new_busy_s) for change in found) >= LEAST_GAIN_S


def rebased(basis: Basis, now: Basis, found: Sequence[Change]) -> Basis:
    """With what has changed as it is now, and all else as it was."""
    subjects = {change.subject for change in found}
    return Basis(
        {a: now.factors.get(a, factor) if a in subjects else factor for a, factor in basis.factors.items()},
        basis.rates | {ends: rate for ends, rate in now.rates.items() if "→".join(ends) in subjects},
        now.spreads,
    )


class Verdict(msgspec.Struct, frozen=True):
    """Whether to move, and why, in words."""

    move: bool
    reason: str


def judge(kept_s: float, planned_s: float, *, young: bool = False, alike: bool = False) -> Verdict:
    """Compare the predicted latency of staying with that of the new plan, under the same conditions.
    `young`: the present plan is in force for less than `YOUNG_S`; `alike`: the new one has frames at the same
    places, and only cuts other tiles."""
    gain_s = kept_s - planned_s
    need_s = max(LEAST_GAIN * kept_s, LEAST_GAIN_S) * (YOUNG if young else 1.0) * (ALIKE if alike else 1.0)
    words = f"{kept_s * 1e3:.0f} → {planned_s * 1e3:.0f} ms predicted"
    if gain_s >= need_s:
        return Verdict(True, words)
    return Verdict(False, f"{words}, a gain below {need_s * 1e3:.0f} ms is not worth a switch")


class Patience:
    """Spaces decisions out, more so when plans oscillate."""

    def __init__(self) -> None:
        self._next_s = float("-inf")
        self._cool_s = COOL_S
        self._left: dict[object, float] = {}
        self._told = True
        self._said: dict[str, float] = {}

    def ready(self, now: float) -> bool:
        return now >= self._next_s

    def settle(self, now: float) -> None:
        """A plan that was asked for came into force: its first frames are cold, and say little of it; or
        there was none, and will be none so soon."""
        self._next_s = max(self._next_s, now + COOL_S)

    def kept(self, subjects: Sequence[str], now: float) -> bool:
        """A decision not to move: the same conditions need not be looked at again at once.

        `subjects` are the agents and links that changed. Returns whether it is news: one of them was not
        among those of such a decision in the last `QUIET_S`.
        """
        self._next_s = now + KEPT_PART * self._cool_s
        news = not subjects or any(now >= self._said.get(s, float("-inf")) + QUIET_S for s in subjects)
        if news:
            self._said |= dict.fromkeys(subjects, now)
        return news

    def moved(self, before: object, after: object, now: float) -> str:
        """A move from one plan to another (anything hashable). Told in words where that was left lately."""
        self._left = {plan: at_s for plan, at_s in self._left.items() if now - at_s <= LATELY_S}
        left_s = self._left.get(after)
        self._cool_s = COOL_S if left_s is None else min(2 * self._cool_s, COOL_MOST_S)
        self._left[before] = now
        self._next_s = now + self._cool_s
        self._told = left_s is None
        if left_s is None:
            return ""
        ago_s, wait_s = now - left_s, self._cool_s
        return (
            f"the plan left {ago_s:.0f} s ago is back; lest plans swing, none moves again for {wait_s:.0f} s"
        )

    def held(self, now: float) -> str:
        """That plans swing, and so this one stays for now: in words, once for each wait."""
        if self._told or self.ready(now):
            return ""
        self._told = True
        return f"the plan stays for {self._next_s - now:.1f} s more, as plans swing"


def _ratio(before: float, after: float) -> float:
    low, high = sorted((before, after))
    return high / low if low > 0 else float("inf")


def _over(one: float, other: float) -> float:
    return one / other if other > 0 else float("inf")


def _left(before: float, after: float, band: float, spread: float | None) -> bool:
    return before != after and _ratio(before, after) > max(band, 1 + BAND_SPREADS * (spread or 0.0))


def _digits(value: float) -> str:
    """Three digits, and never an exponent: 11.2, 1010."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
