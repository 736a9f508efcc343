"""Results and cases that are made up, for tests of what is done with them."""

from __future__ import annotations

from d3bed.bench.compare.grid import Asked, Results, Row, Single, Stream, ways
from d3bed.bench.compare.predict import Case
from d3bed.bench.plan import made_graph
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import LinkRate

MACHINE = {
    "version": "0",
    "commit": "abc",
    "python": "3.11",
    "torch": "2",
    "processor": "<made>",
    "cpus": 2,
    "system": "none",
    "at": "2026-01-01 00:00:00 UTC",
    "load": 0.5,
    "command": "d3bed compare",
}


def single(
    latency_s: float, backbone: float, plan: str, *, measured: bool = True, predicted_s: float | None = None
) -> Single:
    return Single(
        predicted_s=latency_s if predicted_s is None else predicted_s,
        median_s=latency_s if measured else None,
        low_s=latency_s * 0.9 if measured else None,
        high_s=latency_s * 1.1 if measured else None,
        frames=5 if measured else 0,
        compute_s={Tier.DEVICE: 0.0, Tier.EDGE: latency_s / 2},
        link_bytes={"device-edge": 1000.0, "edge-cloud": backbone},
        plan=plan,
        vertices={Tier.DEVICE: 1, Tier.EDGE if plan == "edge" else Tier.CLOUD: 9},
        identical=True if measured else None,
    )


def stream(per_s: float) -> Stream:
    return Stream(
        rate_per_s=None, predicted_per_s=per_s, per_s=per_s, frames=9, link_bytes={}, plan="", identical=True
    )


#: Way → latency, backbone bytes, plan and rate, in two cells.
FAST = {
    "device": (4.0, 0.0, "device", 0.25),
    "edge": (1.0, 0.0, "edge", 1.0),
    "cloud": (2.0, 900.0, "cloud", 3.0),
    "neurosurgeon": (1.0, 0.0, "edge", 2.0),
    "neurosurgeon*": (1.5, 0.0, "edge", 1.0),
    "dads": (0.8, 600.0, "split", 1.5),
    "dads*": (1.2, 2400.0, "split", 1.2),
    "optimal": (0.8, 600.0, "split", 4.0),
    "optimal+vsm": (0.4, 200.0, "tiles", 4.0),
}
SLOW = {
    "device": (4.0, 0.0, "device", 0.25),
    "edge": (1.0, 0.0, "edge", 1.0),
    "cloud": (0.5, 900.0, "cloud", 2.0),
    "neurosurgeon": (0.5, 900.0, "cloud", 2.0),
    "neurosurgeon*": (0.9, 3600.0, "cloud", 1.0),
    "dads": (0.5, 900.0, "cloud", 2.0),
    "dads*": (0.9, 3600.0, "cloud", 1.0),
    "optimal": (0.5, 900.0, "cloud", 2.0),
    "optimal+vsm": (0.5, 900.0, "cloud", 2.0),
}


def results(*, edges: int = 4, measured: bool = True) -> Results:
    """AlexNet over Wi-Fi (tiles gain twice) and over fibre (the cloud is best for all)."""
    names = ("device", "edge", "cloud", "neurosurgeon", "dads", "optimal", "optimal+vsm")
    asked = Asked(
        models=("alexnet",),
        networks=("wifi", "optical"),
        strategies=names,
        edges=edges,
        frames=5,
        streams=True,
        testbed="compare.toml",
    )
    rows = [
        Row(
            model="alexnet",
            network=network,
            way=way,
            single=single(*table[way.name][:3], measured=measured),
            stream=stream(table[way.name][3]),
            commit="abc",
        )
        for network, table in (("wifi", FAST), ("optical", SLOW))
        for way in ways(names)
    ]
    how = "measured" if measured else "predicted"
    return Results(how=how, asked=asked, machine=MACHINE, emulated=("Boards & links.",), rows=tuple(rows))


def case(*, edges: int = 4, streams: bool = False, mbit: float = 10.0, size: int = 60) -> Case:
    """A made graph of convolutions that cannot be tiled, on three tiers."""
    graph = made_graph(size, 1)
    times_s = tuple(vertex.flops * 2e-11 for vertex in graph.vertices)
    agents = {AgentId("pi-1"): Tier.DEVICE, AgentId("vm"): Tier.CLOUD}
    agents |= {AgentId(f"edge-{n}"): Tier.EDGE for n in range(1, edges + 1)}
    speeds = {Tier.DEVICE: 1 / 12, Tier.EDGE: 1 / 2.4, Tier.CLOUD: 1.0}
    pairs = ("device-edge", "edge-device", "edge-edge", "edge-cloud", "cloud-edge")
    return Case(
        model="made",
        network="made",
        graph=graph,
        times_s=times_s,
        fixed_s=(0.0,) * len(times_s),
        agents=agents,
        speeds={agent: speeds[tier] for agent, tier in agents.items()},
        device=AgentId("pi-1"),
        rates={pair: LinkRate(mbit * 1e6 / 8, 0.002) for pair in pairs},
        ways=ways(("device", "edge", "cloud", "neurosurgeon", "dads", "layers", "hpa", "optimal", "hpa+vsm")),
        singles=True,
        streams=streams,
    )
