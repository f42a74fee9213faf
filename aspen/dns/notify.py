"""NOTIFY (RFC 1996): the leader tells the secondaries of a zone that it has changed.

All nodes hold the same zones, but only the leader speaks, so that a secondary hears each change once.
Whether anything changed is one word of the replica, looked at when the node's state has moved; then
the zones that have secondaries are compared with what was told. Several changes within a moment are
one NOTIFY. It is repeated, ever more slowly, until it is answered or there were enough tries (RFC 1996
§3.6); a change meanwhile begins anew, with the newest serial. A node that becomes leader tells of all
zones, for it can't know what the one before it still had to say.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import structlog

from aspen.dns.name import name_from_text, name_to_text
from aspen.dns.notification import Target, answers_notify, notify_message, parse_target
from aspen.dns.transfer import TransferZone, soa_of
from aspen.dns.tsig import AnswerVerifier, Keys, Signer, TsigError
from aspen.dns.wire import Rcode
from aspen.dns.zone import Announced
from aspen.errors import ConfigError, DnsWireError
from aspen.limits import (
    NOTIFY_DELAY_MS,
    NOTIFY_IN_FLIGHT,
    NOTIFY_RETRY_MAX_MS,
    NOTIFY_RETRY_MIN_MS,
    NOTIFY_TRIES,
)

log = structlog.get_logger("aspen.dns.notify")


class AnnouncedZones(Protocol):
    """The zones of the local replica, as far as they are told of."""

    def changes(self) -> int:
        """A number that moves whenever a zone's serial or settings do."""
        ...

    def announced(self) -> Sequence[Announced]:
        """The enabled zones with targets."""
        ...

    def get(self, apex: bytes) -> TransferZone | None: ...


