"""From a bare Debian to the first answered frame, by the installers alone. Opt-in: it takes minutes.

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,iproute2,procps,systemd \\
        bookworm /srv/bare
    D3BED_BARE=/srv/bare pytest tests/devices/test_first_frame.py -s

Two machines are made of the bare root, each a layer over it (overlayfs) with mounts of its own: one with the
server and an edge box's agent, one with the device's. With D3BED_BARE_ARM64, a root made with `--arch=arm64`
as well, the device's is that once more: its programs are run by qemu-user-static, which the kernel must know
of with the flag F (binfmt_misc). Where the package index has PyTorch for ARM with CUDA only,
D3BED_BARE_ARM64_GPU=1 has that machine say that it has a GPU, and all of it is installed. What pip and npm
need to know of here goes along in their environment variables, and as D3BED_BARE_BIND: paths with colons
between, which both machines see.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BARE = os.environ.get("D3BED_BARE")
ARM64 = os.environ.get("D3BED_BARE_ARM64")
GPU = os.environ.get("D3BED_BARE_ARM64_GPU")
BIND = [path for path in os.environ.get("D3BED_BARE_BIND", "").split(":") if path]

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not BARE or os.geteuid() != 0, reason="opt-in: D3BED_BARE names a bare root; as root"),
]

TESTBED = """
[[agents]]
name = "pi-1"
tier = "device"
[[agents]]
name = "edge-1"
tier = "edge"
[pipelines.main]
device = "pi-1"
edges = ["edge-1"]
frames = 20
[[pipelines.main.pins.alexnet]]
vertices = "classifier.*"
tiers = ["edge"]
"""


#: The programs run as on a Raspberry Pi 5, but /proc/cpuinfo would tell of the machine below.
PI_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics asimddp\n"


class Machine:
    """A root of its own over the bare one. One process holds its mounts, and all that runs there enters them:
    two mounts of one layer would each keep files that the other has replaced."""

    def __init__(self, name: str, bare: str, folder: Path) -> None:
        self.folder = folder / name
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        self._running: list[subprocess.Popen[bytes]] = []
        root = self.folder / "root"
        layers = f"lowerdir={bare},upperdir={self.folder}/upper,workdir={self.folder}/work"
        steps = [
            f"mount -t overlay overlay -o {layers} {root}",
            f"mkdir -p {root}/checkout && mount --bind -o ro {ROOT} {root}/checkout",
            f"mount -t proc proc {root}/proc",
            *(f"mount --rbind {path} {root}{path}" for path in ("/dev", "/sys")),
            f"cp /etc/resolv.conf /etc/hosts {root}/etc/",
            f"cp /etc/ssl/certs/ca-certificates.crt {root}/etc/ssl/certs/",
            *(f"mkdir -p {root}{path} && mount --bind -o ro {path} {root}{path}" for path in BIND),
            f"mount --bind {self.folder}/cpuinfo {root}/proc/cpuinfo" if bare == ARM64 else "true",
            f"mount --bind {self.folder}/driver {root}/proc/driver" if bare == ARM64 and GPU else "true",
            "echo ready && exec cat",  # until its stdin is closed
        ]
        (self.folder / "cpuinfo").write_text(PI_5)
        (self.folder / "driver/nvidia").mkdir(parents=True)
        (self.folder / "driver/nvidia/version").touch()
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", " && ".join(steps)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", f"{name} could not be made"

        #: Its root as seen from here.
        self.root = Path(f"/proc/{self._holder.pid}/root{root}")

    def command(self, line: str) -> list[str]:
        """What runs a shell line there."""
        inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        return [*inside, "chroot", str(self.folder / "root"), "sh", "-c", line]

    def run(self, line: str, **more: str) -> str:
        done = subprocess.run(
            self.command(line), env=environment(more), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def start(self, line: str, **more: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    self.command(f"exec {line}"),
                    env=environment(more),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )  # fmt: skip
            )

    def stop(self) -> None:
        """End what runs there."""
        for process in self._running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()

    def close(self) -> None:
        self.stop()
        self._holder.communicate()


def environment(more: dict[str, str]) -> dict[str, str]:
    known = ("PIP_", "HTTP", "http", "no_", "NODE_")
    kept = {key: value for key, value in os.environ.items() if key.startswith(known)}
    return kept | {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"} | more


@pytest.fixture(params=["the same", "arm64"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """The one of server and edge box, and the device's."""
    bare = ARM64 if request.param == "arm64" else BARE
    if bare is None or BARE is None:
        pytest.skip("opt-in: D3BED_BARE_ARM64 names a bare root of arm64")
    found = Machine("site", BARE, tmp_path), Machine("pi", bare, tmp_path)
    yield found
    for machine in found:
        machine.close()


