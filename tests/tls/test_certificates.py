"""Certificates: made by the node, read from files and read again, never replaced by what is broken."""

from __future__ import annotations

import datetime
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from aspen.errors import CertificateError
from aspen.limits import TLS_FILE_BYTES, TLS_SELF_SIGNED_DAYS, TLS_SELF_SIGNED_RENEW_DAYS
from aspen.tls.certificates import Bundle, Certificates
from aspen.tls.sources import Files, SelfSigned, make_self_signed

NOW_S = 1_800_000_000.0
DAY_S = 86_400


def made(*names: str, now_s: float = NOW_S) -> Bundle:
    private_key = ec.generate_private_key(ec.SECP256R1())
    return Bundle((make_self_signed(private_key, names or ("localhost",), now_s),), private_key)


def served(certificates: Certificates) -> bytes:
    """The certificate a client is shown, in DER, by a handshake in memory."""
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["dot"])
    client = context.wrap_bio(client_in, client_out)
    server = certificates.context("dot").wrap_bio(client_out, client_in, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    assert client.selected_alpn_protocol() == "dot"
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def der(bundle: Bundle) -> bytes:
    return bundle.chain[0].public_bytes(serialization.Encoding.DER)


# --- made by the node -------------------------------------------------------------------------


def test_a_self_signed_certificate_outlives_restarts(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    names = ["Node.Example.", "192.0.2.1", "2001:db8::1"]
    first = SelfSigned(directory, names).load(NOW_S)
    assert first is not None
    assert set(first.names) == {"node.example", "192.0.2.1", "2001:db8::1"}
    again = SelfSigned(directory, names).load(NOW_S + DAY_S)
    assert again is not None
    assert der(again) == der(first)
    assert stat.S_IMODE((directory / "self-signed.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_it_is_renewed_in_time_and_keeps_its_key(tmp_path: Path) -> None:
    source = SelfSigned(tmp_path, ["a.example"])
    first = source.load(NOW_S)
    assert first is not None
    assert source.load(NOW_S + DAY_S) is None  # nothing new
    due_s = NOW_S + (TLS_SELF_SIGNED_DAYS - TLS_SELF_SIGNED_RENEW_DAYS) * DAY_S
    assert source.load(due_s - 60) is None
    second = source.load(due_s + 60)
    assert second is not None
    assert second.not_after_s > first.not_after_s
    assert second.chain[0].public_key() == first.chain[0].public_key()  # for those who pin it


def test_other_names_are_another_certificate_with_the_same_key(tmp_path: Path) -> None:
    first = SelfSigned(tmp_path, ["a.example"]).load(NOW_S)
    second = SelfSigned(tmp_path, ["b.example"]).load(NOW_S)
    assert first is not None
    assert second is not None
    assert second.names == ("b.example",)
    assert second.chain[0].public_key() == first.chain[0].public_key()


def test_a_broken_self_signed_file_is_made_anew(tmp_path: Path) -> None:
    SelfSigned(tmp_path, ["a.example"]).load(NOW_S)
    (tmp_path / "self-signed.pem").write_bytes(b"not PEM")
    assert SelfSigned(tmp_path, ["a.example"]).load(NOW_S) is not None
    (tmp_path / "self-signed.key").write_bytes(b"not PEM")
    assert SelfSigned(tmp_path, ["a.example"]).load(NOW_S) is not None


def test_a_data_directory_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateError, match="file"):
        SelfSigned(tmp_path / "file" / "tls", ["a.example"]).load(NOW_S)


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Files]:
    """Writes the two files; each time they are others, as far as `stat` can tell."""
    certificate_file, key_file = tmp_path / "chain.pem", tmp_path / "key.pem"
    count = iter(range(1, 1_000))

    def write(chain: bytes | None = None, key: bytes | None = None) -> Files:
        for file, content in ((certificate_file, chain), (key_file, key)):
            if content is not None:
                file.write_bytes(content)
                os.utime(file, ns=(0, next(count)))
        return Files(certificate_file, key_file)

    return write


def test_files_are_read_again_when_they_change(write: Callable[..., Files]) -> None:
    first, second = made("a.example"), made("b.example")
    source = write(first.chain_pem + made("ca.example").chain_pem, first.key_pem)
    certificates = Certificates(source, wall_s=lambda: NOW_S)
    assert len(certificates.bundle.chain) == 2
    assert served(certificates) == der(first)
    assert not certificates.refresh()
    write(second.chain_pem, second.key_pem)
    assert certificates.refresh()
    assert served(certificates) == der(second)
    assert certificates.not_after_s == NOW_S + TLS_SELF_SIGNED_DAYS * DAY_S
    assert (certificates.loads, certificates.failures) == (2, 0)


def test_what_can_not_be_used_changes_nothing(write: Callable[..., Files]) -> None:
    first, second = made("a.example"), made("b.example")
    certificates = Certificates(write(first.chain_pem, first.key_pem), wall_s=lambda: NOW_S)
    write(chain=second.chain_pem)  # the key comes a moment later
    assert not certificates.refresh()
    assert served(certificates) == der(first)
    write(chain=second.chain_pem[:-50])
    assert not certificates.refresh()
    assert certificates.failures == 2
    write(second.chain_pem, second.key_pem)
    assert certificates.refresh()
    assert served(certificates) == der(second)


def test_a_file_that_vanishes_changes_nothing(write: Callable[..., Files], tmp_path: Path) -> None:
    first = made()
    certificates = Certificates(write(first.chain_pem, first.key_pem), wall_s=lambda: NOW_S)
    (tmp_path / "chain.pem").unlink()
    assert not certificates.refresh()
    assert served(certificates) == der(first)


def test_at_the_start_there_must_be_a_certificate(write: Callable[..., Files], tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"missing\.pem: No such file"):
        Certificates(Files(tmp_path / "missing.pem", tmp_path / "missing.key"))
    one, other = made(), made()
    encrypted = one.private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    for chain, key, reason in (
        (one.chain_pem, other.key_pem, "doesn't belong"),
        (b"", one.key_pem, "not PEM"),
        (one.chain_pem, b"", "not PEM"),
        (one.chain_pem, encrypted, "encrypted"),
        (one.chain_pem * 20, one.key_pem, "more than"),
        (b"x" * (TLS_FILE_BYTES + 1), one.key_pem, "longer than"),
    ):
        with pytest.raises(CertificateError, match=reason):
            Certificates(write(chain, key))


def test_a_key_openssl_finds_too_weak_is_refused(write: Callable[..., Files]) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = rsa.generate_private_key(65_537, 1024)
    certificate = make_self_signed(weak, ["a.example"], NOW_S)  # type: ignore[arg-type]  # signs alike
    source = write(Bundle((certificate,), weak).chain_pem, Bundle((certificate,), weak).key_pem)
    with pytest.raises(CertificateError, match="OpenSSL"):
        Certificates(source).context("dot")


def test_old_versions_of_tls_are_not_spoken(write: Callable[..., Files]) -> None:
    bundle = made(now_s=datetime.datetime.now(datetime.UTC).timestamp())
    context = Certificates(write(bundle.chain_pem, bundle.key_pem)).context("http/1.1")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
