"""The certificate says which identity key answers, and nothing else."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from aspen.identity import Identity
from aspen.net.certificate import certified_key, make_certificate


def test_it_carries_the_identity_key_and_is_signed_by_it():
    identity = Identity.generate()
    certificate, private_key = make_certificate(identity)
    assert certified_key(certificate) == identity.endpoint_id
    assert private_key.private_bytes_raw() == identity.seed
    certificate.verify_directly_issued_by(certificate)


def test_it_is_the_same_each_time():
    identity = Identity.generate()
    assert make_certificate(identity)[0] == make_certificate(identity)[0]


def test_a_certificate_with_another_kind_of_key_names_no_endpoint():
    certificate, _ = make_certificate(Identity.generate())
    other = ec.generate_private_key(ec.SECP256R1())
    built = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .public_key(other.public_key())
        .serial_number(1)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    assert certified_key(built.sign(other, hashes.SHA256())) is None
