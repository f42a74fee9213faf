"""The node's public certificate: one for HTTPS, DNS over TLS and DNS over QUIC.

A *source* says what the certificate is now (`sources.py`): made by the node, read from files, or
shared by the cluster. `Certificates` looks again every few seconds and, when something changed,
builds new contexts: connections that stand keep what they began with, new ones get the new
certificate. What can't be used (half-written files, a key that doesn't belong) is logged once, and
the certificate before it stays.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from aspen.errors import CertificateError
from aspen.limits import TLS_CHAIN_CERTIFICATES, TLS_REFRESH_MS

log = structlog.get_logger("aspen.tls")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_DAY_S: Final = 86_400
_EXPIRY_LOG_S: Final = 86_400


class Bundle(NamedTuple):
    """A certificate, the ones that vouch for it, and its private key, which belong together."""

    chain: tuple[x509.Certificate, ...]
    """The node's own first."""
    private_key: PrivateKey

    @classmethod
    def parse(cls, chain_pem_untrusted: bytes, key_pem_untrusted: bytes) -> Bundle:
        """Read PEM (RFC 7468). Raises `CertificateError`."""
        try:
            chain = tuple(x509.load_pem_x509_certificates(chain_pem_untrusted))
        except ValueError:
            raise CertificateError("the certificate is not PEM") from None
        if len(chain) > TLS_CHAIN_CERTIFICATES:
            raise CertificateError(f"more than {TLS_CHAIN_CERTIFICATES} certificates in the chain")
        try:
            private_key = serialization.load_pem_private_key(key_pem_untrusted, None)
        except (ValueError, TypeError) as error:  # TypeError: a password is needed
            detail = "it is encrypted" if isinstance(error, TypeError) else "it is not PEM"
            raise CertificateError(f"the private key can't be read: {detail}") from None
        if not isinstance(private_key, PrivateKey):
            raise CertificateError("the private key is neither ECDSA, RSA nor Ed25519")
        if chain[0].public_key() != private_key.public_key():
            raise CertificateError("the private key doesn't belong to the first certificate of the chain")
        return cls(chain, private_key)

    @property
    def chain_pem(self) -> bytes:
        return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in self.chain)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.private_key)

    @property
    def not_before_s(self) -> float:
        return self.chain[0].not_valid_before_utc.timestamp()

    @property
    def not_after_s(self) -> float:
        """Seconds since 1970."""
        return self.chain[0].not_valid_after_utc.timestamp()

    @property
    def names(self) -> tuple[str, ...]:
        """The DNS names and addresses it is for (RFC 5280 §4.2.1.6), as the certificate lists them."""
        try:
            found = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            return ()
        addresses = (str(address) for address in found.get_values_for_type(x509.IPAddress))
        return (*found.get_values_for_type(x509.DNSName), *addresses)


def key_pem(private_key: PrivateKey) -> bytes:
    """PKCS #8, not encrypted: for sealing, or for a file of mode 0600."""
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Source(Protocol):
    """Where the certificate comes from."""

    def load(self, now_s: float) -> Bundle | None:
        """What to serve at wall-clock time `now_s`; None if it is what was loaded last.

        Called on the event loop, so it must be quick. Raises `CertificateError`.
        """
        ...


class Certificates:
    """The certificate served now, and TLS contexts made of it."""

    def __init__(self, source: Source, *, wall_s: Callable[[], float] = time.time) -> None:
        """Raises `CertificateError` if there is nothing to serve."""
        self._source = source
        self._wall_s = wall_s
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        self._task: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._expiry_logged_s = -float("inf")
        self.loads = 0
        """Certificates taken up since the start."""
        self.failures = 0
        """Times that a new certificate could not be used."""
        first = source.load(wall_s())
        if first is None:
            raise CertificateError("there is no certificate")
        self.bundle = first
        self._adopt(first)

    @property
    def not_after_s(self) -> float:
        """When the certificate served expires, in seconds since 1970."""
        return self.bundle.not_after_s

    def context(self, *alpn: str) -> ssl.SSLContext:
        """A server's context for these application protocols, preferred first (RFC 7301).

        Ask for each connection: it is another one after the certificate has changed.
        """
        context = self._contexts.get(alpn)
        if context is None:
            context = self._contexts[alpn] = server_context(self.bundle, alpn)
        return context

    def refresh(self) -> bool:
        """Look at the source again; whether there is a new certificate."""
        try:
            new = self._source.load(self._wall_s())
            if new is not None:
                server_context(new, ())  # OpenSSL must be able to use it before it replaces anything
        except CertificateError as error:
            self.failures += 1
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("certificate not replaced", reason=self._problem)
            return False
        self._problem = None
        if new is not None:
            self._adopt(new)
        self._watch_expiry()
        return new is not None

    def start(self) -> None:
        """Refresh every few seconds from now on."""
        self._task = asyncio.create_task(self._keep_fresh(), name="certificates")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(TLS_REFRESH_MS / 1_000)
            try:
                self.refresh()
            except Exception:
                log.exception("looking for a new certificate failed")

    def _adopt(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._contexts = {}
        self.loads += 1
        log.info(
            "certificate",
            names=list(bundle.names),
            days_left=int((bundle.not_after_s - self._wall_s()) // _DAY_S),
        )

    def _watch_expiry(self) -> None:
        now_s = self._wall_s()
        if now_s > self.not_after_s and now_s - self._expiry_logged_s > _EXPIRY_LOG_S:
            self._expiry_logged_s = now_s
            log.error("the certificate has expired", names=list(self.bundle.names))


def server_context(bundle: Bundle, alpn: Sequence[str]) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 (RFC 9325). Raises `CertificateError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with _readable(bundle.chain_pem + bundle.key_pem) as path:
        try:
            context.load_cert_chain(path)
        except ssl.SSLError as error:
            raise CertificateError(f"OpenSSL can't use the certificate: {error.reason}") from None
    return context


@contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """A path that has this content. It lies in memory: a key is never on disk for OpenSSL's sake."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
