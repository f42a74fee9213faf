"""A node as a service: what its service manager hears of it, from the start to the end (sd_notify(3)).

READY only when DNS answers a question asked at its own port; then a sign of life in good time, as long as
DNS answers and all that is vital works: the writer, the UDP workers, the event loop (or none of this runs).
Whatever stands still keeps the sign of life from being given, and the manager starts the node again.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from aspen.dns.inspect import build_query, read_reply
from aspen.errors import DnsWireError
from aspen.limits import (
    DNS_UDP_EDNS_BYTES,
    SERVICE_EXTEND_MS,
    SERVICE_PATIENCE_MS,
    SERVICE_PROBE_MS,
    SERVICE_STATUS_MS,
)

if TYPE_CHECKING:
    from aspen.node import Node
    from aspen.systemd import Manager

log = structlog.get_logger("aspen.service")

_ROOT: Final = b"\0"
_SOA: Final = 6
_SIGNS_PER_LIMIT: Final = 3
"""One sign of life may be late without harm."""


async def answers_dns(address: tuple[str, int]) -> bool:
    """Whether a question asked at this address by UDP is answered, be it with a refusal."""
    host, port = address
    # A server bound to all addresses is asked on the machine's own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 -- read only
    message_id = secrets.randbits(16)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect((host, port))
            sock.send(build_query(message_id, _ROOT, _SOA))
            async with asyncio.timeout(SERVICE_PROBE_MS / 1000):
                return read_reply(await loop.sock_recv(sock, DNS_UDP_EDNS_BYTES)).message_id == message_id
        except (OSError, TimeoutError, DnsWireError):
            return False


def status_line(node: Node) -> str:
    """What `systemctl status` shows."""
    told, health = node.view.status(), node.health.health()
    leader = "no leader is known" if not told.leader_id else f"leader is node {told.leader_id}"
    parts = [f"node {told.node_id}", told.role, leader, f"term {told.term}", f"applied {told.applied_index}"]
    return ", ".join(parts) + "".join(f"; {reason}" for reason in health.reasons)


@contextmanager
def patience(manager: Manager) -> Iterator[None]:
    """Starting or stopping may take long, while the event loop runs: say so, now and then."""
    if not manager.listens:
        yield
        return

    async def ask() -> None:
        for _ in range(SERVICE_PATIENCE_MS // SERVICE_EXTEND_MS):
            manager.extend(2 * SERVICE_EXTEND_MS)
            await asyncio.sleep(SERVICE_EXTEND_MS / 1000)

    task = asyncio.create_task(ask(), name="service manager's patience")
    try:
        yield
    finally:
        task.cancel()


async def report(manager: Manager, node: Node) -> None:
    """Tell the manager that the node is ready, when it is, and that it lives; until cancelled."""
    if not manager.listens:
        return
    with patience(manager):
        while not await _well(node):
            manager.status("starting: " + ("DNS doesn't answer yet" if node.health.alive else _why(node)))
            await asyncio.sleep(SERVICE_PROBE_MS / 1000)
    manager.status(status_line(node))
    manager.ready()
    log.info("the service manager knows that this node is ready", watchdog_ms=manager.watchdog_ms)
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        if manager.watchdog_ms is not None and loop.time() >= due:
            due = loop.time() + manager.watchdog_ms / 1000 / _SIGNS_PER_LIMIT
            if await _well(node):
                manager.alive()
            else:
                log.error("no sign of life to the service manager", reason=_why(node))
        manager.status(status_line(node))
        pause_s = SERVICE_STATUS_MS / 1000
        if manager.watchdog_ms is not None:
            pause_s = min(pause_s, max(0.0, due - loop.time()))
        await asyncio.sleep(pause_s)


async def _well(node: Node) -> bool:
    return node.health.alive and (node.dns_address is None or await answers_dns(node.dns_address))


def _why(node: Node) -> str:
    reasons = [check.reason for check in node.health.vital() if check.reason]
    return "; ".join(reasons) or "DNS doesn't answer"
