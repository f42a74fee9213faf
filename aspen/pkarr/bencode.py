"""Bencoding (BEP 3): what the BitTorrent DHT's datagrams are written in.

Integers, byte strings, lists and dictionaries whose keys are byte strings. Encoding sorts the keys.
Decoding takes any order (BEP 5 nodes are not all strict) but nothing else that is not bencoding, and
is bounded in depth, so that a datagram can't do harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aspen.errors import InputError

Value = int | bytes | Sequence["Value"] | Mapping[bytes, "Value"]

DEPTH: Final = 8
"""Lists and dictionaries inside each other; the DHT's messages have two."""
_DIGITS: Final = 20
"""Of an integer: a signed 64-bit one has at most 19 and a sign."""


def encode(value: Value) -> bytes:
    """The one way to write `value` (keys sorted, no leading zeros)."""
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%b" % (len(value), value)
        case Mapping():
            parts = (encode(key) + encode(value[key]) for key in sorted(value))
            return b"d" + b"".join(parts) + b"e"
        case _:
            return b"l" + b"".join(map(encode, value)) + b"e"


def decode(data_untrusted: bytes) -> Value:
    """The value that all of the octets spell. Raises `InputError`."""
    value, end = _value(data_untrusted, 0, DEPTH)
    if end != len(data_untrusted):
        raise InputError(f"{len(data_untrusted) - end} octets follow the bencoded value")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    mark = data[at : at + 1]
    if mark.isdigit():
        return _string(data, at)
    if mark == b"i":
        end = _find(data, b"e", at + 1, _DIGITS)
        return _integer(data[at + 1 : end], at), end + 1
    if mark not in (b"l", b"d"):
        raise InputError(f"no bencoded value begins at offset {at}")
    if not depth:
        raise InputError(f"bencoded values lie more than {DEPTH} deep in each other")
    at += 1
    items: list[Value] = []
    entries: dict[bytes, Value] = {}
    while data[at : at + 1] != b"e":
        if mark == b"d":
            key, at = _string(data, at)
            entries[key], at = _value(data, at, depth - 1)
        else:
            item, at = _value(data, at, depth - 1)
            items.append(item)
    return (entries if mark == b"d" else items), at + 1


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    if not data[at : at + 1].isdigit():
        raise InputError(f"no string begins at offset {at}")
    colon = _find(data, b":", at, _DIGITS)
    length = _integer(data[at:colon], at)
    start, end = colon + 1, colon + 1 + length
    if end > len(data):
        raise InputError(f"the string at offset {at} is cut short")
    return data[start:end], end


def _find(data: bytes, mark: bytes, start: int, reach: int) -> int:
    found = data.find(mark, start, start + reach + 1)
    if found < 0:
        raise InputError(f"the number at offset {start} has no end")
    return found


def _integer(digits: bytes, at: int) -> int:
    magnitude = digits[1:] if digits[:1] == b"-" else digits
    if not magnitude.isdigit() or (magnitude[:1] == b"0" and digits != b"0"):
        raise InputError(f"no number at offset {at}")
    return int(digits)
