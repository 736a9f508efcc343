"""How two agents prove to each other that they know the link secret, without telling it.

    connector                                acceptor
    Hello(names, nonce a)        ──▶
                                 ◀──         Challenge(nonce b)
    Proof(HMAC "connector")      ──▶
                                 ◀──         Accepted(HMAC "acceptor")

The HMAC-SHA256 covers the role, all names and both nonces, so a proof that was overheard fits neither
another connection nor the other direction. Secrets are compared in constant time. Pure: nonces are
passed in, bytes are `wire`'s business.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from d3bed.core.ids import AgentId, PipelineId
from d3bed.net.codec import (
    VERSION,
    Accepted,
    Breach,
    Challenge,
    Hello,
    Proof,
    WireViolation,
)

__all__ = ["NONCE_BYTES", "Acceptance", "Introduction", "is_of_another"]

NONCE_BYTES = 16


def _digest(secret: bytes, role: str, hello: Hello, challenge: Challenge) -> bytes:
    said = ("d3bed link", VERSION, role, hello, challenge)
    return hmac.digest(secret, msgspec.msgpack.encode(said), hashlib.sha256)


def is_of_another(refusal: str, peer: str) -> bool:
    """Whether it is a refusal because somebody else than `peer` listens there; see `Acceptance.greeted`."""
    return refusal.endswith(f", not {peer}")


class Introduction:
    """The connecting side."""

    def __init__(
        self, me: AgentId, peer: AgentId, pipeline: PipelineId, secret: bytes, nonce: bytes, latency_s: float
    ) -> None:
        self.hello = Hello(me, peer, pipeline, nonce, float(latency_s))
        self._secret = secret
        self._challenge: Challenge | None = None

    def challenged(self, challenge: Challenge) -> Proof:
        self._challenge = challenge
        return Proof(_digest(self._secret, "connector", self.hello, challenge))

    def accepted(self, accepted: Accepted) -> None:
        """Raises `WireViolation` if the peer does not know the secret either."""
        assert self._challenge is not None  # the state table lets Accepted come only after it
        expected = _digest(self._secret, "acceptor", self.hello, self._challenge)
        if not hmac.compare_digest(expected, accepted.digest):
            raise WireViolation(Breach.PROOF, f"{self.hello.receiver} could not prove itself")


class Acceptance:
    """The accepting side; `secret` None or empty refuses everybody."""

    def __init__(self, me: AgentId, secret: bytes | None, nonce: bytes) -> None:
        self._me, self._secret = me, secret
        self._challenge = Challenge(nonce)
        self._hello: Hello | None = None

    def greeted(self, hello: Hello) -> Challenge:
        """Raises `WireViolation` if the peer looks for somebody else or we have no secret yet."""
        if hello.receiver != self._me:
            raise WireViolation(Breach.RECEIVER, f"this is {self._me}, not {hello.receiver}")
        if not self._secret:
            raise WireViolation(Breach.SECRET, f"{self._me} is not registered yet")
        self._hello = hello
        return self._challenge

    def proved(self, proof: Proof) -> tuple[Hello, Accepted]:
        """Who it is, and our own proof. Raises `WireViolation` on a wrong proof."""
        assert self._hello is not None and self._secret  # the state table: Proof comes after Hello
        expected = _digest(self._secret, "connector", self._hello, self._challenge)
        if not hmac.compare_digest(expected, proof.digest):
            raise WireViolation(Breach.PROOF, f"{self._hello.sender} does not know the link secret")
        return self._hello, Accepted(_digest(self._secret, "acceptor", self._hello, self._challenge))
