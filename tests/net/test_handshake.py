from __future__ import annotations

import pytest

from d3bed.core.ids import AgentId, PipelineId
from d3bed.net.codec import Accepted, Breach, Challenge, Hello, Proof, WireViolation
from d3bed.net.handshake import Acceptance, Introduction

DEVICE, EDGE, PIPELINE = AgentId("pi-1"), AgentId("edge-1"), PipelineId("main")
SECRET = b"secret"


def introduction(secret: bytes = SECRET, peer: AgentId = EDGE, nonce: bytes = bytes(16)) -> Introduction:
    return Introduction(DEVICE, peer, PIPELINE, secret, nonce, 0)


def test_both_sides_prove_themselves() -> None:
    connector, acceptor = introduction(), Acceptance(EDGE, SECRET, bytes(range(16)))
    hello, accepted = acceptor.proved(connector.challenged(acceptor.greeted(connector.hello)))
    connector.accepted(accepted)
    assert hello.origin == (DEVICE, PIPELINE)


def test_secret_is_never_told() -> None:
    connector, acceptor = introduction(b"hunter2hunter2"), Acceptance(EDGE, b"hunter2hunter2", bytes(16))
    challenge = acceptor.greeted(connector.hello)
    proof = connector.challenged(challenge)
    _, accepted = acceptor.proved(proof)
    said = repr((connector.hello, challenge, proof, accepted))
    assert "hunter2" not in said


def test_wrong_secret_is_refused() -> None:
    connector, acceptor = introduction(b"guess"), Acceptance(EDGE, SECRET, bytes(16))
    with pytest.raises(WireViolation, match="does not know the link secret") as caught:
        acceptor.proved(connector.challenged(acceptor.greeted(connector.hello)))
    assert caught.value.breach is Breach.PROOF


def test_overheard_proof_does_not_fit_another_challenge() -> None:
    connector = introduction()
    first = Acceptance(EDGE, SECRET, b"a" * 16)
    proof = connector.challenged(first.greeted(connector.hello))
    second = Acceptance(EDGE, SECRET, b"b" * 16)
    second.greeted(connector.hello)
    with pytest.raises(WireViolation):
        second.proved(proof)
    assert first.proved(proof)[0] == connector.hello


def test_proof_cannot_be_reflected_as_acceptance() -> None:
    connector = introduction()
    proof = connector.challenged(Challenge(bytes(16)))
    with pytest.raises(WireViolation, match="could not prove itself"):
        connector.accepted(Accepted(proof.digest))


@pytest.mark.parametrize("field", ["sender", "pipeline", "nonce", "latency_s"])
def test_proof_covers_all_that_was_said(field: str) -> None:
    connector, acceptor = introduction(), Acceptance(EDGE, SECRET, bytes(16))
    changed = {
        "sender": Hello("pi-2", EDGE, PIPELINE, bytes(16)),
        "pipeline": Hello(DEVICE, EDGE, "other", bytes(16)),
        "nonce": Hello(DEVICE, EDGE, PIPELINE, b"x" * 16),
        "latency_s": Hello(DEVICE, EDGE, PIPELINE, bytes(16), 1.0),
    }[field]
    with pytest.raises(WireViolation):
        acceptor.proved(connector.challenged(acceptor.greeted(changed)))
    assert changed != connector.hello


def test_wrong_receiver_is_refused() -> None:
    with pytest.raises(WireViolation, match="this is edge-1, not edge-2") as caught:
        Acceptance(EDGE, SECRET, bytes(16)).greeted(introduction(peer=AgentId("edge-2")).hello)
    assert caught.value.breach is Breach.RECEIVER


@pytest.mark.parametrize("secret", [None, b""])
def test_without_a_secret_everybody_is_refused(secret: bytes | None) -> None:
    with pytest.raises(WireViolation, match="not registered yet"):
        Acceptance(EDGE, secret, bytes(16)).greeted(introduction().hello)


def test_random_digest_is_refused() -> None:
    acceptor = Acceptance(EDGE, SECRET, bytes(16))
    acceptor.greeted(introduction().hello)
    with pytest.raises(WireViolation):
        acceptor.proved(Proof(bytes(32)))
