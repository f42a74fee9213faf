"""Ready-made answers: what a query finds in a packet (RFC 1034 §4.3.2, RFC 2181 §5, RFC 3597 §4)."""

from __future__ import annotations

from collections.abc import Callable

import dns.message
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st

from aspen.dns.packet_zone import ZONE_VERSION, build_ready_answers
from aspen.dns.ready import (
    DEFAULT_MARK,
    INDEX_OFFSET,
    MARK_OFFSET,
    NO_SUCH_NAME,
    CutRRset,
    Outcome,
    find_answer,
    find_any,
    pack_answers,
)
from aspen.limits import DNS_READY_BYTES

TXT = 16


def test_an_rrset_is_found_whole(packet: Callable[..., bytes], z32: str) -> None:
    answers = build_ready_answers(packet('a 30 TXT "x"\na 30 TXT "y"\na 30 A 192.0.2.1'), z32.encode())
    found = find_answer(answers, b"\x01a", TXT)
    assert (found.outcome, found.record_count) == (Outcome.SUCCESS, 2)
    assert found.records == (
        b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x1e\x00\x02\x01x"
        b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x1e\x00\x02\x01y"
    )
    assert find_answer(answers, b"\x01a", 28).outcome is Outcome.NODATA
    assert find_answer(answers, b"", TXT).outcome is Outcome.NODATA  # above "a": it exists, empty
    assert find_answer(answers, b"\x01b", TXT) == NO_SUCH_NAME
    assert find_answer(answers, b"\x01a\x01a", TXT) == NO_SUCH_NAME


def test_a_packet_without_usable_records_has_no_names(z32: str) -> None:
    answers = build_ready_answers(bytes(12), z32.encode())
    assert find_answer(answers, b"", TXT) == NO_SUCH_NAME
    assert find_any(answers, b"") == NO_SUCH_NAME


def test_only_class_in_answers_under_the_key_count(packet: Callable[..., bytes], z32: str) -> None:
    message = packet(
        f'other. 30 TXT "x"\nx4{z32}. 30 TXT "longer label"\n@ 30 TXT "mine"', authority='b 30 TXT "y"'
    )
    answers = build_ready_answers(message, z32.encode())
    assert find_answer(answers, b"", TXT).record_count == 1
    assert find_answer(answers, b"\x01b", TXT) == NO_SUCH_NAME
    chaos = message.replace(b"\x00\x10\x00\x01", b"\x00\x10\x00\x03")
    assert find_answer(build_ready_answers(chaos, z32.encode()), b"", TXT) == NO_SUCH_NAME


def test_owners_are_folded(packet: Callable[..., bytes], z32: str) -> None:
    answers = build_ready_answers(packet(f'_IROH.{z32.upper()}. 30 TXT "x"'), z32.encode())
    assert find_answer(answers, b"\x05_iroh", TXT).record_count == 1


def test_rfc2181_5_2_an_rrset_has_one_ttl_its_lowest(packet: Callable[..., bytes], z32: str) -> None:
    answers = build_ready_answers(packet('@ 90 TXT "x"\n@ 30 TXT "y"\n@ 60 TXT "z"'), z32.encode())
    records = find_answer(answers, b"", TXT).records
    assert records.count(b"\x00\x00\x00\x1e") == 3


def test_rfc2181_5_duplicates_fall_away_and_8_a_ttl_with_the_top_bit_is_zero(z32: str) -> None:
    zone = b"\x34" + z32.encode() + b"\x00"
    record = zone + b"\x00\x10\x00\x01\x80\x00\x00\x05\x00\x02\x01x"
    answers = build_ready_answers(bytes(6) + b"\x00\x02" + bytes(4) + record * 2, z32.encode())
    found = find_answer(answers, b"", TXT)
    assert found.record_count == 1
    assert found.records[6:10] == bytes(4)


def test_rfc6895_3_1_meta_types_are_not_data(z32: str) -> None:
    zone = b"\x34" + z32.encode() + b"\x00"
    for rrtype in (0, 41, 250, 252, 255):
        record = zone + rrtype.to_bytes(2, "big") + b"\x00\x01" + bytes(6)
        answers = build_ready_answers(bytes(7) + b"\x01" + bytes(4) + record, z32.encode())
        assert find_answer(answers, b"", rrtype) == NO_SUCH_NAME


def test_rfc3597_4_names_under_the_key_point_into_the_question(
    packet: Callable[..., bytes], z32: str
) -> None:
    answers = build_ready_answers(
        packet("@ 30 MX 5 mail.KEY.\nab 30 NS KEY.\n@ 30 SRV 1 2 3 mail.example."), z32.encode()
    )
    assert find_answer(answers, b"", 15).records.endswith(b"\x00\x05\x04mail\xc0\x0c")
    assert find_answer(answers, b"\x02ab", 2).records.endswith(b"\x00\x02\xc0\x0f")
    assert find_answer(answers, b"", 33).records.endswith(b"\x04mail\x07example\x00")
    # SRV may not be compressed: with a target to be moved, nothing can be told in advance.
    srv = build_ready_answers(packet("@ 30 SRV 1 2 3 mail.KEY."), z32.encode())
    assert srv[0] == ZONE_VERSION


