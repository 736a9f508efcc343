"""Boards join, are copied, rotated and revoked while frames flow over TLS, as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import safetensors.torch

from d3bed.model import weights, zoo
from tests.integration.tools import CONFIG, Bed, check, until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(480)]

TOKEN = "sesame-open-sesame"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


AGENTS = ("pi-1", "edge-1", "edge-2", "cloud-1")


class Joiners(Bed):
    """A server with a token, and boards each with a folder of its own."""

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def run(self, *arguments: str, within: tuple[str, ...] = ()) -> tuple[int, str]:
        """A `d3bed` command to its end; exit code and all that it printed."""
        process = await asyncio.create_subprocess_exec(
            *within, sys.executable, "-m", "d3bed", *arguments,
            cwd=self.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"D3BED_CA": str(self.folder / "data" / "tls" / "ca.pem")},
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    async def join(self, name: str) -> str:
        """What `d3bed join` says, with the line that `d3bed agents invite` prints."""
        to = ("--server", self.server, "--token", TOKEN)
        code, printed = await self.run("agents", "invite", name, *to)
        assert code == 0, printed
        line = printed.strip().splitlines()[-1].split()
        code, told = await self.run(*line[1:], "--identity", f"{name}/identity.json")
        assert code == 0, told
        return told

    async def start_server(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._running["server"] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "d3bed", "server", "--config", str(self.config), "--token", TOKEN,
                "--data-dir", str(self.folder / "data"), "--port", str(self.port), "--tls",
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip

        async def up() -> Any:
            try:
                return await self.view()
            except (aiohttp.ClientError, OSError):
                return None

        await until(up, "the server")

    async def view(self) -> dict[str, Any]:
        (view,) = await self.ask("GET", "/api/pipelines")
        return dict(view)

    async def start_board(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "d3bed", "agent", "--identity", f"{name}/identity.json",
                "--config", str(self.config), "--cache-dir", str(self.cache_of(name)),
                cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip

    def cache_of(self, name: str) -> Path:
        """That of edge-2 is its own: files of models come there from somebody else. All share what takes
        long, so that it takes long once."""
        if name != "edge-2":
            return self.profiles
        own = self.folder / name / "cache"
        if not own.exists():
            own.mkdir()
            (self.profiles / "exported").mkdir(exist_ok=True)
            (own / "exported").symlink_to(self.profiles / "exported")
        return own

    async def ended(self, name: str) -> int:
        return int(await self._running.pop(name).wait())

    async def ask(self, method: str, path: str) -> Any:
        async with aiohttp.ClientSession() as http:
            body: dict[str, Any] | None = {} if method == "POST" else None
            trusted = ssl.create_default_context(cafile=self.folder / "data" / "tls" / "ca.pem")
            async with http.request(
                method, self.server + path, headers=ADMIN, json=body, ssl=trusted
            ) as answer:
                assert answer.status in (200, 202), await answer.text()
                return await answer.json()


@pytest.fixture
async def bed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Joiners]:
    """Its weights are a file that only the server has."""
    module = zoo.build("alexnet", (3, 96, 96), False).module
    weights.randomise(module, 0)
    safetensors.torch.save_file(module.state_dict(), tmp_path / "trained.safetensors")
    config = CONFIG.replace('model = "alexnet"', 'model = "alexnet"\nweights = "trained.safetensors"')
    made = Joiners(tmp_path, tmp_path_factory.mktemp("profiles"), config)
    try:
        await made.start_server()
        yield made
    finally:
        await made.close()


def _clone_of(machine_id: Path) -> tuple[str, ...]:
    """A command in front of others: they see this machine-id, and no cards, as on another machine."""
    return ("unshare", "--mount", "sh", "-c", f'mount --bind {machine_id} /etc/machine-id && exec "$@"', "sh")


def _may_unshare(tmp_path: Path) -> bool:
    (tmp_path / "id").write_text("0" * 32 + "\n")
    if shutil.which("unshare") is None or not Path("/etc/machine-id").exists():
        return False
    tried = subprocess.run(
        [*_clone_of(tmp_path / "id"), "cat", "/etc/machine-id"], capture_output=True, check=False
    )
    return tried.stdout.strip() == b"0" * 32


async def test_boards_join_are_copied_rotated_and_revoked_while_frames_flow(bed: Joiners) -> None:
    for name in AGENTS:
        assert f"joined as {name}" in await bed.join(name)
        await bed.start_board(name)

    async def frames() -> bool:
        view = await bed.view()
        return bool(view["phase"] == "running" and view["frames"]["answered"] >= 5)

    await until(frames, "frames", 200.0)
    came = (bed.folder / "edge-2.log").read_text()
    assert "MB of " in came and "trained.safetensors came from edge-1" in came
    edge = (await bed.view())["route"]["edge"]
    other = "edge-2" if edge == "edge-1" else "edge-1"

    code, told = await bed.run("doctor", "--json", "--server", bed.server, "--token", TOKEN)
    found = json.loads(told)
    assert code == 0, told
    well = {f["subject"] for f in found["findings"] if f["about"] == "link" and f["level"] == "ok"}
    assert {f"pi-1→{edge}", f"{edge}→pi-1", f"{edge}→cloud-1", f"cloud-1→{edge}", "edge-1→edge-2"} <= well
    assert {f["about"] for f in found["findings"]} >= {"version", "clock", "model", "link"}

    if _may_unshare(bed.folder):
        within = _clone_of(bed.folder / "id")
        code, told = await bed.run("agent", "--identity", f"{edge}/identity.json", within=within)
        assert code == 2 and f"a copy of {edge} on another machine" in told
        await bed.more()  # the board itself goes on

    identity = bed.folder / edge / "identity.json"
    before = json.loads(identity.read_text())["credential"]
    await bed.ask("POST", f"/api/credentials/{edge}/rotate")

    async def replaced() -> bool:
        states = [row["state"] for row in await bed.ask("GET", "/api/credentials") if row["agent"] == edge]
        return sorted(states) == ["good", "replaced"]

    await until(replaced, "the new credential")
    assert json.loads(identity.read_text())["credential"] != before
    await bed.kill(edge)
    await bed.start_board(edge)  # with the new one
    await bed.until(lambda view: view["phase"] == "running", "frames")

    async def back() -> bool:
        states = {a["agent"]: a["state"] for a in await bed.ask("GET", "/api/agents")}
        return bool(states[edge] == "connected")

    await until(back, "the board again")

    await bed.ask("POST", f"/api/credentials/{edge}/revoke")
    (state,) = [a["state"] for a in await bed.ask("GET", "/api/agents") if a["agent"] == edge]
    assert state == "lost"
    assert await bed.ended(edge) == 2
    await bed.more(edge=other)
    code, told = await bed.run("agent", "--identity", f"{edge}/identity.json")
    assert code == 2 and f"{edge} was revoked" in told

    await bed.ask("POST", "/api/pipelines/main/stop")
    view = await bed.until(lambda view: view["phase"] == "idle", "the end of the run")
    assert view["frames"]["sent"] == view["frames"]["answered"] and view["frames"]["lost"] == 0
    await bed.end("server")
    check(bed.frames())
    code, log = await bed.run("audit", "--data-dir", "data")
    for words in ("joined", "rotated", f"/api/credentials/{edge}/revoke", f"{edge} was revoked"):
        assert words in log
    secrets = [json.loads((bed.folder / name / "identity.json").read_text())["credential"] for name in AGENTS]
    for file in [*bed.folder.glob("*.log"), *(bed.folder / "data").glob("d3bed.sqlite3*")]:
        content = file.read_bytes()
        for secret in (*secrets, before, TOKEN):
            assert secret.rpartition("_")[2].encode() not in content, f"a secret is in {file.name}"
