"""The marks of this machine, as `core.joining` compares them."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from d3bed.core.joining import Machine

__all__ = ["read_machine"]

#: Serial numbers: of single-board computers, and of PCs and VMs (for root only, on most systems).
_BOARDS = ("proc/device-tree/serial-number", "sys/class/dmi/id/product_uuid")
_SYSTEMS = ("etc/machine-id", "var/lib/dbus/machine-id")
_MOST_CARDS = 16


def read_machine(node: str, root: Path = Path("/")) -> Machine:
    """What can be read of it; keyed with the node id, so that nobody learns the numbers themselves."""
    network = root / "sys/class/net"
    cards = [
        found
        for card in sorted(network.iterdir() if network.is_dir() else ())
        # A real card has a device behind it, and an address that nobody chose for it.
        if (card / "device").exists() and _text(card / "addr_assign_type") == "0"
        if (found := _text(card / "address")) and set(found) - set("0:")
    ]
    return Machine(
        _mark(node, next(filter(None, (_text(root / name) for name in _BOARDS)), "")),
        _mark(node, next(filter(None, (_text(root / name) for name in _SYSTEMS)), "")),
        tuple(_mark(node, card) for card in cards[:_MOST_CARDS]),
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:256].decode("ascii", "replace").strip("\0 \n").lower()
    except OSError:
        return ""


def _mark(node: str, value: str) -> str:
    return hmac.digest(node.encode(), value.encode(), hashlib.sha256).hex()[:32] if value else ""
