"""Work of the planner over many processes: a Dask cluster that there is, or one of this machine's cores.

What travels is bytes (JSON) in and out; the functions are d3bed's own, by name. Workers of a cluster need the
same d3bed[server] installed. Nobody waits for ever: a cluster that does not answer, or that lets a piece of
work lie for too long, is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from d3bed.core.errors import ConfigError, D3Error

__all__ = ["ClusterFailed", "spread"]

#: Until a cluster has answered, with one worker at least; until one piece of work is done, on average; and
#: until it has let go.
CONNECT_S, PIECE_S, CLOSE_S = 20.0, 120.0, 10.0

Work = Callable[[bytes], bytes]


class ClusterFailed(D3Error):
    """The cluster, or a worker of it, did not do its work."""


def spread(work: Work, pieces: Sequence[bytes], address: str | None, workers: int) -> list[bytes]:
    """What comes of each piece, in order. `address` None: an embedded cluster of so many processes. Raises
    `ConfigError` if there is no such cluster, `ClusterFailed`."""
    return asyncio.run(_spread(work, pieces, address, workers))


async def _spread(work: Work, pieces: Sequence[bytes], address: str | None, workers: int) -> list[bytes]:
    async with _client(address, workers) as client:
        try:
            async with asyncio.timeout(PIECE_S * max(1, len(pieces))):
                futures = [client.submit(work, piece, pure=False) for piece in pieces]
                return list(await client.gather(futures))
        except TimeoutError as error:
            raise ClusterFailed("the cluster did not finish in time") from error
        except Exception as error:  # whatever failed over there
            raise ClusterFailed(f"a worker failed: {type(error).__name__}: {error}") from error


@contextlib.asynccontextmanager
async def _client(address: str | None, workers: int) -> AsyncIterator[Any]:
    distributed: Any = importlib.import_module("distributed")

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    opened: list[Any] = []
    try:
        try:
            async with asyncio.timeout(CONNECT_S):
                if address is None:
                    with _quiet_workers():
                        cluster = distributed.LocalCluster(
                            n_workers=workers,
                            threads_per_worker=1,
                            dashboard_address=None,
                            silence_logs=logging.CRITICAL,
                            asynchronous=True,
                        )
                        opened.append(cluster)
                        await cluster
                client = distributed.Client(address or opened[0], asynchronous=True, timeout=CONNECT_S)
                opened.append(client)
                await client
                await client.wait_for_workers(1)
        except (OSError, ValueError, TimeoutError) as error:
            why = "it does not answer" if isinstance(error, TimeoutError) else str(error)
            remedy = "start one (dask scheduler, dask worker), or leave --dask out"
            raise ConfigError("--dask", address or "embedded", f"no Dask cluster: {why}", remedy) from error
        yield client
    finally:
        for each in reversed(opened):
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(each.close(), CLOSE_S)


@contextlib.contextmanager
def _quiet_workers() -> Iterator[None]:
    """Processes that are started within it print nothing: the MILP solver's C code sometimes does."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
