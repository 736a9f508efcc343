"""A lab as its user meets it: up, frames, conditions that are real, crashes, and down without a trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from d3bed.lab.boards import RUN, left
from d3bed.lab.groups import Groups
from d3bed.lab.network import Network, into

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(480),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "nsenter"))),
        reason="needs root and iproute2, for network namespaces",
    ),
]

CONFIG = """
[[agents]]
name = "pi-1"
tier = "device"
speed = 0.3
[[agents]]
name = "edge-1"
tier = "edge"
speed = 0.4
[[agents]]
name = "cloud-1"
tier = "cloud"
speed = 0.5

[pipelines.main]
device = "pi-1"
edges = ["edge-1"]
cloud = "cloud-1"
model = "alexnet"
input = "3x96x96"
network = "wifi"

[[pipelines.main.pins.alexnet]]
vertices = "features.[0-2]"
tiers = ["device"]
[[pipelines.main.pins.alexnet]]
vertices = "features.[3-9]"
tiers = ["edge"]
[[pipelines.main.pins.alexnet]]
vertices = "classifier.*"
tiers = ["cloud"]
"""

_T = TypeVar("_T")


class Shell:
    """A user at a terminal, as root."""

    def __init__(self, lab: str, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.config = folder / "lab.toml"
        self.config.write_text(CONFIG)
        self.environment = dict(os.environ) | {"D3BED_LAB": lab}
        self.said = folder / "up.log"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        with self.said.open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "d3bed", "lab", "up", str(self.config)],
                cwd=self.folder, env=self.environment, stdout=said, stderr=said,
            )  # fmt: skip
        self.started.append(process)
        return process

    def d3bed(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "d3bed", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.environment["D3BED_SERVER"] + path, timeout=60) as answer:
            return json.load(answer)

    def agent(self, name: str) -> dict[str, Any]:
        return next((dict(a) for a in self.get("/api/agents") if a["agent"] == name), {})

    def answered(self) -> int:
        return int(self.get("/api/pipelines/main")["frames"]["answered"])

    def tc(self, board: str) -> str:
        command = [*into(f"{self.lab}-{board}"), "tc", "class", "show", "dev", "eth0"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def until(holds: Callable[[], _T], what: str, patience_s: float = 120.0) -> _T:
    deadline_s = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


def has_ended(pid: int) -> bool:
    """Whether it runs no more; whoever inherits the orphan may not have taken note yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    lab = f"t{uuid.uuid4().hex[:7]}"
    try:
        Network(lab).build(["probe"])
    except Exception as error:
        pytest.skip(f"no network namespaces here: {error}")
    finally:
        Network(lab).remove()
    shell = Shell(lab, tmp_path)
    yield shell
    for process in shell.started:
        process.kill()
        process.wait()
    until(lambda: not left(lab), "the caretaker", 30)


def test_a_lab_is_real_mends_itself_and_leaves_nothing(shell: Shell) -> None:
    lab, process = shell.lab, shell.start()
    until(lambda: (RUN / lab / "up").exists() or process.poll() is not None, "the lab to be up", 200)
    assert process.poll() is None, shell.said.read_text()
    words = shell.d3bed("lab", "env").split()
    shell.environment |= dict(word.split("=", 1) for word in words if "=" in word)
    assert "is up already" in shell.d3bed("lab", "up", str(shell.config), code=2)
    assert lab in shell.d3bed("lab", "list")

    # Frames, all exact, between machines that are their own.
    until(lambda: shell.answered() >= 5, "frames")
    view = shell.get("/api/pipelines/main")
    assert view["emulated"] and view["exact"]["checked"] == view["exact"]["identical"] > 0
    agents = {agent["agent"]: agent for agent in shell.get("/api/agents")}
    assert len({a["data_address"].rpartition(":")[0] for a in agents.values()}) == 3
    assert all(agent["tc"] for agent in agents.values())
    grouped = not Groups(lab).open()
    if grouped:
        assert {name: (a["cpus"], a["speed"]) for name, a in agents.items()} == {
            "pi-1": (0.3, 1), "edge-1": (0.4, 1), "cloud-1": (0.5, 1),
        }  # fmt: skip

    # A link is changed by the door that all changes come through, and the kernel holds it.
    assert "rate 5Mbit" not in shell.tc("pi-1")
    shell.d3bed("link", "pi-1", "edge-1", "--rate", "4.783Mbit")  # and what headers take
    until(lambda: "rate 5001Kbit" in shell.tc("pi-1"), "tc", 20)
    shell.d3bed("link", "pi-1", "edge-1", "--reset")
    until(lambda: "rate 5001Kbit" not in shell.tc("pi-1"), "tc", 20)

    # Load is work that is done, on that board.
    if grouped:
        procs = Groups(lab).make("edge-1")
        alone = set(procs.read_text().split())
        shell.d3bed("load", "edge-1", "--cpu", "1")
        busy = until(lambda: set(procs.read_text().split()) - alone, "a busy process", 20)
        shell.d3bed("load", "edge-1", "--off")
        until(lambda: not busy & set(procs.read_text().split()), "its end", 20)

    # A crash: frames go on, and the board's process is there again.
    pid = agents["edge-1"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: shell.agent("edge-1")["state"] == "lost", "the loss to be noticed", 20)
    before = shell.answered()
    until(lambda: shell.answered() > before + 2, "frames without it")
    until(lambda: shell.agent("edge-1")["pid"] != pid and shell.agent("edge-1")["threads"], "its return")

    # A cable is pulled, and put back.
    shell.d3bed("lab", "cut", "edge-1")
    until(lambda: shell.agent("edge-1")["state"] == "lost", "the cut to be noticed", 20)
    before = shell.answered()
    until(lambda: shell.answered() > before + 2, "frames without it")
    shell.d3bed("lab", "mend", "edge-1")
    until(lambda: shell.agent("edge-1")["state"] == "connected", "its return")
    report = shell.get(f"/api/runs/{shell.get('/api/pipelines/main')['run']}/report")
    assert report["frames"]["lost"] == 0

    # Whoever made the lab dies at once: nothing stays all the same.
    process.kill()
    process.wait()
    until(lambda: not left(lab), "the caretaker", 30)
    assert has_ended(agents["cloud-1"]["pid"])
    assert "no such lab" in shell.d3bed("lab", "down", code=2)


def test_a_lab_that_cannot_start_says_why_and_leaves_nothing(shell: Shell) -> None:
    shell.config.write_text(CONFIG.replace('"3x96x96"', '"3x4x4"'))
    process = shell.start()
    assert process.wait(200) == 1
    assert "could not load or profile alexnet" in " ".join(shell.said.read_text().split())
    assert left(shell.lab) == []
