"""Which values of a plan go past the edge, where device and cloud have a link of their own.

Each tensor takes the cheaper way: relayed by the edge, which shares the first crossing with readers there,
or directly. By the same rule as a problem's cost, but with the rates of each direction. It must not know
how the plan was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from d3bed.core.graph import Graph, Value
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate

__all__ = ["direct_values"]


def direct_values(
    graph: Graph,
    tiers: Sequence[Tier],
    route: Mapping[Tier, AgentId],
    rates: Mapping[tuple[AgentId, AgentId], LinkRate],
) -> tuple[Value, ...]:
    """Ascending; none where the route has no edge to go past, or the direct link is not measured."""
    if len(route) < 3:
        return ()

    def seconds(value: Value, *ways: Tier) -> float:
        ends = [(route[a], route[b]) for a, b in zip(ways, ways[1:], strict=False)]
        if any(pair not in rates for pair in ends):
            return float("inf")
        return sum(rates[p].latency_s + graph.spec(value).nbytes / rates[p].bytes_per_s for p in ends)

    found = []
    for value in sorted({*graph.consumers, *graph.results}):
        home = tiers[value.vertex]
        readers = {tiers[reader] for reader in graph.consumers.get(value, ())}
        if home is Tier.DEVICE and Tier.CLOUD in readers:
            first = () if Tier.EDGE in readers else (Tier.DEVICE,)
            relayed_s = seconds(value, *first, Tier.EDGE, Tier.CLOUD)
        elif home is Tier.CLOUD and value in graph.results:
            relayed_s = seconds(value, Tier.CLOUD, Tier.EDGE, Tier.DEVICE)
        else:
            continue
        direct = (Tier.DEVICE, Tier.CLOUD) if home is Tier.DEVICE else (Tier.CLOUD, Tier.DEVICE)
        if seconds(value, *direct) < relayed_s:
            found.append(value)
    return tuple(found)
