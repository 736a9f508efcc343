"""The server's own certificate authority: small, made on the first start with TLS, trusted by nobody else.

It signs the server's certificate, for the names and addresses that the server is reached by, and one for
each agent that joins, which names the agent and no host: an agent's certificate is no server's. Keys are
P-256; the folder has mode 0700. Needs the package `cryptography`; nothing here is our own cryptography.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from d3bed.core.errors import ConfigError
from d3bed.server.credentials import Denied, replace_file

__all__ = ["Authority", "own_names"]

_SHA256 = hashes.SHA256()
_AUTHORITY_DAYS, _DAYS = 3650, 397
#: A server's certificate that ends sooner is made anew at a start.
_RENEW_DAYS = 30
#: Boards without a clock of their own may be behind when they start.
_EARLIER = datetime.timedelta(days=1)


class Authority:
    """Reads the folder, or makes what is missing. Raises `ConfigError` for files that cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate_file = folder / "ca.pem"
        self.server_file = folder / "server.pem"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.certificate_file.exists():
                self._make()
            self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
            key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                str(folder), "", f"cannot be used ({error})", "restore it, or move it away: all join anew"
            ) from error
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != self._certificate.public_key()
        ):
            raise ConfigError(str(folder), "ca-key.pem", "is not the key of ca.pem", "restore both together")
        self._key = key

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the authority's certificate, as hex: what a board that joins is told beforehand."""
        return self._certificate.fingerprint(_SHA256).hex()

    def serve_as(self, names: frozenset[str]) -> Path:
        """The file with the server's key and certificate; made anew if it ends soon or lacks a name."""
        with contextlib.suppress(OSError, ValueError, x509.ExtensionNotFound, InvalidSignature, TypeError):
            found = x509.load_pem_x509_certificate(self.server_file.read_bytes())
            found.verify_directly_issued_by(self._certificate)
            known = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            has = {
                str(name)
                for kind in (x509.DNSName, x509.IPAddress)
                for name in known.get_values_for_type(kind)
            }
            left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
            if names <= has and left > datetime.timedelta(days=_RENEW_DAYS):
                return self.server_file
        key = ec.generate_private_key(ec.SECP256R1())
        shown = x509.SubjectAlternativeName([_general(name) for name in sorted(names)])
        made = self._sign(key.public_key(), "d3bed server", [shown], [ExtendedKeyUsageOID.SERVER_AUTH])
        replace_file(self.server_file, _private(key) + made)
        return self.server_file

    def sign_agent(self, agent: str, request: str) -> str:
        """A certificate (PEM) for the key of a signing request (PEM); its name is `agent`, whatever that asks
        for. Raises `Denied` for what is not a sound request."""
        try:
            asked = x509.load_pem_x509_csr(request.encode())
            key = asked.public_key()
            sound = asked.is_signature_valid
        except (ValueError, TypeError) as error:
            raise Denied(400, f"request: not a certificate signing request ({error})") from error
        if not sound or not isinstance(key, ec.EllipticCurvePublicKey):
            raise Denied(400, "request: must be for an elliptic-curve key, and signed by it")
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        return self._sign(key, agent, [], both).decode()

    # ── inside ────────────────────────────────────────────────────────────────────────────────────

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"d3bed authority of {socket.gethostname()}"[:64])
        builder = _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=False, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )  # fmt: skip
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        made = builder.add_extension(identifier, critical=False).sign(key, _SHA256)
        replace_file(self._folder / "ca-key.pem", _private(key))
        replace_file(self.certificate_file, made.public_bytes(serialization.Encoding.PEM))

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        more: list[x509.ExtensionType],
        uses: list[x509.ObjectIdentifier],
    ) -> bytes:
        builder = _builder(_name(name), self._certificate.subject, key, _DAYS)
        extensions: list[x509.ExtensionType] = [
            *more,
            x509.ExtendedKeyUsage(uses),
            x509.BasicConstraints(ca=False, path_length=None),
            x509.SubjectKeyIdentifier.from_public_key(key),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
        ]
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, _SHA256).public_bytes(serialization.Encoding.PEM)


def own_names(*given: str) -> frozenset[str]:
    """What this machine is reached by: its host name, its addresses, loopback, and what the user gives."""
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *given}
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family in (socket.AF_INET, socket.AF_INET6):
                names.add(address.address.partition("%")[0])
    return frozenset(name for name in names if name and name not in ("0.0.0.0", "::"))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _EARLIER)
    return builder.not_valid_after(now + datetime.timedelta(days=days))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
