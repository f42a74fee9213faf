"""Watching packets: every change, none twice, none lost, whichever member one asks next.

A change is numbered by its place in the log, and the numbers are the same on all members. A watcher
that has seen number n goes on from n + 1, here or elsewhere; a member that lags has nothing to say until
it gets there. The changes themselves are read from the replica (`state.packet_events`), never kept in
queues: a slow watcher only reads later. One that comes back so late that changes may have been
forgotten is told so (`compacted`), and must look at the packets themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from aiohttp import web

from aspen.errors import HttpError
from aspen.http.request import query_of
from aspen.http.routing import Request, Router
from aspen.http.sse import Event, event_stream, resume_point
from aspen.limits import PKARR_WATCH_BATCH
from aspen.pkarr import relay_api
from aspen.pkarr.gate import Gate
from aspen.pkarr.packet import parse_key
from aspen.state.packet_events import EventPage, PacketEvent, PacketEventKind
from aspen.z32 import encode_key

_ONE_KEY: Final = frozenset({"key", "from"})
_ALL_KEYS: Final = frozenset({"from"})
_NAMES: Final = {
    PacketEventKind.STORED: "stored",
    PacketEventKind.UNPUBLISHED: "unpublished",
    PacketEventKind.DELETED: "deleted",
    PacketEventKind.EXPIRED: "expired",
}


class EventReader(Protocol):
    """The latest changes, of the local replica."""

    def page(self, from_index: int, limit: int) -> EventPage | None: ...


class PacketWatch:
    """The handlers, and where they wait. Call `progressed` on the loop when the replica has moved."""

    def __init__(
        self, events: EventReader, applied_index: Callable[[], int], gate: Gate | None = None
    ) -> None:
        self._events = events
        self._applied_index = applied_index
        self._gate = gate if gate is not None else Gate()
        self._seen = 0
        """Those who wait have been told of everything up to this index."""
        self._waiting: dict[bytes | None, set[asyncio.Event]] = {}
        """By key; under None, those who watch all."""

    def add_routes(self, public: Router, admin: Router) -> None:
        public.add(
            "/v1/packets/watch",
            {"GET": self.watch_key},
            public=True,
            operations={"GET": relay_api.WATCH_KEY},
        )
        admin.add(
            "/v1/packets/watch/all",
            {"GET": self.watch_all},
            public=False,
            operations={"GET": relay_api.WATCH_ALL},
        )

    def progressed(self) -> None:
        """Wake those whom the newly applied entries concern."""
        applied = self._applied_index()
        if applied == self._seen:
            return
        first, self._seen = self._seen + 1, applied
        if not self._waiting:
            return
        page = self._events.page(first, PKARR_WATCH_BATCH)
        # Whoever is woken looks for itself, and waits again if there is nothing: too many are no harm.
        if page is None or page.more:
            concerned: Iterable[bytes | None] = list(self._waiting)
        else:
            concerned = [
                *(key for event in page.events for key in event.keys),
                *([None] if page.events else []),
            ]
        for key in concerned:
            for waiting in self._waiting.pop(key, ()):
                waiting.set()

    async def watch_key(self, request: Request, _rest: str) -> web.StreamResponse:
        """The changes of one key."""
        query = query_of(request, _ONE_KEY)
        given = query.get("key")
        if given is None:
            raise HttpError(400, "bad_query", "which key? `key` is missing")
        key = parse_key(given.decode("ascii", "replace"))
        with self._gate.watching(request):
            return await self._stream(request, key, resume_point(request, query.get("from")))

    async def watch_all(self, request: Request, _rest: str) -> web.StreamResponse:
        """The changes of all keys."""
        query = query_of(request, _ALL_KEYS)
        return await self._stream(request, None, resume_point(request, query.get("from")))

    async def _stream(self, request: Request, key: bytes | None, point: int | None) -> web.StreamResponse:
        start = self._applied_index() + 1 if point is None else point
        if self._events.page(start, 1) is None:
            raise _compacted(start)
        watcher = _Watcher(self, key, start)
        return await event_stream(request, watcher.batches(), progress=watcher.progress)

    @property
    def seen(self) -> int:
        return self._seen

    @contextmanager
    def waiting(self, key: bytes | None) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news of a key; begin before anything is awaited."""
        event = asyncio.Event()
        others = self._waiting.setdefault(key, set())
        others.add(event)
        try:
            yield event
        finally:
            others.discard(event)
            if not others and self._waiting.get(key) is others:
                del self._waiting[key]

    def look(self, position: int) -> tuple[Sequence[PacketEvent], int, bool]:
        """Changes from `position` on, up to which index that is all of them, and whether more are there.

        Raises `HttpError` if some may be forgotten.
        """
        applied = self._applied_index()  # first: whatever was applied by now is read below
        page = self._events.page(position, PKARR_WATCH_BATCH)
        if page is None:
            raise _compacted(position)
        last = page.events[-1].log_index if page.events else 0
        return page.events, max(last, 0 if page.more else applied, position - 1), page.more


class _Watcher:
    """One stream's place in the log."""

    def __init__(self, watch: PacketWatch, key: bytes | None, start: int) -> None:
        self._watch = watch
        self._key = key
        self._next = start
        self._news: asyncio.Event | None = None

    def progress(self) -> Event:
        """How far this watcher has been told everything."""
        if self._news is not None and not self._news.is_set():
            self._next = max(self._next, self._watch.seen + 1)  # it would have been woken
        return Event({"index": self._next - 1}, self._next - 1, "progress")

    async def batches(self) -> AsyncGenerator[Sequence[Event], None]:
        watch = self._watch
        yield (self.progress(),)  # so that a client knows its place before anything happens
        while True:
            found, looked_at, more = watch.look(self._next)
            self._next = looked_at + 1
            events = [
                _told(event, keys)
                for event in found
                if (keys := event.keys if self._key is None else _only(self._key, event.keys))
            ]
            if events:
                yield events
            elif more:
                await asyncio.sleep(0)
            else:
                with watch.waiting(self._key) as self._news:
                    await self._news.wait()
                self._news = None


def _only(key: bytes, keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (key,) if key in keys else ()


def _told(event: PacketEvent, keys: Sequence[bytes]) -> Event:
    data: dict[str, Any] = {"index": event.log_index, "keys": [encode_key(key) for key in keys]}
    if event.kind is not PacketEventKind.EXPIRED:
        data["timestamp_us"] = event.timestamp_us
    return Event(data, event.log_index, _NAMES[event.kind])


def _compacted(index: int) -> HttpError:
    return HttpError(
        410, "compacted", f"changes since {index} may be forgotten: look at the packets, then watch from now"
    )
