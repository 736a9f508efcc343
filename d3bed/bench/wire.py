"""How fast tensors go from one process to another, and how true shaped links are to their rate.

Throughput: the same number of tensors of one size over loopback, by raw blocking sockets (`sendall` into
one reused buffer: nothing is faster in Python), by d3bed's link on the default event loop and on
uvloop, with and without TLS, and by pickle over asyncio streams. The ways alternate within a run, so that
drift of the machine hits all of them; ratios are medians over rounds. The clock runs from before the first
`send` to the receiver's last byte, after a warm-up on the same connection.

Shaping: tensors back to back on an emulated link, with the rate as the sender measures it
(`Transfer`), and as the receiver sees it (bytes over the time between the ends of two tensors).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pickle
import platform
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from d3bed.agent.certificate import new_key, signing_request
from d3bed.core.graph import Value
from d3bed.core.ids import AgentId, Epoch, FrameId, PipelineId
from d3bed.core.measurements import LinkShape, Transfer
from d3bed.net import LinkTls, Listener, Sender, TensorMessage, new_event_loop
from d3bed.server.authority import Authority

__all__ = ["run"]

#: Bytes of a tensor: how many are sent in a round, and the least ratio to raw sockets on the default loop.
THROUGHPUT = {10_000: (4000, 0.5), 400_000: (250, 0.8), 12_800_000: (16, 0.8)}
UVLOOP_TARGET = 0.9
#: Of the largest tensors, over TLS on uvloop.
TLS_TARGET_BYTES_PER_S = 500e6
ROUNDS = 7

RATES_MBIT = (1, 5, 20, 80, 300)
SHAPED_BYTES = (100_000, 400_000, 1_000_000, 4_000_000)
SHAPED_LATENCY_S = 0.005
SHAPED_TARGET = 0.02
_LONGEST_SHAPED_S = 1.7

_WARM_UP = 4
_SECRET = b"bench wire"
_SENDER, _RECEIVER, _PIPELINE = AgentId("sender"), AgentId("receiver"), PipelineId("bench")


class _Job(msgspec.Struct, frozen=True):
    """What both processes do: `count` tensors of `nbytes`, after the warm-up."""

    way: str
    nbytes: int
    count: int
    shape: LinkShape | None = None
    #: A folder with each process's key and certificate, and whom they trust; "" without TLS.
    certificates: str = ""

    def tls(self, name: AgentId) -> LinkTls | None:
        if not self.certificates:
            return None
        folder = Path(self.certificates)
        return LinkTls(folder / f"{name}.pem", (folder / "authority.pem").read_text())

    @property
    def warm_up(self) -> int:
        return _WARM_UP if self.shape is None else 1


def run(json_path: Path | None, console: Console) -> dict[str, Any]:
    """Measure, print and optionally write the figures. Returns them."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, _receiver_process() as receiver:
        _certify(Path(folder))
        throughput = _throughput(receiver, folder)
        shaping = _shaping(receiver)
    result = {
        "format": "d3bed.bench.wire/1",
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "load_before": load,
        },
        "rounds": ROUNDS,
        "throughput": throughput,
        "shaping": shaping,
        "met": all(row["met"] for row in throughput if row["met"] is not None)
        and all(row["met"] for row in shaping),
    }
    console.print(_throughput_table(throughput))
    console.print(_shaping_table(shaping))
    if load > 0.5:
        console.print(
            f"The machine was busy (load {load:.1f} before the run): sender and receiver need a free core "
            "each, so compare these figures with no others."
        )
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _throughput(receiver: Connection, certificates: str) -> list[dict[str, Any]]:
    ways = [way for way in _WAYS if way not in ("uvloop", "tls") or find_spec("uvloop") is not None]
    rows: list[dict[str, Any]] = []
    for nbytes, (count, least) in THROUGHPUT.items():
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(ROUNDS):
            for way in ways if number % 2 == 0 else reversed(ways):
                job = _Job(way, nbytes, count, certificates=certificates if way.startswith("tls") else "")
                start_s, arrived_s, _ = _carry_out(job, receiver)
                rates[way].append(nbytes * count / (arrived_s[-1] - start_s))
        for way in ways:
            ratio = statistics.median(a / b for a, b in zip(rates[way], rates["raw"], strict=True))
            least_bytes = TLS_TARGET_BYTES_PER_S if way == "tls" and nbytes == max(THROUGHPUT) else None
            target = {"default": least, "uvloop": UVLOOP_TARGET if least > 0.5 else least}.get(way)
            rows.append(
                {
                    "way": way,
                    "tensor_bytes": nbytes,
                    "tensors": count,
                    "bytes_per_s": statistics.median(rates[way]),
                    "ratio": ratio,
                    "target_ratio": target,
                    "target_bytes_per_s": least_bytes,
                    "met": _met(ratio, target, statistics.median(rates[way]), least_bytes),
                    "rounds_bytes_per_s": rates[way],
                }
            )
    return rows


