"""Who has been let in: join tokens, the agents' own credentials, and the file that outlives the server.

Of a secret only its SHA-256 is kept (secrets have 192 random bits, so that no slower hash is needed).
A secret reads `d3j_ID_…` (join token) or `d3a_ID_…` (credential): the id names it in lists and logs, and
finds the digest it is compared with, in constant time. Times are the server's clock; callers pass it in.
Every change is on disk before it is answered.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Literal

import msgspec

from d3bed.core.errors import ConfigError, D3Error
from d3bed.core.ids import AgentId, Tier
from d3bed.core.joining import Machine

__all__ = ["Credential", "Credentials", "Denied", "Invitation", "replace_file"]

_FORMAT = "d3bed.credentials/1"
#: Ended credentials and spent tokens are remembered, so that who comes with one is told why: so many.
_REMEMBERED = 1000
#: Join tokens that are open at one time.
MOST_OPEN = 256
_SECRET = re.compile(r"d3([ja])_([0-9a-f]{8})_([0-9a-f]{48})")


class Denied(D3Error):
    """No entry; `status` is HTTP's, the text is for the one who asks. `guess`: the secret was not right."""

    def __init__(self, status: int, text: str, *, guess: bool = False, name: str = "") -> None:
        self.status, self.text, self.guess, self.name = status, text, guess, name
        super().__init__(text)


class Invitation(msgspec.Struct, frozen=True):
    """A join token: good for so many `uses` (None: any number), until `expires_s` (None: until revoked), for
    `agent` alone (None: any name that is free)."""

    id: str
    digest: str
    made_s: float
    by: str
    expires_s: float | None = None
    uses: int | None = 1
    agent: AgentId | None = None
    revoked: bool = False


class Credential(msgspec.Struct, frozen=True):
    """An agent's own. `rotates` is the id of the one that it takes the place of once the agent has kept it;
    until then both are good. `ended` says why it is good no more, "" while it is."""

    id: str
    digest: str
    agent: AgentId
    tier: Tier
    node: str
    machine: Machine
    made_s: float
    host: str
    by: str
    rotates: str = ""
    ended: Literal["", "revoked", "replaced"] = ""
    ended_s: float = 0.0
    ended_by: str = ""


class _File(msgspec.Struct):
    format: str = _FORMAT
    invitations: list[Invitation] = []
    credentials: list[Credential] = []


