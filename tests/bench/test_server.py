"""The bench of the server says what ended before its time."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest

from d3bed.bench.server import _unless_ended
from d3bed.core.errors import D3Error
from d3bed.lab.processes import ChildDied, Children


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def test_a_server_that_ends_ends_the_bench(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        await children.start("server", ["server", "--config", str(tmp_path / "missing.toml")])
        with pytest.raises(ChildDied, match="missing.toml"):
            await _unless_ended(never(), children, [])


async def test_agents_that_end_end_the_bench(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=sys.exit, args=(3,))
    process.start()
    async with Children(tmp_path) as children:
        with pytest.raises(D3Error, match="exit code 3"):
            await _unless_ended(never(), children, [process])
    process.join()


async def test_what_was_found_is_what_comes(tmp_path: Path) -> None:
    async def found() -> dict[str, Any]:
        return {"agents": 3}

    async with Children(tmp_path) as children:
        assert await _unless_ended(found(), children, []) == {"agents": 3}
