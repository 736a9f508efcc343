"""What a long-running process says, and how: for a terminal, for a file, or as JSON for other programs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from rich.console import Console
from rich.logging import RichHandler

from d3bed.core.errors import ConfigError

__all__ = ["FORMATS", "start_logging"]

FORMATS = ("text", "json")
#: These tell each request and each task.
_CHATTY = ("websockets", "aiohttp.access", "asyncio")


def start_logging(console: Console, form: str, *, verbose: bool) -> None:
    """Log to `console`, stderr as a rule. Raises `ConfigError` for a form that there is none."""
    if form not in FORMATS:
        raise ConfigError("--log-format", "", f"{form!r} is not known", f"use {' or '.join(FORMATS)}")
    handler: logging.Handler
    if form == "json":
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(_JsonLines())
    elif console.is_terminal:
        handler = RichHandler(console=console, show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(console.file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


class _JsonLines(logging.Formatter):
    """An object a line: `time` (UTC), `level`, `logger`, `message`, and `error` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)
