"""Whole messages: RFC 1035 §4.1; known RDATA by each type's RFC; unknown types RFC 3597 §3."""

from __future__ import annotations

from collections.abc import Callable

import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.dns.message import validate_message
from aspen.errors import DnsWireError

ALL_TYPES = """
@ 300 A 192.0.2.1
@ 300 NS ns.KEY.
@ 300 SOA ns.KEY. root.KEY. 1 2 3 4 5
a 300 CNAME KEY.
@ 300 PTR KEY.
@ 300 HINFO "cpu" "os"
@ 300 MX 10 mail.KEY.
@ 300 TXT "one" "two"
@ 300 RP a.KEY. b.KEY.
@ 300 AFSDB 1 a.KEY.
@ 300 X25 "311061700956"
@ 300 RT 1 a.KEY.
@ 300 GPOS "-32.6882" "116.8652" "10.0"
@ 300 AAAA 2001:db8::1
@ 300 LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
_s._tcp 300 SRV 0 5 80 a.KEY.
@ 300 NAPTR 100 10 "S" "SIP+D2U" "" _sip._udp.KEY.
@ 300 KX 1 a.KEY.
d 300 DNAME other.example.
@ 300 DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118
@ 300 SSHFP 2 1 123456789abcdef67890123456789abcdef67890
@ 300 RRSIG A 5 3 86400 20300101000000 20200101000000 2642 KEY. oJB1W6WNGv+ldvQ3WDG0MQkg5IEhjRip8WTr
@ 300 NSEC a.KEY. A MX RRSIG NSEC
@ 300 DNSKEY 256 3 5 AQPSKmynfzW4kyBv015MUG2DeIQ3
@ 300 TLSA 3 1 0 d2abde240d7cd3ee6b4b28c54df034b9
@ 300 SVCB 1 a.KEY. alpn=h2,h3 port=8443
@ 300 HTTPS 0 a.KEY.
@ 300 URI 10 1 "ftp://ftp1.example.com/public"
@ 300 CAA 0 issue "ca.example.net"
@ 300 TYPE65280 \\# 3 010203
"""


@pytest.mark.parametrize("compress", [True, False])
def test_every_type_dnspython_writes_is_valid(packet: Callable[..., bytes], compress: bool) -> None:
    validate_message(packet(ALL_TYPES, authority="@ 300 NS ns.KEY.", compress=compress))


def test_what_dnslib_writes_is_valid(z32: str) -> None:
    record = dnslib.DNSRecord(dnslib.DNSHeader(qr=1), q=dnslib.DNSQuestion(f"{z32}."))
    record.add_answer(*dnslib.RR.fromZone(f'{z32}. 60 IN TXT "a" "b"\n{z32}. 60 IN MX 10 a.{z32}.'))
    record.add_ar(dnslib.EDNS0(udp_len=1232))
    validate_message(record.pack())


def record(rrtype: int, rdata: bytes, *, section: int = 1, extra: bytes = b"") -> bytes:
    counts = [0, 0, 0, 0]
    counts[section] = 1
    header = bytes(4) + b"".join(count.to_bytes(2, "big") for count in counts)
    fixed = rrtype.to_bytes(2, "big") + b"\x00\x01" + bytes(4) + len(rdata).to_bytes(2, "big")
    return header + b"\x01a\x00" + fixed + rdata + extra


@pytest.mark.parametrize("section", [1, 2, 3])
@pytest.mark.parametrize(
    ("rrtype", "good", "bad"),
    [
        (1, [bytes(4)], [b"", bytes(3), bytes(5)]),
        (28, [bytes(16)], [bytes(4), bytes(17)]),
        (5, [b"\x00", b"\xc0\x0c"], [b"", b"\x01a", b"\x00\x00", b"\xc0\xff"]),
        (6, [b"\x00\x00" + bytes(20)], [b"\x00" + bytes(20), b"\x00\x00" + bytes(21)]),
        (13, [b"\x01a\x00"], [b"\x01a", b"\x02a\x00"]),
        (15, [b"\x00\x01\x00"], [b"\x00\x01", b"\x00"]),
        (16, [b"\x00", b"\x01a\x02bc"], [b"", b"\x02a", b"\x01ab"]),
        (33, [bytes(7)], [bytes(6), bytes(8)]),
        (35, [bytes(4) + b"\x00\x00\x00\x00"], [bytes(7)]),
        (43, [bytes(4)], [bytes(3)]),
        (
            65,
            [b"\x00\x01\x00", b"\x00\x01\x00\x00\x03\x00\x02\x01\xbb"],
            [b"\x00\x01\x00\x00\x03\x00\x03\x01\xbb"],
        ),
        (64, [b"\x00\x01\x00" + bytes(4)], [b"\x00\x01\x00" + bytes(8), b"\x00\x01\x00\x00"]),  # a key twice
        (257, [b"\x00\x05issueca"], [b"\x00\x06issue", b"\x00"]),
        (41, [b"", b"\x00\x0a\x00\x01x"], [b"\x00", b"\x00\x0a\x00\x02x"]),
        (65_280, [b"", b"anything"], []),
        (10, [b"", b"\xff"], []),
    ],
)
def test_rdata_has_its_types_fields(rrtype: int, good: list[bytes], bad: list[bytes], section: int) -> None:
    for rdata in good:
        validate_message(record(rrtype, rdata, section=section))
    for rdata in bad:
        with pytest.raises(DnsWireError):
            validate_message(record(rrtype, rdata, section=section))


def test_rfc1035_4_1_nothing_stands_after_the_end() -> None:
    with pytest.raises(DnsWireError, match="after the end"):
        validate_message(record(1, bytes(4), extra=b"\x00"))


def test_rfc1035_4_1_1_counts_are_kept() -> None:
    with pytest.raises(DnsWireError):
        validate_message(bytes(5) + b"\x01" + bytes(6))
    with pytest.raises(DnsWireError):
        validate_message(bytes(7) + b"\x01" + bytes(4))
    with pytest.raises(DnsWireError):
        validate_message(bytes(11))
    validate_message(bytes(12))


@given(st.binary(max_size=100))
def test_any_octets_validate_or_raise(data: bytes) -> None:
    try:
        validate_message(data)
    except DnsWireError:
        pass


@settings(max_examples=300)
@given(st.data())
def test_mutated_messages_validate_or_raise(packet_of_all_types: bytes, data: st.DataObject) -> None:
    message = bytearray(packet_of_all_types)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        validate_message(bytes(message))
    except DnsWireError:
        pass


@pytest.fixture(scope="module")
def packet_of_all_types() -> bytes:
    record = dnslib.DNSRecord(dnslib.DNSHeader(qr=1))
    zone = (
        "k. 60 IN A 1.2.3.4\nk. 60 IN MX 1 a.k.\nk. 60 IN TXT x\nk. 60 IN SRV 1 2 3 a.k.\nb. 60 IN CNAME k."
    )
    record.add_answer(*dnslib.RR.fromZone(zone))
    return bytes(record.pack())
