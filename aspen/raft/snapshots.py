"""Snapshots between members: offered by the leader, fetched by the member that lags.

The core sends a lagging member a SNAP message with a position in the log. That message carries the
name of an *offer*: a read transaction held open, so that what is fetched later is of exactly that
position, however the state moves on. The member fetches chunk by chunk over a stream of its own,
beside the Raft messages, into an environment aside; when it has all of it, and only then, its
core sees the SNAP message. A cut is taken up again after the last chunk written.

Raft paper §7. The state is never in memory: a chunk at a time, on both sides.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
import structlog

from aspen.decoding import UNDECODABLE
from aspen.errors import AspenError, RaftWireError, StorageError
from aspen.limits import (
    SNAPSHOT_OFFER_MS,
    SNAPSHOT_OFFERS,
    SNAPSHOT_PROGRESS_MS,
    SNAPSHOT_RETRY_MS,
    SNAPSHOT_TRIES,
)
from aspen.raft.log import LogUnavailable
from aspen.raft.messages import Message, Snapshot, SnapshotMetadata
from aspen.raft.roster import Roster
from aspen.raft.storage import LmdbLog
from aspen.state.snapshot import (
    Position,
    count_pairs,
    decode_chunk,
    encode_chunk,
    read_chunk,
    write_chunk,
)
from aspen.state.store import Store, Txn, open_environment, open_tables, write_to

log = structlog.get_logger("aspen.raft.snapshots")


class FrameStream(Protocol):
    """A stream of frames to or from one member, in order, with back-pressure."""

    async def send(self, frame: bytes) -> None:
        """Raises `ConnectionError` when the stream is cut."""
        ...

    async def receive(self) -> bytes | None:
        """The next frame; None at the end. Raises `ConnectionError` when the stream is cut."""
        ...

    def close(self) -> None: ...


OpenStream = Callable[[int], Awaitable[FrameStream]]
"""Opens a stream to a member by node id; raises `ConnectionError`."""


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """What a SNAP message carries instead of the state."""

    offer_id: bytes
    node_id: int
    roster: Roster


class Fetch(msgspec.Struct, frozen=True, array_like=True):
    """What the fetching side asks: go on from `position`."""

    offer_id: bytes
    position: Position


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """What the offering side says first. No chunks follow if `known` is false."""

    known: bool
    pairs: int = 0


_ENCODER: Final = msgspec.msgpack.Encoder()
_REFERENCE: Final = msgspec.msgpack.Decoder(Reference)
_FETCH: Final = msgspec.msgpack.Decoder(Fetch)
_MANIFEST: Final = msgspec.msgpack.Decoder(Manifest)
_END: Final = b""
"""The frame after the last chunk: without it, a stream that ends was cut."""


def decode_reference(message: Message) -> Reference:
    """Raises `RaftWireError`."""
    try:
        return _REFERENCE.decode(message.snapshot.data if message.snapshot is not None else b"")
    except UNDECODABLE as error:
        raise RaftWireError(f"not a snapshot reference: {error}") from None


# --- the side that has it ----------------------------------------------------------------------


@dataclass(slots=True)
class _Offer:
    txn: Txn
    tables: dict[str, Any]
    snapshot: Snapshot
    used_at: float
    streams: int = 0
    node_id: int = 0
    """Whom it is for; 0 until the SNAP message has left."""
    asked_for: bool = False
    complete: bool = False
    """All of it was sent once."""


class SnapshotOffers:
    """Moments of this node's state, held open for members to fetch. Bounded in number and time:
    an open read transaction keeps the pages of its moment from being reused."""

    def __init__(
        self,
        store: Store,
        log_storage: LmdbLog,
        node_id: int,
        clock: Callable[[], float],
        on_withdrawn: Callable[[int], None],
    ) -> None:
        """`on_withdrawn` hears the node id of the member whose offer is gone: it may need another."""
        self._on_withdrawn = on_withdrawn
        self._store = store
        self._log_storage = log_storage
        self._node_id = node_id
        self._clock = clock
        self._offers: dict[bytes, _Offer] = {}

    def offer(self) -> Snapshot:
        """The state as it is now. Raises `LogUnavailable` when too many are held, or there is none."""
        self.expire()
        if len(self._offers) >= SNAPSHOT_OFFERS:
            raise LogUnavailable(0)
        txn = self._store.environment.begin()
        index, term, roster = self._log_storage.read_applied(txn)
        if index == 0:
            txn.abort()
            raise LogUnavailable(0)
        offer_id = secrets.token_bytes(16)
        reference = _ENCODER.encode(Reference(offer_id, self._node_id, roster))
        snapshot = Snapshot(reference, SnapshotMetadata(roster.conf_state, index, term))
        self._offers[offer_id] = _Offer(txn, self._store.tables, snapshot, self._clock())
        return snapshot

    def expire(self) -> None:
        """Let go of offers that nobody has fetched from for a while."""
        limit = self._clock() - SNAPSHOT_OFFER_MS / 1000
        for offer_id, offer in list(self._offers.items()):
            if not offer.streams and offer.used_at < limit:
                self._withdraw(offer_id, "not fetched in time")

    def restarted(self, node_id: int) -> None:
        """A member has begun anew: what it had fetched is gone, and it does not know what to ask for."""
        for offer_id, offer in list(self._offers.items()):
            if offer.node_id == node_id:
                self._withdraw(offer_id, "the member restarted")

    def unreachable(self, node_id: int) -> None:
        """A member could not be reached: it may never have heard of its offer."""
        for offer_id, offer in list(self._offers.items()):
            if offer.node_id == node_id and not offer.asked_for:
                self._withdraw(offer_id, "the member can't be reached")

    def _withdraw(self, offer_id: bytes, reason: str) -> None:
        """Streams under way end as cut."""
        offer = self._offers.pop(offer_id)
        offer.txn.abort()
        if offer.node_id:
            if not offer.complete:
                log.info("snapshot offer withdrawn", to=offer.node_id, reason=reason)
            self._on_withdrawn(offer.node_id)

    def assign(self, message: Message) -> None:
        """A SNAP message is leaving: its offer is for that member."""
        offer = self._offers.get(decode_reference(message).offer_id)
        if offer is not None:
            offer.node_id = message.to

    def close(self) -> None:
        """Let go of all; streams under way end as cut."""
        for offer in self._offers.values():
            offer.txn.abort()
        self._offers.clear()

    async def serve(self, node_id: int, stream: FrameStream) -> None:
        """Answer one member's fetch."""
        try:
            request = await stream.receive()
            fetch = _FETCH.decode(request or b"")
            offer = self._offers.get(fetch.offer_id)
            if offer is None:
                await stream.send(_ENCODER.encode(Manifest(False)))
                return
            offer.streams += 1
            offer.asked_for = True
            log.info("snapshot transfer", to=node_id, chunk=fetch.position.sequence)
            try:
                await self._send(fetch.offer_id, offer, fetch.position, stream)
            finally:
                offer.streams -= 1
                offer.used_at = self._clock()
        except UNDECODABLE:
            log.warning("a snapshot request made no sense", to=node_id)
        except ConnectionError as error:
            log.info("snapshot transfer cut", to=node_id, reason=str(error))
        finally:
            stream.close()

    async def _send(self, offer_id: bytes, offer: _Offer, position: Position, stream: FrameStream) -> None:
        await stream.send(_ENCODER.encode(Manifest(True, count_pairs(offer.txn, offer.tables))))
        while offer_id in self._offers:
            chunk = read_chunk(offer.txn, offer.tables, position)
            if chunk is None:
                await stream.send(_END)
                offer.complete = True
                return
            await stream.send(encode_chunk(chunk))
            position = chunk.end


