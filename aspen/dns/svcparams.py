"""Service parameters of SVCB and HTTPS records, text ⇄ wire (RFC 9460 §2.1, §2.2, §7).

In text they stand as `key=value` in any order; on the wire by ascending number, each as key u16,
length u16, value. A parameter without a name is `keyNNNNN` and its value plain octets.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import struct
from collections.abc import Sequence
from typing import Final

from aspen.errors import InputError

_NAMES: Final = ("mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath")
_NUMBERS: Final = {name: number for number, name in enumerate(_NAMES)}
_ESCAPE: Final = re.compile(rb"\\(\d{3}|.)")
_HEADER: Final = struct.Struct(">HH")


def encode_parameters(words: Sequence[bytes]) -> bytes:
    """The wire form of `key=value` words. Raises `InputError`."""
    parameters: dict[int, bytes] = {}
    for word in words:
        raw_key, equals, value = word.partition(b"=")
        name = raw_key.decode("ascii", "replace").lower()
        number = _number(name)
        if number in parameters:
            raise InputError(f"the service parameter {name} is given twice")
        try:
            parameters[number] = _encode_value(name, value, bool(equals))
        except (ValueError, binascii.Error, struct.error):
            raise InputError(f"{value.decode('utf-8', 'replace')!r} is no value for {name}") from None
    return b"".join(
        _HEADER.pack(number, len(parameters[number])) + parameters[number] for number in sorted(parameters)
    )


def format_parameters(wire: bytes) -> list[str]:
    """`key=value` words of parameters that were validated."""
    words = []
    offset = 0
    while offset < len(wire):
        number, length = _HEADER.unpack_from(wire, offset)
        value = wire[offset + 4 : offset + 4 + length]
        offset += 4 + length
        name = _name(number)
        try:
            text = _format_value(name, value)
            if _encode_value(name, *_spelled(text)) != value:
                raise ValueError  # more than this spelling can say
        except (ValueError, struct.error, IndexError, InputError):
            name, text = f"key{number}", _quoted(value)  # not what its name promises: show the octets
        words.append(name if text is None else f"{name}={text}")
    return words


def _number(name: str) -> int:
    if name in _NUMBERS:
        return _NUMBERS[name]
    digits = name.removeprefix("key")
    if name.startswith("key") and digits.isascii() and digits.isdigit() and int(digits) < 65_535:
        return int(digits)
    raise InputError(f"unknown service parameter {name!r} (another one is written keyNNNNN)")


def _name(number: int) -> str:
    return _NAMES[number] if number < len(_NAMES) else f"key{number}"


def _encode_value(name: str, value: bytes, given: bool) -> bytes:
    match name:
        case "no-default-alpn":
            if given:
                raise ValueError
            return b""
        case "mandatory":
            return b"".join(
                struct.pack(">H", n) for n in sorted(_number(k) for k in value.decode().split(","))
            )
        case "alpn":
            protocols = value.split(b",")
            if not all(1 <= len(protocol) <= 255 for protocol in protocols):
                raise ValueError
            return b"".join(bytes((len(protocol),)) + protocol for protocol in protocols)
        case "port":
            return struct.pack(">H", int(value))
        case "ipv4hint":
            return b"".join(ipaddress.IPv4Address(a).packed for a in value.decode().split(","))
        case "ipv6hint":
            return b"".join(ipaddress.IPv6Address(a).packed for a in value.decode().split(","))
        case "ech":
            return base64.b64decode(value, validate=True)
        case _:
            return value


def _format_value(name: str, value: bytes) -> str | None:
    match name:
        case "no-default-alpn" if not value:
            return None
        case "mandatory":
            return ",".join(_name(n) for (n,) in struct.iter_unpack(">H", value))
        case "alpn":
            return _quoted(b",".join(_split_strings(value)))
        case "port":
            return str(struct.unpack(">H", value)[0])
        case "ipv4hint":
            return ",".join(str(ipaddress.IPv4Address(value[i : i + 4])) for i in range(0, len(value), 4))
        case "ipv6hint":
            return ",".join(str(ipaddress.IPv6Address(value[i : i + 16])) for i in range(0, len(value), 16))
        case "ech":
            return base64.b64encode(value).decode()
        case _:
            return _quoted(value) if value else None


def _spelled(text: str | None) -> tuple[bytes, bool]:
    """The value that a `format`ted text is read as, and whether there is one."""
    if text is None:
        return b"", False
    if not text.startswith('"'):
        return text.encode(), True
    return _ESCAPE.sub(_unescaped, text[1:-1].encode()), True


def _unescaped(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    return bytes((int(escaped),)) if len(escaped) == 3 else escaped


def _split_strings(value: bytes) -> list[bytes]:
    strings = []
    offset = 0
    while offset < len(value):
        end = offset + 1 + value[offset]
        if end > len(value):
            raise ValueError
        strings.append(value[offset + 1 : end])
        offset = end
    return strings


def _quoted(value: bytes) -> str:
    return quote_string(value)


def quote_string(value: bytes) -> str:
    """A character string in quotes (RFC 1035 §5.1): unprintable octets as \\DDD."""
    text = []
    for octet in value:
        if octet in b'"\\':
            text.append("\\" + chr(octet))
        elif 0x20 <= octet < 0x7F:
            text.append(chr(octet))
        else:
            text.append(f"\\{octet:03d}")
    return '"' + "".join(text) + '"'
