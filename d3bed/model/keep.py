"""What was measured or found out, kept in files between runs. Losing one costs finding it out again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["keep"]


def keep(file: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; a full disk is not worth an error."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=file.suffix)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            os.replace(draft, file)
        except OSError:
            Path(draft).unlink(missing_ok=True)
            raise
