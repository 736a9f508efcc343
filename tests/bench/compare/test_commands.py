"""`d3bed compare`: options that do not go together are refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from d3bed.cli import app
from d3bed.core.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "5", "--rate", "10"], "--rate"),
        (["--models", "resnet19"], "resnet18"),
        (["--models", ","], "--models"),
        (["--networks", "wiffi"], "wifi"),
        (["--strategies", "best"], "optimal"),
        (["--edges", "9"], "1 to 8"),
        (["--testbed", "none.toml"], "no such file"),
        (["--quick", "--predict"], "--quick"),
        (["--scale", "--predict"], "one of the three"),
        (["--rate", "0"], "--rate"),
    ],
)
def test_mistakes_are_told_with_a_remedy(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", "--out", str(tmp_path / "out"), *arguments])
    assert isinstance(done.exception, ConfigError)
    assert said in str(done.exception)
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["compare", "--out", str(tmp_path / "file" / "out")])
    assert isinstance(done.exception, ConfigError) and "--out" in str(done.exception)
