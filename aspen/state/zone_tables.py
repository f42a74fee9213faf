"""Which zones there are: table `zones`, and the differences between their serials, `zone_changes`.

::

    zones         "z" ‖ apex as a key      → ZoneInfo: what changes seldom; counted by `zones_version`
                  "n" ‖ zone id u64        → ZoneNumbers: what changes with every record
                  "s" ‖ stage id           → StageInfo: an import under way
                  "g" ‖ content id u64     → nothing: a content out of use
                  "v" ‖ version u64        → apex: whose `ZoneInfo` moved the version to this; the newest
    zone_changes  zone id u64 ‖ number u64 → ZoneDifference, the newest of each zone

In table `machine`: `zones_version` moves whenever a `ZoneInfo` does, so that readers keep an index
of them; `zones_serials` whenever a serial may have; `zones_last_id` is the last id given to a zone
or a content; `zones_count`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from aspen.dns.zone import ZoneSettings
from aspen.dns.zone_rules import ZoneRecord
from aspen.limits import ZONE_CHANGES, ZONE_CHANGES_BYTES
from aspen.state.store import TableStore, Txn
from aspen.state.zone_content import name_key, name_of_key

_U64: Final = struct.Struct(">Q")
_CHANGE_KEY: Final = struct.Struct(">QQ")
_NUMBERS: Final = struct.Struct(">IQQQQQ")
VERSION: Final = b"zones_version"
SERIALS: Final = b"zones_serials"
_LAST_ID: Final = b"zones_last_id"
_COUNT: Final = b"zones_count"
ZONE: Final = b"z"
_NUMBERS_OF: Final = b"n"
_STAGE: Final = b"s"
_GARBAGE: Final = b"g"
_MOVED: Final = b"v"
_SERIAL_HALF: Final = 1 << 31
_SERIAL_MASK: Final = (1 << 32) - 1


class ZoneInfo(msgspec.Struct, frozen=True, array_like=True):
    zone_id: int
    """Never used again, also not by a zone of the same name."""
    content_id: int
    settings: ZoneSettings


class ZoneNumbers(NamedTuple):
    serial: int
    records: int
    changed_at_ms: int
    first_change: int
    """Number of the oldest difference kept."""
    next_change: int
    change_bytes: int
    """Of the differences kept."""


class StageInfo(msgspec.Struct, frozen=True, array_like=True):
    apex: bytes
    content_id: int
    next_sequence: int
    records: int
    at_ms: int
    """Of the last chunk."""


class ZoneDifference(msgspec.Struct, frozen=True, array_like=True):
    """From one serial to the next (RFC 1995 §4). SOA records are among the records."""

    from_serial: int
    to_serial: int
    removed: tuple[ZoneRecord, ...]
    added: tuple[ZoneRecord, ...]


_INFO_ENCODER: Final = msgspec.msgpack.Encoder()
_INFO_DECODER: Final = msgspec.msgpack.Decoder(ZoneInfo)
_STAGE_DECODER: Final = msgspec.msgpack.Decoder(StageInfo)
_DIFFERENCE_DECODER: Final = msgspec.msgpack.Decoder(ZoneDifference)


def next_serial(serial: int) -> int:
    """One more, modulo 2^32 (RFC 1982 §3.1); 0 is left out, as some take it for "none"."""
    return (serial + 1) & _SERIAL_MASK or 1


def is_newer(serial: int, than: int) -> bool:
    """RFC 1982 §3.2."""
    return 0 < (serial - than) & _SERIAL_MASK < _SERIAL_HALF


class ZoneTables:
    """Reads and writes these tables within one transaction."""

    __slots__ = ("_txn", "changes", "machine", "rrsets", "zones")

    def __init__(self, store: TableStore, txn: Txn) -> None:
        self._txn = txn
        tables = store.tables
        self.zones, self.rrsets = tables["zones"], tables["rrsets"]
        self.changes, self.machine = tables["zone_changes"], tables["machine"]

    # --- words --------------------------------------------------------------------------------

    def word(self, name: bytes) -> int:
        value = self._txn.get(name, db=self.machine)
        return 0 if value is None else int(_U64.unpack(value)[0])

    def _add(self, name: bytes, amount: int) -> int:
        word = self.word(name) + amount
        self._txn.put(name, _U64.pack(word), db=self.machine)
        return word

    def next_id(self) -> int:
        """What `new_id` would give."""
        return self.word(_LAST_ID) + 1

    def new_id(self) -> int:
        """An id for a zone or a content: never given before."""
        return self._add(_LAST_ID, 1)

    def count(self) -> int:
        return self.word(_COUNT)

    # --- zones --------------------------------------------------------------------------------

    def info(self, apex: bytes) -> ZoneInfo | None:
        value = self._txn.get(zone_key(apex), db=self.zones)
        return None if value is None else _INFO_DECODER.decode(value)

    def put_info(self, apex: bytes, info: ZoneInfo) -> None:
        if self._txn.get(zone_key(apex), db=self.zones) is None:
            self._add(_COUNT, 1)
        self._txn.put(zone_key(apex), _INFO_ENCODER.encode(info), db=self.zones)
        self._move_version(apex)

    def delete_zone(self, apex: bytes, info: ZoneInfo) -> None:
        """The zone, its numbers and differences; its content becomes garbage."""
        self.forget_changes(info.zone_id, self.numbers(info.zone_id))
        self._txn.delete(zone_key(apex), db=self.zones)
        self._txn.delete(_NUMBERS_OF + _U64.pack(info.zone_id), db=self.zones)
        self._add(_COUNT, -1)
        self._move_version(apex)
        self.put_garbage(info.content_id)

    def _move_version(self, apex: bytes) -> None:
        version = self._add(VERSION, 1)
        self._txn.put(_MOVED + _U64.pack(version), apex, db=self.zones)
        if version > ZONE_CHANGES:
            self._txn.delete(_MOVED + _U64.pack(version - ZONE_CHANGES), db=self.zones)

    def moved_since(self, version: int) -> set[bytes] | None:
        """The zones whose `ZoneInfo` is another than at that version; None if that is not known any more."""
        now = self.word(VERSION)
        if not 0 <= now - version <= ZONE_CHANGES:
            return None
        keys = (_MOVED + _U64.pack(each) for each in range(version + 1, now + 1))
        return {self._txn.get(key, db=self.zones) for key in keys}

    def numbers(self, zone_id: int) -> ZoneNumbers:
        value = self._txn.get(_NUMBERS_OF + _U64.pack(zone_id), db=self.zones)
        return ZoneNumbers(*_NUMBERS.unpack(value)) if value is not None else ZoneNumbers(0, 0, 0, 0, 0, 0)

    def put_numbers(self, zone_id: int, numbers: ZoneNumbers) -> None:
        self._txn.put(_NUMBERS_OF + _U64.pack(zone_id), _NUMBERS.pack(*numbers), db=self.zones)
        self._add(SERIALS, 1)

    def infos(self, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """(apex, ZoneInfo encoded) of all zones, or those after one, by canonical order of their names."""
        for key, value in self._under(ZONE, b"" if after is None else zone_key(after) + b"\0"):
            yield apex_of_key(key), value

    # --- differences --------------------------------------------------------------------------

    def add_difference(self, zone_id: int, numbers: ZoneNumbers, difference: ZoneDifference) -> ZoneNumbers:
        """Keep a difference; the oldest go when there are too many. The numbers after that."""
        value = _INFO_ENCODER.encode(difference)
        if len(value) > ZONE_CHANGES_BYTES:
            return self.forget_changes(zone_id, numbers)
        self._txn.put(_CHANGE_KEY.pack(zone_id, numbers.next_change), value, db=self.changes)
        first, end = numbers.first_change, numbers.next_change + 1
        size = numbers.change_bytes + len(value)
        while end - first > ZONE_CHANGES or size > ZONE_CHANGES_BYTES:
            key = _CHANGE_KEY.pack(zone_id, first)
            size -= len(self._txn.get(key, db=self.changes))
            self._txn.delete(key, db=self.changes)
            first += 1
        return numbers._replace(first_change=first, next_change=end, change_bytes=size)

    def forget_changes(self, zone_id: int, numbers: ZoneNumbers) -> ZoneNumbers:
        """Whoever has an earlier serial must transfer the whole zone from now on."""
        for number in range(numbers.first_change, numbers.next_change):
            self._txn.delete(_CHANGE_KEY.pack(zone_id, number), db=self.changes)
        return numbers._replace(first_change=numbers.next_change, change_bytes=0)

    def differences(self, zone_id: int, serial: int) -> list[ZoneDifference] | None:
        """The way from `serial` to the current one; None if it isn't known any more."""
        numbers = self.numbers(zone_id)
        found: list[ZoneDifference] = []
        wanted = numbers.serial
        for number in range(numbers.next_change - 1, numbers.first_change - 1, -1):
            if wanted == serial:
                break
            value = self._txn.get(_CHANGE_KEY.pack(zone_id, number), db=self.changes)
            difference = _DIFFERENCE_DECODER.decode(value)
            found.append(difference)
            wanted = difference.from_serial
        return found[::-1] if wanted == serial else None

    # --- stages and garbage -------------------------------------------------------------------

    def stage(self, stage_id: bytes) -> StageInfo | None:
        value = self._txn.get(_STAGE + stage_id, db=self.zones)
        return None if value is None else _STAGE_DECODER.decode(value)

    def put_stage(self, stage_id: bytes, stage: StageInfo) -> None:
        self._txn.put(_STAGE + stage_id, _INFO_ENCODER.encode(stage), db=self.zones)

    def delete_stage(self, stage_id: bytes) -> None:
        """Its content stays: what becomes of it is the caller's to say."""
        self._txn.delete(_STAGE + stage_id, db=self.zones)

    def stages(self) -> list[tuple[bytes, StageInfo]]:
        return [(key[1:], _STAGE_DECODER.decode(value)) for key, value in self._under(_STAGE)]

    def put_garbage(self, content_id: int) -> None:
        self._txn.put(_GARBAGE + _U64.pack(content_id), b"", db=self.zones)

    def delete_garbage(self, content_id: int) -> None:
        self._txn.delete(_GARBAGE + _U64.pack(content_id), db=self.zones)

    def first_garbage(self) -> int | None:
        for key, _ in self._under(_GARBAGE):
            return int(_U64.unpack(key[1:])[0])
        return None

    def _under(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        cursor = self._txn.cursor(db=self.zones)
        found = cursor.set_range(max(prefix, start))
        while found and cursor.key().startswith(prefix):
            yield cursor.item()
            found = cursor.next()


def zone_key(apex: bytes) -> bytes:
    return ZONE + name_key(apex[:-1])


def apex_of_key(key: bytes) -> bytes:
    return name_of_key(key[1:]) + b"\0"


def decode_info(value: bytes) -> ZoneInfo:
    return _INFO_DECODER.decode(value)
