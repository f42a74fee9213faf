"""DNS over UDP as the node process sees it: workers kept running, or answers given in-process.

`UdpWorkers` starts one process per socket and starts it again when it ends unasked. `InProcessUdp`
answers on the event loop instead, for tests and embedding: slower, but nothing else to run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from aspen.config import LogFormat, LogLevel
from aspen.dns.cookies import CookieMaker
from aspen.dns.fast import ID_BYTES
from aspen.dns.forward import Answer, Forwarded, ForwardedQueries, forward_pair
from aspen.dns.lookup import DnsSettings, View
from aspen.dns.sockets import (
    ANCILLARY_BYTES,
    adopt_udp,
    bind_udp,
    bind_udp_and_tcp,
    is_wildcard,
    reply_source,
)
from aspen.dns.udp_answers import UdpAnswers
from aspen.dns.worker import WorkerOptions
from aspen.errors import invariant
from aspen.limits import (
    DNS_QUERY_BYTES,
    DNS_UDP_BATCH,
    DNS_WORKER_RESTART_MAX_MS,
    DNS_WORKER_RESTART_MIN_MS,
    DNS_WORKER_STOP_MS,
)

__all__ = ["InProcessUdp", "UdpWorkers", "adopt_udp", "bind_udp", "bind_udp_and_tcp"]

log = structlog.get_logger("aspen.dns.udp")

_DEFAULTS: Final = DnsSettings()
_RECEIVE_BYTES: Final = DNS_QUERY_BYTES + 1


class UdpWorkers:
    """One worker process for each bound socket. The sockets stay the node's: a worker that crashes
    leaves its queue to the next. `close` ends the workers and closes the sockets."""

    def __init__(
        self,
        data_dir: Path,
        sockets: Sequence[socket.socket],
        settings: DnsSettings,
        status_page_path: Path,
        *,
        answer: Answer | None = None,
        log_format: LogFormat = LogFormat.AUTO,
        log_level: LogLevel = LogLevel.INFO,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`answer` answers what workers pass on; without it, they answer as well as they can. `on_end` is
        called when one has ended unasked: it may have been reading."""
        self._on_end = on_end
        self._sockets = list(sockets)
        self._pairs = [] if answer is None else [forward_pair() for _ in self._sockets]
        self.forwarded: ForwardedQueries | None = None
        """What workers passed on, with its counters."""
        if answer is not None:
            ends = [(node, sock) for (node, _), sock in zip(self._pairs, self._sockets, strict=True)]
            self.forwarded = ForwardedQueries(ends, answer)
        self._options = [
            WorkerOptions(
                index=index,
                descriptor=sock.fileno(),
                forward_descriptor=self._pairs[index][1].fileno() if self._pairs else -1,
                parent_pid=os.getpid(),
                data_dir=str(data_dir),
                status_page=str(status_page_path),
                settings=settings,
                log_format=log_format,
                log_level=log_level,
            )
            for index, sock in enumerate(self._sockets)
        ]
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self.restarts = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers running now, in the order of their sockets."""
        return [process.pid for _, process in sorted(self._processes.items())]

    async def start(self) -> None:
        """Start every worker. Raises `OSError` if a process can't be started at all."""
        invariant(not self._keepers, "the workers are started once")
        try:
            for options in self._options:
                self._processes[options.index] = await self._spawn(options)
        except OSError:
            await self.close()
            raise
        self._keepers = [asyncio.create_task(self._keep(options)) for options in self._options]
        if self.forwarded is not None:
            self.forwarded.start()

    async def close(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(self._end(process) for process in self._processes.values()))
        self._processes.clear()
        if self.forwarded is not None:
            await self.forwarded.close()
        for sock in (*self._sockets, *(end for pair in self._pairs for end in pair)):
            sock.close()

    async def _spawn(self, options: WorkerOptions) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aspen.dns.worker",
            msgspec.json.encode(options).decode(),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=tuple(fd for fd in (options.descriptor, options.forward_descriptor) if fd >= 0),
        )

    async def _keep(self, options: WorkerOptions) -> None:
        """Start a worker again whenever it ends, more slowly the sooner it ended."""
        pause_ms = DNS_WORKER_RESTART_MIN_MS
        started_at = time.monotonic()
        while True:
            process = self._processes.get(options.index)
            status = await process.wait() if process is not None else None
            if time.monotonic() - started_at > DNS_WORKER_RESTART_MAX_MS / 1_000:
                pause_ms = DNS_WORKER_RESTART_MIN_MS
            self._on_end()
            log.warning("worker_ended", worker=options.index, status=status, restart_ms=pause_ms)
            await asyncio.sleep(pause_ms / 1_000)
            pause_ms = min(2 * pause_ms, DNS_WORKER_RESTART_MAX_MS)
            started_at = time.monotonic()
            try:
                self._processes[options.index] = await self._spawn(options)
                self.restarts += 1
            except OSError as error:  # out of processes or memory: they may come back
                self._processes.pop(options.index, None)
                log.error("worker_cannot_start", worker=options.index, error=str(error))

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        _signal(process, signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), DNS_WORKER_STOP_MS / 1_000)
        except TimeoutError:
            _signal(process, signal.SIGKILL)
            await process.wait()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        pass  # it ended by itself just now


