"""The certificate a node answers QUIC with (RFC 8446 §4.4.2, RFC 8410).

QUIC can't do without a certificate, but this one carries nothing except the node's identity key:
self-signed, valid for ever, its names ignored. The dialler knows which key it dialled and compares
that key alone; TLS proves that the server holds it. There is no authority to ask or to steal.
"""

from __future__ import annotations

import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from aspen.identity import EndpointId, Identity

_NOT_BEFORE: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)  # RFC 5280 §4.1.2.5


def make_certificate(identity: Identity) -> tuple[x509.Certificate, Ed25519PrivateKey]:
    """The node's certificate and the private key that goes with it. The same bytes every time."""
    private_key = Ed25519PrivateKey.from_private_bytes(identity.seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.z32)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(private_key, None)
    )
    return certificate, private_key


def certified_key(certificate: x509.Certificate) -> EndpointId | None:
    """The Ed25519 key a certificate carries, or None if it carries another kind."""
    try:
        key = certificate.public_key()
    except ValueError:
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None
