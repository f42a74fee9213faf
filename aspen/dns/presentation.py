"""RDATA as dig prints it, text ⇄ wire (RFC 1035 §5.1; each type's own RFC for its fields).

A table says for each type which fields its text has; reading and printing both follow it. Types
outside the table are left to dnslib where it knows them (LOC, NSEC, …), and any type at all can
be written as octets: `TYPE65280 \\# 3 abcdef` (RFC 3597 §5).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import dnslib

from aspen.dns.name import ROOT, name_from_text, name_to_text, read_name
from aspen.dns.svcparams import encode_parameters, format_parameters, quote_string
from aspen.errors import DnsWireError, InputError


class Word(NamedTuple):
    """One word of a record's text."""

    raw: str
    """As written: names are read from it, for their escapes differ from those of strings."""
    octets: bytes
    """Quotes removed and escapes resolved."""


class CompressibleName(bytes):
    """A whole wire name inside RDATA that may be sent compressed (RFC 3597 §4)."""


RdataPart = bytes | CompressibleName

_U8, _U16, _U32 = "8-bit number", "16-bit number", "32-bit number"
_TIME: Final = "time in seconds"
_SALT: Final = "salt"
_NAME, _OLD_NAME = "name", "compressible name"
_STRING, _STRINGS, _TAG, _TEXT = "string", "strings", "tag", "text"
_HEX, _BASE64, _IPV4, _IPV6, _PARAMETERS = (
    "hexadecimal",
    "base64",
    "IPv4 address",
    "IPv6 address",
    "parameters",
)
_SIZES: Final = {_U8: 1, _U16: 2, _U32: 4, _TIME: 4}
_TAKES_REST: Final = frozenset({_STRINGS, _HEX, _BASE64, _PARAMETERS})

