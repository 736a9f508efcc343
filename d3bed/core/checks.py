"""What an agent finds out about one directed link when the doctor asks: how far it got, and what it saw."""

from __future__ import annotations

from typing import Literal

import msgspec

from d3bed.core.ids import AgentId

__all__ = ["LinkCheck", "Stopped"]

#: Where it stopped: no such name, no way there, refused, no answer, something else answers there or does not
#: let us in, small messages pass and large ones do not, or lost on the way. "": it works.
Stopped = Literal["", "name", "route", "refused", "silent", "stranger", "stalled", "lost"]


class LinkCheck(msgspec.Struct, frozen=True):
    """`address` is the peer's; `local`, `interface` and `interface_mtu` are what the way there begins with.
    `path_mtu_bytes` is what the kernel knows of the whole way after the check. None or "": not found out.
    Where it works only by way of another agent (`via`), `direct` and `problem` say where dialling stopped."""

    peer: AgentId
    address: str
    stopped: Stopped = ""
    problem: str = ""
    local: str = ""
    interface: str = ""
    interface_mtu_bytes: int | None = None
    path_mtu_bytes: int | None = None
    connect_s: float | None = None
    rtt_s: float | None = None
    bytes_per_s: float | None = None
    via: AgentId | None = None
    direct: Stopped = ""
