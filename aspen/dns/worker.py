"""A UDP worker: a process that does nothing but answer (`python -m aspen.dns.worker`).

One blocking loop: receive, look into the cache of ready replies, send. The cache is keyed by the
whole query after its id, so a hit needs no parsing; it lives for one generation of the status page
and at most `DNS_CACHE_LIFE_MS`. A miss goes through `FastResponder` over the replica, opened
read-only. A thread that sleeps nearly always empties the cache in time and publishes the counters,
so that the loop needs neither clock nor locks.

The node process binds the socket and starts the worker; the worker ends when its parent does.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import structlog

from aspen.config import LogFormat, LogLevel
from aspen.dns.fast import ID_BYTES, FastResponder
from aspen.dns.forward import needs_node, pass_on
from aspen.dns.lookup import DnsSettings, View
from aspen.dns.origin import compile_origins
from aspen.dns.respond import servfail
from aspen.dns.sockets import ANCILLARY_BYTES, Ancillary, is_wildcard, reply_source
from aspen.errors import AspenError, StorageError
from aspen.limits import (
    DNS_CACHE_ENTRIES,
    DNS_CACHE_LIFE_MS,
    DNS_CACHE_REPLY_BYTES,
    DNS_FAILURE_LOG_MS,
    DNS_QUERY_BYTES,
)
from aspen.logs import configure
from aspen.state.packets import LmdbRecords
from aspen.state.status_page import EPOCH, GENERATION, StatusPage
from aspen.state.store import Store

log = structlog.get_logger("aspen.dns.worker")

_RECEIVE_BYTES: Final = DNS_QUERY_BYTES + 1  # one more, so that a longer datagram shows
_TICK_S: Final = DNS_CACHE_LIFE_MS / 1_000 - 0.05  # a reply cached just after a tick is gone with the next
_TIMEVAL: Final = struct.Struct("@ll")
_PR_SET_PDEATHSIG: Final = 1


# Words of a worker's block on the status page.
HITS: Final = 0
"""Queries answered from the cache of ready replies."""
MISSES: Final = 1
"""Queries looked up in the replica."""
IGNORED: Final = 2
"""Datagrams that must not be answered (of the misses)."""
FAILURES: Final = 3
"""SERVFAIL answers, for want of the replica (of the misses)."""
SEND_ERRORS: Final = 4
FORWARDED: Final = 5
"""Datagrams passed on to the node process (of the misses)."""
COUNTERS: Final = 6


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the node process tells a worker, as JSON, in its one argument."""

    index: int
    descriptor: int
    """The bound UDP socket, inherited."""
    forward_descriptor: int = -1
    """The worker's end of its pair with the node process, inherited; none if negative."""
    parent_pid: int
    data_dir: str
    status_page: str
    settings: DnsSettings
    log_format: LogFormat = LogFormat.AUTO
    log_level: LogLevel = LogLevel.INFO


