"""A primary over zones in memory, with a proposer that remembers; used by tests of transfer and update."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dns.name
import dns.rdataclass
import dns.zone

from aspen.dns.lookup import DnsSettings, View
from aspen.dns.name import name_from_text
from aspen.dns.primary import Primary
from aspen.dns.transfer import Record
from aspen.dns.tsig import ALGORITHMS, TsigKey
from aspen.dns.zone import MemoryZone, MemoryZones, ZoneSettings
from aspen.state.ports import Freshness
from aspen.state.zone_commands import ZoneResult, ZoneStatus

KEY = TsigKey(name_from_text("transfer.example."), ALGORITHMS["hmac-sha256"], bytes(range(32)))
OPEN = ZoneSettings(transfer_acl=("127.0.0.0/8", "::1"), update_acl=("127.0.0.0/8",))
HEAD = """
@ 300 SOA ns1 hostmaster {serial} 3600 600 86400 300
@ 300 NS ns1
@ 300 NS ns2.elsewhere.example.
ns1 300 A 192.0.2.1
"""


def records_of(text: str, origin: str) -> list[Record]:
    """The records of a master file, read by dnspython."""
    zone = dns.zone.from_text(text, origin=origin, relativize=False, check_origin=False)
    return [
        Record(name.to_wire(), rdataset.rdtype, rdataset.ttl, rdata.to_wire())
        for name, rdataset in zone.iterate_rdatasets()
        for rdata in rdataset
    ]


@dataclass
class Step:
    """A difference between two serials."""

    removed: Sequence[Record]
    added: Sequence[Record]


class RememberingZone(MemoryZone):
    """A zone in memory that knows how it came to be what it is."""

    def __init__(
        self,
        text: str,
        origin: str = "zone.example.",
        serial: int = 1,
        settings: ZoneSettings = OPEN,
        history: dict[int, list[Step]] | None = None,
        more: Sequence[Record] = (),
    ) -> None:
        records = [*records_of(HEAD.format(serial=serial) + text, origin), *more]
        super().__init__(name_from_text(origin), records, settings)
        self.history = history or {}

    def differences(self, serial: int) -> list[Step] | None:
        return self.history.get(serial)


@dataclass
class RecordingProposer:
    """Remembers what is proposed, and answers with what it is told."""

    outcome: Any = field(default_factory=lambda: ZoneResult(ZoneStatus.DONE, 2))
    commands: list[Any] = field(default_factory=list)
    barriers: list[Any] = field(default_factory=list)
    gate: asyncio.Event | None = None
    barrier_error: Exception | None = None

    async def propose(self, command: Any) -> Any:
        self.commands.append(command)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def barrier(self, consistency: Any) -> None:
        self.barriers.append(consistency)
        if self.barrier_error is not None:
            raise self.barrier_error

    def freshness(self) -> Freshness:
        return Freshness(1, 1, 0)


class NoRecords:
    def packet_answers(self, public_key: bytes) -> bytes | None:
        return None


def make_primary(
    *zones: MemoryZone,
    proposer: RecordingProposer | None = None,
    keys: Sequence[TsigKey] = (KEY,),
    now_s: Callable[[], float] | None = None,
    **options: Any,
) -> Primary:
    import time

    held = MemoryZones(zones)
    view = View.build(NoRecords(), DnsSettings(), held)
    return Primary(
        held,  # type: ignore[arg-type]  # the zones in it remember
        {key.name: key for key in keys},
        proposer or RecordingProposer(),
        lambda: view,
        now_s or time.time,
        **options,
    )
