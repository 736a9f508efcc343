"""Namespaces, cables and control groups of a lab: made, cut, and gone without a trace. As root."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from d3bed.core.errors import ConfigError
from d3bed.lab.boards import LabState, lower
from d3bed.lab.groups import Groups
from d3bed.lab.network import HOST, Network, check_lab_name, into
from d3bed.net.sockets import notice_silence

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"), reason="needs root, iproute2"
)


@pytest.fixture
def lab() -> Iterator[str]:
    """A lab's name; what has it is gone afterwards, whatever happens."""
    name = f"t{uuid.uuid4().hex[:7]}"
    yield name
    Network(name).remove()
    Groups(name).remove()


@pytest.mark.parametrize("name", ["", "Lab", "a-b", "../x", "longerthanten"])
def test_names_that_no_interface_can_have_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letter"):
        check_lab_name(name)


@needs_root
def test_boards_reach_each_other_until_a_cable_is_pulled_and_leave_nothing(lab: str) -> None:
    network = Network(lab)
    try:
        addresses = network.build(["a", "b"])
    except Exception as error:
        pytest.skip(f"no network namespaces here: {error}")
    assert addresses.keys() == {"a", "b", HOST}

    def reaches(address: str) -> bool:
        """Whether a connection is answered, if only by a refusal."""
        code = f"import socket; s = socket.socket(); s.settimeout(0.5); print(s.connect_ex(({address!r}, 9)))"
        done = subprocess.run(
            [*into(network.namespace("a")), sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip() == "111"

    assert reaches(addresses["b"]) and reaches(addresses[HOST])
    with socket.create_server((addresses[HOST], 0)) as listening:
        call = (
            "import os, signal, socket, sys; s = socket.create_connection((sys.argv[1], sys.argv[2]), 60)\n"
            "os.kill(os.getpid(), signal.SIGSTOP)"
        )
        address, port = map(str, listening.getsockname())
        busy = subprocess.Popen([*into(network.namespace("b")), sys.executable, "-c", call, address, port])
        listening.settimeout(60)
        heard, _ = listening.accept()
    notice_silence(heard, 2)
    network.plug("b", in_=False)
    assert not reaches(addresses["b"]) and reaches(addresses[HOST])
    # The process says nothing anyway; that its board acknowledges nothing ends the connection.
    with heard, pytest.raises(TimeoutError) as ended:
        heard.settimeout(60)
        heard.recv(1)
    assert ended.value.errno == errno.ETIMEDOUT
    busy.kill()
    busy.wait()
    network.plug("b", in_=True)
    deadline_s = time.monotonic() + 60
    while not reaches(addresses["b"]):
        assert time.monotonic() < deadline_s
    with pytest.raises(ConfigError, match="known: a, b"):
        network.plug("c", in_=False)
    straggler = subprocess.Popen([*into(network.namespace("a")), "sleep", "600"])
    while straggler.pid not in network.processes():
        assert straggler.poll() is None
    assert network.remove()
    assert straggler.wait(10) < 0
    assert network.left() == [] and network.remove() == []


@needs_root
def test_a_group_gives_its_share_of_a_core_and_no_more(lab: str) -> None:
    groups = Groups(lab)
    if why_not := groups.open():
        pytest.skip(why_not)
    procs = groups.make("board")
    groups.limit("board", 0.25)
    busy = (
        "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); e = time.monotonic() + 1\n"
        "while time.monotonic() < e: pass\n"
        "print(time.process_time())"
    )
    command = [sys.executable, "-S", "-c", busy, str(procs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 0.5
    groups.limit("board", None)
    assert groups.left() and groups.remove() and groups.left() == []


def test_a_machine_without_the_controller_says_so(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")
    assert "no cpu controller" in Groups("x", mounts).open()


def test_the_second_version_is_taken_where_it_has_the_controller(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none {tmp_path} cgroup2 rw 0 0\n")
    groups = Groups("x", mounts)
    assert groups.open() == "" and groups.version == 2
    assert (tmp_path / "d3bed-x" / "cgroup.subtree_control").read_text() == "+cpu"
    groups.make("pi")
    groups.limit("pi", 0.2)
    assert (tmp_path / "d3bed-x" / "pi" / "cpu.max").read_text() == "2000 10000"
    groups.limit("pi", 0.05)
    assert (tmp_path / "d3bed-x" / "pi" / "cpu.max").read_text() == "1000 20000"
    groups.limit("pi", None)
    assert (tmp_path / "d3bed-x" / "pi" / "cpu.max").read_text() == "max 10000"


@needs_root
def test_what_is_not_up_cannot_be_taken_down(lab: str) -> None:
    with pytest.raises(ConfigError, match="nothing of one is left"):
        lower(lab)


def test_a_lab_lives_as_long_as_the_process_that_made_it() -> None:
    stat = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
    assert LabState("x", os.getpid(), int(stat[19])).lives
    assert not LabState("x", os.getpid(), int(stat[19]) - 1).lives  # another with the same number
