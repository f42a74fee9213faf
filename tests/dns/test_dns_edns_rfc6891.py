"""Form of queries and EDNS: RFC 1035 §4.1.1, RFC 6891 §6–7, RFC 3225 §3, RFC 6895 §2–3."""

from __future__ import annotations

from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from aspen.dns.respond import Transport
from aspen.limits import DNS_QUERY_BYTES

OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"  # root, OPT, 1232, version 0, no flags, no options


def query(
    z32: str, *, qtype: int = 1, qclass: int = 1, additional: bytes = b"", count: int | None = None
) -> bytes:
    """`<z32>.aspen.local` by hand, so that anything can be wrong with it."""
    header = b"\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00"
    count = (1 if additional else 0) if count is None else count
    question = b"\x34" + z32.encode() + b"\x05aspen\x05local\x00"
    fixed = qtype.to_bytes(2, "big") + qclass.to_bytes(2, "big")
    return header + count.to_bytes(2, "big") + question + fixed + additional


def assert_header_only(reply: bytes | None, rcode: int) -> None:
    """Only the header, saying which query it means: what was asked may not even be readable."""
    assert reply is not None
    assert len(reply) == 12
    assert reply[:2] == b"\xab\xcd"
    assert reply[2] & 0x80
    assert reply[3] & 15 == rcode
    assert reply[4:] == bytes(8)


def test_rfc1035_4_1_1_answers_and_scraps_are_met_with_silence(served: Any, z32: str) -> None:
    good = query(z32)
    assert served.ask_wire(good[:2] + b"\x81" + good[3:]) is None
    for size in range(12):
        assert served.ask_wire(good[:size]) is None


@pytest.mark.parametrize("opcode", range(1, 16))
def test_rfc1035_4_1_1_other_opcodes_are_not_implemented(served: Any, z32: str, opcode: int) -> None:
    good = query(z32)
    reply = served.ask_wire(good[:2] + bytes((opcode << 3 | 1,)) + good[3:])
    assert_header_only(reply, dns.rcode.NOTIMP)
    assert reply[2] == 0x80 | opcode << 3 | 1
    assert_header_only(served.ask_wire(good[:2] + bytes((opcode << 3,)) + good[3:12]), dns.rcode.NOTIMP)


def test_rfc1035_4_1_what_is_malformed_is_said_to_be(served: Any, z32: str) -> None:
    good = query(z32, additional=OPT)
    assert served.ask_wire(good) is not None
    for end in range(12, len(good)):
        assert_header_only(served.ask_wire(good[:end]), dns.rcode.FORMERR)
    assert_header_only(served.ask_wire(good + b"\x00"), dns.rcode.FORMERR)
    for questions in (0, 2, 0xFFFF):
        bad = good[:4] + questions.to_bytes(2, "big") + good[6:]
        assert_header_only(served.ask_wire(bad), dns.rcode.FORMERR)
    looped = good[:12] + b"\xc0\x0c" + good[-15:]
    assert_header_only(served.ask_wire(looped), dns.rcode.FORMERR)
    padding = b"\x00\x0c\x10\x00" + bytes(DNS_QUERY_BYTES)
    overlong = query(z32, additional=OPT[:-2] + len(padding).to_bytes(2, "big") + padding)
    assert_header_only(served.ask_wire(overlong), dns.rcode.FORMERR)


@pytest.mark.parametrize(
    ("additional", "count"),
    [
        (OPT + OPT, 2),  # two of them
        (b"\x01a" + OPT, 1),  # not owned by the root
        (b"\xc0\x0c" + OPT[1:], 1),
        (OPT[:-2] + b"\x00\x01\x00", 1),  # an option's header cut off
        (OPT[:-2] + b"\x00\x05\x00\x0a\x00\x02x", 1),  # an option longer than the record
        (OPT[:-2] + b"\x00\x01", 1),  # a record longer than the message
        (OPT, 2),
        (OPT, 0),
    ],
)
def test_rfc6891_6_1_a_bad_opt_is_a_format_error(
    served: Any, z32: str, additional: bytes, count: int
) -> None:
    assert_header_only(served.ask_wire(query(z32, additional=additional, count=count)), dns.rcode.FORMERR)


def test_rfc6891_6_1_1_opt_belongs_into_the_additional_section(served: Any, z32: str) -> None:
    good = query(z32, additional=OPT)
    for section in (6, 8):
        moved = good[:section] + b"\x00\x01" + good[section + 2 : 10] + bytes(2) + good[12:]
        assert_header_only(served.ask_wire(moved), dns.rcode.FORMERR)


