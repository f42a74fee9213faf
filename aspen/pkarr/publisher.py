"""Keeping a key's packet published: at every relay given and in the DHT, again and again.

Each target has a task of its own, so one that is down holds up no other. After a success it waits for
`republish_ms`, after a failure from one second doubling to that, with a little chance in both so that many
nodes don't come at once. The packet is signed when its records have changed, when a day has passed, or when
a more recent one turns up under the key: else the same octets are published again, which costs a relay
nothing. Timestamps only rise.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from aspen.errors import InputError, NetworkError
from aspen.identity import Identity
from aspen.limits import PKARR_PUBLISH_RETRY_MS, PKARR_REPUBLISH_MS, PKARR_RESIGN_MS
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message

log = structlog.get_logger("aspen.pkarr.publisher")


class Target(Protocol):
    """Where packets are published: a relay, the DHT."""

    @property
    def name(self) -> str: ...

    async def publish(self, packet: SignedPacket) -> SignedPacket | None:
        """None once it is published; else the more recent packet that is there. Raises `NetworkError`."""
        ...


@dataclass
class Progress:
    """How publishing goes at one target."""

    published: SignedPacket | None = None
    published_at_us: int = 0
    failures: int = 0
    """Since the last success."""
    error: str = ""
    """Of the last failure."""


class Publisher:
    """Publishes what `records` say under an identity, from `start` to `close`."""

    def __init__(
        self,
        identity: Identity,
        targets: Sequence[Target],
        records: Callable[[], Sequence[str]],
        *,
        wall_us: Callable[[], int],
        republish_ms: int = PKARR_REPUBLISH_MS,
        retry_ms: int = PKARR_PUBLISH_RETRY_MS,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`records`: as `build_message` takes them, asked anew for each publication."""
        self._identity = identity
        self._targets = tuple(targets)
        self._records = records
        self._wall_us = wall_us
        self._republish_ms = republish_ms
        self._retry_ms = min(retry_ms, republish_ms)
        self._chance = chance
        self._packet: SignedPacket | None = None
        self._floor_us = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._everywhere = asyncio.Event()
        self.progress = {target.name: Progress() for target in self._targets}

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(target)) for target in self._targets]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def wait_published(self) -> None:
        """Until every target has taken a packet once."""
        await self._everywhere.wait()

    def changed(self) -> None:
        """What `records` say may have changed: publish now."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def current(self) -> SignedPacket:
        """The packet as of now. Raises `InputError` if the records make none."""
        message = build_message(self._identity.endpoint_id, self._records())
        now_us, packet = self._wall_us(), self._packet
        if (
            packet is None
            or packet.message != message
            or packet.timestamp_us <= self._floor_us
            or now_us - packet.timestamp_us > PKARR_RESIGN_MS * 1_000
        ):
            before_us = packet.timestamp_us if packet is not None else 0
            timestamp_us = max(now_us, before_us + 1, self._floor_us + 1)
            self._packet = packet = SignedPacket.sign(self._identity, message, timestamp_us)
        return packet

    async def publish_once(self, target: Target) -> bool:
        """Publish at one target now; whether it took the packet."""
        progress = self.progress[target.name]
        try:
            packet = self.current()
            newer = await target.publish(packet)
        except (NetworkError, InputError) as error:
            self._failed(progress, target, str(error))
            return False
        if newer is not None:
            # Somebody else has the key, or our clock was ahead before: sign over it.
            self._floor_us = max(self._floor_us, newer.timestamp_us)
            self._failed(progress, target, f"a more recent packet is there ({newer.timestamp_us})")
            return False
        progress.published, progress.published_at_us = packet, self._wall_us()
        progress.failures, progress.error = 0, ""
        if all(each.published is not None for each in self.progress.values()):
            self._everywhere.set()
        return True

    async def _keep(self, target: Target) -> None:
        while True:
            changed = self._changed
            try:
                published = await self.publish_once(target)
            except Exception:
                log.exception("publication failed", target=target.name)
                published = False
            failures = self.progress[target.name].failures
            pause_ms = self._republish_ms
            if not published:
                pause_ms = min(self._retry_ms << min(max(failures - 1, 0), 20), self._republish_ms)
            pause_s = pause_ms * (0.9 + 0.2 * self._chance()) / 1_000
            try:
                async with asyncio.timeout(pause_s):
                    await changed.wait()
            except TimeoutError:
                pass

    def _failed(self, progress: Progress, target: Target, reason: str) -> None:
        progress.failures += 1
        if progress.error != reason:  # said once, not at every try
            log.warning("not published", target=target.name, reason=reason)
        progress.error = reason
