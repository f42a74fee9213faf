"""Master files (RFC 1035 §5): read as other servers read them, written so that they read the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import dns.rdatatype
import dns.zone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.dns.master_file import MasterFileReader, read_master_file, record_text, write_master_file
from aspen.dns.name import name_from_text, name_to_text
from aspen.dns.presentation import format_rdata, parse_rdata, parse_ttl, split_words, type_name, type_number
from aspen.dns.rdata import read_rdata
from aspen.dns.zone import MemoryZone
from aspen.dns.zone_rules import ZoneRecord
from aspen.errors import DnsWireError, InputError, MasterFileError

ORIGIN = name_from_text("example.com.")

# The file of RFC 1035 §5.3, with its owner, parentheses, comments and relative names.
RFC_FILE = r"""
@   IN  SOA     VENERA      Action\.domains (
                                 20     ; SERIAL
                                 7200   ; REFRESH
                                 600    ; RETRY
                                 3600000; EXPIRE
                                 60)    ; MINIMUM

        NS      A.ISI.EDU.
        NS      VENERA
        NS      VAXA
        MX      10      VENERA
        MX      20      VAXA

A       A       26.3.0.103

VENERA  A       10.1.0.52
        A       128.9.0.32

VAXA    A       10.2.0.27
        A       128.9.0.33
"""

FULL_FILE = r"""
$TTL 1h ; the rest
$ORIGIN example.com.
@ 2d IN SOA ns1 hostmaster.example.com. ( 2024010101 1h 15M 1w
   300 )
  IN 1w NS ns1
  604800 NS ns2.example.net.
ns1 A 192.0.2.53
    AAAA 2001:db8::53
www.EXAMPLE.com. CNAME ns1
quoted TXT "a string" unquoted "with \"quotes\" and ; semicolon" "\000\255"
mail MX 10 ns1
*.wild 60 IN TXT "star"
$ORIGIN sub ; relative to the origin before
_sip._tcp SRV 0 5 5060 @
host A 192.0.2.1
@ CAA 0 issue "ca.example.net; policy=ev"
h HTTPS 1 . alpn="h2,h3" port=8443 ipv4hint=192.0.2.1 key65000="x y"
t TLSA 3 1 1 ( d2abde240d7cd3ee6b4b28c54df034b9
   7983a1d16e8a410e4561cb106618e971 )
n NAPTR 100 10 "u" "sip+E2U" "!^.*$!sip:info@example.com!" .
s SSHFP 4 2 123456789abcdef67890123456789abcdef67890123456789abcdef123456789
u TYPE65280 \# 3 abcdef
v TYPE1 \# 4 c0000202
d DNAME example.net.
k DS 60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118
y DNSKEY 256 3 5 ( AQPSKmynfzW4kyBv015MUG2DeIQ3Cbl+BBZH4b/0PY1kxkmvHjcZc8no
  kfzj31GajIQKY+5CptLr3buXA10hWqTkF7H6RfoRqXQeogmMHfpftf6z
  Mv1LyBUgia7za6ZEzOJBOztyvhjL742iU/TpPSEDhm2SNKLijfUppn1U aNvv4w== )
