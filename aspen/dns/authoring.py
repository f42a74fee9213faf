"""Authors' work on zones, whichever way it comes in: HTTP, the Python API.

Texts are read (`authored_text`), proposed as commands, and results turned into `ZoneError`. An
import is staged chunk by chunk as it comes; since a chunk counts once however often it is proposed,
one whose outcome is unknown is proposed again, so that a change of leader does not end an import.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Sequence
from typing import Any, Final, Protocol

from aspen.dns.authored_text import (
    NewZone,
    RecordChange,
    apex_from_text,
    changed_settings,
    checked_settings,
    new_zone_records,
    read_changes,
)
from aspen.dns.master_file import MasterFileReader, MasterRecord, record_text
from aspen.dns.name import name_to_text
from aspen.dns.zone import ZoneReader, ZoneSettings
from aspen.errors import CommandError, InvariantViolation, MasterFileError, ProposalError, ZoneError
from aspen.limits import ZONE_STAGE_BYTES, ZONE_STAGE_RECORDS, ZONE_STAGE_RETRIES, ZONE_STAGE_RETRY_MS
from aspen.state.commands import Rejected
from aspen.state.ports import Consistency, Proposer
from aspen.state.zone_commands import (
    STAGE_ID_BYTES,
    Change,
    ChangeKind,
    ZoneAbandon,
    ZoneActivate,
    ZoneCommand,
    ZoneConfigure,
    ZoneCreate,
    ZoneDelete,
    ZoneResult,
    ZoneStage,
    ZoneStatus,
    ZoneUpdate,
    validate_zone_command,
)

_CHUNK_RECORDS: Final = ZONE_STAGE_RECORDS // 2
_CHUNK_BYTES: Final = ZONE_STAGE_BYTES // 2
_FIRST_SERIAL: Final = 1

_KINDS: Final = {
    ZoneStatus.NO_ZONE: ZoneError.NotFound,
    ZoneStatus.EXISTS: ZoneError.Exists,
    ZoneStatus.PREREQUISITE: ZoneError.PrerequisiteFailed,
    ZoneStatus.REFUSED: ZoneError.RuleBroken,
    ZoneStatus.NO_STAGE: ZoneError.ImportLost,
    ZoneStatus.LIMIT: ZoneError.Limit,
}


class ZoneLookup(Protocol):
    def get(self, apex: bytes) -> ZoneReader | None: ...


class ZoneAuthor:
    """Writes zones through a proposer. Every method raises `ZoneError`, or `ProposalError`."""

    def __init__(self, proposer: Proposer, zones: ZoneLookup) -> None:
        self._proposer = proposer
        self._zones = zones

    async def create(self, new: NewZone) -> ZoneResult:
        apex = apex_from_text(new.name)
        records = new_zone_records(new, apex, _FIRST_SERIAL)
        settings = checked_settings(new.settings)
        command = ZoneCreate(apex, settings, tuple(records))
        return await self._propose(command, [record_text(record) for record in records])

    async def configure(self, apex: bytes, changes: dict[str, Any]) -> ZoneSettings:
        await self._proposer.barrier(Consistency.CONSISTENT)
        settings = changed_settings(self._settings(apex), changes)
        await self._propose(ZoneConfigure(apex, settings))
        return settings

    async def delete(self, apex: bytes) -> ZoneResult:
        return await self._propose(ZoneDelete(apex))

    async def change(self, apex: bytes, changes: Sequence[RecordChange]) -> ZoneResult:
        """All of the changes, or none."""
        if self._zones.get(apex) is None:  # perhaps it is only this replica that hasn't heard of it yet
            await self._proposer.barrier(Consistency.CONSISTENT)
        steps: list[Change] = []
        shown: list[str] = []
        for edit in read_changes(changes, apex, self._settings(apex).default_ttl_s):
            before = len(steps)
            if edit.removes == "name":
                steps.append(Change(ChangeKind.DELETE_NAME, edit.owner))
            elif edit.removes == "rrset":
                steps.append(Change(ChangeKind.DELETE_RRSET, edit.owner, edit.rrtype or 0))
            kind = ChangeKind.DELETE_RECORD if edit.removes == "records" else ChangeKind.ADD
            steps += [Change(kind, *record) for record in edit.records]
            shown += [edit.shown] * (len(steps) - before - len(edit.records))
            shown += [record_text(record) for record in edit.records]
        return await self._propose(ZoneUpdate(apex, (), tuple(steps), strict=True), shown)

    async def bring_in(
        self,
        apex: bytes,
        pieces: AsyncIterable[bytes],
        *,
        replace: bool = True,
        settings: ZoneSettings | None = None,
    ) -> ZoneResult:
        """Import a master file that comes in pieces: the zone is made of it, or its content replaced."""
        await self._proposer.barrier(Consistency.CONSISTENT)
        existing = self._zones.get(apex)
        if existing is not None and not replace:
            raise ZoneError.Exists(f"there is a zone {name_to_text(apex)} already")
        default_ttl_s = (
            settings or (existing.settings if existing is not None else ZoneSettings())
        ).default_ttl_s
        del existing  # a reader is not to be kept
        stage = _Stage(self._proposer, apex)
        try:
            reader = MasterFileReader(apex, default_ttl_s)
            async for piece in pieces:
                for record in reader.feed(piece):
                    if stage.add(record):
                        await stage.send()
            for record in reader.finish():
                if stage.add(record):
                    await stage.send()
            await stage.send()
            return await self._propose(ZoneActivate(stage.stage_id, stage.sequence, settings, replace))
        except MasterFileError as error:
            await self._abandon(stage)
            raise ZoneError.RuleBroken(error.reason, rule="syntax", line=error.line) from None
        except ZoneError:
            await self._abandon(stage)
            raise

    async def _abandon(self, stage: _Stage) -> None:
        """It would be collected anyway; this frees its place at once."""
        if stage.sequence:
            try:
                await self._propose(ZoneAbandon(stage.stage_id))
            except (ProposalError, ZoneError):
                pass

    def _settings(self, apex: bytes) -> ZoneSettings:
        zone = self._zones.get(apex)
        if zone is None:
            raise ZoneError.NotFound(f"there is no zone {name_to_text(apex)}")
        return zone.settings

    async def _propose(self, command: ZoneCommand, shown: Sequence[str] = ()) -> ZoneResult:
        """`shown` is, for each record or change, what its author knows it by."""
        result = await propose_zone(self._proposer, command)
        if result.status is not ZoneStatus.DONE:
            record = shown[result.at] if 0 <= result.at < len(shown) else ""
            raise _KINDS[result.status](result.reason, rule=result.rule, record=record)
        return result


async def propose_zone(proposer: Proposer, command: ZoneCommand) -> ZoneResult:
    """Raises `ProposalError`, and `ZoneError.Limit` for a command over a bound."""
    try:
        validate_zone_command(command)
    except CommandError as error:
        raise ZoneError.Limit(str(error)) from None
    result = await proposer.propose(command)
    if isinstance(result, Rejected):
        raise ZoneError.Limit(result.reason)
    if not isinstance(result, ZoneResult):
        raise InvariantViolation("a command of zones was answered as if it were another")
    return result


class _Stage:
    """An import on its way."""

    def __init__(self, proposer: Proposer, apex: bytes) -> None:
        self._proposer = proposer
        self._apex = apex
        self.stage_id = os.urandom(STAGE_ID_BYTES)
        self.sequence = 0
        """Chunks sent, or being sent."""
        self._records: list[MasterRecord] = []
        self._bytes = 0

    def add(self, record: MasterRecord) -> bool:
        """Whether the chunk is full."""
        self._records.append(record)
        self._bytes += len(record.record.rdata) + len(record.record.owner)
        return len(self._records) >= _CHUNK_RECORDS or self._bytes >= _CHUNK_BYTES

    async def send(self) -> None:
        records, self._records, self._bytes = self._records, [], 0
        if not records and self.sequence:
            return
        command = ZoneStage(
            self.stage_id, self._apex, self.sequence, tuple(record.record for record in records)
        )
        self.sequence += 1
        result = await self._insist(command)
        if result.status is not ZoneStatus.DONE:
            blamed = records[result.at] if 0 <= result.at < len(records) else None
            raise _KINDS[result.status](
                result.reason,
                rule=result.rule,
                record="" if blamed is None else record_text(blamed.record),
                line=0 if blamed is None else blamed.line,
            )

    async def _insist(self, command: ZoneStage) -> ZoneResult:
        for _ in range(ZONE_STAGE_RETRIES):
            try:
                return await propose_zone(self._proposer, command)
            except ProposalError:
                await asyncio.sleep(ZONE_STAGE_RETRY_MS / 1_000)
        return await propose_zone(self._proposer, command)
