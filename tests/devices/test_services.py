"""Services as systemd runs them: installed, shut in, started again, there after a reboot. Opt-in: minutes.

As `test_first_frame`, whose head says how to make a bare root; systemd-nspawn boots a layer over it, with the
network of this machine. D3BED_BARE=/srv/bare pytest tests/devices/test_services.py -s
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.devices.test_first_frame import BARE, BIND, ROOT, environment, pytestmark, until

__all__ = ["pytestmark"]  # opt-in, as there

TESTBED = """
[[agents]]
name = "pi-1"
tier = "device"
[pipelines.main]
device = "pi-1"
"""
STATE = "/var/lib/d3bed"
#: Reads the API where the authority can be read.
READ = """
import json, ssl, sys, urllib.request
trusted = ssl.create_default_context(cafile=sys.argv[1])
with urllib.request.urlopen(sys.argv[2], context=trusted) as answer: print(answer.read().decode())
"""


class Booted:
    """A machine with systemd as its first process."""

    def __init__(self, folder: Path) -> None:
        for part in ("upper", "work", "root"):
            (folder / part).mkdir()
        self.root, self._log = folder / "root", folder / "console"
        layers = f"lowerdir={BARE},upperdir={folder}/upper,workdir={folder}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)], check=True)
        (self.root / "checkout").mkdir()
        for file in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"):
            shutil.copy(file, self.root / file[1:])
        self.boot()

    def boot(self) -> None:
        command = ["systemd-nspawn", "--boot", f"--directory={self.root}", "--register=no", "--keep-unit"]
        command += ["--resolv-conf=off", "--console=pipe", f"--bind-ro={ROOT}:/checkout"]
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(
                [*command, *(f"--bind-ro={path}" for path in BIND)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: self._first() is not None, "its systemd")
        until(lambda: self.tried("systemctl is-system-running --wait")[0] == 0, "the end of its start")

    def _first(self) -> int | None:
        inside = psutil.Process(self._nspawn.pid).children()
        return next((process.pid for process in inside if process.name() == "systemd"), None)

    def tried(self, line: str, **more: str) -> tuple[int, str]:
        into = ["nsenter", "-t", str(self._first()), "-m", "-u", "-i", "-p", "-C", "--root", "--wd"]
        done = subprocess.run(
            [*into, "sh", "-c", line], env=environment(more), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def run(self, line: str, **more: str) -> str:
        code, said = self.tried(line, **more)
        assert code == 0, said[-3000:]
        return said

    def power_off(self) -> None:
        if self._nspawn.poll() is None:
            self.tried("systemctl poweroff")
            self._nspawn.wait(90)

    def close(self) -> None:
        try:
            self.power_off()
        finally:
            self._nspawn.kill()
            self._nspawn.wait()
            subprocess.run(["umount", str(self.root)], check=True)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Booted]:
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not installed")
    made = Booted(tmp_path)
    yield made
    made.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_services_are_shut_in_start_again_and_outlive_a_reboot(machine: Booted) -> None:
    began_s, port = time.monotonic(), free_port()
    base, ca = f"https://127.0.0.1:{port}", f"{STATE}/server/tls/ca.pem"

    def told(what: str) -> None:
        print(f"{time.monotonic() - began_s:6.1f} s  {what}", flush=True)  # noqa: T201

    def read(path: str) -> Any:
        code, said = machine.tried(f"/opt/d3bed/venv/bin/python -c '{READ}' {ca} {base}{path}")
        return json.loads(said) if code == 0 else None

    def answered(frames: int) -> Callable[[], Any]:
        def look() -> Any:
            view = (read("/api/pipelines") or [{}])[0]
            return view if (view.get("frames") or {}).get("answered", 0) >= frames else None

        return look

    machine.run(f"sh /checkout/devices/cloud-vm/install.sh --port {port} --tls 127.0.0.1")
    (machine.root / "etc/d3bed/testbed.toml").write_text(TESTBED)
    machine.run("systemctl restart d3bed-server")
    until(lambda: read("/healthz"), "the server")
    told("a server with HTTPS is installed, and runs as a service")

    admin = {"D3BED_TOKEN": (machine.root / f"{STATE[1:]}/server/token").read_text().strip()}
    admin |= {"D3BED_CA": ca, "D3BED_SERVER": base}
    photos = machine.root / "home/pi/photos"
    photos.mkdir(parents=True)
    photos.parent.chmod(0o700)
    Image.effect_noise((320, 240), 80).convert("RGB").save(photos / "noise.jpg")
    invited = machine.run("d3bed agents invite pi-1", **admin)
    (line,) = (row for row in invited.splitlines() if row.startswith("sudo "))
    line = line.removeprefix("sudo ") + f" --photos /home/pi/photos --port {free_port()}"
    said = machine.run(f"cd /checkout && env {line}")
    assert "joined as pi-1" in " ".join(said.split()), said
    view = until(answered(5), "frames")
    assert view["exact"]["identical"] == view["exact"]["checked"] > 0
    told("a device with photos in a home folder has joined, and answers frames")

    status = machine.run("cat /proc/$(systemctl show d3bed-agent -p MainPID --value)/status")
    rows = dict(row.split(":\t", 1) for row in status.splitlines() if ":\t" in row)
    assert int(rows["CapBnd"], 16) == 0 and rows["NoNewPrivs"] == "1" and rows["Seccomp"] == "2"
    assert rows["Uid"].split()[0] != "0"

    machine.run("kill -9 $(systemctl show d3bed-agent -p MainPID --value)")
    until(
        lambda: "NRestarts=1" in machine.run("systemctl show d3bed-agent -p NRestarts"), "the service again"
    )
    before = view["frames"]["answered"]
    until(answered(before + 5), "more frames")
    told("killed, it is started again")

    machine.power_off()
    machine.boot()
    until(answered(5), "frames after a reboot")
    told("after a reboot frames flow again")

    machine.run("d3bed agents revoke pi-1", **admin)
    ended = "Result=exit-code\nExecMainStatus=2\nActiveState=failed"
    show = "systemctl show d3bed-agent -p Result,ExecMainStatus,ActiveState"
    until(lambda: sorted(machine.run(show).split()) == sorted(ended.split()), "the end of a revoked board")
    told("revoked, it ends with code 2, and is not started again")
    machine.run("sh /checkout/devices/raspberry-pi/uninstall.sh --purge")
    places = "/usr/local/bin/d3bed /opt/d3bed /etc/d3bed /var/lib/d3bed /etc/systemd/system/d3bed*"
    assert machine.run(f"ls -d {places} 2>/dev/null; id d3bed 2>/dev/null; true") == ""
    told("uninstalled, nothing is left")