class InProcessUdp:
    """Answers datagrams on the event loop. `close` closes the sockets."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        view: View,
        answer: Answer | None = None,
        *,
        cookies: Callable[[], CookieMaker | None] = lambda: None,
        settings: DnsSettings = _DEFAULTS,
    ) -> None:
        """`answer` answers what needs more than the replica, as `UdpWorkers`'."""
        self._sockets = list(sockets)
        self.forwarded = None if answer is None else ForwardedQueries((), answer)
        self._answers = UdpAnswers(
            view,
            policy=settings.cookies,
            rrl=settings.rrl,
            caching=False,
            forwards=answer is not None,
            stride=1,
        )
        self._cookies = cookies
        self._maker: CookieMaker | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self.answered = 0

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            sock.setblocking(False)
            take = self._take_wildcard if is_wildcard(sock) else self._take
            loop.add_reader(sock.fileno(), take, sock)
        self._tick()

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        if self._ticker is not None:
            self._ticker.cancel()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                loop.remove_reader(sock.fileno())
        if self.forwarded is not None:
            await self.forwarded.close()
        for sock in self._sockets:
            sock.close()

    @property
    def tally(self) -> list[int]:
        """What a worker would keep on the status page, by `Counter`."""
        return self._answers.totals()

    def replace_view(self, view: View) -> None:
        """Answer from another view from now on (the environment was exchanged)."""
        self._answers.replace_view(view)

    def _tick(self) -> None:
        self._answers.tick(0)
        self._ticker = asyncio.get_running_loop().call_later(1, self._tick)

    def _take(self, sock: socket.socket) -> None:
        for _ in range(DNS_UDP_BATCH):
            try:
                query, client = sock.recvfrom(_RECEIVE_BYTES)
            except OSError:  # BlockingIOError: none left
                return
            reply = self._answer(query, client[0])
            if reply is None and self.forwarded is not None and self._answers.must_pass_on:
                self.forwarded.submit(sock, Forwarded(query, client, []))
            if reply is not None:
                try:
                    sock.sendto(query[:ID_BYTES] + reply, client)
                except OSError:
                    pass  # an unreachable client, or no room: UDP may lose

    def _take_wildcard(self, sock: socket.socket) -> None:
        for _ in range(DNS_UDP_BATCH):
            try:
                query, ancillary, _, client = sock.recvmsg(_RECEIVE_BYTES, ANCILLARY_BYTES)
            except OSError:
                return
            reply = self._answer(query, client[0])
            if reply is None and self.forwarded is not None and self._answers.must_pass_on:
                self.forwarded.submit(sock, Forwarded(query, client, reply_source(ancillary)))
            if reply is not None:
                try:
                    sock.sendmsg((query[:ID_BYTES], reply), reply_source(ancillary), 0, client)
                except OSError:
                    pass

    def _answer(self, query_untrusted: bytes, host: str) -> bytes | None:
        answers = self._answers
        maker = self._cookies()
        if maker is not self._maker:
            self._maker = maker
            answers.use_cookies(maker)
        reply = answers.reply_to(query_untrusted, host)
        if reply is not None:
            self.answered += 1
            if answers.limiter.rate:
                answers.limiter.sample(host)
        return reply
