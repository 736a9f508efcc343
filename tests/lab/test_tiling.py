"""`d3bed plan --tiles` and `d3bed tiles`: what is compared, and what is drawn."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console

from d3bed.config import data_dir
from d3bed.core.errors import ConfigError
from d3bed.lab.tiles_svg import draw
from d3bed.lab.tiling import Sharing, TileRequest, share, show
from d3bed.plan.vsm import METHODS


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Sharing:
    request = TileRequest(
        data_dir("configs") / "demo.toml", tmp_path_factory.mktemp("cache"), model="alexnet", edges=3
    )
    return share(request, lambda _: None, every=True)


def test_all_ways_stand_side_by_side_and_none_beats_vsm(sharing: Sharing) -> None:
    found = sharing.report()["methods"]
    assert list(found) == list(METHODS)
    assert max(way["speed_up"] for way in found.values()) == pytest.approx(found["vsm"]["speed_up"])
    assert all(way.frame_s <= sharing.frame_s for way in sharing.ways)
    written = io.StringIO()
    Console(width=90, file=written).print(show(sharing))
    assert all(method in written.getvalue() for method in METHODS)


def test_a_block_is_drawn_with_a_rectangle_per_tile_over_a_photo(sharing: Sharing, tmp_path: Path) -> None:
    path = tmp_path / "tiles.svg"
    said = draw(sharing, 1, None, path)
    row = sharing.ways[0].rows[0]
    assert row.layers in said
    drawn = ElementTree.parse(path).getroot()
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert all(any(str(agent) in (word or "") for word in words) for agent in row.tiled.agents)
    assert "data:image/jpeg;base64," in path.read_text(encoding="utf-8")


def test_a_block_that_is_not_there_is_refused(sharing: Sharing, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="blocks"):
        draw(sharing, 99, None, tmp_path / "tiles.svg")
