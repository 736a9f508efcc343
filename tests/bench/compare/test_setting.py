"""The testbed of a comparison, and the file that it is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from d3bed.bench.compare.grid import NETWORKS, Way
from d3bed.bench.compare.setting import AS_THEY_ARE, read_setting
from d3bed.config import data_dir, networks, read_network
from d3bed.core.errors import ConfigError
from d3bed.lab.testbed import check_cores

FILE = data_dir("configs") / "compare.toml"


@pytest.mark.parametrize("edges", [1, 4, 8])
def test_the_shipped_testbed_fits_on_two_cores_with_any_number_of_edges(edges: int) -> None:
    setting = read_setting(FILE, edges)
    assert len(setting.pipeline.edges) == edges
    assert sum(setting.speeds.values()) < 2
    check_cores(setting.config)
    assert setting.pipeline.pins == {}


@pytest.mark.parametrize("network", [*NETWORKS, AS_THEY_ARE])
def test_a_file_as_it_is_run_says_the_same_with_the_links_of_the_network(
    tmp_path: Path, network: str
) -> None:
    setting = read_setting(FILE, 2)
    config = setting.write(tmp_path, network, "vgg16", Way("dads", published=True))
    (pipeline,) = config.pipelines
    assert pipeline.tiers == setting.pipeline.tiers
    assert {agent.name: agent.speed for agent in config.agents} == setting.speeds
    assert (pipeline.model.name, pipeline.model.floats, pipeline.adapt) == ("vgg16", True, False)
    shapes = {} if network == AS_THEY_ARE else read_network(network, "", "")
    assert pipeline.shapes.keys() == shapes.keys()
    for pair, shape in shapes.items():
        assert pipeline.shapes[pair].bytes_per_s == pytest.approx(shape.bytes_per_s)
        assert pipeline.shapes[pair].latency_s == pytest.approx(shape.latency_s)
    assert not setting.write(tmp_path, network, "vgg16", Way("dads")).pipelines[0].model.floats


def test_all_presets_of_the_grid_are_shipped() -> None:
    assert set(NETWORKS) <= set(networks())


def test_more_edges_than_the_file_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 8"):
        read_setting(FILE, 9)


def test_what_is_emulated_is_said(tmp_path: Path) -> None:
    said = " ".join(read_setting(FILE, 4).emulated(["wifi", AS_THEY_ARE]))
    assert "(pi-1 0.025, edge-1" in said and "(wifi)" in said and "one machine" in said
    board = tmp_path / "boards.toml"
    board.write_text(
        '[[agents]]\nname = "pi-1"\ntier = "device"\nhost = "192.168.1.7"\n'
        '[pipelines.main]\ndevice = "pi-1"\n'
    )
    real = read_setting(board, 1)
    assert real.remote == ["pi-1"] and real.emulated([AS_THEY_ARE]) == ()
