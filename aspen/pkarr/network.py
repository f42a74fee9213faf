"""The DHT as the relay and DNS see it: looked up when the replica lacks a key, told of what is accepted.

What was found is kept for as long as its records may be cached, and what nobody had for a little while, so
that a popular name costs one lookup and a flood of made-up keys costs no more than `DHT_LOOKUPS` at a time.
Lookups for one key are one. Nothing found here is part of the replicated state, unless a `store` is given:
then it is proposed like any other packet.

Publication goes at its own pace. A packet waits at most once; a more recent one takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import structlog

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.packet_zone import build_ready_answers
from aspen.errors import AspenError, NetworkError
from aspen.limits import (
    DHT_CACHE_ENTRIES,
    DHT_CACHE_MAX_MS,
    DHT_CACHE_MIN_MS,
    DHT_LOOKUPS,
    DHT_NEGATIVE_MS,
    DHT_PUBLISH_AT_ONCE,
    DHT_PUBLISH_PER_S,
    DHT_PUBLISH_WAITING,
    DHT_REPUBLISH_MS,
    DHT_UNREACHABLE_MS,
)
from aspen.pkarr.bep44 import fits
from aspen.pkarr.dht import Found, Stored
from aspen.pkarr.packet import SignedPacket

log = structlog.get_logger("aspen.pkarr.network")

_PUBLISHED_LATELY_MS: Final = DHT_REPUBLISH_MS // 2


class Dht(Protocol):
    """What of `DhtClient` is used."""

    async def get(self, public_key: bytes) -> Found: ...

    async def put(self, packet: SignedPacket) -> Stored: ...


class _Entry(NamedTuple):
    """What the last lookup of a key brought."""

    packet: SignedPacket | None
    answers: bytes | None
    """The packet's ready-made answers."""
    good_until_ms: int


