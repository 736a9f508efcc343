"""Agents are let in, rotated and cut off: credentials, door, audit log and coordinator brought together.

Every change is in memory first, then on disk, then answered; what cannot be written is not let in.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from d3bed.core.ids import AgentId, Tier
from d3bed.core.joining import AGENT_NAME, Joined, JoinRequest, same_machine
from d3bed.core.messages import CredentialKept, NewCredential, Register
from d3bed.server.audit import AUDIT, Audit, AuditRow
from d3bed.server.credentials import Credential, Credentials, Denied, Invitation, replace_file
from d3bed.server.door import Caller, Door
from d3bed.server.events import AgentRevoked, Noted, OrderAgent
from d3bed.server.runner import Runner

if TYPE_CHECKING:  # it needs `cryptography`, which a server without TLS does without
    from d3bed.server.authority import Authority

__all__ = [
    "CloseOrder",
    "CredentialView",
    "InvitationView",
    "Invited",
    "InviteOrder",
    "LoginOrder",
    "Outcome",
    "Trust",
]

_LISTED = 500
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class InviteOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agent` null: any name that is free. `uses` null: any number of boards. `for_s` null: until revoked."""

    agent: _Name | None = None
    uses: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = 1
    for_s: Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)] | None = 3600.0


class Invited(msgspec.Struct, frozen=True):
    """`token` is told this once; `command` is the line to run on the board."""

    id: str
    token: str
    command: str
    expires_s: float | None


class InvitationView(msgspec.Struct, frozen=True):
    id: str
    made_s: float
    by: str
    expires_s: float | None
    uses: int | None
    agent: AgentId | None


class CredentialView(msgspec.Struct, frozen=True):
    """`state`: `good`, `rotating` (the agent has not confirmed its new one yet), `revoked` or `replaced`.
    `used_s`: when the agent last came with it since the server started."""

    id: str
    agent: AgentId
    tier: Tier
    state: str
    made_s: float
    host: str
    by: str
    used_s: float | None = None
    ended_s: float | None = None
    ended_by: str | None = None


class LoginOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: Annotated[str, msgspec.Meta(max_length=300)]


class CloseOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Outcome(msgspec.Struct, frozen=True):
    message: str


