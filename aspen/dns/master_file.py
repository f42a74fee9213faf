"""Master files (RFC 1035 §5), read piece by piece and written line by line.

An entry is a line, or several where parentheses hold them together. `;` begins a comment, quotes
group, `\\X` and `\\DDD` escape (RFC 1035 §5.1). A record is `[owner] [TTL] [class] type RDATA`, TTL
and class in either order; a line that begins with a blank has the owner before. `$ORIGIN` and
`$TTL` (RFC 2308 §4) hold from where they stand. A record without a TTL has that of `$TTL`, else that
of the record before (RFC 1035 §5.1), else the zone's default. TTLs may have units, as BIND takes
them. `$INCLUDE` would read files of the server and `$GENERATE` makes one line into thousands: both
are refused. Every error carries the line that its entry begins on.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from aspen.dns.name import name_to_text, relative_to
from aspen.dns.presentation import (
    format_rdata,
    parse_name,
    parse_rdata,
    parse_ttl,
    type_name,
    type_number,
    word_of,
)
from aspen.dns.zone import Node
from aspen.dns.zone_rules import SOA, ZoneRecord
from aspen.errors import InputError, MasterFileError
from aspen.limits import MASTER_ENTRY_BYTES, TTL_MAX_S, ZONE_TTL_DEFAULT_S

# A word, in quotes or not; quotes may also follow `=` (RFC 9460 §2.1).
_TOKEN: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"|(?:[^\s"();\\]|\\.|(?<==)"(?:[^"\\]|\\.)*")+|;.*|[()]|\S', re.ASCII
)
_SPECIAL: Final = re.compile(r'["();\\]|[^\x20-\x7e\t\r]')
_TTL_START: Final = re.compile(r"\d+(?:[wdhmsWDHMS]\d*)*")
_CLASSES: Final = frozenset({"IN", "CLASS1"})
_OTHER_CLASSES: Final = frozenset({"CH", "HS", "CS", "NONE", "ANY"})
_BLANKS: Final = (" ", "\t")


class MasterRecord(NamedTuple):
    line: int
    """Where its entry begins, counted from 1."""
    record: ZoneRecord


class MasterFileReader:
    """Reads a master file as it comes: `feed` pieces of it, then `finish`; both return records.

    After an error the rest can't be read.
    """

    def __init__(self, origin: bytes, default_ttl_s: int = ZONE_TTL_DEFAULT_S) -> None:
        """`origin` is a folded wire name: what relative names are relative to at first."""
        self._origin = origin
        self._default_ttl = default_ttl_s
        self._stated_ttl: int | None = None
        """Of `$TTL`."""
        self._last_ttl: int | None = None
        self._owner: bytes | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._rest = ""
        self._line = 0
        # The entry that is being gathered, while parentheses are open.
        self._entry: list[str] = []
        self._entry_line = 0
        self._entry_blank = False
        self._entry_bytes = 0
        self._depth = 0
        self._names: dict[str, bytes] = {}
        """Owners seen lately: most names stand on several lines."""

    def feed(self, data_untrusted: bytes) -> Iterator[MasterRecord]:
        """Raises `MasterFileError`."""
        text = self._rest + self._decoder.decode(data_untrusted)
        *lines, self._rest = text.split("\n")
        if len(self._rest) > MASTER_ENTRY_BYTES:
            raise MasterFileError(self._line + 1, f"a line is longer than {MASTER_ENTRY_BYTES} bytes")
        for line in lines:
            record = self._take(line)
            if record is not None:
                yield record

    def finish(self) -> Iterator[MasterRecord]:
        """Raises `MasterFileError`."""
        self._rest += self._decoder.decode(b"", True)
        if self._rest:
            record = self._take(self._rest)
            self._rest = ""
            if record is not None:
                yield record
        if self._depth:
            raise MasterFileError(self._entry_line, "a parenthesis is not closed")

    # --- lines and entries --------------------------------------------------------------------

    def _take(self, line: str) -> MasterRecord | None:
        """The record that ends with this line, if one does."""
        self._line += 1
        if not self._depth and not _SPECIAL.search(line):
            words = line.split()
            if not words:
                return None
            return self._read(words, self._line, line.startswith(_BLANKS))
        if not self._depth:
            self._entry, self._entry_line, self._entry_bytes = [], self._line, 0
            self._entry_blank = line.startswith(_BLANKS)
        self._entry_bytes += len(line)
        if self._entry_bytes > MASTER_ENTRY_BYTES:
            raise MasterFileError(self._entry_line, f"an entry is longer than {MASTER_ENTRY_BYTES} bytes")
        self._scan(line)
        if self._depth or not self._entry:
            return None
        entry, self._entry = self._entry, []
        return self._read(entry, self._entry_line, self._entry_blank)

    def _scan(self, line: str) -> None:
        for match in _TOKEN.finditer(line):
            raw = match.group()
            if raw.startswith(";"):
                return
            if raw == "(":
                self._depth += 1
            elif raw == ")":
                if not self._depth:
                    raise MasterFileError(self._line, "a parenthesis is closed that was not opened")
                self._depth -= 1
            elif raw == '"':
                raise MasterFileError(self._line, "a quote is not closed on its line")
            elif raw == "\\":
                raise MasterFileError(self._line, "a backslash stands at the end of the line")
            else:
                self._entry.append(raw)

    # --- entries ------------------------------------------------------------------------------

    def _read(self, words: list[str], line: int, blank: bool) -> MasterRecord | None:
        try:
            if not blank and words[0].startswith("$"):
                self._directive(words)
                return None
            return MasterRecord(line, self._record(words, blank))
        except MasterFileError:
            raise
        except InputError as error:
            raise MasterFileError(line, str(error)) from None

    def _directive(self, words: list[str]) -> None:
        name = words[0].upper()
        arguments = words[1:]
        if name == "$ORIGIN":
            if len(arguments) != 1:
                raise InputError("$ORIGIN is followed by one name")
            self._origin = parse_name(arguments[0], self._origin).lower()
            self._names.clear()
        elif name == "$TTL":
            if len(arguments) != 1:
                raise InputError("$TTL is followed by one TTL")
            self._stated_ttl = _ttl(arguments[0])
        elif name == "$INCLUDE":
            raise InputError("$INCLUDE is refused: a zone is one file (write the other's records here)")
        elif name == "$GENERATE":
            raise InputError("$GENERATE is refused: write the records out")
        else:
            raise InputError(f"{words[0]} is not a directive of master files ($ORIGIN and $TTL are)")

    def _record(self, words: list[str], blank: bool) -> ZoneRecord:
        position = 0
        if not blank:
            self._owner = self._name(words[0])
            position = 1
        owner = self._owner
        if owner is None:
            raise InputError("the first record has no owner")
        ttl: int | None = None
        has_class = False
        while position < len(words):
            raw = words[position]
            if ttl is None and raw[0].isdigit() and _TTL_START.fullmatch(raw):
                ttl = _ttl(raw)
            elif not has_class and raw.upper() in _CLASSES:
                has_class = True
            elif raw.upper() in _OTHER_CLASSES or (raw.upper().startswith("CLASS") and raw[5:].isdigit()):
                raise InputError(f"the class is {raw}; zones are of class IN")
            else:
                break
            position += 1
        if position == len(words):
            raise InputError("the type is missing: a record is [owner] [TTL] [class] type data")
        if words[position].startswith('"'):
            raise InputError(f"the type is missing before {words[position]}")
        rrtype = type_number(words[position])
        if ttl is not None:
            self._last_ttl = ttl
        else:
            ttl = self._omitted_ttl()
        rest = [word_of(word) for word in words[position + 1 :]]
        rdata = b"".join(parse_rdata(rrtype, rest, self._origin))
        return ZoneRecord(owner, rrtype, ttl, rdata)

    def _name(self, text: str) -> bytes:
        name = self._names.get(text)
        if name is None:
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            name = self._names[text] = parse_name(text, self._origin).lower()
        return name

    def _omitted_ttl(self) -> int:
        if self._stated_ttl is not None:
            return self._stated_ttl
        return self._default_ttl if self._last_ttl is None else self._last_ttl


_NAMES_KEPT: Final = 256


def read_master_file(
    data_untrusted: bytes, origin: bytes, default_ttl_s: int = ZONE_TTL_DEFAULT_S
) -> list[MasterRecord]:
    """All records of a master file. Raises `MasterFileError`."""
    reader = MasterFileReader(origin, default_ttl_s)
    return [*reader.feed(data_untrusted), *reader.finish()]


def _ttl(text: str) -> int:
    ttl = parse_ttl(text)
    if ttl > TTL_MAX_S:
        raise InputError(f"a TTL is at most {TTL_MAX_S} seconds (RFC 2181 §8), not {text}")
    return ttl


# --- writing ------------------------------------------------------------------------------------


def write_master_file(apex: bytes, nodes: Iterable[tuple[bytes, Node]]) -> Iterator[str]:
    """Lines (with their newlines) of a zone given in canonical order; SOA first, as readers want it."""
    yield f"$ORIGIN {name_to_text(apex)}\n"
    for owner, node in nodes:
        name = owner_text(owner, apex)
        types = sorted(node, key=lambda rrtype: (rrtype != SOA, rrtype))
        for rrtype in types:
            rrset = node[rrtype]
            kind = type_name(rrtype)
            for rdata in rrset.rdatas:
                yield f"{name}\t{rrset.ttl}\tIN\t{kind}\t{format_rdata(rrtype, rdata)}\n"


def owner_text(owner: bytes, apex: bytes) -> str:
    """An owner relative to its zone; `@` at the apex."""
    relative = relative_to(owner, apex)
    if not relative:
        return "@"
    return name_to_text(relative + b"\0")[:-1]


def record_text(record: ZoneRecord) -> str:
    """One record as dig prints it, in one line without tabs."""
    owner, rrtype, ttl, rdata = record
    return f"{name_to_text(owner)} {ttl} IN {type_name(rrtype)} {format_rdata(rrtype, rdata)}"
