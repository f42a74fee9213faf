"""Locks, elections, counters and barriers, made of keys, leases and watches.

Who holds something holds it by a key attached to a lease (`Session`), and keeps the lease alive. If the
holder dies or is cut off, the lease ends, the key goes, and the next in line has it. The holder
may not notice at once: so each holding comes with a *fencing token*, a number that grows from
holder to holder. Whatever the lock protects should refuse a token smaller than one it has seen.

Waiters stand in line by the create revisions of their keys, each watching the one before it, so a
lock that is let go wakes one waiter, not all.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from aspen.client.kv import KvCalls, KvEntry, compare, op_get, op_put
from aspen.errors import ClientCompacted, ClientError, ClientNotFound, ClientUnavailable

_KEEP_ALIVES: Final = 3
"""Times a lease is renewed within its time to live."""


class Session:
    """A lease that is kept alive: `async with Session(client, ttl_ms=10_000) as session:`.

    `lost` is set when it may have ended, by this side's own count from before the last renewal that
    succeeded: what is held by it must be given up then.
    """

    def __init__(self, client: KvCalls, ttl_ms: int) -> None:
        self.client = client
        self.lease = 0
        self.lost = asyncio.Event()
        self._ttl_ms = ttl_ms
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        begun = asyncio.get_running_loop().time()
        self.lease = (await self.client.lease_grant(self._ttl_ms)).lease
        self._task = asyncio.create_task(self._keep_alive(begun))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Revokes the lease; if nobody answers it ends by itself."""
        await self.abandon()
        try:
            await self.client.lease_revoke(self.lease)
        except ClientError:
            pass

    async def abandon(self) -> None:
        """Renew it no more, and say nothing: as if this process had died."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_alive(self, renewed: float) -> None:
        loop = asyncio.get_running_loop()
        ttl_s = self._ttl_ms / 1_000
        try:
            while True:
                await asyncio.sleep(ttl_s / _KEEP_ALIVES)
                begun = loop.time()
                try:
                    async with asyncio.timeout_at(renewed + ttl_s):
                        await self._renew()
                except TimeoutError:
                    return
                renewed = begun
        finally:
            self.lost.set()

    async def _renew(self) -> None:
        while True:
            try:
                await self.client.lease_keep_alive(self.lease)
            except ClientError as error:
                if error.code == "lease_not_found":
                    raise TimeoutError from None
                await asyncio.sleep(self._ttl_ms / 1_000 / 20)  # renewing twice is harmless
            else:
                return


class Lock:
    """A lock that one holder at a time has: `async with Lock(session, b"locks/a") as token:`.

    `token` is the fencing token. Not reentrant.
    """

    def __init__(self, session: Session, name: bytes, value: bytes = b"") -> None:
        self._session = session
        self._client = session.client
        self._prefix = name + b"/"
        self._value = value
        self.token = 0

    async def __aenter__(self) -> int:
        return await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    @property
    def _key(self) -> bytes:
        return self._prefix + b"%016x" % self._session.lease

    async def acquire(self) -> int:
        """Stand in line until it is this one's turn; the fencing token. Raises a kind of `ClientError`,
        `ClientUnavailable` with code `lease_not_found` if the session is lost meanwhile."""
        try:
            own = await self._stand_in_line()
            while (before := await self._before(own)) is not None:
                await self._gone(before)
        except BaseException:
            await self.release()
            raise
        if self._session.lost.is_set():
            raise ClientUnavailable(0, "lease_not_found", "the session was lost while it waited")
        self.token = own.create_revision
        return self.token

    async def release(self) -> None:
        """Let go. If nobody answers, the lease's end will do it."""
        self.token = 0
        try:
            await self._client.kv_delete(self._key)
        except ClientError:
            pass

    async def holder(self) -> KvEntry | None:
        """Who is first in line; None if nobody is."""
        page = await self._client.kv_scan(self._prefix)
        return min(page.entries, key=lambda entry: entry.create_revision, default=None)

    async def _stand_in_line(self) -> KvEntry:
        """Put the key unless it is there, which makes it harmless to ask twice."""
        key, lease = self._key, self._session.lease
        for _ in range(2):
            try:
                await self._client.kv_txn(
                    [compare(key, exists=False)], [op_put(key, self._value, lease)], [op_get(key)]
                )
            except ClientUnavailable:
                raise
            except ClientError as error:
                if error.code == "lease_not_found":
                    raise ClientUnavailable(0, error.code, str(error)) from None
                if error.code != "outcome_unknown":
                    raise
                continue
            break
        return await self._client.kv_get(key)

    async def _before(self, own: KvEntry) -> KvEntry | None:
        """Who stands right before this one in line."""
        page = await self._client.kv_scan(self._prefix)
        if all(entry.key != own.key for entry in page.entries):
            raise ClientUnavailable(0, "lease_not_found", "the session was lost while it waited")
        earlier = [entry for entry in page.entries if entry.create_revision < own.create_revision]
        return max(earlier, key=lambda entry: entry.create_revision, default=None)

    async def _gone(self, entry: KvEntry) -> None:
        watch = self._client.kv_watch(key=entry.key, start=entry.mod_revision + 1)
        lost = asyncio.create_task(self._session.lost.wait())
        try:
            while True:
                following = asyncio.ensure_future(anext(watch))
                await asyncio.wait({following, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                    return
                try:
                    told = following.result()
                except ClientCompacted:
                    return  # long ago: look at the line again
                if any(change.type == "delete" for change in told.changes):
                    return
        finally:
            lost.cancel()
            await watch.aclose()  # type: ignore[attr-defined]  # it is a generator


class Election:
    """Several candidates, one leader at a time; what the leader proclaims, all can read."""

    def __init__(self, session: Session, name: bytes) -> None:
        self._session = session
        self._name = name
        self._lock: Lock | None = None

    async def campaign(self, value: bytes) -> int:
        """Return once elected: the term, a number that grows with every leader."""
        self._lock = Lock(self._session, self._name, value)
        return await self._lock.acquire()

    async def resign(self) -> None:
        if self._lock is not None:
            await self._lock.release()

    async def leader(self) -> KvEntry | None:
        """The leader's proclamation (`value`) and term (`create_revision`); None if there is none."""
        return await Lock(self._session, self._name).holder()


class Counter:
    """A number that many count up."""

    def __init__(self, client: KvCalls, key: bytes) -> None:
        self._client = client
        self._key = key

    async def add(self, delta: int = 1, *, once: str | None = None) -> int:
        """The sum. Without `once`, a `ClientOutcomeUnknown` leaves open whether it was counted."""
        return (await self._client.kv_increment(self._key, delta, once=once)).value

    async def value(self) -> int:
        try:
            return int((await self._client.kv_get(self._key)).value)
        except ClientNotFound:
            return 0


class Barrier:
    """Nobody goes on until `parties` have come. Whoever dies while waiting doesn't count."""

    def __init__(self, session: Session, name: bytes, parties: int) -> None:
        self._session = session
        self._client = session.client
        self._prefix = name + b"/"
        self._parties = parties

    async def wait(self) -> None:
        """Come, and return when enough have."""
        arrivals, opened = self._prefix + b"at/", self._prefix + b"open"
        own = arrivals + b"%016x" % self._session.lease
        written = await self._client.kv_put(own, b"", lease=self._session.lease)
        watch = self._client.kv_watch(self._prefix, start=written.revision)
        try:
            while True:
                count = (await self._client.kv_scan(arrivals, count_only=True, limit=None)).count
                if count >= self._parties:
                    await self._client.kv_put(opened, b"")
                    return
                if (await self._client.kv_scan(opened, count_only=True, limit=None)).count:
                    return
                while not (await anext(watch)).changes:
                    pass
        finally:
            await watch.aclose()  # type: ignore[attr-defined]  # it is a generator