class DhtNetwork:
    """`aspen.pkarr.ports.Network` over a DHT client."""

    def __init__(
        self,
        dht: Dht,
        monotonic_ms: Callable[[], int],
        *,
        store: Callable[[SignedPacket], Awaitable[object]] | None = None,
    ) -> None:
        """`store` is told of every packet found; it may raise `AspenError`."""
        self._dht = dht
        self._now = monotonic_ms
        self._store = store
        self._cache: dict[bytes, _Entry] = {}
        self._lookups: dict[bytes, asyncio.Task[SignedPacket | None]] = {}
        self._unreachable_until_ms = -1
        self._to_publish: dict[bytes, SignedPacket] = {}
        self._published: dict[bytes, tuple[bytes, int]] = {}
        """Key → signature and time of its last publication from here."""
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.lookups = self.found = self.published = self.publish_failures = self.publish_dropped = 0

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep_publishing()) for _ in range(DHT_PUBLISH_AT_ONCE)]

    async def close(self) -> None:
        tasks = [*self._tasks, *self._lookups.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []

    # --- looking up ---------------------------------------------------------------------------

    def known(self, public_key: bytes) -> tuple[bool, bytes | None]:
        """Whether a key needs no lookup just now, and its ready-made answers if it has any."""
        entry = self._fresh(public_key)
        return (entry is not None, entry.answers if entry is not None else None)

    async def resolve(self, public_key: bytes, newer_than_us: int | None = None) -> SignedPacket | None:
        entry = self._fresh(public_key)
        packet = entry.packet if entry is not None else await self._look_up(public_key)
        if packet is None or (newer_than_us is not None and packet.timestamp_us <= newer_than_us):
            return None
        return packet

    async def look_up(self, public_key: bytes) -> None:
        """As `resolve`, for who asks `known` afterwards; a DHT that can't be asked is no error."""
        try:
            await self.resolve(public_key)
        except NetworkError as error:
            log.debug("not looked up", error=error.code)

    def _fresh(self, public_key: bytes) -> _Entry | None:
        entry = self._cache.get(public_key)
        return entry if entry is not None and self._now() < entry.good_until_ms else None

    async def _look_up(self, public_key: bytes) -> SignedPacket | None:
        task = self._lookups.get(public_key)
        if task is None:
            if self._now() < self._unreachable_until_ms:
                raise NetworkError("network_unreachable", "no node of the DHT answers")
            if len(self._lookups) >= DHT_LOOKUPS:
                raise NetworkError("network_busy", f"{DHT_LOOKUPS} keys are being looked up already")
            task = self._lookups[public_key] = asyncio.create_task(self._lookup(public_key))
            task.add_done_callback(lambda done: self._looked_up(public_key, done))
        return await asyncio.shield(task)  # it goes on for the others, whoever gives up

    def _looked_up(self, public_key: bytes, task: asyncio.Task[SignedPacket | None]) -> None:
        self._lookups.pop(public_key, None)
        if not task.cancelled():
            task.exception()  # seen, even if everybody who waited has gone

    async def _lookup(self, public_key: bytes) -> SignedPacket | None:
        self.lookups += 1
        found = await self._dht.get(public_key)
        packet = found.packet
        if not found.nodes_answered:
            self._unreachable_until_ms = self._now() + DHT_UNREACHABLE_MS
            raise NetworkError("network_unreachable", "no node of the DHT answers")
        before = self._cache.get(public_key)
        older = before.packet if before is not None else None
        if packet is not None and older is not None and older.more_recent_than(packet):
            packet = older  # the nodes that know it were not among those that answered
        self._remember(public_key, packet)
        if packet is not None:
            self.found += 1
            await self._store_found(packet)
        return packet

    def _remember(self, public_key: bytes, packet: SignedPacket | None) -> None:
        answers, good_ms = None, DHT_NEGATIVE_MS
        if packet is not None:
            answers = build_ready_answers(packet.message, packet.z32.encode())
            good_ms = min(max(least_ttl_ms(packet.message), DHT_CACHE_MIN_MS), DHT_CACHE_MAX_MS)
        self._cache.pop(public_key, None)
        self._cache[public_key] = _Entry(packet, answers, self._now() + good_ms)
        while len(self._cache) > DHT_CACHE_ENTRIES:
            del self._cache[next(iter(self._cache))]

    async def _store_found(self, packet: SignedPacket) -> None:
        if self._store is None:
            return
        try:
            await self._store(packet)
        except AspenError as error:
            log.info("found in the DHT, not stored", key=packet.z32, reason=str(error))

    # --- publishing ---------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Packets that wait for their publication."""
        return len(self._to_publish)

    async def publish(self, packet: SignedPacket) -> None:
        key = packet.public_key
        signature, at_ms = self._published.get(key, (b"", 0))
        if signature == packet.signature and self._now() - at_ms < _PUBLISHED_LATELY_MS:
            return
        waiting = self._to_publish.get(key)
        if not fits(packet) or (waiting is not None and not packet.more_recent_than(waiting)):
            return
        if waiting is None and len(self._to_publish) >= DHT_PUBLISH_WAITING:
            self.publish_dropped += 1  # its turn comes when the leader republishes
            return
        self._to_publish[key] = packet
        self._wake.set()

    async def _keep_publishing(self) -> None:
        pause_s = DHT_PUBLISH_AT_ONCE / DHT_PUBLISH_PER_S
        while True:
            while not self._to_publish:
                self._wake.clear()
                await self._wake.wait()
            key = next(iter(self._to_publish))
            packet = self._to_publish.pop(key)
            started_ms = self._now()
            try:
                await self._publish(packet)
            except Exception:
                log.exception("publication failed", key=packet.z32)
            spent_s = (self._now() - started_ms) / 1_000
            await asyncio.sleep(max(0.0, pause_s - spent_s))

    async def _publish(self, packet: SignedPacket) -> None:
        stored = await self._dht.put(packet)
        if stored.newer is not None:
            log.info("the DHT has a more recent packet", key=packet.z32)
            self._remember(packet.public_key, stored.newer)
        elif stored.nodes:
            self.published += 1
            self._published.pop(packet.public_key, None)
            self._published[packet.public_key] = (packet.signature, self._now())
            while len(self._published) > DHT_PUBLISH_WAITING:
                del self._published[next(iter(self._published))]
        else:
            self.publish_failures += 1
            log.info("no node of the DHT took a packet", key=packet.z32, said=stored.refusals[:3])


def least_ttl_ms(message: bytes) -> int:
    """The least TTL of a packet's answers; none at all if it has none."""
    questions, answers, _, _ = section_counts(message)
    offset = skip_questions(message, questions)
    ttls = []
    for _ in range(answers):
        record = read_record(message, offset)
        ttls.append(record.ttl * 1_000)
        offset = record.rdata_end
    return min(ttls, default=0)
