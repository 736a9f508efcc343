"""A board's network on one machine: a network namespace for each board, cables to a switch between them.

All belongs to a lab, by its name: namespaces are `LAB-board`, the switch (a bridge) is in one of its own, so
that neither firewalls nor other bridges of the machine touch what passes; the machine itself is plugged in by
the interface `LAB-host`. Addresses are of 198.18.0.0/15, which is set aside for tests of networks (RFC 2544)
and routed nowhere. Whatever is made can be found, and removed, by the lab's name alone.

Synchronous; needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from d3bed.core.errors import ConfigError, D3Error

__all__ = ["HOST", "Network", "check_lab_name", "check_root", "into"]

#: Names of namespaces that are no board's: no agent's name starts so.
_SWITCH = "_switch"
#: The machine itself, as a node of the network.
HOST = "_host"
_NETWORKS = ipaddress.ip_network("198.18.0.0/15")
_LOCK = Path("/run/d3bed-lab.lock")
_GRACE_S = 5.0
_MTU = 1500


class NetworkFailed(D3Error):
    """The kernel did not do what a lab needs; the message is `ip`'s."""


def check_root() -> None:
    """Raise `ConfigError` where no lab can be made."""
    if os.geteuid() != 0:
        raise ConfigError("lab", "", "needs root, for network namespaces", "use sudo, or d3bed demo")
    for tool in ("ip", "tc", "nsenter"):
        if shutil.which(tool) is None:
            raise ConfigError("lab", "", f"there is no {tool} here", "apt-get install iproute2 util-linux")


def check_lab_name(lab: str) -> None:
    """Interfaces have names of 15 characters at most."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,8}", lab):
        raise ConfigError(
            "--name", lab, "is no name for a lab", "use up to 9 letters and digits, a letter first"
        )


def into(namespace: str) -> list[str]:
    """What to put before a command that shall run there."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


class Network:
    """The network of one lab; `build` may be left out to remove, or to cut, what another process built."""

    def __init__(self, lab: str) -> None:
        check_lab_name(lab)
        self.lab = lab
        self._host = f"{lab}-host"

    def namespace(self, node: str) -> str:
        return f"{self.lab}-{node}"

    def namespaces(self) -> list[str]:
        """Those that there are of this lab."""
        listed = [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]
        return [name for name in listed if name.startswith(f"{self.lab}-")]

    def build(self, nodes: Sequence[str]) -> dict[str, str]:
        """Make it; returns the address of each node, and of `HOST`. Raises `NetworkFailed`."""
        with _one_at_a_time():
            return self._build(nodes)

    def _build(self, nodes: Sequence[str]) -> dict[str, str]:
        network = _free_network()
        addresses = [str(address) for address in network.hosts()]
        if len(nodes) + 1 > len(addresses):
            raise ConfigError("lab", "", f"{len(nodes)} boards are too many", f"use {len(addresses) - 1}")
        found = dict(zip([*nodes, HOST], [*addresses[: len(nodes)], addresses[-1]], strict=True))
        switch = self.namespace(_SWITCH)
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge", "forward_delay", "0")
        _ip("-n", switch, "link", "set", "switch", "up")
        for number, node in enumerate(nodes):
            namespace = self.namespace(node)
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
            plug, end = ["name", _port(number), "netns", switch], ["eth0", "netns", namespace]
            _ip("link", "add", *end, "type", "veth", "peer", *plug)
            _ip("-n", namespace, "address", "add", f"{found[node]}/{network.prefixlen}", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "mtu", str(_MTU), "up")
            _ip("-n", switch, "link", "set", _port(number), "alias", node, "master", "switch", "up")
        _ip("link", "add", self._host, "type", "veth", "peer", "name", "host", "netns", switch)
        _ip("-n", switch, "link", "set", "host", "master", "switch", "up")
        _ip("address", "add", f"{found[HOST]}/{network.prefixlen}", "dev", self._host)
        _ip("link", "set", self._host, "up")
        return found

    def plug(self, node: str, *, in_: bool) -> None:
        """Pull the cable of a node out of the switch, or plug it in again. Raises `ConfigError`."""
        switch = self.namespace(_SWITCH)
        if switch not in self.namespaces():
            raise ConfigError("--name", self.lab, "no such lab runs", "start one with: d3bed lab up")
        ports = {str(link.get("ifalias")): str(link["ifname"]) for link in _links(switch)}
        if node not in ports:
            known = ", ".join(sorted(ports.keys() - {"None"}))
            raise ConfigError("lab", node, "no such board", f"known: {known}")
        _ip("-n", switch, "link", "set", ports[node], "up" if in_ else "down")

    def delays(self) -> bool:
        """Whether this kernel can delay what passes (netem)."""
        tc = [*into(self.namespace(_SWITCH)), "tc", "qdisc"]
        test = subprocess.run([*tc, "add", "dev", "lo", "root", "netem"], capture_output=True, check=False)
        subprocess.run([*tc, "del", "dev", "lo", "root"], capture_output=True, check=False)
        return test.returncode == 0

    def processes(self) -> list[int]:
        """Those that run in the lab's namespaces."""
        found = []
        for namespace in self.namespaces():
            found += [int(pid) for pid in _ip("netns", "pids", namespace).split()]
        return found

    def remove(self) -> list[str]:
        """End what runs in the lab's namespaces, and take away all of it. Returns what there was."""
        removed = []
        for number in (signal.SIGTERM, signal.SIGKILL):
            pids = self.processes()
            removed += [f"process {pid}" for pid in pids]
            _send(pids, number)
            deadline_s = time.monotonic() + _GRACE_S
            while self.processes() and time.monotonic() < deadline_s:
                time.sleep(0.02)
        for namespace in self.namespaces():
            _ip("netns", "delete", namespace)
            removed.append(f"namespace {namespace}")
        if any(link["ifname"] == self._host for link in _links()):
            # It goes with its other end, some time after that one's namespace.
            with contextlib.suppress(NetworkFailed):
                _ip("link", "delete", self._host)
            removed.append(f"interface {self._host}")
        return removed

    def left(self) -> list[str]:
        """What there still is of the lab."""
        found = [f"namespace {name}" for name in self.namespaces()]
        found += [f"interface {link['ifname']}" for link in _links() if link["ifname"] == self._host]
        return found


def _port(number: int) -> str:
    return f"port{number}"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two labs that are made at once must not choose the same addresses."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free_network() -> ipaddress.IPv4Network:
    """The first whose addresses lead nowhere yet."""
    routes = json.loads(_ip("-json", "route", "show", "table", "all") or "[]")
    taken = [_as_network(str(route.get("dst", ""))) for route in routes]
    for network in _NETWORKS.subnets(new_prefix=24):
        if not any(other is not None and network.overlaps(other) for other in taken):
            assert isinstance(network, ipaddress.IPv4Network)
            return network
    raise ConfigError("lab", "", "all of 198.18.0.0/15 is taken", "end other labs: d3bed lab down")


def _as_network(text: str) -> ipaddress.IPv4Network | None:
    with contextlib.suppress(ValueError):
        found = ipaddress.ip_network(text, strict=False)
        if isinstance(found, ipaddress.IPv4Network) and found.prefixlen:
            return found
    return None


def _links(namespace: str | None = None) -> list[dict[str, object]]:
    where = ["-n", namespace] if namespace else []
    return list(json.loads(_ip(*where, "-json", "link", "show") or "[]"))


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetworkFailed(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