_FORMS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "A": (1, (_IPV4,)),
    "NS": (2, (_OLD_NAME,)),
    "CNAME": (5, (_OLD_NAME,)),
    "SOA": (6, (_OLD_NAME, _OLD_NAME, _U32, _TIME, _TIME, _TIME, _TIME)),
    "MB": (7, (_OLD_NAME,)),
    "MG": (8, (_OLD_NAME,)),
    "MR": (9, (_OLD_NAME,)),
    "PTR": (12, (_OLD_NAME,)),
    "HINFO": (13, (_STRING, _STRING)),
    "MINFO": (14, (_OLD_NAME, _OLD_NAME)),
    "MX": (15, (_U16, _OLD_NAME)),
    "TXT": (16, (_STRINGS,)),
    "RP": (17, (_NAME, _NAME)),
    "AFSDB": (18, (_U16, _NAME)),
    "X25": (19, (_STRING,)),
    "ISDN": (20, (_STRINGS,)),
    "RT": (21, (_U16, _NAME)),
    "PX": (26, (_U16, _NAME, _NAME)),
    "GPOS": (27, (_STRING, _STRING, _STRING)),
    "AAAA": (28, (_IPV6,)),
    "SRV": (33, (_U16, _U16, _U16, _NAME)),
    "NAPTR": (35, (_U16, _U16, _STRING, _STRING, _STRING, _NAME)),
    "KX": (36, (_U16, _NAME)),
    "CERT": (37, (_U16, _U16, _U8, _BASE64)),
    "DNAME": (39, (_NAME,)),
    "DS": (43, (_U16, _U8, _U8, _HEX)),
    "SSHFP": (44, (_U8, _U8, _HEX)),
    "DNSKEY": (48, (_U16, _U8, _U8, _BASE64)),
    "DHCID": (49, (_BASE64,)),
    "NSEC3PARAM": (51, (_U8, _U8, _U16, _SALT)),
    "TLSA": (52, (_U8, _U8, _U8, _HEX)),
    "SMIMEA": (53, (_U8, _U8, _U8, _HEX)),
    "CDS": (59, (_U16, _U8, _U8, _HEX)),
    "CDNSKEY": (60, (_U16, _U8, _U8, _BASE64)),
    "OPENPGPKEY": (61, (_BASE64,)),
    "ZONEMD": (63, (_U32, _U8, _U8, _HEX)),
    "SVCB": (64, (_U16, _NAME, _PARAMETERS)),
    "HTTPS": (65, (_U16, _NAME, _PARAMETERS)),
    "SPF": (99, (_STRINGS,)),
    "LP": (107, (_U16, _NAME)),
    "URI": (256, (_U16, _U16, _TEXT)),
    "CAA": (257, (_U8, _TAG, _TEXT)),
    "AVC": (258, (_STRINGS,)),
    "RESINFO": (261, (_STRINGS,)),
}
_NAMES: Final = {number: name for name, (number, _) in _FORMS.items()}
# Type → which word is a name: dnslib doesn't make it absolute.
_LEFT_TO_DNSLIB: Final = {"LOC": None, "NSEC": 0, "RRSIG": 7}
_DNSLIB_NUMBERS: Final[dict[str, int]] = {name: dnslib.QTYPE.reverse[name] for name in _LEFT_TO_DNSLIB}
_DNSLIB_NAMES: Final = {number: name for name, number in _DNSLIB_NUMBERS.items()}
_OPT: Final = 41
_TTL: Final = re.compile(r"\d+|(?:\d+[wdhms])+", re.IGNORECASE)
_TTL_PART: Final = re.compile(r"(\d+)([wdhms]?)", re.IGNORECASE)
_TTL_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_TTL_MAX: Final = 2**32 - 1
_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|(?:[^\s";\\]|\\.|"(?:[^"\\]|\\.)*")+|;.*|\S', re.DOTALL)
_FINAL_DOT: Final = re.compile(r"(?<!\\)(?:\\\\)*\.\Z")
_ESCAPE_OR_QUOTE: Final = re.compile(rb'\\(\d{3}|.)|"', re.DOTALL)


# --- words ------------------------------------------------------------------------------------


def split_words(text: str) -> list[Word]:
    """The words of one record: quotes group, `;` begins a comment, parentheses mean nothing.

    Raises `InputError` for a quote that isn't closed.
    """
    words = []
    for match in _WORD.finditer(text):
        raw = match.group()
        if raw.startswith(";"):
            break
        if raw in ("(", ")"):
            continue
        if raw in ('"', "\\"):
            raise InputError("a quote is not closed, or a backslash stands at the end")
        words.append(Word(raw, _octets(raw)))
    return words


def word_of(raw: str) -> Word:
    """Raises `InputError`."""
    if '"' not in raw and "\\" not in raw and raw.isascii():
        return Word(raw, raw.encode())
    return Word(raw, _octets(raw))


def _octets(raw: str) -> bytes:
    return _ESCAPE_OR_QUOTE.sub(_resolved, raw.encode("utf-8", "surrogateescape"))


def _resolved(match: re.Match[bytes]) -> bytes:
    escaped = match.group(1)
    if escaped is None:  # a quote: it groups, and is no part of what it groups
        return b""
    if len(escaped) < 3:
        return escaped
    if int(escaped) > 255:
        raise InputError(f"the escape \\{escaped.decode()} is more than one octet")
    return bytes((int(escaped),))


# --- types ------------------------------------------------------------------------------------


def type_number(text: str) -> int:
    """The number of a record type's name. Raises `InputError`."""
    name = text.upper()
    if name in _FORMS:
        return _FORMS[name][0]
    if name in _DNSLIB_NUMBERS:
        return _DNSLIB_NUMBERS[name]
    digits = name.removeprefix("TYPE")
    if name.startswith("TYPE") and digits.isascii() and digits.isdigit() and int(digits) < 65_536:
        number = int(digits)
        if number in (0, _OPT) or 128 <= number <= 255:
            raise InputError(f"{name} is not a type of record that can be stored (RFC 6895 §3.1)")
        return number
    raise InputError(f"unknown record type {text!r} (any type can be written as TYPEnnn \\# length hex)")


def type_name(number: int) -> str:
    return _NAMES.get(number) or _DNSLIB_NAMES.get(number) or f"TYPE{number}"


# --- text → wire ------------------------------------------------------------------------------


def parse_rdata(rrtype: int, words: Sequence[Word], origin: bytes) -> list[RdataPart]:
    """The RDATA that `words` spell; relative names end in `origin`. Raises `InputError`."""
    if words and words[0].raw == "\\#":
        return [_opaque(words)]
    name = type_name(rrtype)
    if name in _DNSLIB_NUMBERS:
        return [_by_dnslib(name, words, origin)]
    if name not in _FORMS:
        raise InputError(f"{name} is written as \\# length hex")
    fields = _FORMS[name][1]
    parts: list[RdataPart] = []
    position = 0
    for field in fields:
        rest = words[position:]
        if not rest and field != _PARAMETERS:
            raise InputError(f"{name} needs {_wanted(fields)}; there is no {_wanted((field,))}")
        taken = len(rest) if field in _TAKES_REST else 1
        parts.append(_encode(field, rest[:taken], origin))
        position += taken
    if position != len(words):
        raise InputError(f"{name} needs {_wanted(fields)}; {words[position].raw!r} is too much")
    return parts


def _wanted(fields: tuple[str, ...]) -> str:
    return ", ".join(fields).replace(_OLD_NAME, _NAME)


def _opaque(words: Sequence[Word]) -> bytes:
    try:
        octets = bytes.fromhex("".join(word.raw for word in words[2:]))
        length = int(words[1].raw)
    except (ValueError, IndexError):
        raise InputError("octets are written as \\# length hex") from None
    if length != len(octets):
        raise InputError(f"\\# says {length} octets, but there are {len(octets)}")
    return octets


def _by_dnslib(name: str, words: Sequence[Word], origin: bytes) -> bytes:
    named = _LEFT_TO_DNSLIB[name]
    texts = [
        name_to_text(parse_name(word.raw, origin))
        if position == named
        else word.octets.decode("utf-8", "replace")
        for position, word in enumerate(words)
    ]
    try:
        buffer = dnslib.DNSBuffer()
        dnslib.RDMAP[name].fromZone(texts).pack(buffer)
    except Exception:  # dnslib raises whatever its conversions raise
        raise InputError(f"not the RDATA of a {name} record") from None
    return bytes(buffer.data)


def _encode(field: str, words: Sequence[Word], origin: bytes) -> RdataPart:
    if field == _PARAMETERS:
        return encode_parameters([word.octets for word in words])
    if field == _STRINGS:
        return b"".join(_string(word.octets) for word in words)
    word = words[0]
    try:
        if field == _TIME:
            return parse_ttl(word.raw).to_bytes(4, "big")
        if field in _SIZES:
            if not (word.raw.isascii() and word.raw.isdigit()):
                raise ValueError
            return int(word.raw).to_bytes(_SIZES[field], "big")
        if field in (_NAME, _OLD_NAME):
            name = parse_name(word.raw, origin)
            return CompressibleName(name) if field == _OLD_NAME else name
        if field in (_STRING, _TAG):
            return _string(word.octets)
        if field == _SALT:
            return _string(b"" if word.raw == "-" else bytes.fromhex(word.raw))
        if field == _TEXT:
            return word.octets
        if field == _IPV4:
            return ipaddress.IPv4Address(word.raw).packed
        if field == _IPV6:
            return ipaddress.IPv6Address(word.raw).packed
        joined = "".join(each.raw for each in words)
        return bytes.fromhex(joined) if field == _HEX else base64.b64decode(joined, validate=True)
    except (ValueError, OverflowError, binascii.Error):
        raise InputError(f"{word.raw!r} is not {'an' if field[0] in 'aeiouI8' else 'a'} {field}") from None


def _string(octets: bytes) -> bytes:
    if len(octets) > 255:
        raise InputError(f"a string of {len(octets)} bytes; one has at most 255: write several in quotes")
    return bytes((len(octets),)) + octets


def parse_ttl(text: str) -> int:
    """Seconds, as a number or with units as BIND takes them: `1h30m`, `2W`. Raises `InputError`."""
    seconds = 0
    if not text.isascii() or len(text) > 40 or not _TTL.fullmatch(text):
        raise InputError(f"{text!r} is not a time in seconds (as in 3600, 1h, 1w2d)")
    for number, unit in _TTL_PART.findall(text):
        seconds += int(number) * _TTL_UNITS[unit.lower()]
    if seconds > _TTL_MAX:
        raise InputError(f"{text} is more than {_TTL_MAX} seconds")
    return seconds


def parse_name(text: str, origin: bytes) -> bytes:
    """A wire name from master-file text: `@` is the origin, and a name without a final dot is below it.

    Raises `InputError`.
    """
    if text == "@":
        return origin
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    try:
        name = name_from_text(text)
        if not _FINAL_DOT.search(text):
            name = name[:-1] + origin
        read_name(b"\0" * 12 + name, 12)  # within the limits?
    except (DnsWireError, UnicodeEncodeError) as error:
        raise InputError(str(error)) from None
    return name


# --- wire → text ------------------------------------------------------------------------------


def format_rdata(rrtype: int, rdata: bytes) -> str:
    """The text of RDATA that was validated and whose names are whole."""
    name = type_name(rrtype)
    try:
        if name in _DNSLIB_NUMBERS:
            text = str(dnslib.RDMAP[name].parse(dnslib.DNSBuffer(rdata), len(rdata)).toZone())
            if b"".join(parse_rdata(rrtype, split_words(text), ROOT)) == rdata:
                return text
        elif name in _FORMS:
            return _format_fields(_FORMS[name][1], rdata)
    except Exception:
        # Not what its type promises, or more than dnslib can read: show the octets.
        return _format_opaque(rdata)
    return _format_opaque(rdata)


def _format_opaque(rdata: bytes) -> str:
    return f"\\# {len(rdata)} {rdata.hex()}".rstrip()


def _format_fields(fields: tuple[str, ...], rdata: bytes) -> str:
    words: list[str] = []
    offset = 0
    for field in fields:
        if field in _SIZES:
            end = offset + _SIZES[field]
            words.append(str(int.from_bytes(rdata[offset:end], "big")))
        elif field in (_NAME, _OLD_NAME):
            wire, after = read_name(b"\0" * 12 + rdata, 12 + offset)
            words.append(name_to_text(wire))
            end = after - 12
        elif field in (_STRING, _TAG, _SALT):
            end = offset + 1 + rdata[offset]
            octets = rdata[offset + 1 : end]
            words.append(_format_string(field, octets))
        elif field == _STRINGS:
            end = offset
            while end < len(rdata):
                start, end = end + 1, end + 1 + rdata[end]
                words.append(quote_string(rdata[start:end]))
        else:
            end = len(rdata)
            if offset == end and field in (_HEX, _BASE64):
                raise ValueError  # nothing can't be written in them
            words.extend(_REST_FORMATS[field](rdata[offset:]))
        if end > len(rdata):
            raise ValueError
        offset = end
    return " ".join(words)


def _format_string(field: str, octets: bytes) -> str:
    if field == _SALT:
        return octets.hex().upper() or "-"
    if field == _TAG:
        if not octets.isalnum():
            raise ValueError
        return octets.decode("ascii")
    return quote_string(octets)


_REST_FORMATS: Final[dict[str, Callable[[bytes], list[str]]]] = {
    _IPV4: lambda octets: [str(ipaddress.IPv4Address(octets))],
    _IPV6: lambda octets: [str(ipaddress.IPv6Address(octets))],
    _HEX: lambda octets: [octets.hex().upper()],
    _BASE64: lambda octets: [base64.b64encode(octets).decode()],
    _TEXT: lambda octets: [quote_string(octets)],
    _PARAMETERS: format_parameters,
}
