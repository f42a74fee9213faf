"""The certificate of the whole cluster: the leader gets it (`acme.py`), the settings carry it to all.

Until there is one, a node serves a certificate of its own making, so that nothing has to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from aspen.decoding import UNDECODABLE
from aspen.errors import CertificateError
from aspen.limits import ACME_RENEW_PART
from aspen.tls.certificates import Bundle, Source
from aspen.tls.sealed import Box

CERTIFICATE: Final = "tls/certificate"
"""The setting that holds it."""


class Settings(Protocol):
    """The replicated settings, as this node has them."""

    def get(self, name: str) -> bytes | None: ...


class SharedCertificate(msgspec.Struct, frozen=True, array_like=True):
    """What the setting holds, sealed."""

    authority: str
    """URL of the ACME directory."""
    chain_pem: bytes
    key_pem: bytes

    @property
    def bundle(self) -> Bundle:
        """Raises `CertificateError`."""
        return Bundle.parse(self.chain_pem, self.key_pem)


class Shared:
    """A `Source`: the cluster's certificate, else that of `fallback`."""

    def __init__(self, settings: Settings, box: Box, fallback: Source) -> None:
        self._settings = settings
        self._box = box
        self._fallback = fallback
        self._seen: bytes | None = None

    def load(self, now_s: float) -> Bundle | None:
        """See `Source`."""
        sealed = self._settings.get(CERTIFICATE)
        if sealed is None:
            return self._fallback.load(now_s)
        if sealed == self._seen:
            return None
        try:
            bundle = opened(self._box, sealed).bundle
        except CertificateError:
            if self._seen is not None:
                raise
            first = self._fallback.load(now_s)  # at the start anything is better than nothing
            if first is None:
                raise
            return first
        self._seen = sealed
        return bundle


def opened(box: Box, sealed: bytes) -> SharedCertificate:
    """Raises `CertificateError`."""
    try:
        return msgspec.msgpack.decode(box.open(CERTIFICATE, sealed), type=SharedCertificate)
    except UNDECODABLE as error:
        raise CertificateError(f"the setting {CERTIFICATE} can't be read: {error}") from None


def is_due(stored: SharedCertificate, authority: str, domains: Sequence[str], now_s: float) -> bool:
    """Whether another certificate is wanted: for other names, from another authority, or because a part
    of its life only is left (the part that authorities recommend, a third)."""
    try:
        bundle = stored.bundle
    except CertificateError:
        return True
    left = (bundle.not_after_s - now_s) / (bundle.not_after_s - bundle.not_before_s)
    return stored.authority != authority or set(bundle.names) != set(domains) or left < ACME_RENEW_PART