def test_two_bare_machines_answer_a_frame(machines: tuple[Machine, Machine]) -> None:
    site, pi = machines
    alike = site.run("uname -m") == pi.run("uname -m")
    began_s = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - began_s:6.1f} s  {what}", flush=True)  # noqa: T201

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    user = "runuser -u d3bed --"

    site.run(f"sh /checkout/devices/cloud-vm/install.sh --no-service --port {port}")
    told("the server is installed")
    (site.root / "etc/d3bed/testbed.toml").write_text(TESTBED)
    d3bed, state = "/opt/d3bed/venv/bin/d3bed", "/var/lib/d3bed"
    site.start(
        f"{user} {d3bed} server --config /etc/d3bed/testbed.toml --host 0.0.0.0 --port {port}"
        f" --data-dir {state}/server"
    )
    token = until(lambda: _read(site.root / "var/lib/d3bed/server/token"), "the server's token").strip()
    until(lambda: _get(base, "/healthz"), "the server")
    told("the server answers")

    for machine, kind, name in ((site, "edge-box", "edge-1"), (pi, "raspberry-pi", "pi-1")):
        invited = site.run(f"{d3bed} agents invite {name} --server {base}", D3BED_TOKEN=token)
        invitation = invited.rpartition("--token ")[2].split()[0]
        said = machine.run(
            f"sh /checkout/devices/{kind}/install.sh --no-service --server {base} --name {name} --port 4759",
            D3BED_TOKEN=invitation,
        )
        assert f"joined as {name}" in " ".join(said.split()), said
        told(f"{name} is installed, and has joined")
        machine.start(
            f"{user} {d3bed} agent --identity {state}/identity.json --port 0 --cache-dir {state}/cache"
        )

    view = until(lambda: _answered(base, 1), "the first answered frame")
    told("the first frame is answered")
    view = until(lambda: _answered(base, 20), "20 frames")
    exact = view["exact"]
    assert exact["checked"] == 20 and (exact["identical"] == 20 if alike else exact["max_rel_err"] <= 1e-5)
    assert set(view["plan"]) == {"device", "edge"}
    told(f"20 frames are answered, {exact['identical']} of them bit for bit")

    assert site.run("d3bed --version").startswith("d3bed ")
    again = site.run("sh /checkout/devices/edge-box/install.sh --no-service --port 4759")
    assert "already" in again and "joined already" in again
    told("run again, the installer finds all in its place")
    for machine in machines:  # their users have one number here
        machine.stop()
    site.run("sh /checkout/devices/edge-box/uninstall.sh --purge")
    places = "/usr/local/bin/d3bed /opt/d3bed /etc/d3bed /var/lib/d3bed"
    left = site.run(f"ls -d {places} 2>/dev/null; id d3bed 2>/dev/null; true")
    assert left == ""


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _answered(base: str, frames: int) -> dict[str, Any]:
    found = _get(base, "/api/pipelines") or [{}]
    return dict(found[0]) if (found[0].get("frames") or {}).get("answered", 0) >= frames else {}


def _get(base: str, path: str) -> Any:
    try:
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            return json.load(answer)
    except (OSError, urllib.error.URLError, ValueError):
        return None


def until(holds: Any, what: str, patience_s: float = 900.0) -> Any:
    deadline_s = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"
        time.sleep(0.1)
    return found
