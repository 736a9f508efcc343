"""How the server's process has its memory looked after.

With 500 agents there are half a million objects, nearly all of which stay. Python's collector looks at all
of them every few seconds, and nothing else happens for a quarter of a second then: too long for whoever
waits for an answer. What is there once the server answers is never looked at again, and what comes is looked
at more seldom; most of it goes by reference counts alone.
"""

from __future__ import annotations

import gc

__all__ = ["settle"]

#: The young objects are looked at when so many more came than went, older ones after so many of these looks,
#: and all after so many of those.
_YOUNG, _OLDER, _ALL = 20_000, 20, 100


def settle() -> None:
    """Call it once the server answers, in a process that serves until it ends."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _ALL)
