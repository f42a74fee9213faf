"""The processes of `aspen dev`: started, their logs passed on, their ends reported, stopped.

Every node is an ordinary `aspen node run --config <data-dir>/node-<i>/node.toml`. Nodes are never
restarted from here: kill one and see what the others do; the message that reports its end says
how to start it again by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from aspen.cli.common import Exit
from aspen.cli.dev_layout import DevNode
from aspen.cli.node import PARENT_VARIABLE, remove_pid, write_pid
from aspen.client import NodeClient
from aspen.limits import DEV_LINE_BYTES, DEV_READY_MS, SHUTDOWN_MS

_COLOURS: Final = ("36", "33", "35", "32", "34", "31")
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READY_POLL_MS: Final = 100
_LOG_TAIL_MS: Final = 1_000  # for the last lines of a node that has ended
_STOP_GRACE_MS: Final = 2_000  # beyond a node's own limit for its shutdown


class DevCluster:
    """The processes of the nodes, from start to end."""

    def __init__(self, nodes: Sequence[DevNode], data_dir: Path, cookie: str, *, prefix: bool) -> None:
        self._nodes = nodes
        self._data_dir = data_dir
        self._environment = {**os.environ, "ASPEN_COOKIE": cookie, PARENT_VARIABLE: str(os.getpid())}
        self._prefix = prefix
        self._processes: dict[int, Process] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Run until a signal (0) or until no node is left (1)."""
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._stopping.set)
        watchers: list[asyncio.Task[None]] = []
        for node in self._nodes:
            watchers.append(asyncio.create_task(self._watch(node, await self._start(node))))
        ready = asyncio.create_task(self._announce())
        stopping = asyncio.create_task(self._stopping.wait())
        everyone = asyncio.gather(*watchers)
        try:
            parts: set[asyncio.Future[Any]] = {everyone, stopping}
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            asked = self._stopping.is_set()
            self._stopping.set()
            if asked:
                _say("stopping …")
            await self._stop()
            await everyone
        finally:
            for task in (ready, stopping):
                task.cancel()
            await asyncio.gather(ready, stopping, return_exceptions=True)
            for number in _STOP_SIGNALS:
                loop.remove_signal_handler(number)
        if not asked:
            _say("every node has ended")
        return Exit.OK if asked else Exit.FAILED

    async def _start(self, node: DevNode) -> Process:
        process = await asyncio.create_subprocess_exec(
            *node.command,
            stdin=asyncio.subprocess.PIPE,  # held open: a node ends with this process, however it ends
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
            limit=DEV_LINE_BYTES,
            start_new_session=True,  # Ctrl-C reaches this process, which stops the nodes in order
        )
        self._processes[node.node_id] = process
        write_pid(node.pid_file, process.pid)
        return process

    async def _watch(self, node: DevNode, process: Process) -> None:
        """Pass the node's log on, and say when the node has ended."""
        copying = asyncio.create_task(self._copy_log(node, process))
        code = await process.wait()
        # A worker process that outlives its node for a moment holds the pipe open, too.
        await asyncio.wait({copying}, timeout=_LOG_TAIL_MS / 1_000)
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
        remove_pid(node.pid_file, process.pid)
        if not self._stopping.is_set():
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            _say(f"node {node.node_id} (process {process.pid}) {how}; to start it again:")
            _say(f"  {node.restart_command(self._data_dir)}")

    async def _copy_log(self, node: DevNode, process: Process) -> None:
        colour = _COLOURS[(node.node_id - 1) % len(_COLOURS)]
        name = f"node-{node.node_id}"
        tag = ""
        if self._prefix:
            tag = f"\x1b[{colour}m{name} │\x1b[0m " if sys.stdout.isatty() else f"{name} | "
        assert process.stdout is not None
        while line := await _next_line(process.stdout):
            _say(tag + line.decode("utf-8", "replace").rstrip("\n"))

    async def _announce(self) -> None:
        """Say what to try, once every node is ready."""

        async def wait_ready(node: DevNode) -> None:
            async with NodeClient(node.http_url, timeout_ms=1_000) as client:
                while not await client.ready():  # noqa: ASYNC110 (the event is in another process)
                    await asyncio.sleep(_READY_POLL_MS / 1_000)

        waits = [asyncio.create_task(wait_ready(node)) for node in self._nodes]
        _done, pending = await asyncio.wait(waits, timeout=DEV_READY_MS / 1_000)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if pending:
            seconds = DEV_READY_MS // 1_000
            _say(f"{len(pending)} of {len(waits)} nodes are not ready after {seconds} s; see the log above")
            return
        for line in _what_to_try(self._nodes, self._data_dir):
            _say(line)

    async def _stop(self) -> None:
        """Ask every node to end; after their time is up, make them."""
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waits = [asyncio.create_task(process.wait()) for process in running]
        if not waits:
            return
        _done, late = await asyncio.wait(waits, timeout=(SHUTDOWN_MS + _STOP_GRACE_MS) / 1_000)
        for process in running:
            if process.returncode is None:
                _say(f"process {process.pid} does not end; killing it")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.gather(*late)


async def _next_line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or `b""` at the end. A line over the limit comes in pieces."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as rest:
        return rest.partial
    except asyncio.LimitOverrunError as over:
        return await stream.readexactly(max(over.consumed, 1))


def _what_to_try(nodes: Sequence[DevNode], data_dir: Path) -> list[str]:
    first, last = nodes[0], nodes[-1]
    lines = [
        "",
        f"Aspen is ready: {len(nodes)} node{'s' if len(nodes) > 1 else ''}, data in {data_dir}",
        *(
            f"  node {node.node_id}:  DNS 127.0.0.1:{node.dns_port} (UDP, TCP)   HTTP {node.http_url}   "
            f"QUIC 127.0.0.1:{node.quic_port}"
            for node in nodes
        ),
        "",
        "Try, in another terminal:",
    ]
    aspen = _aspen_command()
    addr = "" if first.http_port == 8080 else f" --addr {first.http_url}"
    lines += [
        f"  {aspen} pkarr publish{addr} --key alice.key '_iroh TXT \"relay=https://relay.example./\"'",
        f"  dig @127.0.0.1 -p {last.dns_port} _iroh.<the key it prints>.aspen.local TXT",
        f"  curl {first.http_url}/pkarr/<the key> | xxd | head",
        f"  {aspen} kv put{addr} greeting hello && {aspen} kv get --addr {last.http_url} greeting",
        f"  {aspen} cluster status{addr}",
    ]
    if len(nodes) > 1:
        lines.append(f"  kill -9 $(cat {first.pid_file})    # and look at the status of the others")
    lines += ["", f"The dashboard: {first.http_url}/ui/"]
    return [*lines, "", "Ctrl-C ends everything; the data stays.", ""]


def _aspen_command() -> str:
    """How the reader's shell finds `aspen`: by name, or in this environment's directory."""
    beside = Path(sys.executable).parent / "aspen"
    if shutil.which("aspen") or not beside.exists():
        return "aspen"
    with contextlib.suppress(ValueError):
        return str(beside.relative_to(Path.cwd()))
    return str(beside)


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # Whoever read our output is gone; the cluster goes on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
