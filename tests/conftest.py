"""What all tests share: their order, and patience."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# An example is given the time that the machine takes for it.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start agents wait more than they compute: they come first, one after another, while other
    workers fill the cores that they leave idle."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is None)