def test_rfc1995_3_records_in_other_sections_are_ignored(served: Any, z32: str) -> None:
    soa = b"\xc0\x0c\x00\x06\x00\x01" + bytes(4) + b"\x00\x16" + bytes(22)
    good = query(z32, additional=soa + OPT, count=1)
    reply = dns.message.from_wire(served.ask_wire(good[:8] + b"\x00\x01" + good[10:]))
    assert reply.rcode() == dns.rcode.NOERROR
    assert len(reply.answer) == 1
    assert reply.opt is not None


def test_rfc6891_7_opt_is_answered_with_opt_and_only_then(served: Any, z32: str) -> None:
    for name, rcode in ((z32 + ".aspen.local", 0), ("x.aspen.local", 3), ("example.", 5)):
        plain = served.ask(name, "A")
        assert plain.opt is None
        with_edns = served.ask(name, "A", use_edns=0)
        assert with_edns.opt is not None
        assert (with_edns.edns, with_edns.payload, with_edns.rcode()) == (0, 1232, rcode)
        assert with_edns.opt.name.to_text() == "."


def test_rfc6891_6_1_3_an_unknown_version_is_badvers(served: Any, z32: str) -> None:
    for version in (1, 100, 255):
        opt = OPT[:6] + bytes((version,)) + OPT[7:]
        reply = dns.message.from_wire(served.ask_wire(query(z32, additional=opt)))
        assert reply.rcode() == dns.rcode.BADVERS
        assert (reply.edns, reply.payload) == (0, 1232)
        assert len(reply.question) == 1
        assert not reply.answer
        assert not reply.authority


def test_rfc6891_6_1_2_unknown_options_and_flags_are_ignored(served: Any, z32: str) -> None:
    options = [
        dns.edns.GenericOption(65_001, b"what?"),
        dns.edns.GenericOption(100, b""),
        dns.edns.ECSOption("192.0.2.0", 24),
        dns.edns.GenericOption(3, b""),
        dns.edns.GenericOption(10, bytes(8)),
    ]
    reply = served.ask(f"{z32}.aspen.local", "A", use_edns=0, options=options, ednsflags=0x7FFF)
    assert reply.rcode() == dns.rcode.NOERROR
    assert len(reply.answer) == 1
    assert reply.options == ()
    assert reply.ednsflags == 0


def test_rfc3225_3_do_is_echoed(served: Any, z32: str) -> None:
    assert served.ask(f"{z32}.aspen.local", "A", want_dnssec=True).ednsflags == dns.flags.DO
    assert served.ask("x.aspen.local", "A", want_dnssec=True).ednsflags == dns.flags.DO
    assert served.ask(f"{z32}.aspen.local", "A", use_edns=0).ednsflags == 0


@pytest.mark.parametrize(
    ("offered", "limit"),
    [(0, 512), (100, 512), (512, 512), (513, 513), (1000, 1000), (1232, 1232), (65_535, 1232)],
)
def test_rfc6891_6_2_3_sizes(serve: Any, z32: str, offered: int, limit: int) -> None:
    name = f"{z32}.aspen.local"
    for text in range(0, 900, 3):
        served = serve("\n".join(f'@ 30 TXT "{mark}{"x" * (text // 4)}"' for mark in "abcd"))
        reply = served.ask_wire(dns.message.make_query(name, "TXT", payload=offered, use_edns=0).to_wire())
        assert len(reply) <= limit
        whole = served.ask_wire(dns.message.make_query(name, "TXT", use_edns=0).to_wire(), Transport.TCP)
        assert bool(reply[2] & 2) == (len(whole) > limit)  # TC exactly when it doesn't fit
        message = dns.message.from_wire(reply)
        assert message.opt is not None
        assert bool(message.answer) != bool(reply[2] & 2)


@pytest.mark.parametrize(
    ("qtype", "qclass", "rcode"),
    [
        (1, 3, dns.rcode.REFUSED),  # CHAOS
        (1, 254, dns.rcode.REFUSED),
        (252, 1, dns.rcode.REFUSED),  # AXFR
        (251, 1, dns.rcode.REFUSED),  # IXFR
        (41, 1, dns.rcode.NOTIMP),
        (249, 1, dns.rcode.NOTIMP),
        (250, 1, dns.rcode.NOTIMP),
        (253, 1, dns.rcode.NOTIMP),
        (254, 1, dns.rcode.NOTIMP),
        (0, 1, dns.rcode.NOERROR),  # NODATA
        (65_535, 1, dns.rcode.NOERROR),
    ],
)
@pytest.mark.parametrize("transport", Transport)
def test_rfc6895_3_classes_and_types_not_served(
    served: Any, z32: str, qtype: int, qclass: int, rcode: int, transport: Transport
) -> None:
    for additional in (b"", OPT):
        wire = query(z32, qtype=qtype, qclass=qclass, additional=additional)
        reply = dns.message.from_wire(served.ask_wire(wire, transport))
        assert reply.rcode() == rcode
        assert len(reply.question) == 1
        assert not reply.answer
        assert (reply.opt is not None) == bool(additional)
