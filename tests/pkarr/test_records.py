"""Record text as dig prints it: read as an independent decoder understands it, printed alike."""

from __future__ import annotations

import dns.message
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import InputError
from aspen.identity import Identity
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message, format_message

KEY = Identity.from_seed(bytes(range(32)))
Z32 = KEY.z32

RECORDS = [
    '_iroh TXT "relay=https://relay.example./" addr=192.0.2.1:7300',
    "@ A 192.0.2.1",
    "foo.bar 300 IN AAAA 2001:db8::1",
    "www IN 60 CNAME @",
    "@ MX 10 mail",
    "@ MX 20 mail.example.com.",
    "@ NS ns1",
    "_s._tcp SRV 1 2 443 host",
    'n NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .',
    '@ CAA 0 issue "letsencrypt.org"',
    '@ HTTPS 1 . alpn="h3,h2" ipv4hint=192.0.2.1,192.0.2.2 port=443 no-default-alpn key700="a b\\"c"',
    "svc SVCB 2 target mandatory=port,alpn alpn=h2 port=8443 ipv6hint=2001:db8::1,::1",
    "alias SVCB 0 other.example.",
    "k SSHFP 1 1 123456789abcdef67890123456789abcdef67890",
    "l LOC 37 14 12.094 N 115 48 14.649 W 1381.00m",
    "t TYPE65280 \\# 3 abcdef",
    'u URI 10 1 "ftp://files.example/"',
    "z SOA ns admin 1 2 3 4 5",
    "d DS 1 8 2 " + "ab" * 32,
    'q TXT "a\\065\\"\\\\; quoted" ; a comment',
    "dd DNAME example.com.",
    'h HINFO "a b" c',
    "p PTR host.example.",
    "_443._tcp TLSA 3 1 1 " + "cd" * 32,
    "n2 NSEC host A MX",
    "r RP admin txt",
    r"esc\.aped TXT x",
]


def canonical(lines: list[str]) -> list[str]:
    return sorted(" ".join(line.split()) for line in lines)


@pytest.mark.parametrize("record", RECORDS)
def test_dnspython_reads_what_was_meant(record: str) -> None:
    message = build_message(KEY.endpoint_id, [record])
    (ours,) = format_message(message)
    decoded = dns.message.from_wire(message)
    (rrset,) = decoded.answer
    (theirs,) = canonical(rrset.to_text().split("\n"))
    mine = " ".join(ours.split())
    if rrset.rdtype in (dns.rdatatype.LOC,):  # equal but for how a default is printed
        assert mine.startswith(" ".join(theirs.split()[:12]))
    elif rrset.rdtype in (dns.rdatatype.SSHFP, dns.rdatatype.DS, dns.rdatatype.TLSA):
        assert mine.lower() == theirs.lower()
    elif rrset.rdtype in (dns.rdatatype.HTTPS, dns.rdatatype.SVCB):
        assert mine.replace('"', "") == theirs.replace('"', "")
    else:
        assert mine == theirs


@pytest.mark.parametrize("record", RECORDS)
def test_what_is_printed_reads_back_to_the_same_message(record: str) -> None:
    message = build_message(KEY.endpoint_id, [record])
    assert build_message(KEY.endpoint_id, format_message(message)) == message


def test_a_whole_packet_with_names_compressed() -> None:
    records = RECORDS[:14]
    message = build_message(KEY.endpoint_id, records)
    assert message.count(Z32.encode()) == 3  # once, and where a name must stand whole (SRV, SVCB)
    assert len(format_message(message)) == len(records)
    assert SignedPacket.sign(KEY, message, 1).message == message
    dns.message.from_wire(message)


def test_owners_are_normalised_under_the_key() -> None:
    spellings = {
        "_iroh": f"_iroh.{Z32}.",
        "@": f"{Z32}.",
        f"{Z32}": f"{Z32}.",
        f"{Z32}.": f"{Z32}.",
        f"a.b.{Z32}": f"a.b.{Z32}.",
        f"A.b.{Z32.upper()}.aspen.local.": f"a.b.{Z32}.",  # pasted from dig
        f"_iroh.{Z32}.dns.iroh.link.": f"_iroh.{Z32}.",
    }
    for written, meant in spellings.items():
        (line,) = format_message(build_message(KEY.endpoint_id, [f"{written} A 192.0.2.1"]))
        assert line == f"{meant}\t30\tIN\tA\t192.0.2.1"


