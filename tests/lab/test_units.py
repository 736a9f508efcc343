"""Rates, times and shares as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from d3bed.core.errors import ConfigError
from d3bed.lab.units import bytes_per_s, duration, seconds, share


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (bytes_per_s, "10Mbit", 1.25e6),
        (bytes_per_s, "500 kbit/s", 62_500),
        (seconds, "20ms", 0.02),
        (seconds, "1m", 60),
        (seconds, "0s", 0),
        (duration, "2m", 120),
        (share, "1.5%", 0.015),
        (share, "0%", 0),
    ],
)
def test_a_quantity_is_read_with_its_unit(read: Callable[[str, str], float], text: str, value: float) -> None:
    assert read(text, "--option") == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (bytes_per_s, "10"),
        (bytes_per_s, "-1Mbit"),
        (seconds, "30"),
        (seconds, "1 week"),
        (share, "0.01"),
        (duration, "0s"),
    ],
)
def test_what_is_not_one_is_refused_with_an_example(read: Callable[[str, str], float], text: str) -> None:
    with pytest.raises(ConfigError, match="--option.*write it as"):
        read(text, "--option")
