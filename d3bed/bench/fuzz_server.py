"""Malformed input to a server process, as strangers and broken agents would send it.

- *server*: control connections of agents, registered or not, that say what `fuzz` makes up, or bytes.
- *API*: requests drawn from the types of the server's routes. No answer may be a 5xx or anything but JSON.
- *document*: requests that schemathesis draws from the OpenAPI document that the server serves; it holds each
  answer against that, too: its status, its type, its fields, and that what the document forbids is refused.

The server must live, answer, and not grow. What is asked follows from the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import psutil
from rich.console import Console

from d3bed.bench.fuzz import AGENTS, HANG_S, Stop, Tally, fuzz_control, fuzz_wire, garbled, said_by_agents
from d3bed.bench.nonsense import Nonsense
from d3bed.config import data_dir
from d3bed.core.errors import ConfigError
from d3bed.core.ids import AgentId
from d3bed.core.messages import Register, encode
from d3bed.lab.processes import Children
from d3bed.plan import STRATEGIES
from d3bed.server.api import ROUTES

__all__ = ["fuzz_api", "fuzz_document", "fuzz_server", "run"]

#: Messages of a control connection, if the server does not close it before.
_SAID = 40
_TOKEN = "0123456789abcdef0123456789abcdef"
#: Requests that schemathesis makes to cover each bound in the document once, where enough are to be made; and
#: about how many for each example that it is asked for.
_COVERING, _AN_EXAMPLE = 1200, 28
#: Of one round; and rounds of a seed, none of which another seed has.
_EXAMPLES, _ROUNDS = 100, 10_000
_LOOK_S = 0.5
#: Without a terminal, how far it is is told so often.
_TELL_S = 30.0


class _Running(NamedTuple):
    address: str
    process: psutil.Process


@contextlib.asynccontextmanager
async def _running(*options: str) -> AsyncIterator[_Running]:
    """A server process of the demo's settings; no agents come to it."""
    with tempfile.TemporaryDirectory(prefix="d3bed-fuzz-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with Children(folder) as children:
            config, address = data_dir("configs") / "demo.toml", folder / "data" / "address"
            command = ["server", "--config", str(config), "--data-dir", str(folder / "data"), "--port", "0"]
            child = await children.start("server", [*command, *options])
            while not address.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.05)
            yield _Running(address.read_text().strip(), psutil.Process(child.process.pid))


async def _lives(session: aiohttp.ClientSession, tally: Tally) -> None:
    async with session.get("/api/state") as answer:
        if answer.status != 200:
            tally.failures.append(f"afterwards /api/state answers {answer.status}")


# ── control connections ──────────────────────────────────────────────────────────────────────────────


def fuzz_server(seed: int, inputs: int, stop: Stop | None = None) -> dict[str, Any]:
    """Control connections, several at a time, to a server process."""
    return asyncio.run(_server(seed, inputs, stop))


async def _server(seed: int, inputs: int, stop: Stop | None) -> dict[str, Any]:
    tally, early, left = Tally("server", inputs, stop), 0, inputs
    async with _running() as (address, process), aiohttp.ClientSession(address) as session:

        async def agents(number: int) -> None:
            nonlocal early, left
            dice = random.Random(f"{seed}-{number}")
            said, names = said_by_agents(dice), list(AGENTS)
            while left > 0 and not tally.stop.now:
                agent = names[number % len(names)]
                try:
                    async with session.ws_connect("/ws/agent") as socket:
                        if dice.random() < 0.9:
                            tier, at = AGENTS[agent], "127.0.0.1:4000"
                            register = Register(AgentId(agent), tier, 1, "h", at, 1.0, "torch", "0")
                            await socket.send_str(encode(register))
                        for _ in range(dice.randrange(1, _SAID)):
                            began_s, left = time.perf_counter(), left - 1
                            text = next(said)
                            if dice.random() < 0.02:
                                await socket.send_bytes(dice.randbytes(dice.randrange(100)))
                            else:
                                await socket.send_str(text.encode("utf-8", "replace").decode())
                            tally.done("sent", time.perf_counter() - began_s, text)
                            if left == inputs * 9 // 10:
                                early = process.memory_info().rss
                            if socket.closed:
                                break
                        await socket.close()
                        tally.outcomes[f"closed {socket.close_code}"] += 1
                except (aiohttp.ClientError, ConnectionError):  # it was closed while we spoke
                    tally.outcomes["cut off"] += 1
                began_s = time.perf_counter()
                async with session.get("/healthz") as answer:
                    await answer.read()
                tally.outcomes["asked for its health"] += 1
                tally.slowest_s = max(tally.slowest_s, time.perf_counter() - began_s)

        await asyncio.gather(*[agents(number) for number in range(4)])
        await _lives(session, tally)
        growth = process.memory_info().rss - early if early else 0
    return tally.result(growth)