class Notifier:
    """Tells secondaries while this node leads. `progressed` whenever the state may have moved."""

    def __init__(
        self,
        zones: AnnouncedZones,
        keys: Keys,
        leading_term: Callable[[], int | None],
        now_s: Callable[[], float],
        *,
        local_host: str | None = None,
        delay_ms: int = NOTIFY_DELAY_MS,
        retry_min_ms: int = NOTIFY_RETRY_MIN_MS,
    ) -> None:
        """`leading_term` is the term in which this node leads, None if it doesn't; `local_host` the
        address to speak from, as secondaries tell their primaries by it."""
        self._zones = zones
        self._keys = keys
        self._leading_term = leading_term
        self._now_s = now_s
        self._local = None if local_host is None else (local_host, 0)
        self._delay_s = delay_ms / 1_000
        self._retry_min_s = retry_min_ms / 1_000
        self._moved = asyncio.Event()
        self._slots = asyncio.Semaphore(NOTIFY_IN_FLIGHT)
        self._watcher: asyncio.Task[None] | None = None
        self._term: int | None = None
        self._seen = -1
        self._told: dict[tuple[bytes, str], int] = {}
        """(zone, target) → the serial that is told, or was."""
        self._telling: dict[tuple[bytes, str], asyncio.Task[None]] = {}
        self.sent = 0
        self.answered = 0

    def start(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch(), name="notify")

    async def close(self) -> None:
        tasks = [*self._telling.values(), *([self._watcher] if self._watcher is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def progressed(self) -> None:
        """Something may have changed. Cheap: it only wakes who looks."""
        self._moved.set()

    async def _watch(self) -> None:
        while True:
            await self._moved.wait()
            # Changes of a moment are told of together; and the followers, which a secondary may ask
            # then, have applied them too.
            await asyncio.sleep(self._delay_s)
            self._moved.clear()
            try:
                self._look()
            except Exception:
                log.exception("zones_not_compared")

    def _look(self) -> None:
        term = self._leading_term()
        if term != self._term:
            self._term, self._seen = term, -1
            self._told.clear()
            for task in self._telling.values():
                task.cancel()
        if term is None:
            return
        changes = self._zones.changes()
        if changes == self._seen:
            return
        self._seen = changes
        wanted = {
            (zone.apex, target): zone.serial for zone in self._zones.announced() for target in zone.targets
        }
        for gone in self._told.keys() - wanted.keys():
            del self._told[gone]
            before = self._telling.get(gone)
            if before is not None:
                before.cancel()
        for whom, serial in wanted.items():
            if self._told.get(whom) != serial:
                self._told[whom] = serial
                self._begin(*whom)

    def _begin(self, apex: bytes, target: str) -> None:
        before = self._telling.get((apex, target))
        if before is not None:
            before.cancel()
        task = asyncio.get_running_loop().create_task(self._tell(apex, target))
        self._telling[apex, target] = task
        task.add_done_callback(lambda done: self._ended((apex, target), done))

    def _ended(self, whom: tuple[bytes, str], task: asyncio.Task[None]) -> None:
        if self._telling.get(whom) is task:
            del self._telling[whom]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("notify_failed", zone=name_to_text(whom[0]), target=whom[1], error=repr(error))

    # --- one secondary ------------------------------------------------------------------------

    async def _tell(self, apex: bytes, text: str) -> None:
        zone = name_to_text(apex)
        try:
            target = parse_target(text)
        except ConfigError as error:
            log.warning("notify_target_unusable", zone=zone, error=str(error))
            return
        pause_s = self._retry_min_s
        for _ in range(NOTIFY_TRIES):
            async with self._slots:
                rcode = await self._ask(apex, target, pause_s)
            if rcode is not None:
                self.answered += 1
                level = log.info if rcode == Rcode.NOERROR else log.warning
                level("notified", zone=zone, target=str(target), rcode=rcode)
                return
            pause_s = min(2 * pause_s, NOTIFY_RETRY_MAX_MS / 1_000)
        log.warning("notify_unanswered", zone=zone, target=str(target), tries=NOTIFY_TRIES)

    async def _ask(self, apex: bytes, target: Target, wait_s: float) -> int | None:
        """Send one NOTIFY; the RCODE of its answer, None if none came in time."""
        reader = self._zones.get(apex)
        if reader is None:
            return None
        message = notify_message(secrets.randbits(16), soa_of(reader))
        del reader  # and with it the moment of the store
        verifier = None
        if target.key is not None:
            key = self._keys.get(name_from_text(target.key.lower()))
            if key is None:
                log.warning("notify_key_missing", zone=name_to_text(apex), key=target.key)
                await asyncio.sleep(wait_s)
                return None
            signer = Signer(key)
            message = signer.sign(message, int(self._now_s()))
            verifier = AnswerVerifier(key, signer.mac)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        endpoint = _Exchange(message, verifier, answer, self._now_s)
        local = (
            self._local
            if self._local is not None and (":" in self._local[0]) == (":" in target.host)
            else None
        )
        try:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: endpoint, remote_addr=(target.host, target.port), local_addr=local
            )
        except OSError as error:
            log.info("notify_not_sent", zone=name_to_text(apex), target=str(target), error=str(error))
            await asyncio.sleep(wait_s)
            return None
        self.sent += 1
        try:
            async with asyncio.timeout(wait_s):
                return await answer
        except TimeoutError:
            return None
        finally:
            transport.close()


class _Exchange(asyncio.DatagramProtocol):
    """One NOTIFY and its answer, on a socket of its own, which hears nobody else."""

    def __init__(
        self,
        message: bytes,
        verifier: AnswerVerifier | None,
        answer: asyncio.Future[int],
        now_s: Callable[[], float],
    ) -> None:
        self._message = message
        self._verifier = verifier
        self._answer = answer
        self._now_s = now_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.DatagramTransport, transport).sendto(self._message)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self._answer.done() or not answers_notify(data, self._message):
            return
        rcode = data[3] & 0x0F
        if self._verifier is not None:
            try:
                error = self._verifier.verify(data, int(self._now_s()))
            except DnsWireError:
                return
            if error is not TsigError.NONE and rcode == Rcode.NOERROR:
                return  # somebody else's; the secondary's own may still come
        self._answer.set_result(rcode)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there just now: it is tried again."""
