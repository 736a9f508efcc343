"""Examines a testbed: asks every agent to check its planned links, one after the other, and has it diagnosed.

One examination at a time. Agents that are not connected, or do not answer in time, are findings, not errors.
"""

from __future__ import annotations

import asyncio
import itertools
import time

import msgspec

from d3bed import __version__
from d3bed.core.checks import LinkCheck
from d3bed.core.ids import AgentId
from d3bed.core.measurements import LinkShape
from d3bed.core.messages import CheckLinks, LinksChecked, Peer
from d3bed.server.diagnosis import Finding, Patient, diagnose
from d3bed.server.events import OrderAgent
from d3bed.server.pipeline import Pipeline
from d3bed.server.runner import Runner

__all__ = ["Doctor", "Examination"]

#: What an agent may take for each of its links, and besides.
LINK_S, AGENT_S = 16.0, 4.0


class Examination(msgspec.Struct, frozen=True):
    """`checks`: by agent, what it found out about its links; `findings` what that means."""

    at_s: float
    took_s: float
    findings: tuple[Finding, ...]
    checks: dict[AgentId, tuple[LinkCheck, ...]]

    @property
    def well(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)


class Doctor:
    """`checked` must hear what agents answer."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[AgentId, int], asyncio.Future[tuple[LinksChecked, float]]] = {}
        self._examining = asyncio.Lock()
        self.last: Examination | None = None

    async def examine(self) -> Examination:
        async with self._examining:
            began_s = time.monotonic()
            patients: list[Patient] = []
            shapes: dict[tuple[AgentId, AgentId], LinkShape] = {}
            for pipe in self._runner.coordinator.pipelines.values():
                for agent in pipe.settings.tiers:
                    if agent in {patient.agent for patient in patients}:
                        continue
                    peers = self._peers(pipe, agent)
                    shapes |= {(agent, peer.agent): peer.shape for peer in peers if peer.shape}
                    patients.append(await self._patient(pipe, agent, peers))
            findings = diagnose(patients, shapes, version=__version__)
            checks = {patient.agent: patient.checks or () for patient in patients}
            took_s = time.monotonic() - began_s
            self.last = Examination(self._runner.clock(), took_s, findings, checks)
            return self.last

    def checked(self, agent: AgentId, message: LinksChecked) -> None:
        """What an agent answered; too late, or never asked for, is let go."""
        waiting = self._waiting.get((agent, message.number))
        if waiting is not None and not waiting.done():
            waiting.set_result((message, time.time()))

    async def _patient(self, pipe: Pipeline, agent: AgentId, peers: tuple[Peer, ...]) -> Patient:
        settings, world = pipe.settings, self._runner.coordinator.world
        tier, model = settings.tiers[agent], (pipe.target.model if pipe.target else settings.model)
        if not world.is_connected(agent):
            return Patient(agent, tier, False)
        record = world.agents[agent]
        register, times_s = record.register, record.times_s(model)
        loaded = record.loaded.get(model)
        patient = Patient(
            agent,
            tier,
            True,
            host=register.host,
            address=register.data_address,
            version=register.version,
            model=model.name,
            loaded=loaded is not None,
            fingerprint=loaded.fingerprint if loaded is not None else "",
            infer_s=sum(times_s) if times_s is not None else None,
            board=record.board,
        )
        asked_s = time.time()
        answered = await self._ask(agent, peers)
        if answered is None:
            return patient
        message, heard_s = answered
        # It read its clock when the question came and when it answered: both within this exchange.
        took_s = message.clock_s[1] - message.clock_s[0]
        error_s = max(0.0, (heard_s - asked_s - took_s) / 2)
        clock_s = (message.clock_s[0] - asked_s + message.clock_s[1] - heard_s) / 2
        known = {peer.agent for peer in peers}
        checks = tuple(check for check in message.checks if check.peer in known)
        return msgspec.structs.replace(patient, clock_s=clock_s, clock_error_s=error_s, checks=checks)

    async def _ask(self, agent: AgentId, peers: tuple[Peer, ...]) -> tuple[LinksChecked, float] | None:
        number = next(self._numbers)
        answer: asyncio.Future[tuple[LinksChecked, float]] = asyncio.get_running_loop().create_future()
        self._waiting[agent, number] = answer
        try:
            self._runner.submit(OrderAgent(agent, CheckLinks(number, peers)))
            async with asyncio.timeout(AGENT_S + LINK_S * len(peers)):
                while not answer.done() and self._runner.coordinator.world.is_connected(agent):
                    await asyncio.wait({answer}, timeout=0.5)
            return answer.result() if answer.done() else None
        except TimeoutError:
            return None
        finally:
            del self._waiting[agent, number]

    def _peers(self, pipe: Pipeline, agent: AgentId) -> tuple[Peer, ...]:
        """Whom a plan may have it send to, and who is there."""
        world = self._runner.coordinator.world
        members = {a: tier for a, tier in pipe.settings.tiers.items() if world.is_connected(a)}
        if agent not in members:
            return ()
        return tuple(
            Peer(
                other,
                members[other],
                world.agents[other].register.data_address,
                pipe.settings.shape(members[agent], members[other]),
                world.ways.of(agent, other),
            )
            for other in pipe.settings.neighbours(agent, members)
        )
