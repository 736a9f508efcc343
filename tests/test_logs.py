"""Logs for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import logging, sys
from rich.console import Console
from d3bed.logs import start_logging
start_logging(Console(stderr=True), sys.argv[1], verbose=False)
logging.getLogger("d3bed.x").info("hello %s", "there\\nyou")
logging.getLogger("d3bed.x").debug("not this")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("d3bed.y").exception("it failed")
"""


def said(form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CODE, form], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_an_object_a_line() -> None:
    first, second = map(json.loads, said("json"))
    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"], first["message"]) == ("info", "d3bed.x", "hello there\nyou")
    assert first["time"].endswith("+00:00")
    assert second["level"] == "error" and "ZeroDivisionError" in second["error"]


def test_text_is_for_files() -> None:
    lines = said("text")
    assert " INFO d3bed.x: hello there" in lines[0]
    assert not any("not this" in line for line in lines)


@pytest.mark.parametrize("command", ["server", "agent"])
def test_another_form_is_refused(command: str) -> None:
    words = [sys.executable, "-m", "d3bed", command, "--log-format", "yaml"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "use text or json" in done.stderr
