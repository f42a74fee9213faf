"""The status page: a few words of shared memory between the node process and its UDP workers.

A file of 64-bit words, mapped by all of them. The node writes what a worker must know before
every answer (has anything changed? which environment is current? how stale are we?); each
worker writes its own counters back. Every word has one writer, and aligned 64-bit stores are
atomic on the platforms Python's mmap supports, so there is no lock: asking LMDB instead would
cost a microsecond a query.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Self

from aspen.errors import StorageError, invariant
from aspen.limits import DNS_CHANGES, DNS_WORKERS
from aspen.state.store import allocate, private_opener

MAGIC: Final = int.from_bytes(b"aspen\x00\x00\x02", "big")

STATUS_PAGE_FILE: Final = "status.page"
"""Its name in a data directory."""

# Word indexes; the node process writes these.
WORD_MAGIC: Final = 0
GENERATION: Final = 1
"""Counts changes of what DNS can see; a cached answer lives for one generation."""
EPOCH: Final = 2
"""Counts environments: a worker that sees it move reopens LMDB."""
LAST_CONTACT_MS: Final = 3
"""CLOCK_MONOTONIC in ms when a leader was last heard from; 0 = never."""
ROLE: Final = 4
COMMIT_INDEX: Final = 5
APPLIED_INDEX: Final = 6
WORKER_COUNT: Final = 7
CHANGES: Final = 8
"""Counts the marks ever written to the ring of changes: moves whenever `GENERATION` does, just before."""
DNS_STALENESS: Final = 9
"""Whether the node is in touch with its cluster: the value of a `dns.policy.Staleness`."""
MEMBERS: Final = 10
"""Counts changes of the file that tells workers of the cluster's nodes."""

_RING_START: Final = 64
CHANGE_MARK_BYTES: Final = 8
_EVERYTHING: Final = 0
_HEADER_WORDS: Final = _RING_START + DNS_CHANGES
COUNTERS_PER_WORKER: Final = 384
PULSE: Final = COUNTERS_PER_WORKER - 1
"""Of a worker's counters: moves with every tick, so that the node sees one that is stuck."""
_WORD_BYTES: Final = 8


class WorkerCounters:
    """The counters of one worker: its own block of words, written by it alone."""

    __slots__ = ("_base", "_words")

    def __init__(self, words: memoryview, base: int) -> None:
        self._words = words
        self._base = base

    def add(self, counter: int, amount: int) -> None:
        invariant(0 <= counter < COUNTERS_PER_WORKER, "counter index out of its block")
        self._words[self._base + counter] += amount

    def get(self, counter: int) -> int:
        return int(self._words[self._base + counter])


def _word(index: int, meaning: str) -> property:
    def read(page: StatusPage) -> int:
        return int(page.words[index])

    def write(page: StatusPage, value: int) -> None:
        page.words[index] = value

    return property(read, write, doc=meaning)


class StatusPage:
    """The mapped page. `words` is the raw view, for hot paths: `page.words[GENERATION]`."""

    generation = _word(GENERATION, "Changes of what DNS can see.")
    epoch = _word(EPOCH, "Changes of the LMDB environment.")
    last_contact_ms = _word(LAST_CONTACT_MS, "Monotonic ms of the last leader contact; 0 = never.")
    dns_staleness = _word(DNS_STALENESS, "Whether answers must say that they may be old.")
    members = _word(MEMBERS, "Changes of what is known of the cluster's nodes.")
    role = _word(ROLE, "Raft role of this node.")
    commit_index = _word(COMMIT_INDEX, "Highest log index known committed.")
    applied_index = _word(APPLIED_INDEX, "Log index of the state on disk.")

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self.words = memoryview(mapping).cast("Q")
        self.worker_count = int(self.words[WORKER_COUNT])

    @classmethod
    def create(cls, path: Path, workers: int) -> Self:
        """A fresh page for a starting node. A page left by an earlier run is replaced, not
        reused, so a worker that outlived its node can't write into the new one. Raises
        `StorageError` if there is no room even in the old one's place."""
        invariant(0 <= workers <= DNS_WORKERS, "more workers than the page may hold")
        words = _HEADER_WORDS + workers * COUNTERS_PER_WORKER
        aside = path.with_name(path.name + ".new")
        try:
            page = cls._make(aside, words)
        except OSError:
            path.unlink(missing_ok=True)
            try:
                page = cls._make(aside, words)
            except OSError as error:
                raise StorageError(f"can't make the status page {path}: {error}") from None
        page.words[WORKER_COUNT] = page.worker_count = workers
        page.words[WORD_MAGIC] = MAGIC
        os.replace(aside, path)
        return page

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the page of a running node. Raises `StorageError` if it isn't one."""
        try:
            with open(path, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if size < _HEADER_WORDS * _WORD_BYTES:
                    raise StorageError(f"{path} is too short for a status page")
                page = cls._map(file.fileno(), size // _WORD_BYTES)
        except OSError as error:
            raise StorageError(f"can't open the status page {path}: {error}") from None
        if page.words[WORD_MAGIC] != MAGIC:
            raise StorageError(f"{path} is not a status page of this version")
        return page

    @classmethod
    def _make(cls, path: Path, words: int) -> Self:
        with open(path, "w+b", opener=private_opener) as file:
            allocate(file.fileno(), words * _WORD_BYTES)
            return cls._map(file.fileno(), words)

    @classmethod
    def _map(cls, descriptor: int, words: int) -> Self:
        return cls(mmap.mmap(descriptor, words * _WORD_BYTES))

    def note_progress(self, role: int, commit_index: int, applied_index: int, last_contact_ms: int) -> None:
        """How far the node has come."""
        self.role, self.last_contact_ms = role, last_contact_ms
        self.commit_index, self.applied_index = commit_index, applied_index

    def note_changes(self, public_keys: Collection[bytes] | None) -> None:
        """Begin a generation in which the packets of these keys are others; None: anything may be.

        The marks stand in the ring before the generation moves, so whoever sees it move finds them.
        """
        words = self.words
        at = int(words[CHANGES])
        if public_keys is None or len(public_keys) > DNS_CHANGES // 4:
            words[_RING_START + at % DNS_CHANGES] = _EVERYTHING
            at += 1
        else:
            for key in public_keys:
                mark = int.from_bytes(key[:CHANGE_MARK_BYTES], "big")
                words[_RING_START + at % DNS_CHANGES] = mark
                at += 1
        words[CHANGES] = at
        words[GENERATION] += 1

    def changes_since(self, seen: int) -> tuple[int, list[bytes] | None]:
        """How many changes were noted in all, and the marks of those after the first `seen`: the first
        octets of public keys. None if anything may have changed, or too much has to tell."""
        words = self.words
        count = int(words[CHANGES])
        if count - seen > DNS_CHANGES // 2:
            return count, None
        marks = [int(words[_RING_START + at % DNS_CHANGES]) for at in range(seen, count)]
        # Half a ring is read, at most a quarter is being written ahead of the count: none of these
        # was written over, unless so much was noted meanwhile that the count tells.
        if _EVERYTHING in marks or words[CHANGES] - seen > DNS_CHANGES // 2:
            return count, None
        return count, [mark.to_bytes(CHANGE_MARK_BYTES, "big") for mark in marks]

    def worker(self, index: int) -> WorkerCounters:
        invariant(0 <= index < self.worker_count, "no such worker on the status page")
        return WorkerCounters(self.words, _HEADER_WORDS + index * COUNTERS_PER_WORKER)

    def close(self) -> None:
        self.words.release()
        self._mapping.close()


Clock = Callable[[], int]
"""A monotonic clock in milliseconds."""
