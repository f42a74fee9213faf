"""A UDP worker: a process that does nothing but answer (`python -m aspen.dns.worker`).

One blocking loop: receive, look into the cache of ready replies, send. The cache is keyed by the
whole query after its id, so a hit needs no parsing. Everything else is `UdpAnswers`' over the replica,
opened read-only. When the node has changed a packet, the status page says which: its replies are
forgotten before the next query is answered, all others stay, but none for longer than
`DNS_CACHE_LIFE_MS`. A timer's signal sees to that and publishes the counters, so that the loop
needs neither clock nor locks.

Packets are read at one moment, too: a read transaction is kept until the node has changed something
that DNS can see, or a second has passed. Whatever else the node writes meanwhile takes new pages.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import structlog

from aspen.config import LogFormat, LogLevel
from aspen.dns.cookie_secret import read_cookie_maker
from aspen.dns.cookies import CookieMaker
from aspen.dns.fallback import DemandingRecords
from aspen.dns.fast import ID_BYTES
from aspen.dns.forward import pass_on
from aspen.dns.lookup import DnsSettings, Records, View
from aspen.dns.members import LiveNodes
from aspen.dns.members_file import read_nodes
from aspen.dns.policy import Staleness
from aspen.dns.sockets import ANCILLARY_BYTES, Ancillary, is_wildcard, reply_source
from aspen.dns.udp_answers import COUNTERS, Counter, UdpAnswers, latency_row
from aspen.errors import AspenError, StorageError
from aspen.limits import DNS_CACHE_LIFE_MS, DNS_QUERY_BYTES, DNS_TICK_MS
from aspen.logs import configure
from aspen.state.kv_reader import LmdbTexts
from aspen.state.packets import LmdbRecords, MomentRecords, PacketLife
from aspen.state.settings import LmdbSettings
from aspen.state.status_page import CHANGES, EPOCH, PULSE, StatusPage
from aspen.state.store import Store
from aspen.state.zones import LmdbZones

log = structlog.get_logger("aspen.dns.worker")

_RECEIVE_BYTES: Final = DNS_QUERY_BYTES + 1  # one more, so that a longer datagram shows
_TICK_S: Final = DNS_TICK_MS / 1_000
_TIMEVAL: Final = struct.Struct("@ll")
_PR_SET_PDEATHSIG: Final = 1
_NOTHING: Final[Ancillary] = []
_BATCH: Final = 16  # datagrams between two looks at what is done for many at once


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
    """One worker's state. A timer's signal (`_tick`) interrupts the loop, but nothing it holds: it
    clears and adds up, in the same thread."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._page = StatusPage.open(Path(options.status_page))
        self._counters = self._page.worker(options.index)
        self._received = self._fast = 0
        self._published = [0] * COUNTERS
        self._epoch = -1
        self._changes = 0
        self._store: Store | None = None
        self._release: Callable[[], None] = _nothing
        """Lets go of the moment that packets are read at."""
        self._view: View
        self._live = LiveNodes()
        self._members = -1
        self._answers: UdpAnswers
        self._refresh()
        self._socket = socket.socket(fileno=options.descriptor)
        self._socket.setblocking(True)
        descriptor = options.forward_descriptor
        self._node = None if descriptor < 0 else socket.socket(fileno=descriptor)
        # The kernel wakes an idle loop, so that it can count what it did. Well before the timer's signal,
        # which begins the wait anew.
        timeout = _TIMEVAL.pack(0, int(_TICK_S * 1e6 / 2))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)

    def run(self) -> None:
        """Answer until told to stop by `SystemExit`."""
        # A signal rather than a thread: the interpreter's lock and the kernel's table of open files
        # cost more when shared.
        signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, _TICK_S, _TICK_S)
        self._counters.add(PULSE, 1)  # from here on, it answers
        try:
            if is_wildcard(self._socket):
                self._serve_wildcard()
            else:
                self._serve()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._publish()
            if self._store is not None:
                self._store.close()

    def _serve(self) -> NoReturn:
        receive, send = self._socket.recvfrom, self._socket.sendto
        answers = self._answers
        reply_to = answers.reply_to
        words, cached, limiter = self._page.words, answers.cache.plain.get, answers.limiter
        watched, sample = limiter.watched, limiter.sample if limiter.rate else None
        batch = range(limiter.stride if sample is not None else _BATCH)
        changes, at = self._changes, 0
        while True:
            try:
                while True:
                    for at in batch:  # noqa: B007 -- counted when an error ends the batch early
                        query, client = receive(_RECEIVE_BYTES)
                        if words[CHANGES] != changes:
                            changes = self._refresh()
                        reply = cached(query[ID_BYTES:])
                        if reply is None or watched:
                            reply = reply_to(query, client[0])
                            if reply is None:
                                self._pass_on(query, client)
                                continue
                        send(query[:ID_BYTES] + reply, client)
                    self._received += len(batch)
                    if sample is not None:
                        sample(client[0])
            except OSError as error:
                self._count_error(error, at)
                if words[CHANGES] != changes:
                    changes = self._refresh()

    def _serve_wildcard(self) -> NoReturn:
        """As `_serve`, with the destination of each query made the source of its reply."""
        receive, send = self._socket.recvmsg, self._socket.sendmsg
        answers = self._answers
        reply_to = answers.reply_to
        words, cached, limiter = self._page.words, answers.cache.plain.get, answers.limiter
        watched, sample = limiter.watched, limiter.sample if limiter.rate else None
        batch = range(limiter.stride if sample is not None else _BATCH)
        changes, at = self._changes, 0
        while True:
            try:
                while True:
                    for at in batch:  # noqa: B007 -- counted when an error ends the batch early
                        query, ancillary, _, client = receive(_RECEIVE_BYTES, ANCILLARY_BYTES)
                        if words[CHANGES] != changes:
                            changes = self._refresh()
                        reply = cached(query[ID_BYTES:])
                        if reply is None or watched:
                            reply = reply_to(query, client[0])
                            if reply is None:
                                self._pass_on(query, client, ancillary)
                                continue
                        send((query[:ID_BYTES], reply), reply_source(ancillary), 0, client)
                    self._received += len(batch)
                    if sample is not None:
                        sample(client[0])
            except OSError as error:
                self._count_error(error, at)
                if words[CHANGES] != changes:
                    changes = self._refresh()

    def _pass_on(self, query: bytes, client: Any, received: Ancillary = _NOTHING) -> None:
        """Have the node process answer, if that is why there is no reply."""
        answers = self._answers
        if answers.must_pass_on and self._node is not None:
            answers.tally[Counter.FORWARDED] += pass_on(self._node, query, client, reply_source(received))

    def _refresh(self) -> int:
        """Take up what the node changed; returns how many changes that makes."""
        # First the words, then the data: a ready reply may be newer than the changes seen, never older.
        page = self._page
        self._changes, marks = page.changes_since(self._changes)
        self._release()
        epoch = int(page.words[EPOCH])
        if epoch != self._epoch:
            self._reopen()
            self._epoch = epoch
        elif marks is None:
            self._answers.tally[Counter.FLUSHED] += 1
            self._view.renew()
            self._answers.replace_view(self._view)
            self._answers.use_cookies(self._cookies())
        else:
            self._answers.tally[Counter.FORGOTTEN] += len(marks)
            self._answers.cache.forget(marks)
        return self._changes

    def _reopen(self) -> None:
        """Read the environment that is current. Raises `StorageError` if there was none before."""
        before, options = self._store, self._options
        try:
            self._store = store = Store.open(Path(options.data_dir), read_only=True)
        except StorageError as error:
            if before is None:
                raise
            # It gave way to the next one meanwhile, which moves the epoch again.
            log.warning("store_not_reopened", worker=options.index, error=str(error))
            return
        words = self._page.words
        zones = LmdbZones(store, lambda: int(words[CHANGES]))
        settings = options.settings
        life = PacketLife(settings.packet_retention_ms, settings.packet_ttl_strict)
        records: Records
        self._release = _nothing
        if life.strict_ttl:
            records = LmdbRecords(store, life)
        else:
            records = moment = MomentRecords(store, life)
            self._release = moment.release
        if settings.ask_elsewhere and options.forward_descriptor >= 0:
            records = DemandingRecords(records)
        self._view = View.build(records, settings, zones, self._live, LmdbTexts(store))
        self._view.touch.staleness = Staleness(self._page.dns_staleness)
        if before is None:
            self._answers = UdpAnswers(
                self._view,
                policy=settings.cookies,
                rrl=settings.rrl,
                processes=self._page.worker_count,
                forwards=options.forward_descriptor >= 0,
                cache_life_ms=DNS_TICK_MS if settings.packet_ttl_strict else DNS_CACHE_LIFE_MS,
            )
        else:
            self._answers.replace_view(self._view)
            before.close()
        self._answers.use_cookies(self._cookies())

    def _cookies(self) -> CookieMaker | None:
        assert self._store is not None  # for the type checker
        return read_cookie_maker(LmdbSettings(self._store))

    def _count_error(self, error: OSError, at: int) -> None:
        """Judge an error of the socket: a pause, a client that can't be reached, or the end. Before it,
        the loop had done `at` datagrams of its batch."""
        self._received += at
        if isinstance(error, BlockingIOError):
            return  # SO_RCVTIMEO passed without a query
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise error
        self._received += 1
        self._answers.tally[Counter.SEND_ERRORS] += 1

    def _tick(self, _signal: int, _frame: object) -> None:
        self._release()
        self._publish()
        self._answers.tick(self._fast)
        self._hear_of_nodes()
        staleness = Staleness(self._page.dns_staleness)
        if staleness is not self._view.touch.staleness:
            self._view.touch.staleness = staleness
            self._answers.replace_view(self._view)
        if os.getppid() != self._options.parent_pid:
            raise SystemExit(0)

    def _hear_of_nodes(self) -> None:
        """Take up what the node process knows of the cluster's nodes."""
        members = self._page.members
        if members != self._members:
            self._members = members
            if self._live.replace(read_nodes(Path(self._options.data_dir))):
                self._answers.replace_view(self._view)

    def _publish(self) -> None:
        # Those the loop itself answered, which are all NOERROR. A batch under way shows in `asked` only.
        self._fast = max(self._fast, self._received - self._answers.asked)
        totals = self._answers.totals()
        totals[Counter.HITS] += self._fast
        totals[Counter.RCODE_0] += self._fast
        totals[latency_row(Counter.RCODE_0)] += self._fast
        for counter, total in enumerate(totals):
            self._counters.add(counter, total - self._published[counter])
        self._counters.add(PULSE, 1)
        self._published = totals


def _nothing() -> None: ...


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
