"""How long-running commands end: by Ctrl-C or SIGTERM, cleaned up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

__all__ = ["until_signal"]


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run until it ends, or until SIGINT or SIGTERM cancels it (then it cleans up and returns).

    A shell's background job ignores SIGINT from birth, and Python then raises no `KeyboardInterrupt`: this
    hears it all the same.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
