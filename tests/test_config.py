"""Configuration: what is read, and that every mistake names file, key and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from d3bed.agent.identity import Identity, write_identity
from d3bed.config import (
    MOST_ENCODED_KB,
    agent_settings,
    data_dir,
    input_size,
    networks,
    override,
    read_config,
    read_network,
)
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId, Tier
from d3bed.core.joining import Machine
from d3bed.model.images import MAX_ENCODED_BYTES

GOOD = """
[[agents]]
name = "pi-1"
tier = "device"
speed = 0.1
photos = "pictures"

[[agents]]
name = "edge-1"
tier = "edge"

[pipelines.main]
device = "pi-1"
edges = ["edge-1"]
network = "wifi"
input = "3x96x96"

[[pipelines.main.pins.alexnet]]
vertices = "features.*"
tiers = ["device", "edge"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, GOOD))
    (pipeline,) = config.pipelines
    assert [a.name for a in config.agents] == ["pi-1", "edge-1"]
    assert (pipeline.device, pipeline.edges, pipeline.cloud) == ("pi-1", ("edge-1",), None)
    assert pipeline.model.name == "alexnet" and pipeline.model.input == (3, 96, 96)
    assert pipeline.shapes["device-edge"].bytes_per_s == 10e6
    assert pipeline.shapes["edge-device"] == pipeline.shapes["device-edge"]
    (pin,) = pipeline.pins["alexnet"]
    assert pin.tiers == (Tier.DEVICE, Tier.EDGE)


@pytest.mark.parametrize(
    ("old", "new", "key", "hint"),
    [
        ("speed = 0.1", "sped = 0.1", "agents[0].sped", "speed"),
        ("speed = 0.1", "speed = 0", "agents[0].speed", "more than 0"),
        ("speed = 0.1", "speed = nan", "agents[0].speed", "more than 0"),
        ("speed = 0.1", 'speed = "slow"', "speed", "float"),
        ('tier = "edge"', 'tier = "egde"', "tier", "egde"),
        ('name = "edge-1"', 'name = "pi-1"', "agents[1].name", "rename"),
        ('name = "edge-1"', 'name = "../x"', "agents[1].name", "letters"),
        ('edges = ["edge-1"]', 'edges = ["edge-7"]', "pipelines.main.edges", "edge-1"),
        ('edges = ["edge-1"]', 'edges = ["pi-1"]', "pipelines.main.edges", "tier device"),
        ('network = "wifi"', 'network = "wiffi"', "pipelines.main.network", "wifi"),
        ('network = "wifi"', 'network = "wifi"\nmodel = "resnet19"', "pipelines.main.model", "resnet18"),
        ('network = "wifi"', 'network = "wifi"\nthreads = 0', "pipelines.main.threads", "1 to 64"),
        ('network = "wifi"', 'network = "wifi"\ntolerance = 0.1', "pipelines.main.tolerance", "0.001"),
        ('input = "3x96x96"', 'input = "96"', "pipelines.main.input", "3x224x224"),
        ('input = "3x96x96"', "encoded_kb = 4195", "pipelines.main.encoded_kb", "1 to 4194"),
        ('input = "3x96x96"', "encoded_kb = -1", "pipelines.main.encoded_kb", "0 for pixels"),
        ("[pipelines.main]", "[server]\nport = 99999\n[pipelines.main]", "server.port", "65535"),
    ],
)
def test_a_mistake_names_file_key_and_remedy(tmp_path: Path, old: str, new: str, key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, GOOD.replace(old, new)))
    assert "mine.toml" in str(caught.value)
    assert key in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_shipped_config_and_preset_is_valid() -> None:
    for path in data_dir("configs").glob("*.toml"):
        assert read_config(path).pipelines
    assert {"wifi", "lte", "lan", "slow-backbone"} <= set(networks())
    for name in networks():
        shapes = read_network(name, "test", "")
        assert shapes.keys() == {f"{b}-{a}" for a, b in (pair.split("-") for pair in shapes)}


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, GOOD))
    changed = override(config, model="resnet18", network="lte", strategy="device", frames=3, port=0)
    (pipeline,) = changed.pipelines
    assert (pipeline.model.name, pipeline.model.input) == ("resnet18", None)
    assert (pipeline.network, pipeline.strategy, pipeline.frames, changed.port) == ("lte", "device", 3, 0)
    assert pipeline.shapes["device-edge"].latency_s == 0.025
    assert override(config) == config


