"""What a real run takes, and what it need not measure again."""

from __future__ import annotations

import msgspec

from d3bed.bench.compare.grid import Asked, Row, Single, Stream, Way, ways
from d3bed.bench.compare.measure import remaining
from d3bed.core.ids import Tier
from d3bed.core.measurements import LinkShape

NAMES = ("device", "edge", "cloud", "hpa", "optimal")
NEAR, FAR, SLOW = LinkShape(1e7, 0.002), LinkShape(1e6, 0.01), LinkShape(1e5, 0.025)


def shaped(near: LinkShape, far: LinkShape) -> dict[str, LinkShape]:
    ends = {"device-edge": near, "edge-cloud": far}
    return ends | {"-".join(reversed(pair.split("-"))): shape for pair, shape in ends.items()}


#: The links to the cloud differ; over `wire` all do.
SHAPES = {"wifi": shaped(NEAR, FAR), "rural": shaped(NEAR, SLOW), "wire": shaped(FAR, SLOW)}
CROSSED = {"device": (), "edge": ("device-edge",), "cloud": ("device-edge", "edge-cloud")}


def row(network: str, way: Way) -> Row:
    crossed = dict.fromkeys(CROSSED.get(way.strategy, CROSSED["cloud"]), 1000.0)
    single = Single(
        predicted_s=3.0, compute_s={}, link_bytes=crossed, plan=way.name, vertices={Tier.DEVICE: 1}
    )
    stream = Stream(
        rate_per_s=None, predicted_per_s=1.0, alone_s=3.0, link_bytes=crossed, plan=f"s {way.name}"
    )
    return Row(model="alexnet", network=network, way=way, single=single, stream=stream)


def left_s(
    networks: tuple[str, ...], names: tuple[str, ...], *, done: int = 0, streams: bool = True
) -> float:
    asked = Asked(
        models=("alexnet",),
        networks=networks,
        strategies=names,
        edges=1,
        frames=4,
        streams=True,
        testbed="compare.toml",
    )
    wanted = ways(names)
    guess = {("alexnet", n, way.name): row(n, way) for n in networks for way in wanted}
    kept = dict(list(guess.items())[:done])
    return remaining(asked, wanted, SHAPES, guess, kept)


def test_a_plan_is_measured_once_where_all_links_that_it_uses_are_alike() -> None:
    # 2 frames of 3 s; 7 answers at 1/s, and twice 3 s for the first and the last.
    frames_s, stream_s = 6.0, 7.0 + 6.0
    for names, more in ((("device",), 0), (("edge",), 0), (("cloud",), 1), (NAMES[:3], 1)):
        one, two = left_s(("wifi",), names), left_s(("wifi", "rural"), names)
        overhead_s = left_s(("wifi", "rural"), ("device",)) - left_s(("wifi",), ("device",))
        assert (two - one - overhead_s >= frames_s + stream_s) is bool(more), names
    # The way to the edge is another one: the device alone is still the same.
    assert left_s(("wifi", "wire"), ("edge",)) - left_s(("wifi", "wire"), ("device",)) >= frames_s + stream_s


def test_nothing_is_left_where_all_is_done_and_less_where_some_is() -> None:
    every = left_s(("wifi", "rural"), NAMES)
    assert left_s(("wifi", "rural"), NAMES, done=2 * len(NAMES)) == 0
    assert 0 < left_s(("wifi", "rural"), NAMES, done=len(NAMES)) < every


def test_another_input_is_another_measurement() -> None:
    ours, both = left_s(("wifi",), ("edge",)), left_s(("wifi",), ("edge", "dads"))
    published = msgspec.structs.replace(Way("dads"), published=True)
    assert published in ways(("dads",))
    assert both - ours >= 2 * (9.0 + 16.0), "dads and dads*, which has the same plan text but for its name"
