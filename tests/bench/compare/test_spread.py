"""Work over processes: an embedded cluster, and clusters that do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest

from d3bed.bench.compare import spread as module
from d3bed.bench.compare.grid import Row
from d3bed.bench.compare.predict import predicted, predicted_json
from d3bed.bench.compare.spread import ClusterFailed, spread
from d3bed.core.errors import ConfigError
from tests.bench.compare.made import case

pytestmark = pytest.mark.sockets


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.processes
def test_an_embedded_cluster_makes_the_rows_that_one_process_does() -> None:
    cases = [case(mbit=rate, size=20) for rate in (1.0, 100.0)]
    pieces = [msgspec.json.encode(each) for each in cases]
    for each, made in zip(cases, spread(predicted_json, pieces, None, 1), strict=True):
        rows = msgspec.json.decode(made, type=list[Row])
        assert [row.single and row.single.predicted_s for row in rows] == [
            row.single and row.single.predicted_s for row in predicted(each)
        ]
    with pytest.raises(ClusterFailed, match="ValidationError"):
        spread(predicted_json, [b"{}"], None, 1)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_no_cluster_is_a_mistake_in_the_option(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 1.0)
    with pytest.raises(ConfigError, match="--dask"):
        spread(predicted_json, [b"{}"], address, 1)


def test_a_cluster_that_hangs_is_given_up(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 1.0)
    with pytest.raises(ConfigError, match="--dask"):
        spread(predicted_json, [b"{}"], deaf, 1)


def test_a_cluster_that_there_is_does_the_work() -> None:
    distributed = pytest.importorskip("distributed")
    of = case(size=20)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        (made,) = spread(predicted_json, [msgspec.json.encode(of)], cluster.scheduler_address, 1)
    assert len(msgspec.json.decode(made, type=list[Row])) == len(of.ways)