p PTR ns1.example.com.
dot\.ted.name TXT dotted
l LOC 42 21 54 N 71 06 18 W -24m 30m
"""


def dnspython_records(text: str, origin: str) -> set[tuple[str, int, str, str]]:
    zone = dns.zone.from_text(text, origin=origin, relativize=False, check_origin=False)
    return {
        (name.to_text().lower(), ttl, dns.rdatatype.to_text(rdata.rdtype), rdata.to_wire().hex())
        for name, ttl, rdata in zone.iterate_rdatas()
    }


def our_records(text: str, origin: bytes) -> set[tuple[str, int, str, str]]:
    return {
        (name_to_text(r.owner), r.ttl, type_name(r.rrtype), r.rdata.hex())
        for _, r in read_master_file(text.encode(), origin)
    }


def test_the_file_of_rfc_1035() -> None:
    records = read_master_file(RFC_FILE.replace("@   IN", "@ 100 IN").encode(), name_from_text("ISI.EDU."))
    lines = [record_text(record) for _, record in records]
    assert lines[0] == (
        "isi.edu. 100 IN SOA VENERA.ISI.EDU. Action\\.domains.ISI.EDU. 20 7200 600 3600000 60"
    )
    assert len(records) == 11
    assert [line for line, _ in records] == [2, 9, 10, 11, 12, 13, 15, 17, 18, 20, 21]
    assert {record.ttl for _, record in records} == {100}


@pytest.mark.parametrize(
    ("text", "origin"),
    [(RFC_FILE.replace("@   IN", "@ 100 IN"), "isi.edu."), (FULL_FILE, "example.com.")],
)
def test_dnspython_reads_the_same(text: str, origin: str) -> None:
    ours = our_records(text, name_from_text(origin))
    theirs = dnspython_records(text, origin)
    assert ours == theirs


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_it_does_not_matter_where_the_pieces_end(size: int) -> None:
    data = FULL_FILE.encode()
    reader = MasterFileReader(ORIGIN)
    records = [r for at in range(0, len(data), size) for r in reader.feed(data[at : at + size])]
    assert [*records, *reader.finish()] == read_master_file(data, ORIGIN)


def test_what_is_written_reads_the_same() -> None:
    records = [record for _, record in read_master_file(FULL_FILE.encode(), ORIGIN)]
    zone = MemoryZone(ORIGIN, records)
    text = "".join(write_master_file(ORIGIN, zone.walk()))
    again = [record for _, record in read_master_file(text.encode(), name_from_text("other."))]
    assert set(again) == set(records)
    assert again[0].rrtype == 6
    assert dnspython_records(text, "example.com.") == our_records(FULL_FILE, ORIGIN)


def test_a_record_without_ttl_has_that_of_the_directive_or_of_the_record_before_or_the_default() -> None:
    lines = ["a A ::", "b 7 A ::", "c A ::", "$TTL 9", "d A ::", "e 8 A ::", "f A ::", ""]
    text = "\n".join(lines).replace("A ::", "AAAA ::1")
    assert [r.ttl for _, r in read_master_file(text.encode(), ORIGIN, 5)] == [5, 7, 7, 9, 8, 9]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a A 192.0.2.1\n$INCLUDE other.db\n", 2, "$INCLUDE is refused"),
        ("$GENERATE 1-9 h$ A 192.0.2.$\n", 1, "$GENERATE is refused"),
        ("$FOO\n", 1, "not a directive"),
        ("$ORIGIN\n", 1, "one name"),
        ("$TTL soon\n", 1, "'soon' is not a time"),
        ("a 3000000000 A 192.0.2.1\n", 1, "at most 2147483647"),
        ("a A 192.0.2\n", 1, "'192.0.2' is not an IPv4 address"),
        ("a IN\n", 1, "the type is missing"),
        ("a CH A 192.0.2.1\n", 1, "class IN"),
        ("a NOPE x\n", 1, "unknown record type 'NOPE'"),
        ("\n\n  A 192.0.2.1\n", 3, "no owner"),
        ("a MX 10\n", 1, "there is no name"),
        ("a MX 10 b c\n", 1, "'c' is too much"),
        ("a SOA b c ( 1\n 2\n 3 4 x )\n", 1, "'x' is not"),
        ("\na TXT ( x\ny\n", 2, "parenthesis is not closed"),
        ("a TXT x )\n", 1, "was not opened"),
        ('\na TXT ( x\n"y\n)', 3, "quote is not closed"),
        ("a TXT x\\\n", 1, "backslash"),
        ("a TXT \\300\n", 1, "more than one octet"),
        ("a TXT " + "x" * 256 + "\n", 1, "at most 255"),
        ("a" * 64 + " A 192.0.2.1\n", 1, "63 octets"),
        ("a..b A 192.0.2.1\n", 1, "empty"),
        (".".join(["a" * 60] * 4) + " A 192.0.2.1\n", 1, "255 octets"),
        ("a TYPE65280 \\# 3 abcd\n", 1, "3 octets"),
        ("a TYPE255 \\# 0\n", 1, "can be stored"),
        ('"x" "A" 192.0.2.1\n', 1, "type is missing"),
        ("a HTTPS 1 . alpn=h2 alpn=h3\n", 1, "given twice"),
    ],
)
def test_errors_name_the_line_of_their_entry(text: str, line: int, says: str) -> None:
    with pytest.raises(MasterFileError) as caught:
        read_master_file(text.encode(), ORIGIN)
    assert caught.value.line == line
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"line {line}: ")


@pytest.mark.parametrize("piece", [b"a" * 10_000, b"a TXT (" + b"a" * 10_000 + b"\n"])
def test_an_entry_without_end_is_refused(piece: bytes) -> None:
    reader = MasterFileReader(ORIGIN)

    def feed_on() -> None:
        for _ in range(100):
            list(reader.feed(piece))

    with pytest.raises(MasterFileError, match="longer than"):
        feed_on()


def line_of_error(data: bytes) -> int | None:
    """Where a master file has its error; None if it has none."""
    try:
        read_master_file(data, ORIGIN)
    except MasterFileError as error:
        return error.line
    return None


def test_times_have_units_as_bind_takes_them() -> None:
    assert parse_ttl("1w2d3h4m5s") == 604_800 + 2 * 86_400 + 3 * 3_600 + 245
    assert parse_ttl("90") == 90
    assert parse_ttl("1H30M") == 5_400
    for bad in ("", "1h30", "h", "1x", "-1", "1.5h", "٣"):
        with pytest.raises(InputError):
            parse_ttl(bad)


def test_an_owner_may_be_quoted_and_a_backslash_may_be_escaped_before_the_final_dot() -> None:
    records = read_master_file(b'"a" 60 A 192.0.2.1\nb\\\\. 60 A 192.0.2.1\nb\\. 60 A 192.0.2.1\n', ORIGIN)
    assert [r.owner for _, r in records] == [b"\1a" + ORIGIN, b"\2b\\\0", b"\2b." + ORIGIN]


def test_carriage_returns_tabs_and_a_byte_order_mark_do_no_harm() -> None:
    text = b'\xef\xbb\xbfa\t60\tIN\tA\t192.0.2.1\r\n\r\n \tTXT\t"x"\r\n'
    assert [record_text(r) for _, r in read_master_file(text, ORIGIN)] == [
        "a.example.com. 60 IN A 192.0.2.1",
        'a.example.com. 60 IN TXT "x"',
    ]


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_octets_are_a_master_file_or_an_error_of_one_kind(data: bytes) -> None:
    line = line_of_error(data)
    assert line is None or 1 <= line <= 1 + data.count(b"\n")


PIECES = st.sampled_from(
    ["a", "@", "b.c", "\\", '"', "(", ")", ";", "\n", " ", "\t", "A", "TXT", "MX", "10", "192.0.2.1", "$TTL",
     "$ORIGIN", "\\#", "=", "IN", "1h", "SOA", "HTTPS", "alpn", ",", "\\000", "é", "."]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_mixture_of_its_parts_is_read_or_refused(text: str) -> None:
    line = line_of_error(text.encode())
    assert line is None or 1 <= line <= 1 + text.count("\n")


LABEL = st.binary(min_size=1, max_size=20)
NAME = st.lists(LABEL, max_size=4).map(lambda labels: b"".join(bytes((len(x),)) + x for x in labels) + b"\0")
STRINGS = st.lists(st.binary(max_size=255), min_size=1, max_size=3).map(
    lambda strings: b"".join(bytes((len(s),)) + s for s in strings)
)
KNOWN = [1, 2, 5, 6, 15, 16, 28, 33, 35, 37, 39, 43, 44, 46, 47, 48, 51, 52, 64, 65, 99, 256, 257, 29, 65_280]


def number(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


PARAMETERS = st.dictionaries(st.integers(0, 9), st.binary(max_size=8)).map(
    lambda p: b"".join(k.to_bytes(2, "big") + len(v).to_bytes(2, "big") + v for k, v in sorted(p.items()))
)
RDATA = st.one_of(
    st.tuples(st.sampled_from(KNOWN), st.binary(max_size=60)),
    st.tuples(st.sampled_from([2, 5, 12, 39]), NAME),
    st.tuples(st.just(15), joined(number(2), NAME)),
    st.tuples(st.just(33), joined(number(6), NAME)),
    st.tuples(st.just(6), joined(NAME, NAME, number(20))),
    st.tuples(st.sampled_from([16, 99]), STRINGS),
    st.tuples(st.just(35), joined(number(4), STRINGS.filter(lambda s: len(s) == 1 + s[0]), STRINGS, NAME)),
    st.tuples(st.sampled_from([64, 65]), joined(number(2), NAME, PARAMETERS)),
    st.tuples(st.sampled_from([43, 44, 48, 52]), joined(number(4), st.binary(max_size=40))),
    st.tuples(st.just(257), joined(number(1), STRINGS, st.binary(max_size=40))),
    st.tuples(st.just(47), joined(NAME, st.binary(max_size=10))),
    st.tuples(st.just(46), joined(number(18), NAME, st.binary(max_size=40))),
)


@given(RDATA)
@settings(max_examples=500, deadline=None)
def test_rdata_is_written_so_that_it_reads_the_same(typed: tuple[int, bytes]) -> None:
    """Whatever octets a zone holds, an export is the same zone (RFC 3597 §5 where nothing else fits)."""
    rrtype, rdata = typed
    try:
        fields = read_rdata(rdata, rrtype, 0, len(rdata))
    except DnsWireError:
        return
    if b"".join(octets for _, octets in fields) != rdata:
        return
    text = format_rdata(rrtype, rdata)
    assert type_number(type_name(rrtype)) == rrtype
    line = f"a 60 IN {type_name(rrtype)} {text}\n"
    ((_, record),) = read_master_file(line.encode(), ORIGIN)
    assert record == ZoneRecord(b"\1a" + ORIGIN, rrtype, 60, rdata), text
    assert b"".join(parse_rdata(rrtype, split_words(text), ORIGIN)) == rdata


@given(NAME)
def test_owners_are_written_so_that_they_read_the_same(name: bytes) -> None:
    owner = name.lower()[:-1] + ORIGIN
    zone = MemoryZone(ORIGIN, [(owner, 1, 60, bytes(4)), (ORIGIN, 6, 60, b"\0\0" + bytes(20))])
    text = "".join(write_master_file(ORIGIN, zone.walk()))
    assert ZoneRecord(owner, 1, 60, bytes(4)) in [r for _, r in read_master_file(text.encode(), b"\0")]


# --- what other servers make of the files -----------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments"), [("named-checkzone", ["example.com"]), ("kzonecheck", ["-o", "example.com"])]
)
def test_other_servers_take_what_is_written(tool: str, arguments: list[str], tmp_path: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    zone = MemoryZone(ORIGIN, [record for _, record in read_master_file(FULL_FILE.encode(), ORIGIN)])
    path = tmp_path / "zone.db"
    path.write_text("".join(write_master_file(ORIGIN, zone.walk())))
    done = subprocess.run(
        [tool, *arguments, str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_bind_writes_what_we_read(tmp_path: Path) -> None:
    """A zone that BIND has read and written again is to us the zone it was."""
    if shutil.which("named-compilezone") is None:
        pytest.skip("needs named-compilezone")
    source, target = tmp_path / "in.db", tmp_path / "out.db"
    source.write_text(FULL_FILE)
    done = subprocess.run(
        ["named-compilezone", "-o", str(target), "example.com", str(source)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert our_records(target.read_text(), ORIGIN) == our_records(FULL_FILE, ORIGIN)


SUSPECT = [
    ("a A 192.0.2.1", True),
    ("a 1h30m A 192.0.2.1", True),
    ("a IN 60 A 192.0.2.1", True),
    ("a TXT ( one\n two )", True),
    ("a TXT \"semi;colon\" ; comment", True),
    ("a TYPE65280 \\# 0", True),
    ("a A 192.0.2.256", False),
    ("a MX ten ns1", False),
    ("a TXT \"open", False),
    ("a TXT ( open", False),
    ("a A 192.0.2.1 192.0.2.2", False),
    ("a..b A 192.0.2.1", False),
    ("$BOGUS x", False),
    ("a BOGUS x", False),
    ("a AAAA ::g", False),
    ("a SRV 0 0 65536 ns1", False),
    ("a CAA 256 issue \"x\"", False),
    ("a DS 1 2 3 xyz", False),
]  # fmt: skip


@pytest.mark.parametrize(("line", "fine"), SUSPECT)
def test_we_take_and_refuse_what_bind_and_knot_do(line: str, fine: bool, tmp_path: Path) -> None:
    text = f"$TTL 60\n@ SOA ns1 h 1 2 3 4 5\n@ NS ns1\nns1 A 192.0.2.53\n{line}\n"
    path = tmp_path / "zone.db"
    path.write_text(text)
    for command in (["named-checkzone", "example.com"], ["kzonecheck", "-o", "example.com"]):
        if shutil.which(command[0]) is not None:
            done = subprocess.run([*command, str(path)], capture_output=True, timeout=30, check=False)
            assert (done.returncode == 0) is fine, (command[0], done.stdout)
    if fine:
        assert len(read_master_file(text.encode(), ORIGIN)) == 4
    else:
        with pytest.raises(MasterFileError):
            read_master_file(text.encode(), ORIGIN)