# ── the document ─────────────────────────────────────────────────────────────────────────────────────


def fuzz_document(seed: int, inputs: int, stop: Stop | None = None) -> dict[str, Any]:
    """About so many requests by schemathesis, with the token; it must be installed, else `ConfigError`."""
    if find_spec("schemathesis") is None:
        raise ConfigError("bench fuzz", "--document", "schemathesis is not installed", "install d3bed[dev]")
    return asyncio.run(_document(seed, inputs, stop or Stop()))


async def _document(seed: int, inputs: int, stop: Stop) -> dict[str, Any]:
    """In rounds, each a process with a seed of its own, as many at a time as there are cores: a round keeps
    all that it asked in memory, and each one that comes takes it longer.
    """
    tally = Tally("document", inputs, stop)
    covering = inputs > 2 * _COVERING
    most = (inputs - covering * _COVERING) // _AN_EXAMPLE
    plan = _rounds(seed, max(1, min(most, _EXAMPLES)), covering)
    async with _running("--token", _TOKEN) as (address, process):
        with tempfile.TemporaryDirectory(prefix="d3bed-fuzz-") as name:
            folder = Path(name)
            if covering:  # what the server loads and keeps with the first requests is no growth
                await _schemathesis(folder, stop, address, seed, 10, "fuzzing")
            early = process.memory_info().rss

            async def ask(number: int) -> None:
                (own := folder / str(number)).mkdir()
                while not tally.is_through:
                    report = await _schemathesis(own, stop, address, *next(plan))
                    if report is not None:
                        _take(tally, report)

            await asyncio.gather(*[ask(number) for number in range(os.cpu_count() or 1 if covering else 1)])
        async with aiohttp.ClientSession(address) as session:
            await _lives(session, tally)
        growth = process.memory_info().rss - early
    return tally.result(growth)


def _rounds(seed: int, examples: int, covering: bool) -> Iterator[tuple[int, int, str]]:
    """Seed, examples and phases of each; what the bounds in the document ask for is asked once."""
    yield seed, examples, "coverage,fuzzing" if covering else "fuzzing"
    for number in itertools.count(1):
        yield seed * _ROUNDS + number, examples, "fuzzing"


class _Report(NamedTuple):
    code: int
    said: str
    found: dict[str, Any]


def _take(tally: Tally, report: _Report) -> None:
    cases = report.found.get("test_cases", {})
    generated = cases.get("generated", 0)
    tally.outcomes["as the document says"] += generated - cases.get("with_failures", 0)
    operations = report.found.get("operations", {}).get("tested", 0)
    tally.outcomes["operations"] = max(tally.outcomes["operations"], operations)
    if report.code or not generated:
        tally.failures.append(report.said[-2000:])
    tally.count(max(1, generated))