# --- the side that needs it --------------------------------------------------------------------


@dataclass(slots=True)
class Incoming:
    """A snapshot being received, or received."""

    message: Message
    reference: Reference
    folder: str
    environment: Any
    tables: dict[str, Any]
    position: Position = field(default_factory=Position)
    pairs: int = 0
    pairs_total: int = 0
    writing: threading.Lock = field(default_factory=threading.Lock)
    """Held while a thread writes a chunk; who cancels does not wait for that thread."""


class SnapshotIntake:
    """Fetches what SNAP messages refer to, one at a time, and hands over what is complete."""

    def __init__(
        self, store: Store, open_stream: OpenStream, on_complete: Callable[[Incoming], None]
    ) -> None:
        self._store = store
        self._open_stream = open_stream
        self._on_complete = on_complete
        self._task: asyncio.Task[None] | None = None
        self.incoming: Incoming | None = None

    def begin(self, message: Message) -> None:
        """Start to fetch, unless a transfer is under way: the leader offers again if it has to."""
        if self.incoming is not None:
            return
        reference = decode_reference(message)
        folder = self._store.next_folder()
        path = self._store.data_dir / folder
        shutil.rmtree(path, ignore_errors=True)
        environment = open_environment(path, read_only=False, map_bytes=self._store.map_bytes, sync=False)
        tables = open_tables(environment, create=True)
        self.incoming = Incoming(message, reference, folder, environment, tables)
        self._task = asyncio.ensure_future(self._fetch(self.incoming))

    def discard(self) -> None:
        """Give up what was received; its files are removed."""
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            with incoming.writing:
                incoming.environment.close()
            shutil.rmtree(self._store.data_dir / incoming.folder, ignore_errors=True)

    def installed(self) -> None:
        """What was received is the store now."""
        self.incoming = None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.discard()

    async def _fetch(self, incoming: Incoming) -> None:
        metadata = incoming.message.snapshot.metadata if incoming.message.snapshot else SnapshotMetadata()
        log.info("snapshot transfer begins", source=incoming.reference.node_id, index=metadata.index)
        started, tries = time.monotonic(), 0
        while tries < SNAPSHOT_TRIES:
            before = incoming.position
            try:
                if await self._fetch_some(incoming):
                    seconds = round(time.monotonic() - started, 2)
                    log.info("snapshot received", index=metadata.index, pairs=incoming.pairs, seconds=seconds)
                    self._on_complete(incoming)
                    return
                break
            except ConnectionError as error:
                log.info("snapshot transfer cut", reason=str(error), pairs=incoming.pairs)
            except AspenError as error:
                log.warning("snapshot transfer failed", reason=str(error))
                break
            tries = 0 if incoming.position != before else tries + 1
            await asyncio.sleep(SNAPSHOT_RETRY_MS / 1000)
        self.discard()

    async def _fetch_some(self, incoming: Incoming) -> bool:
        """Fetch from where we are to the end. False if the offer is gone.

        Raises `ConnectionError` on a cut, `StorageError` for what can't be stored or trusted.
        """
        stream = await self._open_stream(incoming.reference.node_id)
        try:
            await stream.send(_ENCODER.encode(Fetch(incoming.reference.offer_id, incoming.position)))
            answer = await stream.receive()
            if answer is None:
                raise ConnectionError("the stream ended before it began")
            try:
                manifest = _MANIFEST.decode(answer)
            except UNDECODABLE as error:
                raise StorageError(f"not a snapshot manifest: {error}") from None
            if not manifest.known:
                log.info("the snapshot on offer is gone", source=incoming.reference.node_id)
                return False
            incoming.pairs_total = manifest.pairs
            await self._receive_chunks(incoming, stream)
        finally:
            stream.close()
        return True

    async def _receive_chunks(self, incoming: Incoming, stream: FrameStream) -> None:
        shown = time.monotonic()
        while (frame := await stream.receive()) != _END:
            if frame is None:
                raise ConnectionError("the stream ended before the snapshot did")
            await _finished(asyncio.to_thread(_store_chunk, incoming, frame))
            if time.monotonic() - shown >= SNAPSHOT_PROGRESS_MS / 1000:
                shown = time.monotonic()
                percent = 100 * incoming.pairs // max(1, incoming.pairs_total)
                log.info("snapshot progress", percent=percent, pairs=incoming.pairs, of=incoming.pairs_total)


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end even if cancelled: an environment can't be closed under its writer."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _store_chunk(incoming: Incoming, frame_untrusted: bytes) -> None:
    chunk = decode_chunk(frame_untrusted)
    with incoming.writing, write_to(incoming.environment) as txn:
        incoming.position = write_chunk(txn, incoming.tables, chunk, incoming.position)
    incoming.pairs += len(chunk.pairs)
