"""A state machine with zones, over either store, and records in short."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from aspen.dns.name import name_from_text
from aspen.dns.zone import ZoneSettings
from aspen.dns.zone_rules import ZoneRecord
from aspen.state.commands import Command, encode_command
from aspen.state.machine import Machine
from aspen.state.zone_commands import (
    Change,
    ChangeKind,
    ZoneActivate,
    ZoneCreate,
    ZoneResult,
    ZoneStage,
    ZoneUpdate,
)
from aspen.state.zones import LmdbZone, LmdbZones

A, NS, CNAME, SOA, MX, TXT, SRV, DNAME = 1, 2, 5, 6, 15, 16, 33, 39


def n(text: str) -> bytes:
    return name_from_text(text).lower()


def a(owner: str, address: str, ttl: int = 300) -> ZoneRecord:
    return ZoneRecord(n(owner), A, ttl, ipaddress.IPv4Address(address).packed)


def txt(owner: str, text: str, ttl: int = 300) -> ZoneRecord:
    return ZoneRecord(n(owner), TXT, ttl, bytes((len(text),)) + text.encode())


def named(owner: str, rrtype: int, target: str, ttl: int = 300, before: bytes = b"") -> ZoneRecord:
    return ZoneRecord(n(owner), rrtype, ttl, before + name_from_text(target))


def soa(apex: str, serial: int = 1, ttl: int = 3_600) -> ZoneRecord:
    numbers = b"".join(number.to_bytes(4, "big") for number in (serial, 7_200, 900, 1_209_600, 300))
    return ZoneRecord(n(apex), SOA, ttl, n("ns1." + apex) + n("hostmaster." + apex) + numbers)


def basics(apex: str, serial: int = 1) -> list[ZoneRecord]:
    return [soa(apex, serial), named(apex, NS, "ns1." + apex), a("ns1." + apex, "192.0.2.53")]


def add(record: ZoneRecord) -> Change:
    return Change(ChangeKind.ADD, *record)


def remove(record: ZoneRecord) -> Change:
    return Change(ChangeKind.DELETE_RECORD, record.owner, record.rrtype, 0, record.rdata)


class World:
    """One member's machine and its readers."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.machine = Machine(store)
        self.zones = LmdbZones(store)
        self.index = 0
        self.time_ms = 1_000_000
        self.dns_changed = False

    def do(self, command: Command) -> Any:
        self.index += 1
        self.time_ms += 1
        with self.store.write() as txn:
            self.machine.begin(txn)
            result = self.machine.apply(txn, self.index, self.time_ms, encode_command(command))
            self.dns_changed = self.machine.end(txn)
        return result

    def do_all(self, commands: Iterable[Command]) -> None:
        """All in one transaction."""
        with self.store.write() as txn:
            self.machine.begin(txn)
            for command in commands:
                self.index += 1
                self.machine.apply(txn, self.index, self.time_ms, encode_command(command))
            self.machine.end(txn)

    def create(
        self, apex: str, *records: ZoneRecord, serial: int = 1, settings: ZoneSettings | None = None
    ) -> ZoneResult:
        all_records = (*basics(apex, serial), *records)
        result = self.do(ZoneCreate(n(apex), settings or ZoneSettings(), all_records))
        assert isinstance(result, ZoneResult)
        return result

    def update(self, apex: str, *changes: Change, strict: bool = True, prerequisites: Any = ()) -> ZoneResult:
        result = self.do(ZoneUpdate(n(apex), tuple(prerequisites), changes, strict))
        assert isinstance(result, ZoneResult), result
        return result

    def stage(self, stage_id: bytes, apex: str, chunks: Iterable[Iterable[ZoneRecord]]) -> list[ZoneResult]:
        return [
            self.do(ZoneStage(stage_id, n(apex), sequence, tuple(chunk)))
            for sequence, chunk in enumerate(chunks)
        ]

    def bring_in(self, apex: str, *records: ZoneRecord, stage_id: bytes = b"i" * 16) -> ZoneResult:
        for result in self.stage(stage_id, apex, [records]):
            assert result.status == "done", result
        result = self.do(ZoneActivate(stage_id, 1))
        assert isinstance(result, ZoneResult)
        return result

    def zone(self, apex: str) -> LmdbZone:
        zone = self.zones.get(n(apex))
        assert zone is not None
        return zone

    def records(self, apex: str) -> set[tuple[bytes, int, int, bytes]]:
        """All records but the SOA."""
        return {
            (owner, rrtype, rrset.ttl, rdata)
            for owner, node in self.zone(apex).walk()
            for rrtype, rrset in node.items()
            for rdata in rrset.rdatas
            if rrtype != SOA
        }
