"""Watches of keys: everyone who watches sees every change, once, in the order of revisions.

A watch is a position, the revision up to which it has been told everything, and nothing else: no
queue grows behind a slow reader. Changes are read from the replica's history when a watch asks for
them; the newest ones, which all want at the same time, are kept ready here, read once for all. A
watch that falls behind those reads the history for itself, and one that falls behind the history is
told so (`KeyValueStoreError.Compacted`). The same position is good on any node.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

from aspen.errors import AspenError, KeyValueStoreError
from aspen.limits import (
    KV_WATCH_BYTES,
    KV_WATCH_EVENTS,
    KV_WATCH_RECENT,
    KV_WATCH_RECENT_BYTES,
    KV_WATCHES,
)
from aspen.state.kv_reader import KvEvents, KvRange
from aspen.state.kv_revisions import KvEvent

log = structlog.get_logger("aspen.kv")


class History(Protocol):
    """The changes of the local replica."""

    def revision(self) -> int: ...

    def events(self, after: int, wanted: Callable[[bytes], bool], limit: int, max_bytes: int) -> KvEvents: ...


class Batch:
    """All that one command changed, or the part of it that a watch is for."""

    __slots__ = ("changes", "encoded", "revision")

    def __init__(self, revision: int, changes: list[KvEvent]) -> None:
        self.revision = revision
        self.changes = changes
        self.encoded: bytes | None = None
        """For who sends it: made once, for all whom it goes to."""

    def within(self, range_: KvRange) -> Batch | None:
        changes = [change for change in self.changes if range_.has(change.entry.key)]
        if not changes:
            return None
        return self if len(changes) == len(self.changes) else Batch(self.revision, changes)


class Watch:
    """One watch; `close` it in the end. Made by `WatchHub.watch`."""

    def __init__(self, hub: WatchHub, range_: KvRange, position: int) -> None:
        self.range = range_
        self.position = position
        """Everything up to this revision has been told."""
        self.wake = asyncio.Event()
        self._hub = hub

    async def next(self, timeout_s: float | None = None) -> list[Batch]:
        """What has changed since, or nothing if that is so for `timeout_s`; oldest first, in parts if it is
        much. Raises `KeyValueStoreError.Compacted` or `StorageError`, or is cancelled when the hub closes."""
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        while True:
            if batches := self._hub.since(self):
                return batches
            if self.position >= self._hub.through:
                self.wake.clear()
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._hub.idle(self)
                except TimeoutError:
                    return []
            else:
                await asyncio.sleep(0)  # a long stretch of the history without a change for this one

    def close(self) -> None:
        self._hub.leave(self)


class WatchHub:
    """All watches of a node. `wake` it when the replica has moved."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._watches: set[Watch] = set()
        self._idle: set[Watch] = set()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._recent: deque[Batch] = deque()
        self._recent_bytes = 0
        self._recent_after = 0
        """The recent changes are all of those after this revision, up to `through`."""
        self.through = 0
        self._scheduled = False
        self._closed = False

    def watch(self, range_: KvRange, after: int | None = None) -> Watch:
        """Watch keys from behind a revision on, or from now on. Raises `KeyValueStoreError.TooMany`."""
        if len(self._watches) >= KV_WATCHES or self._closed:
            raise KeyValueStoreError.TooMany(f"{KV_WATCHES} watches on this node; try another")
        if not self._watches:
            self._restart()
        watch = Watch(self, range_, self.through if after is None else after)
        self._watches.add(watch)
        return watch

    def leave(self, watch: Watch) -> None:
        self._watches.discard(watch)
        self._idle.discard(watch)

    async def beyond(self, revision: int) -> None:
        """Return once the replica has a change after `revision`."""
        if self._history.revision() > revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((revision, future))
        try:
            await future
        finally:
            self._waiting = [waiting for waiting in self._waiting if waiting[1] is not future]

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watch in self._watches:
            watch.wake.set()
        for _, future in self._waiting:
            future.cancel()

    # --- for the watches ----------------------------------------------------------------------

    def since(self, watch: Watch) -> list[Batch]:
        """What a watch has not been told yet, or the first part of it; moves its position."""
        if watch.position >= self.through:
            return []
        if watch.position < self._recent_after:
            events = self._history.events(watch.position, watch.range.has, KV_WATCH_EVENTS, KV_WATCH_BYTES)
            watch.position = events.through
            return [Batch(revision, changes) for revision, changes in events.batches]
        found: list[Batch] = []
        for batch in reversed(self._recent):
            if batch.revision <= watch.position:
                break
            if (part := batch.within(watch.range)) is not None:
                found.append(part)
        watch.position = self.through
        found.reverse()
        return found

    async def idle(self, watch: Watch) -> None:
        """Wait until there is something for this watch. Raises `CancelledError` when the hub closes."""
        self._idle.add(watch)
        try:
            if not self._closed:
                await watch.wake.wait()
        finally:
            self._idle.discard(watch)
        if self._closed:
            raise asyncio.CancelledError

    # --- what is new --------------------------------------------------------------------------

    def wake(self) -> None:
        """The replica may have moved. Cheap: what is to be done is done once for all such calls."""
        if not self._scheduled and (self._watches or self._waiting):
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        self._scheduled = False
        try:
            self._read_on()
        except AspenError as error:
            log.error("watches can't be told what has changed", error=str(error))

    def _read_on(self) -> None:
        revision = self._history.revision()
        for waited_for, future in self._waiting:
            if revision > waited_for and not future.done():
                future.set_result(None)
        if not self._watches or revision <= self.through:
            return
        try:
            events = self._history.events(self.through, _any_key, KV_WATCH_EVENTS, KV_WATCH_BYTES)
        except KeyValueStoreError:
            # A snapshot took this replica beyond what is known. Each watch finds out for itself.
            self._restart()
            for watch in self._idle:
                watch.wake.set()
            return
        news = [Batch(at, changes) for at, changes in events.batches]
        for batch in news:
            self._keep(batch)
        self.through = events.through
        for watch in self._idle:
            if watch.wake.is_set():
                continue
            if any(
                batch.revision > watch.position and watch.range.has(change.entry.key)
                for batch in news
                for change in batch.changes
            ):
                watch.wake.set()
            else:
                watch.position = max(watch.position, self.through)
        if self.through < revision:
            self.wake()

    def _keep(self, batch: Batch) -> None:
        self._recent.append(batch)
        self._recent_bytes += _size(batch)
        while len(self._recent) > KV_WATCH_RECENT or self._recent_bytes > KV_WATCH_RECENT_BYTES:
            oldest = self._recent.popleft()
            self._recent_bytes -= _size(oldest)
            self._recent_after = oldest.revision

    def _restart(self) -> None:
        self.through = self._recent_after = self._history.revision()
        self._recent.clear()
        self._recent_bytes = 0


def _size(batch: Batch) -> int:
    return sum(len(change.entry.key) + len(change.entry.value) for change in batch.changes)


def _any_key(_key: bytes) -> bool:
    return True
