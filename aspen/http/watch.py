"""Watching keys over HTTP: `/v1/watch`, server-sent events.

An event `changes` for every revision that changed a key in the range, its `id` the revision, so
that a browser or client that reconnects, to whichever node, goes on behind it (`Last-Event-ID`). The
first event, and one whenever nothing has happened for a while, is `progress`: everything up to
its `id` has been told.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Final

import msgspec
from aiohttp import web

from aspen.http.kv_access import KvAccess
from aspen.http.kv_api import WATCH
from aspen.http.kv_bodies import event_json
from aspen.http.kv_query import RANGE, READ, bad_query, flag_of, range_of
from aspen.http.kv_watch import Batch, Watch, WatchHub
from aspen.http.request import query_of
from aspen.http.routing import Request, Router
from aspen.http.sse import Event, event_stream, resume_point
from aspen.state.kv_checks import validate_key
from aspen.state.kv_reader import KvRange
from aspen.state.ports import Proposer

PATH: Final = "/v1/watch"
_WATCH: Final = RANGE | READ | {"key", "from", "keys_only"}


class WatchRoutes:
    """The handler."""

    def __init__(self, proposer: Proposer, hub: WatchHub) -> None:
        self._access = KvAccess(proposer, hub.beyond)
        self._proposer = proposer
        self._hub = hub

    def add_routes(self, router: Router) -> None:
        router.add(PATH, {"GET": self.watch}, public=False, operations=WATCH)

    async def watch(self, request: Request, _rest: str) -> web.StreamResponse:
        """Every change of the keys in the range, from a revision on (`from`, included) or from now on."""
        query = query_of(request, _WATCH)
        if "key" in query:
            if RANGE & query.keys():
                raise bad_query("a key or a range, not both")
            validate_key(query["key"])
            range_ = KvRange(query["key"], query["key"] + b"\0")
        else:
            range_ = range_of(query)
        keys_only = flag_of(query, "keys_only")
        start = resume_point(request, query.get("from"))
        if start is None or "consistency" in query or "min_revision" in query:
            await self._access.fresh(query)
        watch = self._hub.watch(range_, None if start is None else max(start - 1, 0))
        try:
            first = self._hub.since(watch)  # or a refusal, before anything is promised
            batches = self._batches(watch, first, keys_only=keys_only)
            return await event_stream(request, batches, progress=lambda: self._progress(watch))
        finally:
            watch.close()

    async def _batches(
        self, watch: Watch, first: list[Batch], *, keys_only: bool
    ) -> AsyncGenerator[Sequence[Event], None]:
        yield [_event(batch, keys_only) for batch in first] or (self._progress(watch),)
        while True:
            yield [_event(batch, keys_only) for batch in await watch.next()]

    def _progress(self, watch: Watch) -> Event:
        freshness = self._proposer.freshness()
        data = {"revision": watch.position, "last_contact_ms": freshness.last_contact_ms}
        return Event(data, watch.position, "progress")


def _event(batch: Batch, keys_only: bool) -> Event:
    """One encoding for all who watch the same changes."""
    if keys_only:
        shown = [event_json(change, with_value=False) for change in batch.changes]
        return Event({"revision": batch.revision, "changes": shown}, batch.revision, "changes")
    if batch.encoded is None:
        changes = [event_json(change) for change in batch.changes]
        batch.encoded = msgspec.json.encode({"revision": batch.revision, "changes": changes})
    return Event(msgspec.Raw(batch.encoded), batch.revision, "changes")
