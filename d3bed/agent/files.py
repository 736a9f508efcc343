"""Files of models, fetched by hash from the server, or an agent near that has them, and kept on this board.

A file that was interrupted goes on where it stopped, also in another process, or after either side was
started again. What came is checked against its hash before it is used, and never else: a wrong one is thrown
away and fetched once more, from the server. The oldest files give way when more would be kept than the quota
allows, or the disk has. Agents that share a machine, and so the folder, fetch a file once. Everything here
blocks: call it on a thread.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import logging
import os
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import BinaryIO

from d3bed.core.errors import ModelError
from d3bed.core.messages import ModelFile
from d3bed.net import PIECE_BYTES

__all__ = ["FileStore"]

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
#: Left free on the disk, for whoever else needs it.
_SPARE_BYTES = 64 << 20
_READ_S = 10.0
_BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
#: An agent that gets the file itself is followed as long as more of it comes so soon.
_PATIENCE_S = 3.0
#: Interruptions in a row without a byte between them.
_TRIES = 12
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


#: What an agent near has of a file behind its first so many bytes; empty where there is no more yet.
TakeNear = Callable[[str, int], bytes]


class FileStore:
    """`folder` holds files named after their hashes. `token` is asked for on each request: it may change."""

    def __init__(
        self,
        folder: Path,
        server: str,
        token: Callable[[], str | None],
        quota_bytes: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._folder, self._server, self._token = folder, server.rstrip("/"), token
        self._quota_bytes, self._tls = quota_bytes, tls
        self._stop = threading.Event()

    def close(self) -> None:
        """Have those that fetch give up."""
        self._stop.set()

    def fetch(
        self,
        file: ModelFile,
        used: Collection[str],
        progress: Callable[[int], None] = lambda _: None,
        near: Sequence[TakeNear] = (),
    ) -> Path:
        """The file's place on this disk. `used` hashes are never evicted; `progress` gets the bytes so far.
        Agents that are `near` are asked before the server, one after the other.

        Raises `ModelError`: no room, a wrong hash, a server that refuses or stays away.
        """
        place = self._folder / f"{file.sha256}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{file.sha256}.part").open("ab+") as part:
                self._lock(part, file)
                if place.is_file() and (state := place.stat()).st_size == file.size:
                    # Eviction takes what was used longest ago. It has not changed: others may have it mapped.
                    os.utime(place, ns=(time.time_ns(), state.st_mtime_ns))
                else:
                    self._make_room(file, used, part)
                    self._receive(file, part, progress, list(near))
                    os.fsync(part.fileno())
                    os.replace(part.name, place)
                    return place
            Path(part.name).unlink(missing_ok=True)
            return place
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise self._no_room(file, "the disk became full") from error
            raise _failed(file, f"cannot be kept in {self._folder}: {error}", "check the folder") from error

    def piece(self, sha256: str, behind_bytes: int) -> bytes:
        """What is here of a file behind its first so many bytes, for an agent that has less of it."""
        for suffix in ("safetensors", "part"):
            try:
                with (self._folder / f"{sha256}.{suffix}").open("rb") as file:
                    if behind_bytes >= os.fstat(file.fileno()).st_size:
                        return b""
                    file.seek(behind_bytes)
                    return file.read(PIECE_BYTES)
            except FileNotFoundError:
                continue
        return b""

    def _lock(self, part: BinaryIO, file: ModelFile) -> None:
        while True:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if self._stop.wait(_BACK_OFF_S[0]):
                    raise _failed(file, "the agent ends", "start it again") from None

    # ── room ──────────────────────────────────────────────────────────────────────────────────────

    def _make_room(self, file: ModelFile, used: Collection[str], part: BinaryIO) -> None:
        """Delete the files that were used longest ago until this one fits."""
        if file.size > self._quota_bytes:
            raise self._no_room(file, f"the quota is {_mb(self._quota_bytes)}")
        here = part.seek(0, os.SEEK_END)
        others = [p for p in self._folder.iterdir() if p.is_file() and p.name != os.path.basename(part.name)]
        kept = sorted(((p.stat().st_atime, p, p.stat().st_size) for p in others), key=lambda each: each[0])
        total = sum(size for *_, size in kept)

        def fits() -> bool:
            free = shutil.disk_usage(self._folder).free
            return total + file.size <= self._quota_bytes and free >= file.size - here + _SPARE_BYTES

        for _, path, size in kept:
            if fits():
                return
            if path.stem not in used and path.stem != file.sha256 and _is_idle(path):
                _log.info("%s of %s gives way", path.name, _mb(size))
                path.unlink(missing_ok=True)
                total -= size
        if not fits():
            free = shutil.disk_usage(self._folder).free
            raise self._no_room(file, f"{_mb(free)} are free on the disk, {_mb(total)} are in use here")

    def _no_room(self, file: ModelFile, why: str) -> ModelError:
        need = f"there is no room for its {_mb(file.size)} in {self._folder}: {why}"
        return _failed(file, need, "make room, or raise models_mb")

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────

    def _receive(
        self, file: ModelFile, part: BinaryIO, progress: Callable[[int], None], near: list[TakeNear]
    ) -> None:
        failures = wrong = 0
        helped = False
        while True:
            digest, here = _hashed(part)
            if here < file.size and near:
                helped = self._read_near(near.pop(0), file, part, here, digest, progress) or helped
                if part.seek(0, os.SEEK_END) < file.size:
                    continue
            elif here < file.size:
                try:
                    self._read(file, part, here, digest, progress)
                except urllib.error.HTTPError as error:
                    if error.code != 416 and error.code < 500:
                        raise _failed(
                            file, f"the server answered HTTP {error.code}", "see its log"
                        ) from error
                    if error.code == 416:
                        part.truncate(0)
                    problem: Exception | None = error
                except (OSError, http.client.HTTPException) as error:
                    if getattr(error, "errno", None) in _NO_ROOM:
                        raise
                    problem = error
                else:
                    problem = None
                now = part.seek(0, os.SEEK_END)
                if now < file.size:  # interrupted: go on from there
                    failures = 1 if now > here else failures + 1
                    if failures > _TRIES:
                        raise _failed(file, f"stopped at {_mb(now)}: {problem}", "check the server") from None
                    if self._stop.wait(_BACK_OFF_S[min(failures, len(_BACK_OFF_S)) - 1]):
                        raise _failed(file, "the agent ends", "start it again") from None
                    continue
            if part.seek(0, os.SEEK_END) == file.size and digest.hexdigest() == file.sha256:
                return
            part.truncate(0)
            if helped:
                _log.warning("an agent near sent a wrong %s: the server's is fetched", file.path)
                helped = False
                near.clear()
                continue
            wrong += 1
            if wrong == 2:
                problem_ = "what the server sent has another hash than it said"
                raise _failed(file, problem_, "was the file changed? load the model again")

    def _read_near(
        self,
        take: TakeNear,
        file: ModelFile,
        part: BinaryIO,
        here: int,
        digest: hashlib._Hash,
        progress: Callable[[int], None],
    ) -> bool:
        """Append what an agent near has, and gets. Returns whether that was anything."""
        began, heard_s = here, time.monotonic()
        while here < file.size and not self._stop.is_set():
            try:
                chunk = take(file.sha256, here)[: file.size - here]
            except OSError as error:
                _log.info("%s does not come from %s: %s", file.path, take, error)
                break
            if chunk:
                part.write(chunk)
                digest.update(chunk)
                here += len(chunk)
                heard_s = time.monotonic()
                progress(here)
            elif time.monotonic() - heard_s > _PATIENCE_S or self._stop.wait(_BACK_OFF_S[0]):
                break
        part.flush()
        if here > began:
            _log.info("%s of %s came from %s", _mb(here - began), file.path, take)
        return here > began

    def _read(
        self,
        file: ModelFile,
        part: BinaryIO,
        here: int,
        digest: hashlib._Hash,
        progress: Callable[[int], None],
    ) -> None:
        """Append what comes, at most the file's size. Returns where the connection ends, too."""
        headers = {"Range": f"bytes={here}-"} if here else {}
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(f"{self._server}/api/files/{file.sha256}", headers=headers)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            *([urllib.request.HTTPSHandler(context=self._tls)] if self._tls is not None else []),
        )
        with opener.open(request, timeout=_READ_S) as response:
            if here and response.status != 206:  # it sends all of it again
                part.truncate(0)
                raise ConnectionResetError("the server sent the file from its beginning")
            while here < file.size and not self._stop.is_set():
                chunk = response.read(min(_CHUNK_BYTES, file.size - here))
                if not chunk:
                    return
                part.write(chunk)
                digest.update(chunk)
                here += len(chunk)
                progress(here)
            part.flush()


def _is_idle(path: Path) -> bool:
    """Whether nobody is just receiving it."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _hashed(part: BinaryIO) -> tuple[hashlib._Hash, int]:
    """The hash of what is there, and its bytes; the file is then at its end."""
    part.flush()
    part.seek(0)
    digest, count = hashlib.sha256(), 0
    while chunk := part.read(_CHUNK_BYTES):
        digest.update(chunk)
        count += len(chunk)
    return digest, count


def _failed(file: ModelFile, problem: str, remedy: str) -> ModelError:
    return ModelError(file.path, "weights", problem, remedy)


def _mb(count: int) -> str:
    return f"{count / 1e6:.3g} MB"
