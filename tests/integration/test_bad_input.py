"""What a user may get wrong: one line that names place, key and remedy, exit code 2, nothing started."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests import forked

pytestmark = pytest.mark.timeout(480)

GOOD = """
[[agents]]
name = "pi-1"
tier = "device"
speed = 0.1

[pipelines.main]
device = "pi-1"
"""


def d3bed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run(*arguments, folder=folder, columns=80, imported="d3bed.lab.demo d3bed.lab.plan_show")


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an exit with code 2; progress, if any, goes to the other stream."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--model", "alexnett"), ("--model", "alexnett", "alexnet")),
        (("--model", "no.such:factory"), ("no.such",)),
        (("--model", "missing.pt2"), ("missing.pt2",)),
        (("--strategy", "optimol"), ("--strategy", "optimol", "optimal")),
        (("--weights", "rndom:1"), ("--weights", "random:SEED")),
        (("--weights", "gone.safetensors"), ("gone.safetensors", "no such file")),
        (("--network", "wify"), ("--network", "wify", "wifi")),
        (("--frames", "0"), ("--frames",)),
        (("--input", "224"), ("--input", "3x224x224")),
        (("--config", "nowhere.toml"), ("nowhere.toml", "no such file")),
        (("--report", "no/such/folder/report.json"), ("--report",)),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(
    tmp_path: Path, arguments: tuple[str, ...], names: tuple[str, ...]
) -> None:
    line = complaint(d3bed(tmp_path, "demo", "--headless", "--port", "0", *arguments))
    assert all(name in line for name in names), line


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("speed = 0.1", "sped = 0.1", ("sped", "speed")),
        ("speed = 0.1", "speed = -1", ("speed", "-1")),
        ('tier = "device"', 'tier = "devise"', ("tier", "devise")),
        ('device = "pi-1"', 'device = "pi-2"', ("pi-2", "pi-1")),
        ('device = "pi-1"', 'device = "pi-1"\nstrategy = "best"', ("strategy", "best")),
        (
            "[pipelines.main]",
            '[[agents]]\nname = "pi-1"\ntier = "edge"\n[pipelines.main]',
            ("two agents", "pi-1"),
        ),
        ("speed = 0.1", "speed = ", ("TOML",)),
    ],
)
def test_a_wrong_config_is_named_with_file_key_and_remedy(
    tmp_path: Path, old: str, new: str, names: tuple[str, ...]
) -> None:
    (tmp_path / "mine.toml").write_text(GOOD.replace(old, new))
    line = complaint(d3bed(tmp_path, "demo", "--headless", "--port", "0", "--config", "mine.toml"))
    assert "mine.toml" in line
    assert all(name in line for name in names), line


def test_a_negative_link_rate_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text('description = "x"\n[links]\ndevice-edge = { mbit_per_s = -5 }\n')
    line = complaint(d3bed(tmp_path, "demo", "--headless", "--port", "0", "--network", "net.toml"))
    assert "net.toml" in line and "mbit_per_s" in line and "-5" in line


def test_a_port_in_use_is_named_with_its_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = complaint(d3bed(tmp_path, "demo", "--headless", "--port", port))
    assert port in line


def test_a_broken_pt2_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"this is not an archive")
    line = complaint(
        d3bed(tmp_path, "demo", "--headless", "--frames", "1", "--port", "0", "--model", "broken.pt2")
    )
    assert "broken.pt2" in line


def test_a_corrupt_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    config = GOOD.replace("speed = 0.1", 'speed = 0.1\nphotos = "photos"')
    (tmp_path / "mine.toml").write_text(config)
    line = complaint(
        d3bed(tmp_path, "demo", "--headless", "--frames", "1", "--port", "0", "--config", "mine.toml")
    )
    assert "cut.jpg" in line


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"format": "d3bed.problem/1", "vertices": [', ("JSON",)),
        (
            '{"format": "d3bed.problem/1", "vertices": [{"name": "input", "time_s": {"device": 0}, '
            '"output_bytes": 1}, {"name": "a", "time_s": {"device": NaN}, "output_bytes": 1}], '
            '"edges": [[0, 1]]}',
            ("a",),
        ),
        (
            '{"format": "d3bed.problem/1", "vertices": [{"name": "input", "time_s": {"device": 0}, '
            '"output_bytes": 1}, {"name": "a", "time_s": {"device": 1}, "output_bytes": 1}, '
            '{"name": "b", "time_s": {"device": 1}, "output_bytes": 1}], "edges": [[0, 1], [1, 2], [2, 1]]}',
            ("cycle",),
        ),
    ],
)
def test_a_bad_problem_file_is_named(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / "p.json").write_text(text)
    line = complaint(d3bed(tmp_path, "plan", "--problem", "p.json"))
    assert "p.json" in line and all(name in line for name in names), line