class Worker:
    """One worker's state. The cache and the tally are shared with the ticking thread."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._page = StatusPage.open(Path(options.status_page))
        self._counters = self._page.worker(options.index)
        self._origins = compile_origins(options.settings)
        self._cache: dict[bytes, bytes] = {}
        self._tally = [0] * COUNTERS
        self._published = list(self._tally)
        self._stopping = threading.Event()
        self._failure_logged_at = -float("inf")
        self._epoch = -1
        self._store: Store | None = None
        self._responder: FastResponder
        self._refresh()
        self._socket = socket.socket(fileno=options.descriptor)
        self._socket.setblocking(True)
        descriptor = options.forward_descriptor
        self._node = None if descriptor < 0 else socket.socket(fileno=descriptor)
        # The kernel wakes an idle loop, so that it can count what it did.
        timeout = _TIMEVAL.pack(int(_TICK_S), int(_TICK_S * 1e6) % 1_000_000)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)

    def run(self) -> None:
        """Answer until told to stop by `SystemExit`."""
        ticker = threading.Thread(target=self._tick, name="ticker", daemon=True)
        ticker.start()
        try:
            if is_wildcard(self._socket):
                self._serve_wildcard()
            else:
                self._serve()
        finally:
            self._stopping.set()
            ticker.join()
            self._publish()
            if self._store is not None:
                self._store.close()

    def _serve(self) -> NoReturn:
        receive, send = self._socket.recvfrom, self._socket.sendto
        words, cached, tally = self._page.words, self._cache.get, self._tally
        generation, hits = words[GENERATION], 0
        while True:
            try:
                while True:
                    query, client = receive(_RECEIVE_BYTES)
                    if words[GENERATION] != generation:
                        generation = self._refresh()
                    reply = cached(query[ID_BYTES:])
                    if reply is None:
                        tally[HITS] += hits
                        hits = 0
                        reply = self._answer(query, client)
                        if reply is None:
                            continue
                    else:
                        hits += 1
                    send(query[:ID_BYTES] + reply, client)
            except OSError as error:
                tally[HITS] += hits
                hits = 0
                self._count_error(error)
                if words[GENERATION] != generation:
                    generation = self._refresh()

    def _serve_wildcard(self) -> NoReturn:
        """As `_serve`, with the destination of each query made the source of its reply."""
        receive, send = self._socket.recvmsg, self._socket.sendmsg
        words, cached, tally = self._page.words, self._cache.get, self._tally
        generation = words[GENERATION]
        while True:
            try:
                while True:
                    query, ancillary, _, client = receive(_RECEIVE_BYTES, ANCILLARY_BYTES)
                    if words[GENERATION] != generation:
                        generation = self._refresh()
                    reply = cached(query[ID_BYTES:])
                    if reply is None:
                        reply = self._answer(query, client, ancillary)
                        if reply is None:
                            continue
                    else:
                        tally[HITS] += 1
                    send((query[:ID_BYTES], reply), reply_source(ancillary), 0, client)
            except OSError as error:
                self._count_error(error)
                if words[GENERATION] != generation:
                    generation = self._refresh()

    def _answer(self, query_untrusted: bytes, client: Any, received: Ancillary | None = None) -> bytes | None:
        """Answer a query that isn't cached, and cache the reply; None if nothing is to be sent from here."""
        tally = self._tally
        tally[MISSES] += 1
        if self._node is not None and needs_node(query_untrusted):
            tally[FORWARDED] += pass_on(self._node, query_untrusted, client, reply_source(received or []))
            return None
        try:
            reply = self._responder.answer(query_untrusted)
        except Exception as error:
            # Not the query's fault (respond is total): the replica can't be read just now.
            tally[FAILURES] += 1
            self._log_failure(error)
            failure = servfail(query_untrusted)
            return None if failure is None else failure[ID_BYTES:]
        if reply is None:
            tally[IGNORED] += 1
        elif len(reply) <= DNS_CACHE_REPLY_BYTES:
            if len(self._cache) >= DNS_CACHE_ENTRIES:
                self._cache.clear()
            self._cache[query_untrusted[ID_BYTES:]] = reply
        return reply

    def _refresh(self) -> int:
        """Take up what the node changed; returns the generation that this is."""
        # First the word, then the data: a cached reply may be newer than its generation, never older.
        generation = int(self._page.words[GENERATION])
        self._cache.clear()
        epoch = int(self._page.words[EPOCH])
        if epoch != self._epoch:
            self._reopen()
            self._epoch = epoch
        return generation

    def _reopen(self) -> None:
        """Read the environment that is current. Raises `StorageError` if there was none before."""
        before = self._store
        try:
            self._store = Store.open(Path(self._options.data_dir), read_only=True)
        except StorageError as error:
            if before is None:
                raise
            # It gave way to the next one meanwhile, which moves the epoch again.
            log.warning("store_not_reopened", worker=self._options.index, error=str(error))
            return
        self._responder = FastResponder(View(LmdbRecords(self._store), self._origins))
        if before is not None:
            before.close()

    def _count_error(self, error: OSError) -> None:
        """Judge an error of the socket: a pause, a client that can't be reached, or the end."""
        if isinstance(error, BlockingIOError):
            return  # SO_RCVTIMEO passed without a query
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise error
        self._tally[SEND_ERRORS] += 1

    def _log_failure(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._failure_logged_at >= DNS_FAILURE_LOG_MS / 1_000:
            self._failure_logged_at = now
            log.error("replica_unreadable", worker=self._options.index, error=repr(error))

    def _tick(self) -> None:
        while not self._stopping.wait(_TICK_S):
            self._cache.clear()
            self._publish()
            if os.getppid() != self._options.parent_pid:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _publish(self) -> None:
        for counter in range(COUNTERS):
            total = self._tally[counter]
            self._counters.add(counter, total - self._published[counter])
            self._published[counter] = total


def _stop(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def _end_with_parent(parent_pid: int) -> None:
    """Have the kernel end this process with its parent (Linux); elsewhere the ticker sees to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:  # it ended before we could ask
        raise SystemExit(0)


def main() -> None:
    options = msgspec.json.decode(sys.argv[1], type=WorkerOptions)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _end_with_parent(options.parent_pid)
    configure(options.log_format, options.log_level)
    try:
        worker = Worker(options)
        # What exists now lives as long as the process, and the loop makes no cycles.
        gc.collect()
        gc.freeze()
        gc.disable()
        worker.run()
    except AspenError as error:
        log.error("worker_cannot_go_on", worker=options.index, error=str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