class Trust:
    """`data_dir` holds `credentials.json` and `link-secret`. With an `authority` every board gets a
    certificate of its name, and data links are TLS. Raises `ConfigError` for a broken file."""

    def __init__(self, data_dir: Path, token: str | None, authority: Authority | None = None) -> None:
        self.authority = authority
        self.credentials = Credentials(data_dir / "credentials.json")
        self.door = Door(token, self.credentials)
        self._link_secret = data_dir / "link-secret"
        self._writing = asyncio.Lock()
        self._used_s: dict[str, float] = {}
        self._runner: Runner | None = None
        self.audit = Audit(lambda table, row: self.runner.store.put(table, row, urgent=table == "audit"))

    @property
    def runner(self) -> Runner:
        assert self._runner is not None, "used before `attach`"
        return self._runner

    def attach(self, runner: Runner) -> None:
        self._runner = runner

    def now(self) -> float:
        return self.runner.clock()

    # ── the API ───────────────────────────────────────────────────────────────────────────────────

    async def invite(self, body: InviteOrder, caller: Caller, base: str) -> Invited:
        if body.agent is not None:
            _check_name(body.agent)
        now = self.now()
        expires_s = None if body.for_s is None else now + body.for_s
        agent = None if body.agent is None else AgentId(body.agent)
        made, secret = self.credentials.invite(
            now, caller.who, expires_s=expires_s, uses=body.uses, agent=agent
        )
        try:
            await self._save()
        except Denied:
            self.credentials.close_invitation(made.id)
            raise
        pin = f" --ca {self.authority.fingerprint}" if self.authority is not None else ""
        return Invited(made.id, secret, f"d3bed join {base} --token {secret}{pin}", expires_s)

    async def invitations(self) -> list[InvitationView]:
        now = self.now()
        return [
            InvitationView(i.id, i.made_s, i.by, i.expires_s, i.uses, i.agent)
            for i in self.credentials.invitations.values()
            if not i.revoked and i.uses != 0 and (i.expires_s is None or now < i.expires_s)
        ]

    async def close_invitation(self, id: str) -> Outcome:
        if self.credentials.close_invitation(id) is None:
            raise Denied(404, f"there is no join token {id!r}")
        await self._save()
        return Outcome(f"join token {id} lets nobody in any more")

    async def agents(self) -> list[CredentialView]:
        newest = sorted(self.credentials.credentials.values(), key=lambda c: c.made_s, reverse=True)
        return [self._view(credential) for credential in newest[:_LISTED]]

    async def join(self, body: JoinRequest, caller: Caller) -> Joined:
        now, invitation = self.now(), self.credentials.invitations.get(caller.id)
        agent = _joining_name(body, invitation)
        tier = self._tier(agent, body.tier)
        self._check_free(agent, body, caller)
        certificate = self._certificate(agent, body)
        if invitation is not None:
            self.credentials.spend(invitation)
        before = [c for c in self.credentials.credentials.values() if c.agent == agent and not c.ended]
        made, secret = self.credentials.issue(
            now, agent, tier, body.node, body.machine, host=caller.host, by=caller.who
        )
        try:
            await self._save()
        except Denied:
            self.credentials.forget(made)
            for credential in before:
                self.credentials.credentials[credential.id] = credential
            raise
        told = f"{agent} ({tier}), credential {made.id}, host {body.host!r}"
        self.audit.changed(now, caller.who, caller.host, "joined", told)
        self.runner.submit(Noted(f"{agent} ({tier}) got a credential, by {caller.who}"))
        return Joined(agent, tier, secret, certificate)

    async def revoke(self, id: str, caller: Caller) -> Outcome:
        """Cut the agent off now, whatever the disk says; the others prove themselves anew from now on."""
        agent, now = AgentId(id), self.now()
        if not self.credentials.revoke(agent, now, caller.who):
            raise Denied(404, f"{id} has no credential of its own; see the list of them")
        link_secret = secrets.token_hex(24)
        self.runner.submit(AgentRevoked(agent, link_secret, caller.who))
        await self._save()
        await _written(lambda: replace_file(self._link_secret, link_secret.encode() + b"\n"))
        return Outcome(f"{id} is cut off and must join anew")

    async def rotate(self, id: str, caller: Caller) -> Outcome:
        agent = AgentId(id)
        old = self.credentials.current(agent)
        if old is None:
            raise Denied(404, f"{id} has no credential of its own; see the list of them")
        if not self.runner.coordinator.world.is_connected(agent):
            raise Denied(409, f"{id} is not connected: rotate when it is, or revoke")
        made, secret = self.credentials.rotate(old, self.now(), caller.who)
        try:
            await self._save()
        except Denied:
            self.credentials.forget(made)
            raise
        self.runner.submit(OrderAgent(agent, NewCredential(made.id, secret)))
        return Outcome(f"{id} is told its new credential; the old one ends when it has kept that")

    async def log(self) -> list[AuditRow]:
        rows = await self.runner.read(AUDIT, _LISTED)
        return msgspec.convert(rows, list[AuditRow])

    # ── control connections ───────────────────────────────────────────────────────────────────────

    async def admit(self, caller: Caller, register: Register) -> None:
        """Raises `Denied` for an agent that is not the one, or not on the machine, that the credential was
        given to; or that was revoked since it came to the door."""
        if register.tls is not (self.authority is not None):
            told = "TLS" if self.authority is not None else "plain"
            raise self.refusal(caller, 403, f"data links are {told} here: join again (d3bed join)")
        if caller.kind != "agent":
            return
        found = self.credentials.credentials[caller.id]
        if found.ended:
            raise self.refusal(caller, 403, f"the credential of {found.agent} was {found.ended}")
        if register.agent != found.agent:
            raise self.refusal(
                caller, 403, f"this is the credential of {found.agent}, not of {register.agent}"
            )
        if register.tier is not found.tier:
            raise self.refusal(caller, 403, f"{found.agent} joined as {found.tier}, not as {register.tier}")
        if register.node != found.node or not same_machine(found.machine, register.machine):
            raise self._clone(found.agent, caller, register.host)
        self._used_s[found.id] = self.now()
        self.audit.knocked(self.now(), caller.who, caller.host, "connected", f"credential {found.id}", 200)
        if self.credentials.kept(found.id, self.now()):
            await self._save()

    def refusal(self, caller: Caller, status: int, reason: str) -> Denied:
        """To be raised for an agent that came through the door and yet may not stay: it is in the log."""
        self.audit.knocked(self.now(), caller.who, caller.host, "refused", reason, status)
        return Denied(status, reason)

    async def credential_kept(self, caller: Caller, message: CredentialKept) -> None:
        """The agent has written its new credential down: what it came with is over."""
        mine = self.credentials.credentials.get(caller.id)
        new = self.credentials.credentials.get(message.id)
        if mine is None or new is None or mine.agent != new.agent:
            return
        if self.credentials.kept(new.id, self.now()):
            self.audit.changed(self.now(), caller.who, caller.host, "rotated", f"{mine.id} → {new.id}")
            self.runner.submit(Noted(f"{new.agent} has a new credential"))
            await self._save()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _tier(self, agent: AgentId, wanted: Tier | None) -> Tier:
        pipelines = self.runner.coordinator.pipelines.values()
        configured = next((p.settings.tiers[agent] for p in pipelines if agent in p.settings.tiers), None)
        if configured is None and wanted is None:
            raise Denied(400, f"the server's config does not name {agent}: give --tier device, edge or cloud")
        if configured is not None and wanted not in (None, configured):
            raise Denied(409, f"{agent} is configured as {configured}, not as {wanted}")
        tier = configured or wanted
        assert tier is not None
        return tier

    def _certificate(self, agent: AgentId, body: JoinRequest) -> str | None:
        if self.authority is None:
            return None
        if body.request is None:
            raise Denied(400, "this server speaks TLS: the board needs pip install 'd3bed[tls]'")
        return self.authority.sign_agent(agent, body.request)

    def _check_free(self, agent: AgentId, body: JoinRequest, caller: Caller) -> None:
        """Raises `Denied` for a copied identity, or a name that another board has."""
        for credential in self.credentials.credentials.values():
            if credential.ended or credential.node != body.node:
                continue
            if not same_machine(credential.machine, body.machine):
                raise self._clone(credential.agent, caller, body.host)
        current = self.credentials.current(agent)
        if current is not None and current.node != body.node:
            raise Denied(
                409,
                f"another board has joined as {agent}; choose another --name,"
                f" or end that one first: d3bed agents revoke {agent}",
            )

    def _clone(self, agent: AgentId, caller: Caller, host: str) -> Denied:
        reason = f"a copy of {agent} on another machine: join there anew, by another name (d3bed join)"
        if self.audit.knocked(self.now(), caller.who, caller.host, "refused", reason, 403):
            text = f"{host} ({caller.host}) came with a copy of the identity of {agent}, and was refused"
            self.runner.submit(Noted(text, "warn"))
        return Denied(403, reason)

    def _view(self, credential: Credential) -> CredentialView:
        return CredentialView(
            credential.id,
            credential.agent,
            credential.tier,
            credential.ended or ("rotating" if credential.rotates else "good"),
            credential.made_s,
            credential.host,
            credential.by,
            self._used_s.get(credential.id),
            credential.ended_s or None,
            credential.ended_by or None,
        )

    async def _save(self) -> None:
        """Put what is in memory on disk. Raises `Denied` if that fails."""
        async with self._writing:
            encoded = self.credentials.encoded(self.now())
            await _written(lambda: self.credentials.write(encoded))


async def _written(write: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(write)
    except OSError as error:
        raise Denied(503, f"this cannot be written to the server's disk ({error.strerror})") from error


def _check_name(name: str) -> AgentId:
    if not AGENT_NAME.fullmatch(name):
        raise Denied(400, f"agent: {name!r} is not a name; use letters, digits, - and _")
    return AgentId(name)


def _joining_name(body: JoinRequest, invitation: Invitation | None) -> AgentId:
    """What the board asks to be called, else what the token is for, else its host's name."""
    if invitation is not None and invitation.agent is not None:
        if body.agent not in (None, invitation.agent):
            raise Denied(403, f"this join token is for {invitation.agent}, not for {body.agent}")
        return invitation.agent
    return _check_name(body.agent if body.agent is not None else body.host)