def test_a_camera_gives_files_to_whatever_network(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, GOOD.replace('network = "wifi"', "encoded_kb = 44")))
    assert config.pipelines[0].model.encoded == 44_000
    assert override(config, model="resnet18").pipelines[0].model.encoded == 44_000
    assert override(config, encoded_kb=0).pipelines[0].model.encoded == 0
    assert 1000 * MOST_ENCODED_KB <= MAX_ENCODED_BYTES < 1000 * (MOST_ENCODED_KB + 1)


@pytest.mark.parametrize("text", ["", "224x224", "3x0x224", "3x224x224x1", "threex2x2"])
def test_an_input_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="channels x height x width"):
        input_size(text, "--input", "")


def test_a_pt2_that_is_no_archive_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, GOOD))
    (tmp_path / "broken.pt2").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="not an archive"):
        override(config, model=str(tmp_path / "broken.pt2"))
    with pytest.raises(ConfigError, match="no such file"):
        override(config, model=str(tmp_path / "missing.pt2"))
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "good.pt2")
    assert override(config, model=str(tmp_path / "good.pt2")).pipelines[0].model.name.endswith("good.pt2")


def test_an_agent_takes_from_the_file_what_its_command_line_leaves_out(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    common: dict[str, Any] = {"tier": None, "host": None, "port": None, "photos": None, "token": None}
    common["identity"] = tmp_path / "none.json"
    settings = agent_settings(
        name="pi-1", server="http://127.0.0.1:1", config=path, speed=0.5, cache_dir=tmp_path, **common
    )
    assert (settings.tier, settings.speed) == (Tier.DEVICE, 0.5)
    assert settings.photos == tmp_path / "pictures"
    assert settings.shaped
    with pytest.raises(ConfigError, match="no agent named 'pi-2' — did you mean pi-1"):
        agent_settings(
            name="pi-2", server="http://127.0.0.1:1", config=path, speed=None, cache_dir=tmp_path, **common
        )
    with pytest.raises(ConfigError, match="--tier"):
        agent_settings(
            name="pi-1", server="http://127.0.0.1:1", config=None, speed=None, cache_dir=tmp_path, **common
        )


def test_image_files_have_no_floats(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = '[[agents]]\nname = "pi"\ntier = "device"\n[pipelines.main]\ndevice = "pi"\nfloats = true\n'
    path.write_text(text)
    assert read_config(path).pipelines[0].model.floats
    path.write_text(text + "encoded_kb = 44\n")
    with pytest.raises(ConfigError, match="pipelines.main.floats"):
        read_config(path)


def test_the_address_that_others_reach_an_agent_by_can_be_fixed(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    text = '[[agents]]\nname = "pi-1"\ntier = "device"\nport = 4750\naddress = "203.0.113.5:14750"\n'
    path.write_text(text)
    rest: dict[str, Any] = {"tier": None, "host": None, "port": None, "photos": None, "speed": None}
    settings = agent_settings(
        name="pi-1", server=None, token="t", config=path, identity=tmp_path / "n", cache_dir=tmp_path, **rest
    )
    assert (settings.listen_port, settings.address) == (4750, "203.0.113.5:14750")
    path.write_text(text.replace(":14750", ""))
    with pytest.raises(ConfigError, match="agents.0..address"):
        read_config(path)


def test_a_board_that_joined_needs_no_options_and_keeps_its_credential_to_itself(
    tmp_path: Path,
) -> None:
    path, own = tmp_path / "identity.json", "http://192.0.2.1:8333"
    write_identity(path, Identity("n" * 32, Machine(), AgentId("edge-1"), Tier.EDGE, own, "secret"))
    rest: dict[str, Any] = {"tier": None, "host": None, "port": None, "photos": None, "speed": None}
    rest |= {"config": None, "identity": path, "cache_dir": tmp_path}
    settings = agent_settings(name=None, server=None, token=None, **rest)
    assert (settings.agent, settings.tier, settings.server) == ("edge-1", Tier.EDGE, own)
    assert settings.token == "secret" and settings.identity == path
    rest["tier"] = "edge"
    for name, server in (("edge-1", "http://127.0.0.1:1"), ("edge-2", None)):
        other = agent_settings(name=name, server=server, token=None, **rest)
        assert other.token is None and other.identity is None
    with pytest.raises(ConfigError, match="--name.*d3bed join"):
        agent_settings(name=None, server=None, token="given", **rest)
