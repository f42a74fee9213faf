"""Names: RFC 1035 §2.3.4, §3.1, §4.1.4, §5.1; case RFC 4343."""

from __future__ import annotations

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.dns.name import label_offsets, name_from_text, name_to_text, parents, read_name, relative_to
from aspen.errors import DnsWireError

HEADER = bytes(12)
labels = st.lists(st.binary(min_size=1, max_size=63), max_size=6)


def wire(*parts: bytes) -> bytes:
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\x00"


@given(labels)
def test_rfc1035_3_1_a_plain_name_reads_as_it_stands(parts: list[bytes]) -> None:
    name = wire(*parts)
    message = HEADER + name + b"rest"
    if len(name) > 255:
        with pytest.raises(DnsWireError):
            read_name(message, 12)
    else:
        assert read_name(message, 12) == (name, 12 + len(name))


@given(labels)
def test_rfc1035_5_1_text_and_back_as_dnspython_does(parts: list[bytes]) -> None:
    name = wire(*parts)
    if len(name) <= 255:
        assert name_from_text(name_to_text(name)) == name
        assert dns.name.from_text(name_to_text(name)).to_wire() == name


def test_rfc1035_4_1_4_pointers_are_followed_backwards() -> None:
    message = HEADER + wire(b"aspen", b"local") + b"\x03www\xc0\x0c" + b"\xc0\x19"
    assert read_name(message, 25) == (wire(b"www", b"aspen", b"local"), 31)
    assert read_name(message, 31) == (wire(b"www", b"aspen", b"local"), 33)


@pytest.mark.parametrize(
    "tail",
    [
        b"\xc0\x0c",  # to itself
        b"\x01a\xc0\x0c",  # to its own beginning: a loop
        b"\xc0\x0e\x00",  # forwards
        b"\xc0\x00",  # into the header
        b"\xc0\x04",
        b"\xc0",  # cut off
        b"\x05abc",  # a label past the end
        b"\x01a",  # no end
        b"",
        b"\x40\x00",  # reserved label types
        b"\x80\x00",
    ],
)
def test_rfc1035_4_1_4_what_is_no_name_is_refused(tail: bytes) -> None:
    with pytest.raises(DnsWireError):
        read_name(HEADER + tail, 12)


def test_rfc1035_4_1_4_two_pointers_at_each_other_are_refused() -> None:
    with pytest.raises(DnsWireError):
        read_name(HEADER + b"\x01a\xc0\x10\x01b\xc0\x0c", 16)


def test_rfc1035_2_3_4_pointers_can_not_lengthen_a_name_past_255_octets() -> None:
    message = HEADER + wire(b"a" * 63, b"b" * 63, b"c" * 63)
    start = len(message)
    assert len(read_name(message + b"\x3d" + b"d" * 61 + b"\xc0\x0c", start)[0]) == 255
    with pytest.raises(DnsWireError):
        read_name(message + b"\x3e" + b"d" * 62 + b"\xc0\x0c", start)


def test_a_long_staircase_of_pointers_is_cut_short() -> None:
    message = (
        HEADER + b"\x00" + b"".join((0xC000 | 12 + max(0, 2 * i - 1)).to_bytes(2, "big") for i in range(400))
    )
    assert read_name(message, 13 + 2 * 100)[0] == b"\x00"
    with pytest.raises(DnsWireError):
        read_name(message, 13 + 2 * 399)


@given(st.binary(max_size=80), st.integers(0, 80))
def test_any_octets_read_or_raise(data: bytes, offset: int) -> None:
    try:
        name, after = read_name(data, offset)
    except DnsWireError:
        return
    assert len(name) <= 255
    assert offset < after <= len(data)
    assert name[label_offsets(name)[-1] :] == b"\x00"


def test_relative_to_respects_label_boundaries() -> None:
    origin = wire(b"aspen", b"local")
    assert relative_to(wire(b"a", b"b", b"aspen", b"local"), origin) == b"\x01a\x01b"
    assert relative_to(origin, origin) == b""
    assert relative_to(wire(b"notaspen", b"local"), origin) is None
    # A label that ends in the very octets of the origin, length octet and all.
    assert relative_to(wire(b"x\x05aspen", b"local"), origin) is None
    assert relative_to(wire(b"local"), origin) is None
    assert relative_to(wire(b"com"), b"\x00") == b"\x03com"


def test_parents_end_at_the_apex() -> None:
    assert parents(b"\x01a\x02bc\x01d") == [b"\x02bc\x01d", b"\x01d", b""]
    assert parents(b"") == []


@pytest.mark.parametrize("text", ["a..b", ".a", "a" * 64, "a\\25", "a\\256", "x." * 128, "a\\"])
def test_rfc1035_5_1_bad_spellings_are_refused(text: str) -> None:
    with pytest.raises(DnsWireError):
        name_from_text(text)


def test_rfc1035_5_1_escapes() -> None:
    assert name_from_text("a\\.b.c") == wire(b"a.b", b"c")
    assert name_from_text("a\\046b.c.") == wire(b"a.b", b"c")
    assert name_from_text(".") == name_from_text("") == b"\x00"
