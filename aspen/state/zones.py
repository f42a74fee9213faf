"""Readers of authored zones over the local replica (`aspen.dns.zone.Zones`, `ZoneReader`).

The index of zones is kept in memory and read again only when `zones_version` has moved, which
changes of records don't do. A reader of one zone holds a read transaction, so it sees one moment;
the transaction ends with the reader, which must therefore not be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from aspen.dns.name import label_offsets, relative_to
from aspen.dns.zone import Announced, Node, ZoneSettings
from aspen.state.store import TableStore, Txn
from aspen.state.zone_content import content_prefix, read_node, walk_content
from aspen.state.zone_tables import (
    SERIALS,
    VERSION,
    ZoneDifference,
    ZoneInfo,
    ZoneNumbers,
    ZoneTables,
    decode_info,
    zone_key,
)


class LmdbZone:
    """One zone at one moment (`aspen.dns.zone.ZoneReader`)."""

    __slots__ = ("_info", "_prefix", "_rrsets", "_store", "_txn", "apex")

    def __init__(self, store: TableStore, txn: Txn, apex: bytes, info: ZoneInfo) -> None:
        self._store = store
        self._txn = txn
        self._info = info
        self._prefix = content_prefix(info.content_id)
        self._rrsets = store.tables["rrsets"]
        self.apex = apex

    @property
    def settings(self) -> ZoneSettings:
        return self._info.settings

    @property
    def zone_id(self) -> int:
        """Another one for each zone there ever was, whatever its name."""
        return self._info.zone_id

    @property
    def serial(self) -> int:
        return self.numbers().serial

    def numbers(self) -> ZoneNumbers:
        return ZoneTables(self._store, self._txn).numbers(self._info.zone_id)

    def node(self, owner: bytes) -> Node | None:
        relative = relative_to(owner, self.apex)
        if relative is None:
            return None
        return read_node(self._txn, self._rrsets, self._prefix, relative)

    def walk(self, after: bytes | None = None) -> Iterator[tuple[bytes, Node]]:
        """Owners and their records in canonical order, from the apex on or after an owner."""
        relative = None if after is None else after[: len(after) - len(self.apex)]
        for name, node in walk_content(self._txn, self._rrsets, self._info.content_id, relative):
            yield name + self.apex, node

    def differences(self, serial: int) -> list[ZoneDifference] | None:
        """What led from `serial` to the current one, oldest first (RFC 1995); None if that is not known."""
        return ZoneTables(self._store, self._txn).differences(self._info.zone_id, serial)


class ZoneSummary(NamedTuple):
    """A zone as it stands in a list."""

    apex: bytes
    zone_id: int
    settings: ZoneSettings
    serial: int
    records: int
    changed_at_ms: int


class _Indexed(NamedTuple):
    key: bytes
    """In table `zones`."""
    value: bytes
    """As it stood there."""
    info: ZoneInfo


class LmdbZones:
    """The zones of the local replica (`aspen.dns.zone.Zones`)."""

    __slots__ = ("_generation", "_index", "_seen", "_store", "_version")

    def __init__(self, store: TableStore, generation: Callable[[], int] | None = None) -> None:
        """`generation` moves (soon after) whenever something DNS can see has changed, so that no look at
        the replica is needed before; without it, each call looks."""
        self._store = store
        self._generation = generation
        self._seen = -1
        self._version = -1
        self._index: dict[bytes, _Indexed] = {}

    def find(self, name: bytes) -> LmdbZone | None:
        index = self._current()
        if not index:
            return None
        for offset in label_offsets(name):
            indexed = index.get(name[offset:])
            if indexed is not None and indexed.info.settings.enabled:
                zone = self._open(name[offset:])
                if zone is not None and zone.settings.enabled:  # still
                    return zone
        return None

    def get(self, apex: bytes) -> LmdbZone | None:
        return self._open(apex)

    def apexes(self) -> list[bytes]:
        """Of all zones, enabled or not, in canonical order."""
        index = self._current()
        return sorted(index, key=lambda apex: index[apex].key)

    def summaries(self, after: bytes | None = None, limit: int | None = None) -> list[ZoneSummary]:
        """Zones by name, after the one of apex `after`, at one moment."""
        found: list[ZoneSummary] = []
        with self._store.read() as txn:
            tables = ZoneTables(self._store, txn)
            for apex, value in tables.infos(after):
                if limit is not None and len(found) == limit:
                    break
                info = decode_info(value)
                numbers = tables.numbers(info.zone_id)
                found.append(
                    ZoneSummary(
                        apex,
                        info.zone_id,
                        info.settings,
                        numbers.serial,
                        numbers.records,
                        numbers.changed_at_ms,
                    )
                )
        return found

    def changes(self) -> int:
        """A number that moves whenever a zone's serial or settings do."""
        with self._store.read() as txn:
            tables = ZoneTables(self._store, txn)
            return tables.word(VERSION) + tables.word(SERIALS)

    def announced(self) -> list[Announced]:
        """The enabled zones with secondaries that are told of changes, at one moment."""
        index = self._current()
        with self._store.read() as txn:
            tables = ZoneTables(self._store, txn)
            return [
                Announced(apex, settings.notify, tables.numbers(each.info.zone_id).serial)
                for apex, each in index.items()
                if (settings := each.info.settings).enabled and settings.notify
            ]

    def imports(self, apex: bytes) -> list[int]:
        """Records so far of each import under way."""
        with self._store.read() as txn:
            stages = ZoneTables(self._store, txn).stages()
        return [stage.records for _, stage in stages if stage.apex == apex]

    def has_garbage(self, before_ms: int) -> bool:
        """Whether a content is out of use, or an import has had no chunk since then."""
        with self._store.read() as txn:
            tables = ZoneTables(self._store, txn)
            return tables.first_garbage() is not None or any(
                stage.at_ms < before_ms for _, stage in tables.stages()
            )

    def _open(self, apex: bytes) -> LmdbZone | None:
        """The zone as it is now: the index may be a moment behind, and name a content that is gone."""
        indexed = self._index.get(apex)
        key = zone_key(apex) if indexed is None else indexed.key
        store = self._store
        txn = store.environment.begin()
        value = txn.get(key, db=store.tables["zones"])
        if value is None:
            return None
        info = indexed.info if indexed is not None and indexed.value == value else decode_info(value)
        return LmdbZone(store, txn, apex, info)

    def _current(self) -> dict[bytes, _Indexed]:
        generation = -1
        if self._generation is not None:
            # The word first, then the data: the index may be newer than its word, never older.
            generation = self._generation()
            if generation == self._seen:
                return self._index
        with self._store.read() as txn:
            tables = ZoneTables(self._store, txn)
            version = tables.word(VERSION)
            if version != self._version:
                self._take_up(tables, txn)
                self._version = version
        self._seen = generation
        return self._index

    def _take_up(self, tables: ZoneTables, txn: Txn) -> None:
        """Those zones that have changed, if it is known which; else all."""
        moved = tables.moved_since(self._version) if self._version >= 0 else None
        if moved is None:
            self._index = {
                apex: _Indexed(zone_key(apex), value, decode_info(value)) for apex, value in tables.infos()
            }
            return
        for apex in moved:
            key = zone_key(apex)
            value = txn.get(key, db=tables.zones)
            if value is None:
                self._index.pop(apex, None)
            else:
                self._index[apex] = _Indexed(key, value, decode_info(value))
