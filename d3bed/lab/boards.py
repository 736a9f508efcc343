"""Boards on one machine, as near to real ones as it gets: `d3bed lab up` and `d3bed lab down`.

Each agent is a process in a network namespace and a CPU control group of its own; the kernel holds the links
to their rates, and the cores of a board to its `speed`. A process that fails is started again after a while,
as a board's service manager would do. What this machine cannot do is emulated as in the demo, and said.

Whoever ends, in whatever way, nothing stays: a second process, the caretaker, waits at a pipe for the end of
the first, and removes all that has the lab's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from d3bed.config import Config
from d3bed.core.errors import ConfigError
from d3bed.lab import client
from d3bed.lab.groups import Groups
from d3bed.lab.network import HOST, Network, check_lab_name, check_root, into
from d3bed.lab.processes import ChildDied, Children
from d3bed.lab.testbed import Testbed, agent_arguments, check_cores

__all__ = ["RUN", "Lab", "LabState", "labs", "left", "lower", "read_state", "run_lab", "take_care"]

RUN = Path("/run/d3bed-lab")
SERVER = "_server"

_STOP_S = 20.0
_POLL_S = 0.1
#: Seconds before a process that failed is started again; one that fails so often in a row is given up.
_BACK_OFF_S = (0.5, 1.0, 2.0, 5.0)
_SETTLED_S = 30.0
_JOIN = 'echo $$ > "$0" && exec "$@"'

Say = Callable[[str], None]


class LabState(msgspec.Struct, frozen=True):
    """What other commands need to know of a lab: kept in its folder, which only root can read."""

    lab: str
    pid: int
    started: int  # the start time of that process, by which it is told from a later one with its number
    url: str = ""
    token: str = ""
    boards: dict[str, str] = {}

    @property
    def lives(self) -> bool:
        return _start_time(self.pid) == self.started


@dataclass
class _Board:
    """A process that is kept running. `cpus`: its share once it is ready."""

    node: str
    arguments: list[str]
    cpus: float | None = None
    failures: int = 0
    started_s: float = 0.0


class Lab:
    """One lab, from `up` to `down`; use as an async context manager."""

    def __init__(self, name: str, config: Config, overrides: Sequence[str], say: Say) -> None:
        check_root()
        check_lab_name(name)
        check_cores(config)
        if not config.pipelines:
            raise ConfigError(config.path, "pipelines", "there is none", "add [pipelines.main]")
        self.name, self.config, self._overrides, self._say = name, config, overrides, say
        self.folder = RUN / name
        self.network, self._groups = Network(name), Groups(name)
        self.url = ""
        self.token = secrets.token_hex(16)
        self._tasks: set[asyncio.Task[None]] = set()
        self._caretaker: subprocess.Popen[bytes] | None = None
        self._grouped = False

    async def __aenter__(self) -> Lab:
        with _alone(self.name):
            state = read_state(self.name)
            if state is not None and state.lives:
                remedy = f"d3bed lab down --name {self.name}, or choose another --name"
                raise ConfigError("lab", self.name, f"is up already (process {state.pid})", remedy)
            for what in _sweep(self.name):
                self._say(f"left over, removed: {what}")
            self.folder.mkdir(parents=True, mode=0o700)
            self._save()
        self._caretaker = subprocess.Popen(  # noqa: ASYNC220 - it is to outlive the loop
            [sys.executable, "-m", "d3bed", "lab", "down", "--name", self.name, "--after-me"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.children = Children(self.folder)
        await self.children.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._grouped:  # nor is ending
            for agent in self.config.agents:
                with contextlib.suppress(OSError):
                    self._groups.limit(agent.name, None)
        await self.children.stop()
        if self._caretaker is not None:
            await asyncio.to_thread(self._caretaker.communicate)  # closes the pipe, and waits

    async def up(self) -> Testbed:
        """Start all, and return once frames may start. Raises `ChildDied` and what building raises."""
        agents = [agent.name for agent in self.config.agents]
        addresses = self.network.build([SERVER, *agents])
        if why_not := self._groups.open():
            self._say(f"no CPU control groups ({why_not}): slow boards are emulated")
        self._grouped = not why_not
        shaped = any(pipeline.shapes for pipeline in self.config.pipelines)
        if shaped and not self.network.delays():
            self._say("no netem in this kernel: tc holds the links' rates, user space latency and loss")
        data = self.folder / "data"
        server = ["server", "--config", self.config.path, "--host", addresses[SERVER], "--idle"]
        self._board(_Board(SERVER, [*server, "--data-dir", str(data), *self._overrides]))
        self.url = await self._watched(_line_of(data / "address"))
        self._save(addresses)
        for agent in self.config.agents:
            arguments = [*agent_arguments(self.config, agent.name, self.url), "--host", addresses[agent.name]]
            arguments += ["--tc"] if shaped else []
            cpus = agent.speed if self._grouped and agent.speed < 1 else None
            if cpus is not None:
                arguments += ["--cpus", f"{cpus:g}"]
            else:
                arguments += ["--speed", f"{agent.speed:g}"]
            self._board(_Board(agent.name, arguments, cpus))
            limit = "as fast as this machine" if agent.speed == 1 else f"speed {agent.speed:g}, emulated"
            share = f"{cpus:g} cores" if cpus is not None else limit
            self._say(f"{agent.name}: {agent.tier}, at {addresses[agent.name]}, {share}")
        bed = Testbed(self.url, self.config.pipelines[0].id, self.children, self.token)
        await bed.ready()
        for agent in self.config.agents:
            if self._grouped and agent.speed < 1:
                self._groups.limit(agent.name, agent.speed)
        return bed

    async def start_frames(self) -> None:
        """On all pipelines that start by themselves."""
        for pipeline in self.config.pipelines:
            if pipeline.autostart:
                body = {} if pipeline.frames is None else {"frames": pipeline.frames}
                await client.post(self.url, f"/api/pipelines/{pipeline.id}/start", body, self.token)

    # ── processes ─────────────────────────────────────────────────────────────────────────────────

    def _board(self, board: _Board) -> None:
        self._spawn(self._start(board))

    async def _start(self, board: _Board) -> None:
        within = into(self.network.namespace(board.node))
        if self._grouped:
            procs = self._groups.make(board.node)
            self._groups.limit(board.node, None)  # starting is not what boards are compared by
            within = ["sh", "-c", _JOIN, str(procs), *within]
        board.started_s = time.monotonic()
        child = await self.children.start(
            board.node,
            board.arguments,
            on_end=lambda code: self._ended(board, code),
            within=within,
            environment={"D3BED_TOKEN": self.token},
        )
        if board.failures and board.cpus is not None:
            await self._is_loaded(board.node, child.process.pid)
            self._groups.limit(board.node, board.cpus)

    def _ended(self, board: _Board, code: int) -> bool:
        """Whether all is well: it was told to stop, or is started again."""
        if code == 0:
            self._say(f"{board.node} ended, as it was told to")
            return True
        if time.monotonic() - board.started_s > _SETTLED_S:
            board.failures = 0
        if code == ConfigError.EXIT_CODE or board.failures == len(_BACK_OFF_S):
            return False
        delay_s = _BACK_OFF_S[board.failures]
        board.failures += 1
        self._say(f"{board.node} failed (exit code {code}): started again in {delay_s:g} s")
        self._spawn(self._start_later(board, delay_s))
        return True

    async def _start_later(self, board: _Board, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self._start(board)

    async def _is_loaded(self, agent: str, pid: int) -> None:
        """Wait until the agent has a model again."""
        while True:
            with contextlib.suppress(ConfigError, client.RequestFailed):
                for found in await client.get(self.url, "/api/agents", self.token):
                    if found["agent"] == agent and found["pid"] == pid and found["threads"]:
                        return
            await asyncio.sleep(_POLL_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watched(self, work: Coroutine[Any, Any, str]) -> str:
        return await Testbed("", "", self.children).watched(work)

    def _save(self, addresses: dict[str, str] | None = None) -> None:
        boards = {node: where for node, where in (addresses or {}).items() if node not in (SERVER, HOST)}
        pid = os.getpid()
        state = LabState(self.name, pid, _start_time(pid) or 0, self.url, self.token, boards)
        whole = self.folder / "state.new"
        whole.touch(mode=0o600)
        whole.write_bytes(msgspec.json.encode(state))
        whole.replace(self.folder / "state.json")


async def run_lab(name: str, config: Config, overrides: Sequence[str], console: Console) -> int:
    """Keep a lab up until SIGINT or SIGTERM, or until a board fails for good. Returns the exit code."""
    began_s = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began_s:6.1f} s  {text}", highlight=False, soft_wrap=True)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Lab(name, config, overrides, say) as lab:
        living = asyncio.create_task(_live(lab, say))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((living, stopping), return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                await living
        except ChildDied as error:
            if error.code != ConfigError.EXIT_CODE:
                raise
            said = error.last_words.removeprefix("d3bed: ")
            raise ConfigError(error.name.removeprefix("_"), "", said) from error
        finally:
            for task in (living, stopping):
                task.cancel()
            await asyncio.gather(living, stopping, return_exceptions=True)
            say("taking it down …")
    say("down, nothing is left" if not left(name) else f"left over: {', '.join(left(name))}")
    return 0


async def _live(lab: Lab, say: Say) -> None:
    await lab.up()
    await lab.start_frames()
    option = "" if lab.name == "d3bed" else f" --name {lab.name}"
    say(f"up: {lab.url}")
    say(f'to steer it: eval "$(d3bed lab env{option})"; to end it: Ctrl-C, or d3bed lab down{option}')
    (lab.folder / "up").touch()
    await lab.children.died()


# ── from outside ──────────────────────────────────────────────────────────────────────────────────


def labs() -> list[LabState]:
    """Those that left their mark here, running or not."""
    names = sorted(path.name for path in RUN.iterdir()) if RUN.is_dir() else []
    return [state for name in names if (state := read_state(name)) is not None]


def read_state(name: str) -> LabState | None:
    try:
        return msgspec.json.decode((RUN / name / "state.json").read_bytes(), type=LabState)
    except (OSError, msgspec.DecodeError):
        return None


def lower(name: str) -> list[str]:
    """End a lab, running or crashed; returns what had to be removed by force. Raises `ConfigError`."""
    check_root()
    check_lab_name(name)
    state = read_state(name)
    if state is None and not left(name):
        known = ", ".join(found.lab for found in labs()) or "none"
        raise ConfigError("--name", name, "no such lab runs, and nothing of one is left", f"known: {known}")
    if state is not None and state.lives:
        os.kill(state.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + _STOP_S
        while state.lives and time.monotonic() < deadline_s:
            time.sleep(0.05)
    with _alone(name):
        return _sweep(name)


def take_care(name: str, wait: Callable[[], object]) -> None:
    """Once `wait` returns, remove what is left of the lab that is up now, unless another has its name."""
    state = read_state(name)
    wait()
    with _alone(name):
        now = read_state(name)
        if now is None or state is None or (now.pid, now.started) == (state.pid, state.started):
            _sweep(name)


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """Of all processes one at a time; the kernel lets go however this one ends, and no file stays."""
    with socket.socket(socket.AF_UNIX) as lock:
        while True:
            try:
                lock.bind(f"\0d3bed-lab-{name}")
            except OSError:
                time.sleep(0.05)
            else:
                break
        yield


def _sweep(name: str) -> list[str]:
    """Remove all that a lab of this name left; returns what it was. The lab's own process must be gone."""
    removed = Network(name).remove() + Groups(name).remove()
    if (RUN / name).exists():
        shutil.rmtree(RUN / name)
        removed.append(f"folder {RUN / name}")
    with contextlib.suppress(OSError):
        RUN.rmdir()
    return removed


def left(name: str) -> list[str]:
    """What there is of a lab."""
    folder = [f"folder {RUN / name}"] if (RUN / name).exists() else []
    return Network(name).left() + Groups(name).left() + folder


async def _line_of(path: Path) -> str:
    """The one line of a file that another process will make."""
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.05)
    return path.read_text().strip().rstrip("/")  # noqa: ASYNC240


def _start_time(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; None: there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(stat[19]) if stat[0] not in "ZX" else None
    return None