def test_ttl_and_class_are_optional_and_stand_in_any_order() -> None:
    texts = [
        "@ A 192.0.2.1",
        "@ 30 A 192.0.2.1",
        "@ IN A 192.0.2.1",
        "@ 30 IN A 192.0.2.1",
        "@ in 30 a 192.0.2.1",
    ]
    assert len({build_message(KEY.endpoint_id, [text]) for text in texts}) == 1
    (line,) = format_message(build_message(KEY.endpoint_id, ["@ A 192.0.2.1"], default_ttl=7))
    assert line.split("\t")[1] == "7"


def test_a_record_given_twice_is_published_once() -> None:
    once = build_message(KEY.endpoint_id, ["@ A 192.0.2.1"])
    assert build_message(KEY.endpoint_id, ["@ A 192.0.2.1", "@ 60 IN A 192.0.2.1"]) == once


def test_no_records_make_a_message_without_answers() -> None:
    assert format_message(build_message(KEY.endpoint_id, [])) == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("", "a record is: owner"),
        ("@", "a record is: owner"),
        ("@ 30 IN", "the type is missing"),
        ('@ "x"', "the type is missing"),
        ("@ FOO 1", "unknown record type 'FOO'"),
        ("@ ANY 1", "unknown record type 'ANY'"),
        ("@ TYPE41 \\# 0", "not a type of record"),
        ("@ A", "A needs IPv4 address"),
        ("@ A 300.1.1.1", "'300.1.1.1' is not an IPv4 address"),
        ("@ A 192.0.2.1 192.0.2.2", "'192.0.2.2' is too much"),
        ("@ AAAA 192.0.2.1", "is not an IPv6 address"),
        ("@ MX mail", "'mail' is not a 16-bit number"),
        ("@ MX 70000 mail", "'70000' is not a 16-bit number"),
        ("@ TXT", "TXT needs strings"),
        ('@ TXT "abc', "quote is not closed"),
        ("@ TXT " + "a" * 256, "at most 255"),
        ("@ TXT \\999", "more than one octet"),
        ("@ CH TXT x", "class CH can't be published"),
        ("@ 4294967296 A 192.0.2.1", "a TTL is 0 to"),
        ("a..b A 192.0.2.1", "empty or longer than 63"),
        ("l" * 64 + " A 192.0.2.1", "empty or longer than 63"),
        (".".join("l" * 50 for _ in range(5)) + " A 192.0.2.1", "longer than 255"),
        ("www.example.com. A 192.0.2.1", "is not under the key"),
        ("@ TYPE1000 \\# 3 ab", "\\# says 3 octets, but there are 1"),
        ("@ TYPE1000 x", "is written as \\# length hex"),
        ("@ HTTPS 1 . foo=1", "unknown service parameter 'foo'"),
        ("@ HTTPS 1 . port=99999", "is no value for port"),
        ("@ HTTPS 1 . port=1 port=2", "given twice"),
        ("@ LOC nowhere", "not the RDATA of a LOC record"),
        ("@ DS 1 8 2 xyz", "is not a hexadecimal"),
        ("@ OPENPGPKEY !", "is not a base64"),
    ],
)
def test_a_bad_record_says_what_is_wrong(record: str, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        build_message(KEY.endpoint_id, ["ok A 192.0.2.1", record])
    assert reason in str(refused.value)
    assert repr(record) in str(refused.value)


def test_an_alias_stands_alone() -> None:
    with pytest.raises(InputError, match="an alias stands alone"):
        build_message(KEY.endpoint_id, ["a CNAME b", "a TXT x"])


def test_more_than_a_packet_holds_is_refused() -> None:
    with pytest.raises(InputError, match="at most 1000 fit"):
        build_message(KEY.endpoint_id, [f'n{n} TXT "{"a" * 250}"' for n in range(4)])


def test_rdata_that_breaks_its_promise_is_shown_as_octets() -> None:
    message = build_message(KEY.endpoint_id, ["@ HTTPS 1 . key3=abc"])  # a port of three octets
    assert 'key3="abc"' in format_message(message)[0]


@given(st.lists(st.binary(max_size=255), min_size=1, max_size=3))
def test_any_string_survives_printing_and_reading(strings: list[bytes]) -> None:
    rdata = b"".join(bytes([len(s)]) + s for s in strings)
    message = build_message(KEY.endpoint_id, [f"@ TXT \\# {len(rdata)} {rdata.hex()}"])
    assert build_message(KEY.endpoint_id, format_message(message)) == message


@given(st.text(max_size=80))
def test_no_text_raises_anything_but_input_error(text: str) -> None:
    for record in (
        text,
        f"@ {text}",
        f"@ TXT {text}",
        f"@ HTTPS 1 . {text}",
        f"@ LOC {text}",
        f"{text} A 192.0.2.1",
    ):
        try:
            build_message(KEY.endpoint_id, [record])
        except InputError:
            pass
