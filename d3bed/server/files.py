"""Files of models that this machine has, for boards that have not: by hash, in pieces where they ask so.

A file of weights or of a whole network that a model names, and that is here, is hashed once. Its hash goes
to the agents with the model; they ask for it by that alone, so that no path of theirs reaches this disk, and
check what came.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

import msgspec
from aiohttp import web

from d3bed.core.messages import ModelFile, ModelSpec
from d3bed.server.settings import ServerSettings

__all__ = ["FILE", "ModelFiles"]

_log = logging.getLogger(__name__)

#: Where files are asked for, by agents and whoever may change something.
FILE = "/api/files/{digest}"


class ModelFiles:
    """What may be asked for: files of models that were wanted since the start."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        #: Hashes by path, size and time of change.
        self._known: dict[tuple[str, int, int], str] = {}

    async def stamped_all(self, settings: ServerSettings) -> ServerSettings:
        """The settings with the models of all pipelines stamped."""
        pipelines = [
            msgspec.structs.replace(pipeline, model=await self.stamped(pipeline.model))
            for pipeline in settings.pipelines
        ]
        return msgspec.structs.replace(settings, pipelines=tuple(pipelines))

    async def stamped(self, spec: ModelSpec) -> ModelSpec:
        """The model with the hashes of its files that are here; agents look for the others themselves."""
        files = []
        for name in (spec.name, spec.weights):
            if name.endswith(".safetensors"):
                try:
                    files.append(await asyncio.to_thread(self._stamp, name))
                except OSError as error:
                    _log.info("%s is not sent to agents: %s", name, error)
        return msgspec.structs.replace(spec, files=tuple(files))

    def _stamp(self, name: str) -> ModelFile:
        path = Path(name).resolve(strict=True)
        with path.open("rb") as file:
            state = path.stat()
            key = (str(path), state.st_size, state.st_mtime_ns)
            if key not in self._known:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        digest = self._known[key]
        self._paths[digest] = path
        return ModelFile(name, digest, state.st_size)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/files/SHA256`, with `Range` where a part is there already."""
        path = self._paths.get(request.match_info["digest"])
        if path is None or not path.is_file():
            raise web.HTTPNotFound(text="no model that was asked for has a file with this hash")
        return web.FileResponse(
            path, chunk_size=1 << 20, headers={"Content-Type": "application/octet-stream"}
        )
