"""How a board joins: what it asks, what it gets, and what binds its identity to the machine it is on.

A board's identity is a node id, made once, and marks of the machine (never the serial numbers
themselves: digests keyed with the node id). A copied card brings the node id along and finds other
marks. Marks are claims: they catch a clone made by mistake, not a thief; see docs/security.md.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from d3bed.core.ids import AgentId, Tier

__all__ = [
    "AGENT_NAME",
    "CredentialKept",
    "CutOff",
    "JoinRequest",
    "Joined",
    "Machine",
    "NewCredential",
    "same_machine",
]

#: What agents may be called, in files, on the command line and on joining.
AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_Mark = Annotated[str, msgspec.Meta(max_length=64)]
_Node = Annotated[str, msgspec.Meta(min_length=16, max_length=64)]


class Machine(msgspec.Struct, frozen=True):
    """Marks of a machine, "" or () where it has none: its board's serial number, its installed system's
    id, and the addresses of its network cards."""

    board: _Mark = ""
    system: _Mark = ""
    cards: Annotated[tuple[_Mark, ...], msgspec.Meta(max_length=16)] = ()


def same_machine(bound: Machine, found: Machine) -> bool:
    """Whether the marks that both have allow it to be one machine.

    A board's serial number settles it: the system may be installed anew, cards may change. Without it the
    system must be the same, and one card at least.
    """
    if bound.board and found.board:
        return bound.board == found.board
    if bound.system and found.system and bound.system != found.system:
        return False
    return not (bound.cards and found.cards) or not set(bound.cards).isdisjoint(found.cards)


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agent` null: the name that the join token is for, else the board's `host` name; `tier` null: as the
    server's config says. `request`: a certificate signing request (PEM), where the server speaks TLS."""

    node: _Node
    machine: Machine
    host: Annotated[str, msgspec.Meta(max_length=255)]
    agent: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    tier: Tier | None = None
    request: Annotated[str, msgspec.Meta(max_length=4096)] | None = None


class Joined(msgspec.Struct, frozen=True):
    """`credential` is the agent's own; it is told this once, and the server keeps only its digest.
    `certificate` (PEM) answers a request for one."""

    agent: AgentId
    tier: Tier
    credential: str
    certificate: str | None = None


# ── on the control connection, see `messages` ─────────────────────────────────────────────────────


class CredentialKept(msgspec.Struct, frozen=True, tag=True):
    """The new credential of this id is on my disk."""

    id: str


class CutOff(msgspec.Struct, frozen=True, tag=True):
    """Close all links with `agent`, and have others prove that they know the new `link_secret` (hex)."""

    agent: AgentId
    link_secret: str


class NewCredential(msgspec.Struct, frozen=True, tag=True):
    """Keep this one in place of yours, and say so (`CredentialKept`); until then both are good."""

    id: str
    credential: str
