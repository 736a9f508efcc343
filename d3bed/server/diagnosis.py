"""What the doctor says: from what agents found out, findings that name the thing to change.

Pure. A finding is about an agent or a directed link; `ok` ones say what was seen, the others what is wrong
and what to do about it. Nothing here asks anybody anything; that is `doctor`'s part.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from d3bed.core.checks import LinkCheck
from d3bed.core.ids import AgentId, Tier
from d3bed.core.measurements import BoardSample, LinkShape

__all__ = ["CLOCK_REMEDY", "CLOCK_S", "Finding", "Patient", "clock_words", "diagnose", "duration"]

#: Clocks may be so far apart: beyond it logs mislead, and certificates may count as not valid.
CLOCK_S = 2.0
CLOCK_REMEDY = "on the board: timedatectl set-ntp true"
#: A link that does less than this share of what it is held to is slower than its emulation.
_HELD = 0.8

#: Of an IP packet, whatever the interface takes (loopback takes more).
_LONGEST_BYTES = 65535

Level = Literal["ok", "warn", "error"]


class Finding(msgspec.Struct, frozen=True):
    """`subject`: an agent, or a link as `a→b`; `about`: what was looked at; `remedy` "" where all is well."""

    subject: str
    about: str
    level: Level
    text: str
    remedy: str = ""


class Patient(msgspec.Struct, frozen=True):
    """An agent that a pipeline needs; `checks` None: it did not answer the doctor in time. `clock_s`: how far
    its clock is ahead, `clock_error_s` bounds the error of that. `infer_s`: the whole model on it alone.
    `board`: what it told of that last."""

    agent: AgentId
    tier: Tier
    connected: bool
    host: str = ""
    address: str = ""
    version: str = ""
    model: str = ""
    loaded: bool = False
    fingerprint: str = ""
    infer_s: float | None = None
    clock_s: float | None = None
    clock_error_s: float = 0.0
    board: BoardSample | None = None
    checks: tuple[LinkCheck, ...] | None = None


def diagnose(
    patients: Iterable[Patient],
    shapes: Mapping[tuple[AgentId, AgentId], LinkShape],
    *,
    version: str,
) -> tuple[Finding, ...]:
    """All findings, by agent and then by link. `shapes`: what emulated links are held to."""
    all_of_them = list(patients)
    several = len({p.host for p in all_of_them if p.connected}) > 1
    prints = {p.fingerprint for p in all_of_them if p.fingerprint}
    works = {(p.agent, check.peer) for p in all_of_them for check in p.checks or () if not check.stopped}
    found: list[Finding] = []
    for patient in all_of_them:
        found += _of_agent(patient, version, several=several, alike=len(prints) <= 1)
    for patient in all_of_them:
        for check in patient.checks or ():
            ends = patient.agent, check.peer
            found += _of_link(patient, check, shapes.get(ends), other_way=(ends[1], ends[0]) in works)
    return tuple(found)


# ── agents ────────────────────────────────────────────────────────────────────────────────────────


def _of_agent(patient: Patient, version: str, *, several: bool, alike: bool) -> Iterator[Finding]:
    name = str(patient.agent)
    if not patient.connected:
        yield Finding(
            name,
            "connection",
            "error",
            f"no agent of this name is connected, and a pipeline needs it ({patient.tier})",
            f"on its board: d3bed agent; for a new board: d3bed agents invite {name}",
        )
        return
    if patient.version != version:
        text = f"runs d3bed {patient.version}, the server {version}"
        yield Finding(name, "version", "warn", text, "install the same version on both")
    else:
        yield Finding(name, "version", "ok", f"d3bed {version}, as the server")
    yield from _of_clock(patient)
    if patient.board is not None:
        yield _of_board(name, patient.board)
    yield from _of_address(patient, several=several)
    if not patient.loaded:
        text = f"has not loaded {patient.model}"
        yield Finding(name, "model", "error", text, "its log says why; the page's notes, too")
    elif patient.infer_s is None:
        yield Finding(
            name, "model", "warn", f"{patient.model} is loaded, not profiled yet", "wait, then ask again"
        )
    else:
        text = f"{patient.model} is loaded; alone it would take {duration(patient.infer_s)} for a frame"
        yield Finding(name, "model", "ok", text)
    if not alike:
        yield Finding(
            name,
            "exactness",
            "warn",
            f"agents differ in what they compute with (here {patient.fingerprint}): answers agree to 1e-5",
            "the same torch build, kind of CPU and number of threads make them bit-identical",
        )
    if patient.checks is None:
        text = "did not finish checking its links in time"
        yield Finding(name, "links", "error", text, "its log says why; ask again when it is less busy")


def _of_board(name: str, board: BoardSample) -> Finding:
    told = [f"load {board.load:.0%}"]
    if board.temperature_c is not None:
        told.append(f"{board.temperature_c:.0f} °C")
    if board.frequency_hz is not None:
        told.append(f"{board.frequency_hz / 1e9:.2g} GHz")
    if board.throttled:
        remedy = "cooling, and a power supply that gives what the board needs; plans follow what it does now"
        text = f"it is slower than it could be: {board.throttled} ({', '.join(told)})"
        return Finding(name, "board", "warn", text, remedy)
    return Finding(name, "board", "ok", ", ".join(told))


def _of_clock(patient: Patient) -> Iterator[Finding]:
    name, off_s = str(patient.agent), patient.clock_s
    if off_s is None:
        return
    if abs(off_s) - patient.clock_error_s > CLOCK_S:
        yield Finding(name, "clock", "warn", f"its clock is {clock_words(off_s)}", CLOCK_REMEDY)
    else:
        yield Finding(name, "clock", "ok", f"within {duration(CLOCK_S)} of the server's")


def _of_address(patient: Patient, *, several: bool) -> Iterator[Finding]:
    host = patient.address.rpartition(":")[0].strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if loopback and several:
        yield Finding(
            str(patient.agent),
            "address",
            "error",
            f"tells others to reach it at {patient.address}, which is their own machine",
            "start it with --host 0.0.0.0, or with the address that others reach it by",
        )


# ── links ─────────────────────────────────────────────────────────────────────────────────────────


def _of_link(
    patient: Patient, check: LinkCheck, shape: LinkShape | None, *, other_way: bool
) -> Iterator[Finding]:
    link = f"{patient.agent}→{check.peer}"
    if check.stopped:
        text, remedy = _stopped(check)
        if other_way and check.stopped in ("silent", "refused", "route"):
            text += f"; {check.peer} reaches {patient.agent}: a NAT or firewall is before {check.peer}"
        yield Finding(link, check.stopped, "error", text, remedy)
        return
    assert check.bytes_per_s is not None and check.rtt_s is not None
    text = f"{check.address} from {check.interface or check.local}"
    carries = f": {check.bytes_per_s * 8e-6:.4g} Mbit/s, round trip {duration(check.rtt_s)}"
    if check.via is None:
        yield Finding(link, "link", "ok", text + carries)
    else:
        why, _ = _stopped(msgspec.structs.replace(check, stopped=check.direct))
        port = check.address.rpartition(":")[2]
        remedy = (
            f"it works; for a direct link let TCP port {port} through to {check.peer}, or forward it and"
            " tell the address that it is reached by (`address` in the config)"
        )
        yield Finding(
            link, "way", "warn", f"{_by_way(check, patient.agent)}{carries}; directly {why}", remedy
        )
    if shape is not None and check.bytes_per_s < _HELD * shape.bytes_per_s:
        yield Finding(
            link,
            "rate",
            "warn",
            f"does {check.bytes_per_s * 8e-6:.4g} of the {shape.bytes_per_s * 8e-6:.4g} Mbit/s it is held to",
            "the network below is slower, or the board too busy to pace it: choose a lower rate",
        )
    own, path = check.interface_mtu_bytes, check.path_mtu_bytes
    if own is not None and path is not None and path < min(own, _LONGEST_BYTES):
        yield Finding(
            link,
            "mtu",
            "warn",
            f"packets of {path} bytes at most pass, {check.interface} sends {own}",
            f"it works; to spare the detour: ip link set {check.interface} mtu {path}",
        )


def _by_way(check: LinkCheck, source: AgentId) -> str:
    if check.via == source:
        return f"over a line that {check.peer} keeps open"
    return f"by way of {check.via}, which both reach"


def _stopped(check: LinkCheck) -> tuple[str, str]:
    """What is wrong, and what to change."""
    peer, port = check.peer, check.address.rpartition(":")[2]
    match check.stopped:
        case "name":
            return (
                f"the name in {check.address} is not known here: {check.problem}",
                f"start {peer} with --host and an IP address that others reach it by",
            )
        case "route":
            return (
                f"there is no way from here to {check.address}: {check.problem}",
                f"put both into one network, or start {peer} with --host and an address that both can route",
            )
        case "refused":
            return (
                f"{check.address} refuses: nothing listens there",
                f"{peer} listens elsewhere, or a firewall rejects: open TCP port {port} there; with a NAT"
                f" before it, forward that port and fix its address in the config",
            )
        case "silent":
            return (
                f"{check.address} gives {check.problem}: a firewall drops it, or the way back is missing",
                f"on {peer}: allow TCP port {port} from {check.local or 'here'} (as ufw allow {port}/tcp),"
                " and give it a fixed --port",
            )
        case "stranger":
            return (
                f"what answers at {check.address} does not let us in: {check.problem}",
                f"another process or an agent of another server has that port: give {peer} another --port",
            )
        case "stalled":
            mtu = check.interface_mtu_bytes
            return (
                f"small messages pass, payloads do not ({check.problem}): packets of up to"
                f" {mtu or 'full size'} bytes are lost on the way",
                f"ip link set {check.interface or 'the interface'} mtu 1280 on both ends, or let ICMP"
                " 'fragmentation needed' through the firewalls between them",
            )
        case _:
            return (
                f"the connection to {check.address} was lost during the check: {check.problem}",
                f"look at the log of {peer}; ask again",
            )


def clock_words(off_s: float) -> str:
    """How far a board's clock is from the server's."""
    if abs(off_s) <= CLOCK_S:
        return f"within {duration(CLOCK_S)} of the server's"
    return f"{duration(abs(off_s))} {'ahead of' if off_s > 0 else 'behind'} the server's"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