class Credentials:
    """Reads `path`, or starts empty. Raises `ConfigError` for a file that it cannot use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        file = _read(path)
        self.invitations = {each.id: each for each in file.invitations}
        self.credentials = {each.id: each for each in file.credentials}

    # ── who is it ─────────────────────────────────────────────────────────────────────────────────

    def check(self, secret: str, now: float) -> Credential | Invitation:
        """Whose secret it is. Raises `Denied` with the reason."""
        match = _SECRET.fullmatch(secret)
        kind, id, tail = match.groups() if match else ("", "", "")
        found: Credential | Invitation | None
        found = self.credentials.get(id) if kind == "a" else self.invitations.get(id)
        expected = found.digest if found is not None else _digest("")
        if not hmac.compare_digest(expected, _digest(tail)) or found is None:
            raise Denied(401, "authorization: this token or credential is not known here", guess=True)
        if isinstance(found, Credential):
            _check_credential(found)
        else:
            _check_invitation(found, now)
        return found

    def current(self, agent: AgentId) -> Credential | None:
        """The agent's newest credential that is good."""
        good = [c for c in self.credentials.values() if c.agent == agent and not c.ended]
        return max(good, key=lambda c: c.made_s, default=None)

    @property
    def revoked(self) -> tuple[AgentId, ...]:
        """Agents whose last credential was revoked."""
        last = {c.agent: c for c in sorted(self.credentials.values(), key=lambda c: c.made_s)}
        return tuple(agent for agent, c in last.items() if c.ended == "revoked")

    # ── changes, in memory ────────────────────────────────────────────────────────────────────────

    def invite(
        self, now: float, by: str, *, expires_s: float | None, uses: int | None, agent: AgentId | None
    ) -> tuple[Invitation, str]:
        """A new join token, and its secret, which nobody can tell again. Raises `Denied` for too many."""
        if sum(_is_open(i, now) for i in self.invitations.values()) >= MOST_OPEN:
            raise Denied(409, f"{MOST_OPEN} join tokens are open; revoke some first")
        id, tail = secrets.token_hex(4), secrets.token_hex(24)
        made = Invitation(id, _digest(tail), now, by, expires_s, uses, agent)
        self.invitations[id] = made
        return made, f"d3j_{id}_{tail}"

    def close_invitation(self, id: str) -> Invitation | None:
        found = self.invitations.get(id)
        if found is not None:
            self.invitations[id] = found = msgspec.structs.replace(found, revoked=True)
        return found

    def spend(self, invitation: Invitation) -> None:
        """One use of a join token less."""
        now = self.invitations[invitation.id]
        if now.uses is not None:
            self.invitations[now.id] = msgspec.structs.replace(now, uses=now.uses - 1)

    def issue(
        self, now: float, agent: AgentId, tier: Tier, node: str, machine: Machine, *, host: str, by: str
    ) -> tuple[Credential, str]:
        """The agent's new credential in place of all that it had, and its secret."""
        for old in self._good(agent):
            self._end(old, "replaced", now, by)
        return self._make(now, agent, tier, node, machine, host, by)

    def rotate(self, old: Credential, now: float, by: str) -> tuple[Credential, str]:
        """A second credential for the agent, good beside `old` until `kept`."""
        return self._make(now, old.agent, old.tier, old.node, old.machine, old.host, by, rotates=old.id)

    def kept(self, id: str, now: float) -> bool:
        """The agent has this one now (it said so, or came with it): what it replaces is over."""
        found = self.credentials.get(id)
        if found is None or not found.rotates or found.ended:
            return False
        for old in self._good(found.agent):
            if old.id != id:
                self._end(old, "replaced", now, found.by)
        self.credentials[id] = msgspec.structs.replace(found, rotates="")
        return True

    def revoke(self, agent: AgentId, now: float, by: str) -> bool:
        """End all credentials of the agent; whether it had one."""
        good = self._good(agent)
        for credential in good:
            self._end(credential, "revoked", now, by)
        return bool(good)

    def forget(self, credential: Credential) -> None:
        """As if it had never been made: it could not be kept."""
        self.credentials.pop(credential.id, None)

    def _make(
        self,
        now: float,
        agent: AgentId,
        tier: Tier,
        node: str,
        machine: Machine,
        host: str,
        by: str,
        rotates: str = "",
    ) -> tuple[Credential, str]:
        id, tail = secrets.token_hex(4), secrets.token_hex(24)
        made = Credential(id, _digest(tail), agent, tier, node, machine, now, host, by, rotates)
        self.credentials[id] = made
        return made, f"d3a_{id}_{tail}"

    def _good(self, agent: AgentId) -> list[Credential]:
        return [c for c in self.credentials.values() if c.agent == agent and not c.ended]

    def _end(self, credential: Credential, how: Literal["revoked", "replaced"], now: float, by: str) -> None:
        ended = msgspec.structs.replace(credential, ended=how, ended_s=now, ended_by=by)
        self.credentials[credential.id] = ended

    # ── disk ──────────────────────────────────────────────────────────────────────────────────────

    def encoded(self, now: float) -> bytes:
        """What `write` takes. Of what is over, only the newest are kept."""
        over = [i for i in self.invitations.values() if not _is_open(i, now)]
        for invitation in sorted(over, key=lambda i: i.made_s)[:-_REMEMBERED]:
            del self.invitations[invitation.id]
        ended = [c for c in self.credentials.values() if c.ended]
        for credential in sorted(ended, key=lambda c: c.ended_s)[:-_REMEMBERED]:
            del self.credentials[credential.id]
        file = _File(invitations=list(self.invitations.values()), credentials=list(self.credentials.values()))
        return msgspec.json.format(msgspec.json.encode(file)) + b"\n"

    def write(self, encoded: bytes) -> None:
        """Blocks. Raises `OSError`; the file is then as it was."""
        replace_file(self._path, encoded)


def replace_file(path: Path, content: bytes) -> None:
    """Write a secret file as a whole, mode 0600, or not at all. Blocks. Raises `OSError`."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _digest(tail: str) -> str:
    return hashlib.sha256(tail.encode()).hexdigest()


def _check_credential(found: Credential) -> None:
    if found.ended == "revoked":
        raise Denied(401, f"the credential of {found.agent} was revoked; join again", name=found.agent)
    if found.ended:
        raise Denied(401, f"the credential of {found.agent} was replaced by a newer one", name=found.agent)


def _check_invitation(found: Invitation, now: float) -> None:
    name = f"join token {found.id}"
    if found.revoked:
        raise Denied(401, f"{name} was revoked; ask for another", name=name)
    if found.uses == 0:
        raise Denied(401, f"{name} was used already; ask for another", name=name)
    if found.expires_s is not None and now >= found.expires_s:
        raise Denied(401, f"{name} has expired; ask for another", name=name)


def _is_open(found: Invitation, now: float) -> bool:
    return not found.revoked and found.uses != 0 and (found.expires_s is None or now < found.expires_s)


def _read(path: Path) -> _File:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return _File()
    except (OSError, msgspec.DecodeError, UnicodeError) as error:
        raise ConfigError(
            str(path), "", f"cannot be used ({error})", "restore it, or move it away: all agents join anew"
        ) from error
    if file.format != _FORMAT:
        raise ConfigError(
            str(path), "format", f"{file.format!r} is not {_FORMAT}", "use the d3bed that wrote it"
        )
    return file