def _met(ratio: float, least: float | None, rate: float, least_rate: float | None) -> bool | None:
    if least is None and least_rate is None:
        return None
    return ratio >= (least or 0.0) and rate >= (least_rate or 0.0)


def _certify(folder: Path) -> None:
    """Keys and certificates for both processes, by an authority made for the run."""
    authority = Authority(folder / "authority")
    for name in (_SENDER, _RECEIVER):
        key = new_key()
        own = folder / f"{name}.pem"
        own.write_bytes(key + authority.sign_agent(name, signing_request(key)).encode())
    (folder / "authority.pem").write_text(authority.pem)


def _shaping(receiver: Connection) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rate in RATES_MBIT:
        shape = LinkShape(rate * 1e6 / 8, SHAPED_LATENCY_S)
        for nbytes in SHAPED_BYTES:
            ideal_s = nbytes / shape.bytes_per_s
            if ideal_s > _LONGEST_SHAPED_S:
                continue
            count = min(max(int(2.0 / ideal_s), 2), 12)
            start_s, arrived_s, transfers = _carry_out(_Job("shaped", nbytes, count, shape), receiver)
            sent = [t.achieved_bytes_per_s / shape.bytes_per_s - 1 for t in transfers]
            gaps = [b - a for a, b in zip(arrived_s, arrived_s[1:], strict=False)]
            seen = [ideal_s / gap - 1 for gap in gaps]
            rows.append(
                {
                    "target_bytes_per_s": shape.bytes_per_s,
                    "latency_s": shape.latency_s,
                    "tensor_bytes": nbytes,
                    "tensors": count,
                    "sender_deviation": statistics.median(sent),
                    "sender_worst": max(sent, key=abs),
                    "receiver_deviation": statistics.median(seen),
                    "receiver_worst": max(seen, key=abs),
                    "extra_delay_s": arrived_s[0] - start_s - ideal_s - shape.latency_s,
                    "met": abs(statistics.median(sent)) <= SHAPED_TARGET
                    and abs(statistics.median(seen)) <= SHAPED_TARGET,
                }
            )
    return rows


# ── two processes ─────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _receiver_process() -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_receive_jobs, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield here
        here.send(None)
        process.join(10)
    finally:
        process.kill()
        process.join()
        here.close()


def _receive_jobs(control: Connection) -> None:
    while (job := control.recv()) is not None:
        _WAYS_ALL[job.way][1](job, control)


def _carry_out(job: _Job, receiver: Connection) -> tuple[float, list[float], list[Transfer]]:
    """When the first tensor was offered, when each one had arrived (one clock), and the transfers."""
    receiver.send(job)
    start_s, transfers = _WAYS_ALL[job.way][0](job, receiver)
    return start_s, _answer(receiver), transfers


def _answer(receiver: Connection) -> Any:
    if not receiver.poll(60):
        raise TimeoutError("the receiving process fell silent")
    return receiver.recv()


