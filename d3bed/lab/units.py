"""Quantities as people write them: rates, times and shares, each with its unit.

`option` names where the text stood and `whole` all of what stood there, for the `ConfigError`.
"""

from __future__ import annotations

import math
import re

from d3bed.core.errors import ConfigError

__all__ = ["NUMBER", "bytes_per_s", "duration", "number", "seconds", "share"]

NUMBER = r"([0-9.]+(?:[eE][-+]?[0-9]+)?)"

_BITS_PER_S = {"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def bytes_per_s(text: str, option: str, whole: str = "") -> float:
    """`2Mbit`, `500 kbit/s` or `1Gbit` in bytes per second."""
    found = re.fullmatch(NUMBER + r"\s*([A-Za-z]+)(?:/s)?", text.strip())
    if found is None or found[2] not in _BITS_PER_S:
        raise ConfigError(
            option, whole or text, f"{text!r} is not a rate", "write it as 2Mbit, 500kbit or 1Gbit"
        )
    return number(found[1], option, whole or text) * _BITS_PER_S[found[2]] / 8


def seconds(text: str, option: str) -> float:
    """`20ms`, `30s`, `1m` or `0s` in seconds."""
    found = re.fullmatch(NUMBER + r"\s*([a-z]+)", text.strip())
    if found is None or found[2] not in _SECONDS:
        raise ConfigError(option, text, "is not a time", "write it as 20ms, 30s or 1m")
    return 0.0 if re.fullmatch(r"0*\.?0*", found[1]) else number(found[1], option, text) * _SECONDS[found[2]]


def duration(text: str, option: str) -> float:
    """As `seconds`, and more than none."""
    found = seconds(text, option)
    if not found:
        raise ConfigError(option, text, "is no time at all", "write it as 30s or 2m")
    return found


def share(text: str, option: str) -> float:
    """`1%` as 0.01."""
    found = re.fullmatch(NUMBER + r"\s*%", text.strip())
    if found is None:
        raise ConfigError(option, text, "is not a share", "write it as 1%")
    return 0.0 if re.fullmatch(r"0*\.?0*", found[1]) else number(found[1], option, text) / 100


def number(text: str, option: str, whole: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-9 <= value <= 1e12:
        raise ConfigError(option, whole, f"{text} is not a number above 0", "use one from 1e-9 to 1e12")
    return value
