"""Files of models on their way to a board: interrupted, wrong, too large, and without room."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from d3bed.agent import files
from d3bed.agent.files import FileStore
from d3bed.agent.links import Links
from d3bed.agent.near import fetched
from d3bed.core.errors import ModelError
from d3bed.core.ids import AgentId, Tier
from d3bed.core.messages import Fetching, LoadModel, ModelFile, ModelSpec, Peer
from d3bed.net import PIECE_BYTES, Listener

pytestmark = pytest.mark.sockets

CONTENT = os.urandom(3_000_000)


def told(content: bytes, size: int | None = None) -> ModelFile:
    digest = hashlib.sha256(content).hexdigest()
    return ModelFile("trained.safetensors", digest, len(content) if size is None else size)


class Hostile(ThreadingHTTPServer):
    """Sends `content` from where it is asked to, at most `cut` bytes a connection, and counts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.cut: int | None = None
        self.ranges = True
        self.status = 200
        self.asked: list[tuple[str | None, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hostile

    def do_GET(self) -> None:
        hostile, wanted = self.server, self.headers.get("Range")
        hostile.asked.append((wanted, self.headers.get("Authorization")))
        if hostile.status != 200:
            self.send_error(hostile.status)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and hostile.ranges else 0
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(hostile.content) - begin))
        self.end_headers()
        end = None if hostile.cut is None else begin + hostile.cut
        self.wfile.write(hostile.content[begin:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setattr(files, "_BACK_OFF_S", (0.001,))
    monkeypatch.setattr(files, "_SPARE_BYTES", 0)
    with Hostile() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


MakeStore = Callable[..., FileStore]


@pytest.fixture
def store(hostile: Hostile, tmp_path: Path) -> MakeStore:
    def make(quota_bytes: int = 1 << 30, folder: Path = tmp_path / "models") -> FileStore:
        return FileStore(folder, hostile.address, lambda: "secret", quota_bytes)

    return make


def test_an_interrupted_transfer_goes_on_where_it_stopped(hostile: Hostile, store: MakeStore) -> None:
    hostile.cut = 800_000
    seen: list[int] = []
    place = store().fetch(told(CONTENT), set(), seen.append)
    assert place.read_bytes() == CONTENT and [p.name for p in place.parent.iterdir()] == [place.name]
    assert [wanted for wanted, _ in hostile.asked] == [
        None,
        *(f"bytes={n}-" for n in (800_000, 1_600_000, 2_400_000)),
    ]
    assert {token for _, token in hostile.asked} == {"Bearer secret"}
    assert seen == sorted(seen) and seen[-1] == len(CONTENT)
    asked = len(hostile.asked)
    assert store().fetch(told(CONTENT), set()) == place and len(hostile.asked) == asked


def test_another_process_goes_on_with_what_one_left(hostile: Hostile, store: MakeStore) -> None:
    first, file = store(), told(CONTENT)
    with pytest.raises(ModelError, match="the agent ends"):
        first.fetch(file, set(), lambda count: first.close())
    assert store().fetch(file, set()).read_bytes() == CONTENT
    assert hostile.asked[-1][0] == "bytes=1048576-"


def test_a_server_that_knows_no_ranges_begins_anew(hostile: Hostile, store: MakeStore) -> None:
    first, file = store(), told(CONTENT)
    with pytest.raises(ModelError):
        first.fetch(file, set(), lambda count: first.close())
    hostile.ranges = False
    assert store().fetch(file, set()).read_bytes() == CONTENT


def test_a_wrong_hash_is_fetched_once_more_and_then_refused(hostile: Hostile, store: MakeStore) -> None:
    hostile.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(ModelError, match=r"trained\.safetensors.*another hash"):
        store().fetch(told(CONTENT), set())
    assert len(hostile.asked) == 2
    hostile.content = CONTENT
    assert store().fetch(told(CONTENT), set()).read_bytes() == CONTENT


def test_more_than_was_said_is_not_read(hostile: Hostile, store: MakeStore) -> None:
    file = told(CONTENT, 1_000_000)
    with pytest.raises(ModelError, match="another hash"):
        store().fetch(file, set())


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_is_told_at_once(hostile: Hostile, store: MakeStore, status: int) -> None:
    hostile.status = status
    with pytest.raises(ModelError, match=f"HTTP {status}"):
        store().fetch(told(CONTENT), set())
    assert len(hostile.asked) == 1


def test_a_server_that_sends_nothing_is_given_up(hostile: Hostile, store: MakeStore) -> None:
    hostile.cut = 0
    with pytest.raises(ModelError, match="stopped at 0 MB"):
        store().fetch(told(CONTENT), set())


def test_agents_of_one_machine_fetch_a_file_once(hostile: Hostile, store: MakeStore) -> None:
    file = told(CONTENT)
    with ThreadPoolExecutor(4) as threads:
        places = list(threads.map(lambda s: s.fetch(file, set()), [store() for _ in range(4)]))
    assert len(set(places)) == 1 and len(hostile.asked) == 1


def test_what_was_used_longest_ago_gives_way(hostile: Hostile, store: MakeStore) -> None:
    places = []
    for age in range(3):
        hostile.content = CONTENT[age:]
        places.append(store(10_000_000).fetch(told(hostile.content), set()))
        os.utime(places[-1], (1000 + age, 1000 + age))
    store(10_000_000).fetch(told(CONTENT), set())  # the first is used again
    hostile.content = CONTENT[7:]
    new = store(10_000_000).fetch(told(hostile.content), {places[1].stem})
    assert [place.exists() for place in places] == [True, True, False] and new.exists()


def test_a_file_larger_than_the_quota_is_refused_before_it_is_asked_for(
    hostile: Hostile, store: MakeStore
) -> None:
    with pytest.raises(ModelError, match=r"no room for its 3 MB.*quota is 2 MB.*models_mb"):
        store(2_000_000).fetch(told(CONTENT), set())
    assert hostile.asked == []


def test_a_disk_that_becomes_full_is_told_and_goes_on_when_there_is_room(
    hostile: Hostile, store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount")
    try:
        with pytest.raises(ModelError, match="free on the disk"):
            store(folder=small).fetch(told(CONTENT), set())
        # Room that goes while it comes: what was free before is not any more.
        usage = shutil.disk_usage(small)._replace(free=1 << 30)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage)
            with pytest.raises(ModelError, match="the disk became full.*make room"):
                store(folder=small).fetch(told(CONTENT), set())
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        place = store(folder=small).fetch(told(CONTENT), set())
        assert place.read_bytes() == CONTENT and hostile.asked[-1][0] is not None
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ── from an agent near ────────────────────────────────────────────────────────────────────────────────


class Near:
    """An agent that has so much of `content`, and so much more at each look."""

    def __init__(self, content: bytes, has: int | None = None, grows: int = 0) -> None:
        self.content, self.has, self.grows = content, len(content) if has is None else has, grows

    def __call__(self, sha256: str, behind_bytes: int) -> bytes:
        assert sha256 == told(CONTENT).sha256
        found = self.content[behind_bytes : min(self.has, behind_bytes + 500_000)]
        self.has += self.grows
        return found


def test_an_agent_near_spares_the_server(hostile: Hostile, store: MakeStore) -> None:
    seen: list[int] = []
    place = store().fetch(told(CONTENT), set(), seen.append, [Near(CONTENT)])
    assert place.read_bytes() == CONTENT and hostile.asked == [] and seen[-1] == len(CONTENT)


def test_one_that_is_getting_it_is_followed(hostile: Hostile, store: MakeStore) -> None:
    place = store().fetch(told(CONTENT), set(), near=[Near(CONTENT, has=0, grows=70_000)])
    assert place.read_bytes() == CONTENT and hostile.asked == []


def test_where_it_stops_the_next_goes_on_and_the_server_at_last(
    hostile: Hostile, store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PATIENCE_S", 0.0)

    def gone(sha256: str, behind_bytes: int) -> bytes:
        raise ConnectionError("no such agent")

    near: list[files.TakeNear] = [gone, Near(CONTENT, has=1_000_000), Near(CONTENT, has=2_000_000)]
    place = store().fetch(told(CONTENT), set(), near=near)
    assert place.read_bytes() == CONTENT and [wanted for wanted, _ in hostile.asked] == ["bytes=2000000-"]


@pytest.mark.parametrize("has", [3_000_000, 1_000_000], ids=["all of it", "some of it"])
def test_what_an_agent_near_sent_wrong_is_fetched_from_the_server(
    hostile: Hostile, store: MakeStore, monkeypatch: pytest.MonkeyPatch, has: int
) -> None:
    monkeypatch.setattr(files, "_PATIENCE_S", 0.0)
    place = store().fetch(told(CONTENT), set(), near=[Near(bytes(len(CONTENT)), has)])
    assert place.read_bytes() == CONTENT and hostile.asked[-1][0] is None


def test_what_is_here_is_given_in_pieces_also_while_it_comes(store: MakeStore, tmp_path: Path) -> None:
    here, digest = store(), told(CONTENT).sha256
    assert here.piece(digest, 0) == b""
    for suffix in ("part", "safetensors"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / f"{digest}.{suffix}").write_bytes(CONTENT)
        assert here.piece(digest, 1_000_000) == CONTENT[1_000_000:][:PIECE_BYTES]
        assert here.piece(digest, len(CONTENT)) == here.piece(digest, 1 << 62) == b""
        (tmp_path / "models" / f"{digest}.{suffix}").unlink()


async def test_agents_hand_a_file_on_over_their_links(tmp_path: Path, hostile: Hostile) -> None:
    """Two boards, of which one has the file: real links, and a server that is not asked."""
    secret, file = b"what only agents know", told(CONTENT)
    boards = {name: FileStore(tmp_path / name, hostile.address, lambda: None, 1 << 30) for name in "ab"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{file.sha256}.safetensors").write_bytes(CONTENT)
    listener = await Listener.start(
        "127.0.0.1", 0, me=AgentId("a"), secret=secret, on_tensor=lambda *_: None, on_lost=lambda *_: None
    )
    listener.file_of = boards["a"].piece
    links = Links(AgentId("b"))
    seen: list[Fetching] = []
    links.secret = secret
    peers = (
        Peer(AgentId("gone"), Tier.EDGE, "127.0.0.1:1"),
        Peer(AgentId("a"), Tier.EDGE, listener.address),
    )
    order = LoadModel(ModelSpec("alexnet", file.path, files=(file,)), 1, peers)
    try:
        found = await fetched(boards["b"], order, links, seen.append)
        assert found[file.path].read_bytes() == CONTENT and hostile.asked == []
        assert seen[-1] == Fetching(order.model, file.size, file.size)
        links.secret = b"a stranger's"
        shutil.rmtree(tmp_path / "b")
        assert (await fetched(boards["b"], order, links, seen.append))[file.path].read_bytes() == CONTENT
        assert len(hostile.asked) == 1  # the link was refused, so the server was asked
    finally:
        await links.close()
        await listener.close()