class _Arrivals:
    """Tells the other process when the warm-up and when all tensors are here."""

    def __init__(self, job: _Job, control: Connection) -> None:
        self._left, self._timed = job.warm_up + job.count, job.count
        self._control = control
        self._arrived_s: list[float] = []

    def count(self) -> None:
        """One more is here."""
        self._left -= 1
        if self._left == self._timed:
            self._control.send("warm")
        elif self._left < self._timed:
            self._arrived_s.append(time.monotonic())
        if self._left == 0:
            self._control.send(self._arrived_s)

    @property
    def complete(self) -> bool:
        return self._left == 0


def _raw_send(job: _Job, receiver: Connection) -> tuple[float, list[Transfer]]:
    payload = _payload(job)
    with socket.create_connection(("127.0.0.1", _answer(receiver))) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(job.warm_up):
            sock.sendall(payload)
        _answer(receiver)
        start_s = time.monotonic()
        for _ in range(job.count):
            sock.sendall(payload)
    return start_s, []


def _raw_receive(job: _Job, control: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        control.send(server.getsockname()[1])
        sock, _ = server.accept()
    arrivals = _Arrivals(job, control)
    buffer = memoryview(bytearray(job.nbytes))
    with sock:
        while not arrivals.complete:
            got = 0
            while got < job.nbytes:
                received = sock.recv_into(buffer[got:])
                if not received:
                    raise ConnectionError("the sending process went away")
                got += received
            arrivals.count()


def _link_send(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[_Job, Connection], tuple[float, list[Transfer]]]:
    async def send(job: _Job, receiver: Connection) -> tuple[float, list[Transfer]]:
        sender = await Sender.connect(
            _answer(receiver),
            me=_SENDER,
            peer=_RECEIVER,
            pipeline=_PIPELINE,
            secret=_SECRET,
            shape=job.shape,
            tls=job.tls(_SENDER),
        )
        tensors = [
            TensorMessage(
                FrameId(number), Epoch(1), Value(1), "uint8", (job.nbytes,), (1,), memoryview(_payload(job))
            )
            for number in range(2)
        ]
        for _ in range(job.warm_up):
            await sender.send(tensors[0])
        await asyncio.to_thread(_answer, receiver)  # an emulated link still has bytes to deliver
        start_s = time.monotonic()
        if job.shape is not None:  # back to back
            transfers = list(await asyncio.gather(*(sender.send(tensors[1]) for _ in range(job.count))))
        else:
            transfers = [await sender.send(tensors[1]) for _ in range(job.count)]
        await sender.close()
        return start_s, transfers

    def run_send(job: _Job, receiver: Connection) -> tuple[float, list[Transfer]]:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(send(job, receiver))

    return run_send


def _link_receive(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[_Job, Connection], None]:
    async def receive(job: _Job, control: Connection) -> None:
        arrivals = _Arrivals(job, control)
        gone = asyncio.Event()
        listener = await Listener.start(
            "127.0.0.1",
            0,
            me=_RECEIVER,
            secret=_SECRET,
            on_tensor=lambda agent, pipeline, tensor: arrivals.count(),
            on_lost=lambda agent, pipeline, error: gone.set(),
            tls=job.tls(_RECEIVER),
        )
        control.send(listener.address)
        await gone.wait()
        await listener.close()

    def run_receive(job: _Job, control: Connection) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(receive(job, control))

    return run_receive


def _pickle_send(job: _Job, receiver: Connection) -> tuple[float, list[Transfer]]:
    array = np.frombuffer(_payload(job), np.uint8)

    async def send() -> float:
        _, writer = await asyncio.open_connection("127.0.0.1", _answer(receiver))

        async def one() -> None:
            data = pickle.dumps(array, protocol=pickle.HIGHEST_PROTOCOL)
            writer.write(len(data).to_bytes(8, "little"))
            writer.write(data)
            await writer.drain()

        for _ in range(job.warm_up):
            await one()
        _answer(receiver)
        start_s = time.monotonic()
        for _ in range(job.count):
            await one()
        writer.close()
        await writer.wait_closed()
        return start_s

    return asyncio.run(send()), []


def _pickle_receive(job: _Job, control: Connection) -> None:
    """Unpickles what our own other half sent; d3bed itself never does."""

    async def receive() -> None:
        arrivals = _Arrivals(job, control)
        all_here = asyncio.Event()

        async def one_peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while not arrivals.complete:
                nbytes = int.from_bytes(await reader.readexactly(8), "little")
                pickle.loads(await reader.readexactly(nbytes))
                arrivals.count()
            writer.close()
            all_here.set()

        async with await asyncio.start_server(one_peer, "127.0.0.1", 0) as server:
            control.send(server.sockets[0].getsockname()[1])
            await all_here.wait()

    asyncio.run(receive())


def _payload(job: _Job) -> bytes:
    return os.urandom(job.nbytes)


def _default_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _fast_loop() -> asyncio.AbstractEventLoop:
    return new_event_loop(shaped=False)


def _shaped_loop() -> asyncio.AbstractEventLoop:
    return new_event_loop(shaped=True)


_Send = Callable[[_Job, Connection], tuple[float, list[Transfer]]]
_Receive = Callable[[_Job, Connection], None]
_WAYS: dict[str, tuple[_Send, _Receive]] = {
    "raw": (_raw_send, _raw_receive),
    "default": (_link_send(_default_loop), _link_receive(_default_loop)),
    "uvloop": (_link_send(_fast_loop), _link_receive(_fast_loop)),
    "tls-default": (_link_send(_default_loop), _link_receive(_default_loop)),
    "tls": (_link_send(_fast_loop), _link_receive(_fast_loop)),
    "pickle": (_pickle_send, _pickle_receive),
}
_WAYS_ALL = _WAYS | {"shaped": (_link_send(_shaped_loop), _link_receive(_shaped_loop))}

# ── for the eye ───────────────────────────────────────────────────────────────────────────────────

_NAMES = {
    "raw": "raw blocking sockets",
    "default": "d3bed link, default loop",
    "uvloop": "d3bed link, uvloop",
    "tls-default": "d3bed link over TLS, default loop",
    "tls": "d3bed link over TLS, uvloop",
    "pickle": "pickle over asyncio streams",
}


def _target(row: dict[str, Any]) -> str:
    if row["target_bytes_per_s"] is not None:
        return f"{row['target_bytes_per_s'] / 1e6:.0f} MB/s"
    return f"{row['target_ratio']:.1f}" if row["target_ratio"] is not None else ""


def _throughput_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="tensors between two processes", caption=f"ratio: median of {ROUNDS} rounds")
    table.add_column("tensor")
    table.add_column("way")
    for heading in ("MB/s", "× raw", "target", ""):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            _size(row["tensor_bytes"]),
            _NAMES[row["way"]],
            f"{row['bytes_per_s'] / 1e6:,.0f}",
            f"{row['ratio']:.2f}",
            _target(row),
            _verdict(row["met"]),
        )
    return table


def _shaping_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="shaped links",
        caption=f"deviation from the target rate, median (worst); latency {SHAPED_LATENCY_S * 1e3:g} ms",
    )
    for heading in ("Mbit/s", "tensor", "n", "sender", "receiver", "first: extra ms", ""):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"{row['target_bytes_per_s'] * 8e-6:g}",
            _size(row["tensor_bytes"]),
            str(row["tensors"]),
            f"{row['sender_deviation']:+.2%} ({row['sender_worst']:+.2%})",
            f"{row['receiver_deviation']:+.2%} ({row['receiver_worst']:+.2%})",
            f"{row['extra_delay_s'] * 1e3:.2f}",
            _verdict(row["met"]),
        )
    return table


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:g} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:g} KB"


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "missed"
