"""The grid from profiles alone: what each way is predicted to take in each cell. No process is started.

A `Case` is one model on one network with numbers for everything; `predicted` makes its rows, and needs no
torch, so that it can be done anywhere: cases and rows are bytes (JSON) where they leave the process.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from d3bed.bench.compare.grid import Row, Single, Stream, Way
from d3bed.core.errors import PlanInfeasible
from d3bed.core.graph import Graph
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate
from d3bed.plan import Choice, choose, link_bytes

__all__ = ["OVERRUN_PER_S", "Case", "predicted", "predicted_json", "published"]

#: More than any plan sustains, frames a second.
OVERRUN_PER_S = 500.0


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """`times_s` and `fixed_s` are seconds per vertex on this machine, `speeds` how fast each agent is beside
    it. `rates` by directed pair of tiers, as `edge-cloud`."""

    model: str
    network: str
    graph: Graph
    times_s: tuple[float, ...]
    fixed_s: tuple[float, ...]
    agents: dict[AgentId, Tier]
    speeds: dict[AgentId, float]
    device: AgentId
    rates: dict[str, LinkRate]
    ways: tuple[Way, ...]
    singles: bool
    streams: bool
    rate_per_s: float | None = None


def predicted_json(case: bytes) -> bytes:
    """As `predicted`, for another process."""
    return msgspec.json.encode(predicted(msgspec.json.decode(case, type=Case)))


def predicted(case: Case) -> list[Row]:
    """A row per way."""
    chooser, rows = _Chooser(case), list[Row]()
    for way in case.ways:
        try:
            single = _single(chooser.choice(way, None)) if case.singles else None
            stream = (
                _stream(case, chooser.choice(way, case.rate_per_s or OVERRUN_PER_S)) if case.streams else None
            )
        except PlanInfeasible as refusal:
            rows.append(Row(model=case.model, network=case.network, way=way, refused=str(refusal)))
            continue
        rows.append(Row(model=case.model, network=case.network, way=way, single=single, stream=stream))
    return rows


def published(graph: Graph) -> Graph:
    """The graph whose input is the float32 tensor of the rivals' papers."""
    first, *others = graph.vertices
    (output,) = first.outputs
    wide = msgspec.structs.replace(output, dtype="float32")
    return msgspec.structs.replace(graph, vertices=(msgspec.structs.replace(first, outputs=(wide,)), *others))


class _Chooser:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.times_s = {a: [t / speed for t in case.times_s] for a, speed in case.speeds.items()}
        self.fixed_s = {a: [t / speed for t in case.fixed_s] for a, speed in case.speeds.items()}
        self.rates = {
            (a, b): case.rates[f"{at}-{to}"]
            for a, at in case.agents.items()
            for b, to in case.agents.items()
            if a != b and f"{at}-{to}" in case.rates
        }
        self.known: dict[tuple[Way, float | None], Choice] = {}

    def choice(self, way: Way, rate_per_s: float | None) -> Choice:
        """Raises `PlanInfeasible`."""
        if rate_per_s == OVERRUN_PER_S and way.strategy == "hpa":
            # Above what a plan sustains both take the fastest mix.
            way = msgspec.structs.replace(way, strategy="optimal")
        if (way, rate_per_s) not in self.known:
            self.known[way, rate_per_s] = choose(
                published(self.case.graph) if way.published else self.case.graph,
                self.times_s,
                self.case.agents,
                self.rates,
                self.case.device,
                strategy=way.strategy,
                tiling=way.tiling,
                fixed_s=self.fixed_s,
                rate_per_s=rate_per_s,
            )
        return self.known[way, rate_per_s]


def _single(choice: Choice) -> Single:
    tiers = choice.plan.tiers
    return Single(
        predicted_s=choice.latency_s,
        compute_s=choice.compute_s,
        link_bytes=_link_bytes(choice),
        plan=choice.plan.describe(),
        vertices={tier: tiers.count(tier) for tier in Tier if tier in tiers},
        tiles=len(choice.plan.tiles),
    )


def _stream(case: Case, choice: Choice) -> Stream:
    plans = [variant.plan for variant in choice.mix] or [choice.plan]
    return Stream(
        rate_per_s=case.rate_per_s,
        predicted_per_s=min(choice.frames_per_s, case.rate_per_s or OVERRUN_PER_S),
        alone_s=choice.latency_s,
        plans=len(plans),
        link_bytes=_link_bytes(choice),
        plan="\n\n".join(plan.describe() for plan in plans),
    )


def _link_bytes(choice: Choice) -> dict[str, float]:
    """Of one frame, on average over a mix."""
    shares: Sequence[tuple[float, tuple[Tier, ...]]] = [
        (variant.share, variant.plan.tiers) for variant in choice.mix
    ] or [(1.0, choice.plan.tiers)]
    found: dict[str, float] = {}
    for share, tiers in shares:
        for link, size in link_bytes(choice.problem, tiers).items():
            found[link] = found.get(link, 0.0) + share * size
    return found
