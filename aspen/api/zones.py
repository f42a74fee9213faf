"""`ZoneStore` and its implementation over a member in this process: authored zones for programs."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, Protocol

from aspen.dns.authored_text import NewZone as NewZone
from aspen.dns.authored_text import RecordChange as RecordChange
from aspen.dns.authored_text import RecordSet as RecordSet
from aspen.dns.authored_text import apex_from_text, owner_from_text
from aspen.dns.authoring import ZoneAuthor
from aspen.dns.master_file import write_master_file
from aspen.dns.name import name_to_text
from aspen.dns.presentation import format_rdata, type_name, type_number
from aspen.dns.zone import ZoneSettings
from aspen.errors import InputError, ZoneError
from aspen.limits import CLIENT_IMPORT_BYTES
from aspen.state.ports import Consistency, Proposer
from aspen.state.zone_commands import ZoneResult
from aspen.state.zones import LmdbZone, LmdbZones, ZoneSummary


class ZoneHandle(Protocol):
    """A member in this process: a `Node`, or one of a `DeterministicCluster`."""

    @property
    def proposer(self) -> Proposer: ...

    @property
    def zones(self) -> LmdbZones: ...


class ZoneStore(Protocol):
    """Authored zones. Every error is a kind of `ZoneError` (nothing was changed), or a `ProposalError`."""

    async def create(self, zone: NewZone) -> ZoneResult: ...

    async def configure(self, name: str, **settings: Any) -> ZoneSettings: ...

    async def delete(self, name: str) -> ZoneResult: ...

    async def change(self, name: str, changes: Iterable[RecordChange]) -> ZoneResult: ...

    async def records(
        self, name: str, owner: str | None = None, rrtype: str | None = None, consistency: Consistency = ...
    ) -> list[RecordSet]: ...

    async def import_zone(
        self, name: str, master_file: bytes | AsyncIterable[bytes], *, replace: bool = True
    ) -> ZoneResult: ...

    async def export_zone(self, name: str, consistency: Consistency = ...) -> str: ...

    async def list_zones(self, consistency: Consistency = ...) -> list[ZoneSummary]: ...


class ZoneClient:
    """`ZoneStore` over a member in this process.

    Names are as people write them, with or without the final dot; owners are relative to the zone unless
    they have one.
    """

    def __init__(self, node: ZoneHandle) -> None:
        self._node = node
        self._author = ZoneAuthor(node.proposer, node.zones)

    async def create(self, zone: NewZone) -> ZoneResult:
        return await self._author.create(zone)

    async def configure(self, name: str, **settings: Any) -> ZoneSettings:
        """Change some of a zone's settings (the fields of `ZoneSettings`); all of them, as they are now."""
        return await self._author.configure(apex_from_text(name), settings)

    async def delete(self, name: str) -> ZoneResult:
        return await self._author.delete(apex_from_text(name))

    async def change(self, name: str, changes: Iterable[RecordChange]) -> ZoneResult:
        """All of the changes, or none."""
        return await self._author.change(apex_from_text(name), tuple(changes))

    async def records(
        self,
        name: str,
        owner: str | None = None,
        rrtype: str | None = None,
        consistency: Consistency = Consistency.CONSISTENT,
    ) -> list[RecordSet]:
        """RRsets in canonical order: all of a zone, or those of an owner, of a type."""
        apex = apex_from_text(name)
        try:
            wanted = None if rrtype is None else type_number(rrtype)
            of = None if owner is None else owner_from_text(owner, apex)
        except InputError as error:
            raise ZoneError.RuleBroken(str(error), rule="syntax") from None
        zone = await self._zone(apex, consistency)
        nodes = zone.walk() if of is None else [(of, zone.node(of) or {})]
        return [
            RecordSet(
                name_to_text(at),
                type_name(kind),
                rrset.ttl,
                tuple(format_rdata(kind, rdata) for rdata in rrset.rdatas),
            )
            for at, node in nodes
            for kind, rrset in sorted(node.items())
            if wanted is None or kind == wanted
        ]

    async def import_zone(
        self, name: str, master_file: bytes | AsyncIterable[bytes], *, replace: bool = True
    ) -> ZoneResult:
        """Make a master file the content of a zone, whole or not at all."""
        pieces = _pieces(master_file) if isinstance(master_file, bytes) else master_file
        return await self._author.bring_in(apex_from_text(name), pieces, replace=replace)

    async def export_zone(self, name: str, consistency: Consistency = Consistency.CONSISTENT) -> str:
        """A zone as a master file."""
        apex = apex_from_text(name)
        zone = await self._zone(apex, consistency)
        return "".join(write_master_file(apex, zone.walk()))

    async def list_zones(self, consistency: Consistency = Consistency.CONSISTENT) -> list[ZoneSummary]:
        """All zones, by name."""
        await self._node.proposer.barrier(consistency)
        return self._node.zones.summaries()

    async def _zone(self, apex: bytes, consistency: Consistency) -> LmdbZone:
        await self._node.proposer.barrier(consistency)
        zone = self._node.zones.get(apex)
        if zone is None:
            raise ZoneError.NotFound(f"there is no zone {name_to_text(apex)}")
        return zone


async def _pieces(master_file: bytes) -> AsyncIterator[bytes]:
    size = CLIENT_IMPORT_BYTES
    for start in range(0, len(master_file), size):
        yield master_file[start : start + size]
