"""Where a certificate comes from: made here, or read from files (for the third way, see `shared.py`)."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aspen.errors import CertificateError
from aspen.identity import sync_directory
from aspen.limits import (
    TLS_FILE_BYTES,
    TLS_SELF_SIGNED_DAYS,
    TLS_SELF_SIGNED_RENEW_DAYS,
)
from aspen.tls.certificates import Bundle, key_pem

log = structlog.get_logger("aspen.tls")

_DAY_S: Final = 86_400
_BACKDATED: Final = datetime.timedelta(hours=1)  # for clients whose clock is slow
_COMMON_NAME_CHARS: Final = 64  # RFC 5280, ub-common-name


class SelfSigned:
    """A certificate no authority vouches for, made by the node and kept in its data directory.

    The key is made once and stays, so that clients can pin it; the certificate is made anew in good
    time before it expires, and when the names change.
    """

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        """`names` are domain names and IP addresses."""
        self._certificate_file = directory / "self-signed.pem"
        self._key_file = directory / "self-signed.key"
        self._names = tuple(dict.fromkeys(name.lower().rstrip(".") for name in names)) or ("localhost",)
        self._bundle: Bundle | None = None

    def load(self, now_s: float) -> Bundle | None:
        """See `Source`. Raises `CertificateError` if the data directory can't be used."""
        if self._bundle is not None and not self._is_due(self._bundle, now_s):
            return None
        try:
            self._bundle = self._stored(now_s) or self._made(now_s)
        except OSError as error:
            raise CertificateError(f"{self._key_file.parent}: {error.strerror}") from None
        return self._bundle

    def _is_due(self, bundle: Bundle, now_s: float) -> bool:
        return bundle.not_after_s - now_s < TLS_SELF_SIGNED_RENEW_DAYS * _DAY_S

    def _stored(self, now_s: float) -> Bundle | None:
        try:
            bundle = Bundle.parse(self._certificate_file.read_bytes(), self._key_file.read_bytes())
        except FileNotFoundError:
            return None
        except CertificateError as error:
            log.warning("the self-signed certificate is made anew", reason=str(error))
            return None
        if self._is_due(bundle, now_s) or set(bundle.names) != set(self._names):
            return None
        return bundle

    def _made(self, now_s: float) -> Bundle:
        self._key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_key = self._key()
        bundle = Bundle((make_self_signed(private_key, self._names, now_s),), private_key)
        replace_file(self._certificate_file, bundle.chain_pem)
        return bundle

    def _key(self) -> ec.EllipticCurvePrivateKey:
        try:
            stored = serialization.load_pem_private_key(self._key_file.read_bytes(), None)
        except (FileNotFoundError, ValueError, TypeError):
            pass
        else:
            if isinstance(stored, ec.EllipticCurvePrivateKey):
                return stored
        private_key = ec.generate_private_key(ec.SECP256R1())
        replace_file(self._key_file, key_pem(private_key))
        return private_key


def make_self_signed(
    private_key: ec.EllipticCurvePrivateKey, names: Sequence[str], now_s: float
) -> x509.Certificate:
    """A server's certificate for `names`, valid for `TLS_SELF_SIGNED_DAYS` (RFC 5280)."""
    begins = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    common = next((name for name in names if len(name) <= _COMMON_NAME_CHARS), "aspen")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - _BACKDATED)
        .not_valid_after(begins + datetime.timedelta(days=TLS_SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private_key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Files:
    """A PEM chain and a PEM key that somebody else looks after (certbot, a configuration tool)."""

    def __init__(self, certificate_file: Path, key_file: Path) -> None:
        self._files = (certificate_file, key_file)
        self._seen: object = None

    def load(self, now_s: float) -> Bundle | None:
        """See `Source`. Two files can't be replaced in one instant: between the two, the key doesn't
        belong, and that is a `CertificateError` until both are there."""
        try:
            seen = tuple(_stamp(file) for file in self._files)
            if seen == self._seen:
                return None
            bundle = Bundle.parse(*(_read_bounded(file) for file in self._files))
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from None
        except CertificateError as error:
            raise CertificateError(f"{self._files[0]}, {self._files[1]}: {error}") from None
        self._seen = seen
        return bundle


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_bounded(file: Path) -> bytes:
    with open(file, "rb") as opened:
        content = opened.read(TLS_FILE_BYTES + 1)
    if len(content) > TLS_FILE_BYTES:
        raise CertificateError(f"{file} is longer than {TLS_FILE_BYTES} bytes")
    return content


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, whole or not at all, on disk before this returns. Raises `OSError`."""
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync_directory(path.parent)
