"""Dynamic updates (RFC 2136) carried out: permission, one proposal to the log, its outcome as an RCODE.

An update is never answered NOERROR unless a quorum has it: where its fate can't be known the answer is
SERVFAIL, and a retransmission hears the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from aspen.dns.asked import EDE_NOT_READY, EDE_OTHER, NOT_OURS, Asked, Failure, bare_reply
from aspen.dns.name import name_to_text
from aspen.dns.respond import Transport
from aspen.dns.update import parse_update, parse_update_zone
from aspen.dns.wire import CLASS_IN, EDE_PROHIBITED, Rcode
from aspen.dns.zone import ZoneReader
from aspen.errors import CommandError, DnsWireError, OutcomeUnknown, ProposalError
from aspen.limits import (
    DNS_FAILURE_LOG_MS,
    DNS_UPDATES_REMEMBERED,
    DNS_UPDATES_REMEMBERED_MS,
    DNS_UPDATES_UNSIGNED_MS,
)
from aspen.state.ports import Proposer
from aspen.state.zone_commands import ZoneResult

log = structlog.get_logger("aspen.dns.updates")


class UpdateZones(Protocol):
    """The zones, as far as they are asked for by their own names."""

    def get(self, apex: bytes) -> ZoneReader | None: ...


class Refusals:
    """Logs what is refused: of each kind one line in a while, with how many there were beside it."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._logged_at: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def note(self, kind: str, **details: str) -> None:
        """`kind` is one of a few; what a stranger chose goes into `details`."""
        now_s = self._now_s()
        if now_s - self._logged_at.get(kind, -float("inf")) < DNS_FAILURE_LOG_MS / 1_000:
            self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
            return
        self._logged_at[kind] = now_s
        log.info(kind, unlogged=self._unlogged.pop(kind, 0), **details)


class Updates:
    """Carries updates out, each once. Times are seconds since 1970 by `now_s`."""

    def __init__(
        self, zones: UpdateZones, proposer: Proposer, now_s: Callable[[], float], refusals: Refusals
    ) -> None:
        self._zones = zones
        self._proposer = proposer
        self._now_s = now_s
        self._refusals = refusals
        self._known: OrderedDict[bytes, tuple[float, asyncio.Task[Failure]]] = OrderedDict()

    async def answer(self, asked: Asked) -> bytes:
        """The reply. Raises `DnsWireError` for a message whose zone section doesn't parse."""
        message = asked.message
        zone = parse_update_zone(message)
        if zone.edns is not None and zone.edns.version:
            return bare_reply(message, zone.end, zone.edns, Failure(Rcode.BADVERS))
        failure = self._failure(asked, zone.apex, zone.zclass)
        if failure is None:
            try:
                failure = await self._once(asked, lambda: self._propose(asked, zone.apex))
            except DnsWireError as error:
                failure = Failure(Rcode(error.rcode))
        return bare_reply(message, zone.end, zone.edns, failure)

    def _failure(self, asked: Asked, apex: bytes, zclass: int) -> Failure | None:
        """RFC 2136 §3.1, §3.3: who may not update learns nothing of prerequisites."""
        zone = self._zones.get(apex) if zclass == CLASS_IN else None
        if zone is None or not zone.settings.enabled:
            return NOT_OURS
        settings = zone.settings
        if not asked.allowed(settings.update_acl, settings.update_keys):
            self._refusals.note("update_refused", zone=name_to_text(apex), client=asked.client_text)
            return Failure(Rcode.REFUSED, EDE_PROHIBITED)
        return None

    async def _once(self, asked: Asked, do: Callable[[], Awaitable[Failure]]) -> Failure:
        """Do what a datagram asks for once, however often it comes: later ones hear what came of it.

        A signed message is known by all its octets, MAC included, wherever it comes from: so one that
        somebody recorded isn't carried out again by this node either, as long as it would be believed.
        """
        if asked.signer is not None:
            origin, lifetime_ms = asked.signer.mac, DNS_UPDATES_REMEMBERED_MS
        elif asked.transport is Transport.UDP:
            origin, lifetime_ms = repr(asked.client).encode(), DNS_UPDATES_UNSIGNED_MS
        else:
            return await do()
        known_as = hashlib.sha256(origin + b"\0" + asked.message).digest()
        now_s = self._now_s()
        while self._known:
            oldest, (until_s, _) = next(iter(self._known.items()))
            if until_s > now_s and len(self._known) < DNS_UPDATES_REMEMBERED:
                break
            del self._known[oldest]
        known = self._known.get(known_as)
        if known is None or known[0] < now_s:
            task = asyncio.ensure_future(do())
            known = self._known[known_as] = (now_s + lifetime_ms / 1_000, task)
        # What was begun is finished, also if this client goes away meanwhile.
        return await asyncio.shield(known[1])

    async def _propose(self, asked: Asked, apex: bytes) -> Failure:
        command = parse_update(asked.message, parse_update_zone(asked.message))
        try:
            result = await self._proposer.propose(command)
        except OutcomeUnknown:
            log.warning("update_outcome_unknown", zone=name_to_text(apex))
            return Failure(Rcode.SERVFAIL, EDE_OTHER, "it is not known whether the update was made")
        except ProposalError as error:
            return Failure(Rcode.SERVFAIL, EDE_NOT_READY, f"nothing was changed: {error.code}")
        except CommandError as error:
            return Failure(Rcode.REFUSED, EDE_OTHER, str(error))
        if not isinstance(result, ZoneResult):
            return Failure(Rcode.SERVFAIL)
        log.info(
            "zone_updated",
            zone=name_to_text(apex),
            serial=result.serial,
            status=result.status.value,
            client=asked.client_text,
        )
        return Failure(Rcode(result.rcode), EDE_OTHER if result.reason else None, result.reason)