async def _schemathesis(
    folder: Path, stop: Stop, address: str, seed: int, examples: int, phases: str
) -> _Report | None:
    """Its exit code, what it printed, and its report; None if it was stopped.

    Names that nobody has are refused by who knows them, not by the document; wrong tokens are the door's
    business, which would let nobody in for a while.
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address.rstrip('/')}/api/openapi.json"]
    command += ["--header", f"Authorization: Bearer {_TOKEN}", "--seed", str(seed), "--no-color"]
    command += ["--exclude-checks", "positive_data_acceptance,ignored_auth"]
    command += ["--generation-with-security-parameters", "false", "--phases", phases]
    command += ["--generation-database", "none", "--max-response-time", str(HANG_S)]
    command += ["--max-examples", str(examples), "--report-json-path", str(report)]
    asking = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for us
    )
    said = asyncio.create_task(asking.communicate())
    try:
        while not said.done():
            await asyncio.wait((said,), timeout=_LOOK_S)
            if stop.now and not said.done():
                return None
    finally:
        if asking.returncode is None:
            asking.kill()
        told = (await said)[0].decode(errors="replace")
    found = json.loads(report.read_bytes()) if report.exists() else {}
    return _Report(asking.returncode or 0, told, found)


# ── API ──────────────────────────────────────────────────────────────────────────────────────────────


def fuzz_api(seed: int, inputs: int, stop: Stop | None = None) -> dict[str, Any]:
    """Requests to a server process. Nothing of it is stopped or ended by them: there are no agents."""
    return asyncio.run(_api(seed, inputs, stop))


async def _api(seed: int, inputs: int, stop: Stop | None) -> dict[str, Any]:
    tally, early = Tally("API", inputs, stop), 0
    async with _running() as (address, process), aiohttp.ClientSession(address) as session:
        requests = _requests(random.Random(seed), inputs)

        async def ask() -> None:
            nonlocal early
            for number, (method, path, body) in requests:
                if tally.stop.now:
                    return
                await _ask(session, tally, method, path, body)
                if number == inputs // 10:
                    early = process.memory_info().rss

        await asyncio.gather(*[ask() for _ in range(8)])
        await _lives(session, tally)
        growth = process.memory_info().rss - early if early else 0
    return tally.result(growth)


def _requests(dice: random.Random, inputs: int) -> Iterator[tuple[int, tuple[str, str, bytes | None]]]:
    known = {
        "strategy": list(STRATEGIES),
        "model": ["alexnet", "resnet18"],
        "from": list(AGENTS),
        "to": list(AGENTS),
    }
    says, words = (
        Nonsense(dice, known, 0.05),
        ("main", "pi-1", "1-1", "main-1-1", "..", "%00", "é", "a" * 500, "*"),
    )
    for number in range(inputs):
        route = dice.choice(ROUTES)
        path = "/".join(
            quote(dice.choice(words), safe="%") if part.startswith("{") else part
            for part in route.path.split("/")
        )
        method = (
            route.method if dice.random() < 0.95 else dice.choice(("GET", "POST", "PUT", "DELETE", "PATCH"))
        )
        body = None
        if route.body is not None or dice.random() < 0.02:
            text = json.dumps(says.of(route.body)) if route.body is not None else "{}"
            body = (garbled(dice, text) if dice.random() < 0.1 else text).encode("utf-8", "surrogatepass")
        yield number, (method, path, body)


async def _ask(
    session: aiohttp.ClientSession, tally: Tally, method: str, path: str, body: bytes | None
) -> None:
    began_s, given = time.perf_counter(), f"{method} {path} {body!r}"
    try:
        async with session.request(method, path, data=body, timeout=aiohttp.ClientTimeout(30)) as answer:
            content = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        tally.failed(error, given)
        return
    if answer.status >= 500:
        tally.failures.append(f"HTTP {answer.status} for {given}: {content[:300]!r}"[:2000])
    elif answer.content_type == "application/json" and method != "HEAD":
        try:
            json.loads(content)
        except ValueError:
            tally.failures.append(f"no JSON for {given}: {content[:300]!r}"[:2000])
    elif answer.status < 400 or path.startswith("/api/"):
        tally.failures.append(f"HTTP {answer.status} as {answer.content_type} for {given}"[:2000])
    tally.done(f"HTTP {answer.status}", time.perf_counter() - began_s, given)


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────


class _Progress:
    """Tells how far it is: in place on a terminal, else now and then in a line."""

    def __init__(self, console: Console) -> None:
        self._console, self._status = console, console.status("")
        self._told_s = time.monotonic()

    def __enter__(self) -> _Progress:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def tell(self, text: str) -> None:
        if self._console.is_terminal:
            self._status.update(text)
        elif time.monotonic() - self._told_s > _TELL_S:
            self._told_s = time.monotonic()
            self._console.print(text, highlight=False)


@contextlib.contextmanager
def _asked_to_stop(stop: Stop) -> Iterator[None]:
    """The first Ctrl-C ends it in order, the second one at once."""

    def ask(*_: object) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(
    json_path: Path | None,
    console: Console,
    *,
    seed: int,
    wire: int,
    control: int,
    server: int,
    api: int,
    document: int,
    minutes: float = math.inf,
) -> dict[str, Any]:
    """Fuzz, print and optionally write what came of it; `bad` is whether anything failed. Each door is done
    after so many `minutes`, and all are with Ctrl-C; what came of it until then is told."""
    result: dict[str, Any] = {"format": "d3bed.bench.fuzz/1", "seed": seed, "bad": False}
    for name, inputs, fuzz in (
        ("data port", wire, fuzz_wire),
        ("control", control, fuzz_control),
        ("server", server, fuzz_server),
        ("API", api, fuzz_api),
        ("document", document, fuzz_document),
    ):
        if not inputs:
            continue
        with _Progress(console) as progress:
            stop = Stop(minutes, progress.tell)
            with _asked_to_stop(stop):
                found = result[name] = fuzz(seed, inputs, stop)
        result["bad"] = result["bad"] or bool(found["failures"])
        outcomes = ", ".join(f"{count} {what}" for what, count in Counter(found["outcomes"]).most_common(6))
        early = f" of {inputs}, stopped early," if stop.now and found["inputs"] < inputs else ""
        slowest = f"slowest {found['slowest_s'] * 1e3:.0f} ms, " if found["slowest_s"] else ""
        console.print(
            f"{name}: {found['inputs']}{early} inputs in {found['took_s']:.0f} s: {outcomes}; {slowest}"
            f"memory {found['growth_bytes'] / 2**20:+.1f} MiB",
            highlight=False,
        )
        for failure in found["failures"][:10]:
            console.print(f"[red]failed:[/] {failure[:600]}", highlight=False, markup=False)
        if stop.asked:
            break
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