def test_names_too_long_for_another_origin_stand_as_signed(packet: Callable[..., bytes], z32: str) -> None:
    long = ".".join(["a" * 60] * 2)
    answers = build_ready_answers(packet(f"@ 30 NS {long}.KEY."), z32.encode())
    assert find_answer(answers, b"", 2).records.endswith(b"\x34" + z32.encode() + b"\x00")


def test_rfc8482_any_is_one_rrset(packet: Callable[..., bytes], z32: str) -> None:
    answers = build_ready_answers(
        packet('@ 30 TXT "x"\n@ 30 A 192.0.2.1\n@ 30 A 192.0.2.2\na.b 30 CNAME KEY.'), z32.encode()
    )
    assert find_any(answers, b"").record_count == 2
    assert find_any(answers, b"\x01a\x01b").records.endswith(b"\xc0\x10")
    assert find_any(answers, b"\x01a\x01b").record_count == 1
    assert find_any(answers, b"\x01b").outcome is Outcome.NODATA
    assert find_any(answers, b"\x01c") == NO_SUCH_NAME


def test_the_mark_stands_only_where_entries_begin() -> None:
    plain = pack_answers({b"\x01a": {TXT: CutRRset(1, [(b"\x01x",)])}})
    assert plain[MARK_OFFSET:INDEX_OFFSET] == DEFAULT_MARK
    tricky = {b"\x02" + DEFAULT_MARK: {TXT: CutRRset(1, [(b"\x04\xff\xfd\xff\xfc",)])}}
    answers = pack_answers(tricky)
    assert answers[MARK_OFFSET:INDEX_OFFSET] not in (b"\xff\xfe", b"\xff\xfd", b"\xff\xfc")
    assert find_answer(answers, b"\x02" + DEFAULT_MARK, TXT).record_count == 1
    # A name that spells out an entry of another name finds nothing.
    entry = plain[INDEX_OFFSET + 2 : INDEX_OFFSET + 12]
    assert find_answer(plain, bytes((len(entry),)) + entry, TXT) == NO_SUCH_NAME


def test_a_block_never_outgrows_its_bound() -> None:
    big = {bytes((1, octet)): {TXT: CutRRset(1, [(bytes(1000),)])} for octet in range(100)}
    answers = pack_answers(big)
    assert DNS_READY_BYTES - 2_000 < len(answers) <= DNS_READY_BYTES
    assert find_answer(answers, b"\x01\x00", TXT).record_count == 1


labels = st.binary(min_size=1, max_size=3).map(bytes.lower)
owners = st.lists(labels, max_size=3).map(
    lambda parts: b"".join(bytes((len(part),)) + part for part in parts)
)
types = st.sampled_from([1, 2, 15, 16, 28, 255, 65_535, 0xFFFE])
rdatas = st.lists(st.tuples(st.binary(max_size=8)), min_size=1, max_size=3, unique=True)


@settings(max_examples=300)
@given(st.dictionaries(owners, st.dictionaries(types, rdatas, max_size=3), max_size=6), owners, types)
def test_finding_agrees_with_the_data_whatever_octets_it_holds(
    data: dict[bytes, dict[int, list[tuple[bytes]]]], other: bytes, rrtype: int
) -> None:
    names = {
        owner: {kind: CutRRset(60, list(rdata)) for kind, rdata in rrsets.items()}
        for owner, rrsets in data.items()
    }
    answers = pack_answers(names)
    for owner in (*names, other):
        found = find_answer(answers, owner, rrtype)
        if rrtype in names.get(owner, {}):
            assert found.outcome is Outcome.SUCCESS
            assert found.record_count == len(names[owner][rrtype].rdatas)
        else:
            exists = any(name == owner or (name.endswith(owner) and _is_below(name, owner)) for name in names)
            assert found.outcome is (Outcome.NODATA if exists else Outcome.NXDOMAIN)
            assert found.record_count == 0


def _is_below(name: bytes, owner: bytes) -> bool:
    offset = 0
    while offset < len(name) - len(owner):
        offset += 1 + name[offset]
    return offset == len(name) - len(owner)


def test_every_rrset_of_a_full_packet_is_rendered_as_dnspython_reads_it(
    packet: Callable[..., bytes], z32: str
) -> None:
    lines = [f"h{index}.x 30 MX {index} h{index}.x.KEY." for index in range(30)]
    message = packet("\n".join(lines))
    assert len(message) <= 1_000
    answers = build_ready_answers(message, z32.encode())
    for index in range(30):
        label = f"h{index}".encode()
        relative = bytes((len(label),)) + label + b"\x01x"
        question = relative + b"\x34" + z32.encode() + b"\x04test\x00\x00\x0f\x00\x01"
        found = find_answer(answers, relative, 15)
        reply = dns.message.from_wire(
            bytes(2) + b"\x84\x00\x00\x01\x00\x01" + bytes(4) + question + found.records
        )
        expected = dns.rrset.from_text(
            f"h{index}.x.{z32}.test.", 30, "IN", "MX", f"{index} h{index}.x.{z32}.test."
        )
        assert reply.answer == [expected]
